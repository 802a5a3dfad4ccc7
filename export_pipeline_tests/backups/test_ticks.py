"""When backups are due: on the wall clock, across its changes, and after downtime."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_pipeline.backups.ticks import check_cron, due_tick, find_zone, newest_tick, next_tick
from export_pipeline.errors import BadInputError

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = timedelta(minutes=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(cron: str, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """The ticks in (after, until], one after another."""
    found = []
    while (tick := next_tick(cron, zone, after)) is not None and tick <= until:
        found.append(after := tick)
    return found


def local_times(cron: str, after: str, until: str) -> list[str]:
    found = ticks(cron, BERLIN, utc(after), utc(until))
    return [f"{tick.astimezone(BERLIN):%d. %H:%M %Z}" for tick in found]


def test_a_schedule_follows_the_wall_clock() -> None:
    # 2026-03-29: from 02:00 CET to 03:00 CEST
    assert local_times("30 4 * * *", "2026-03-28T00:00", "2026-03-30T12:00") == [
        "28. 04:30 CET",
        "29. 04:30 CEST",
        "30. 04:30 CEST",
    ]


def test_a_skipped_time_is_due_at_the_moment_after() -> None:
    assert local_times("30 2 * * *", "2026-03-28T12:00", "2026-03-30T12:00") == ["29. 03:00 CEST", "30. 02:30 CEST"]


def test_several_skipped_times_and_the_moment_after_are_one_tick() -> None:
    assert local_times("*/20 2,3 * * *", "2026-03-28T12:00", "2026-03-29T12:00") == [
        "29. 03:00 CEST",
        "29. 03:20 CEST",
        "29. 03:40 CEST",
    ]


def test_a_doubled_time_is_due_once() -> None:
    # 2026-10-25: from 03:00 CEST to 02:00 CET
    assert local_times("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00") == ["25. 02:30 CEST", "26. 02:30 CET"]


def test_every_hour_follows_the_hours_as_they_pass() -> None:
    assert local_times("15 * * * *", "2026-10-24T23:30", "2026-10-25T02:30") == [
        "25. 02:15 CEST",
        "25. 02:15 CET",
        "25. 03:15 CET",
    ]
    assert local_times("15 * * * *", "2026-03-29T00:00", "2026-03-29T02:00") == ["29. 01:15 CET", "29. 03:15 CEST"]


def test_the_doubled_time_is_not_due_again_while_it_comes_again() -> None:
    first = utc("2026-10-25T00:30")  # 02:30 CEST
    assert newest_tick("30 2 * * *", BERLIN, utc("2026-10-25T00:31")) == first
    assert newest_tick("30 2 * * *", BERLIN, utc("2026-10-25T01:15")) == first  # 02:15 again
    assert due_tick("30 2 * * *", BERLIN, first, utc("2026-10-25T01:45")) is None


def test_any_number_of_missed_ticks_is_one_for_the_newest() -> None:
    due = due_tick("0 * * * *", BERLIN, utc("2026-03-10T08:00"), utc("2026-03-12T09:59"))
    assert due == utc("2026-03-12T09:00")


def test_the_window_is_open_at_its_start_and_closed_at_its_end() -> None:
    tick = utc("2026-03-10T08:00")
    assert due_tick("0 * * * *", BERLIN, tick, tick) is None
    assert due_tick("0 * * * *", BERLIN, tick - MINUTE, tick) == tick
    assert due_tick("0 * * * *", BERLIN, tick - MINUTE, tick - timedelta(microseconds=1)) is None


def test_a_clock_that_jumps_back_finds_nothing_due() -> None:
    assert due_tick("0 * * * *", BERLIN, utc("2026-03-12T09:00"), utc("2026-03-12T07:30")) is None
    assert due_tick("0 * * * *", BERLIN, utc("2026-03-12T09:00"), utc("2026-03-12T09:10")) is None


def test_a_day_that_a_zone_left_out_is_due_when_it_is_over() -> None:
    # Samoa went from 29 to 31 December 2011
    apia = ZoneInfo("Pacific/Apia")
    assert ticks("0 12 * * *", apia, utc("2011-12-29T00:00"), utc("2011-12-31T00:00")) == [
        utc("2011-12-29T22:00"),
        utc("2011-12-30T10:00"),
        utc("2011-12-30T22:00"),
    ]


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "expected five fields"),
        ("* * * *", "expected five fields"),
        ("0 0 3 * * *", "expected five fields"),
        ("@daily", "expected five fields"),
        ("60 * * * *", "the minute is not one"),
        ("0 24 * * *", "the hour is not one"),
        ("0 0 0 * *", "the day of month is not one"),
        ("0 0 31 2 *", "a day that the month has"),
        ("0 0 * 13 *", "the month is not one"),
        ("0 0 * * 8", "the day of week is not one"),
        ("0 */0 * * *", "the hour is not one"),
        ("٣ * * * *", "the minute is not one"),
        ("0 0 * * MONDAY", "the day of week is not one"),
        ("1," * 60 + "1 * * * *", "expected five fields"),
        (None, "expected five fields"),
    ],
)
def test_a_cron_that_is_none_is_refused_with_what_to_do(cron: object, says: str) -> None:
    with pytest.raises(BadInputError, match="cron: ") as raised:
        check_cron(cron)
    assert says in str(raised.value)


@pytest.mark.parametrize("cron", ["0 0 29 2 *", "0 0 L * *", "0 6 * * MON-FRI", "*/5 8-18 1,15 1-6 *", "0 0 * * 7"])
def test_what_cron_users_write_is_understood(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize("name", ["", "Berlin", "Europe", "../Europe/Berlin", "/etc/localtime", "Europe/\0", None, 1])
def test_a_zone_that_is_none_is_refused(name: object) -> None:
    with pytest.raises(BadInputError, match=r"time zone: .* such as Europe/Berlin or UTC"):
        find_zone(name)


CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("America/Santiago", "2026-09-06T04:00"),  # the first hour of a day is skipped
    ("America/Santiago", "2026-04-05T03:00"),  # the last hour of a day is doubled
    ("Australia/Lord_Howe", "2026-10-03T15:30"),  # half an hour is skipped
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Asia/Kathmandu", "2026-05-01T00:00"),  # 5:45 hours from UTC, no change
    ("Antarctica/Casey", "2010-03-04T15:00"),  # three hours back
]


def field(values: range) -> st.SearchStrategy[frozenset[int]]:
    return st.one_of(st.just(frozenset(values)), st.frozensets(st.sampled_from(values), min_size=1, max_size=4))


@settings(max_examples=60)
@given(
    change=st.sampled_from(CHANGES),
    minutes=field(range(60)),
    hours=field(range(24)),
    weekdays=field(range(7)),
    now=st.integers(-30 * 60, 30 * 60),
)
def test_a_tick_is_what_the_wall_clock_shows(
    change: tuple[str, str], minutes: frozenset[int], hours: frozenset[int], weekdays: frozenset[int], now: int
) -> None:
    """Against looking at the clock every minute."""
    zone, moment = ZoneInfo(change[0]), utc(change[1])
    start, end = moment - timedelta(hours=36), moment + timedelta(hours=36)
    expected = seen_on_the_clock(zone, start, end, minutes, hours, weekdays)
    cron = f"{listed(minutes, 60)} {listed(hours, 24)} * * {listed(weekdays, 7)}"
    at = moment + now * MINUTE

    assert ticks(cron, zone, start, end) == expected
    before = [tick for tick in expected if tick <= at]
    if before:
        assert newest_tick(cron, zone, at) == before[-1]


def listed(values: Collection[int], of: int) -> str:
    return "*" if len(values) == of else ",".join(map(str, sorted(values)))


def seen_on_the_clock(
    zone: ZoneInfo,
    start: datetime,
    end: datetime,
    minutes: Collection[int],
    hours: Collection[int],
    weekdays: Collection[int],
) -> list[datetime]:
    def shown(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours and wall.isoweekday() % 7 in weekdays

    found = []
    moment, wall = start, start.astimezone(zone).replace(tzinfo=None)
    while moment < end:
        former = wall
        moment += MINUTE
        local = moment.astimezone(zone)
        wall = local.replace(tzinfo=None)
        skipped = [former + minute * MINUTE for minute in range(1, int((wall - former) / MINUTE))]
        by_the_wall = (shown(wall) and local.fold == 0) or any(map(shown, skipped))
        if shown(wall) if len(hours) == 24 else by_the_wall:
            found.append(moment)
    return found
