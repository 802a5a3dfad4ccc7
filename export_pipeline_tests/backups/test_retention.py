"""What is kept of a schedule's backups, what goes, and what the next one builds on."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.backups.retention import (
    Backup,
    Retention,
    base_of_next,
    chain,
    is_good,
    parse_retention,
    to_remove,
)
from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import LIVE, Status

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def backup(age: timedelta, status: Status = "completed", base: str | None = None, name: str | None = None) -> Backup:
    return Backup(name or f"{age // timedelta(hours=1)} h", NOW - age, status, base)


def daily(days: int) -> list[Backup]:
    return [backup(day * DAY, name=f"{NOW - day * DAY:%m-%d}") for day in range(days)]


def kept(backups: Sequence[Backup], now: datetime = NOW, **rules: int) -> list[str]:
    removed = to_remove(backups, Retention(**rules), BERLIN, now)
    return [each.id for each in backups if each not in removed]


def test_without_a_rule_everything_is_kept() -> None:
    assert len(kept(daily(400))) == 400


def test_by_count() -> None:
    assert kept(daily(10), last=3) == ["11-20", "11-19", "11-18"]


def test_by_age() -> None:
    assert kept(daily(10), days=2) == ["11-20", "11-19", "11-18"]


def test_grandfather_father_son() -> None:
    # 2026-11-20 is a Friday
    assert kept(daily(360), daily=3, weekly=3, monthly=3, yearly=2) == [
        "11-20",
        "11-19",
        "11-18",
        "11-15",
        "11-08",
        "10-31",
        "09-30",
        "12-31",  # of 2025
    ]


def test_of_several_backups_of_a_day_the_newest_is_kept_by_the_schedules_zone() -> None:
    at = [datetime(2026, 3, 10, hour, 30, tzinfo=UTC) for hour in (21, 22, 23)]  # in Berlin 22:30, 23:30, 00:30
    backups = [Backup(f"{each:%H}", each, "completed") for each in at]
    assert kept(backups, daily=2) == ["22", "23"]


def test_days_without_a_backup_cost_none() -> None:
    backups = [backup(days * DAY, name=str(days)) for days in (0, 1, 9, 10)]
    assert kept(backups, daily=3) == ["0", "1", "9"]


def test_the_last_good_one_stays_however_old() -> None:
    old = [backup(800 * DAY), backup(900 * DAY)]
    assert to_remove([backup(DAY, "failed"), *old], Retention(days=7), BERLIN, NOW) == [old[1]]


def test_where_none_is_good_nothing_goes() -> None:
    torn = backup(40 * DAY, base="unknown")
    assert to_remove([torn, backup(DAY, "failed")], Retention(last=1), BERLIN, NOW) == []


def test_a_torn_one_takes_no_good_ones_place_and_goes() -> None:
    good, torn = backup(DAY), backup(timedelta(0), base="gone")
    assert to_remove([torn, good], Retention(last=1), BERLIN, NOW) == [torn]


def test_what_a_kept_one_builds_on_stays() -> None:
    full, first, second = backup(3 * DAY, name="full"), backup(2 * DAY, base="full", name="1"), backup(DAY, base="1")
    assert to_remove([full, first, second], Retention(last=1), BERLIN, NOW) == []


def test_what_a_running_one_builds_on_stays() -> None:
    base, newest = backup(3 * DAY, name="base"), backup(DAY)
    running = backup(timedelta(0), "running", base="base")
    assert to_remove([base, newest, running], Retention(last=1), BERLIN, NOW) == []
    assert to_remove([base, newest], Retention(last=1), BERLIN, NOW) == [base]


def test_what_others_build_on_stays() -> None:
    base, newest = backup(3 * DAY, name="base"), backup(DAY)
    assert to_remove([base, newest], Retention(last=1), BERLIN, NOW, needed={"base"}) == []


def test_a_chain_goes_from_its_end() -> None:
    full, increment, newest = backup(9 * DAY, name="full"), backup(8 * DAY, base="full"), backup(DAY)
    assert to_remove([full, increment, newest], Retention(last=1), BERLIN, NOW) == [increment, full]


STATUSES: list[Status] = ["pending", "running", "completed", "completed", "completed", "expired", "failed", "cancelled"]
RULES = st.builds(
    Retention,
    last=st.integers(0, 3),
    days=st.integers(0, 60),
    daily=st.integers(0, 4),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 3),
    yearly=st.integers(0, 2),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Backup]:
    """Backups of any state, some on top of others: earlier ones, rarely of one that nobody knows."""
    hours = sorted(draw(st.lists(st.integers(-48, 24 * 500), max_size=15)), reverse=True)
    names = [str(number) for number in range(len(hours))]
    return [
        Backup(
            name,
            NOW - timedelta(hours=hour),
            draw(st.sampled_from(STATUSES)),
            draw(st.sampled_from([None, *names[: int(name)], "unknown"])),
        )
        for name, hour in zip(names, hours, strict=True)
    ]


@given(backups=histories(), rules=RULES)
def test_whatever_the_history_and_the_rules(backups: list[Backup], rules: Retention) -> None:
    by_id = {each.id: each for each in backups}
    good = [each for each in backups if is_good(each, by_id)]
    removed = to_remove(backups, rules, BERLIN, NOW)
    rest = [each for each in backups if each not in removed]
    remaining = {each.id: each for each in rest}

    assert all(each.status == "completed" for each in removed)
    assert len(removed) == len({each.id for each in removed})
    if good:
        assert max(good, key=lambda each: (each.made_at, each.id)) in rest
    # what was good and is kept can still be restored; what is under way finds what it builds on
    assert all(is_good(each, remaining) for each in rest if each in good)
    for each in rest:
        if each.status in LIVE:
            assert all(link in rest for link in chain(each, by_id))
    # a crash between any two removals leaves no torn chain
    for position, each in enumerate(removed):
        assert not any(later.base == each.id for later in removed[position + 1 :])
    # what a rule keeps is kept
    assert all(each in rest for each in good if NOW - each.made_at <= rules.days * DAY and rules.days)
    assert all(each in rest for each in sorted(good, key=lambda each: each.made_at)[len(good) - rules.last :])
    # doing it again does nothing
    assert to_remove(rest, rules, BERLIN, NOW) == []


@given(backups=histories(), rules=RULES)
def test_full_backups_are_not_kept_without_a_reason(backups: list[Backup], rules: Retention) -> None:
    full = [Backup(each.id, each.made_at, "completed") for each in backups]
    rest = set(kept(full, **rules.model_dump()))
    if rules.has_rules:
        reasons = rules.last + rules.daily + rules.weekly + rules.monthly + rules.yearly
        old = {each.id for each in full if NOW - each.made_at > rules.days * DAY}
        assert len(rest & old) <= max(1, reasons)


def test_the_first_backup_is_full() -> None:
    assert base_of_next([], 7) is None
    assert base_of_next([backup(DAY, "failed"), backup(DAY, "running")], 7) is None


def test_every_third_backup_is_full() -> None:
    history: list[Backup] = []
    for day in range(7):
        base = base_of_next(history, 3)
        history.append(Backup(str(day), NOW + day * DAY, "completed", base.id if base else None))
    assert [each.base for each in history] == [None, "0", "1", None, "3", "4", None]


def test_each_backup_is_full_where_nothing_else_is_asked_for() -> None:
    assert base_of_next([backup(DAY)], 1) is None


def test_nothing_builds_on_a_torn_chain() -> None:
    history = [backup(3 * DAY, "expired", name="full"), backup(2 * DAY, base="full")]
    assert base_of_next(history, 7) is None


def test_a_failed_backup_does_not_break_the_chain() -> None:
    full = backup(3 * DAY, name="full")
    assert base_of_next([full, backup(2 * DAY, "failed", base="full")], 7) == full


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"daily": -1}, "daily: expected a whole number from 0"),
        ({"daily": "7"}, "daily: expected a whole number from 0"),
        ({"daily": True}, "daily: expected a whole number from 0"),
        ({"weekly": 1.5, "monthly": None}, "monthly, weekly: expected a whole number from 0"),
        ({"hourly": 3}, "known are last, days, daily, weekly, monthly, yearly"),
    ],
)
def test_a_retention_that_is_none_is_refused_with_what_to_do(given_: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError, match="retention: ") as raised:
        parse_retention(given_)
    assert says in str(raised.value)
