"""The table of schedules: what is refused, what a change means for the ticks, and who serves one."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from export_pipeline.backups.present import BackupReader
from export_pipeline.backups.retention import Retention
from export_pipeline.backups.schedules import (
    NewSchedule,
    Schedule,
    ScheduleStore,
    StaleScheduleError,
    UnknownScheduleError,
)
from export_pipeline.backups.ticks import due_tick, find_zone
from export_pipeline.encryption.age import new_identity
from export_pipeline.errors import BadInputError
from export_pipeline.requests.database import open_database
from export_pipeline.requests.schema import export_requests
from export_pipeline_tests.backups.simulation import ROW

pytest_plugins = "export_pipeline_tests.postgres"

START = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NIGHTLY = NewSchedule("app", "30 3 * * *", "Europe/Berlin")


@pytest.fixture(params=["sqlite", "postgresql"])
def schedules(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[ScheduleStore]:
    """The table, on each database it can be in."""
    lite = request.param == "sqlite"
    engine = open_database(f"sqlite:///{tmp_path}/requests.db" if lite else request.getfixturevalue("postgres_url"))
    yield ScheduleStore(engine)
    engine.dispose()


def due(schedule: Schedule, now: datetime) -> datetime | None:
    return due_tick(schedule.cron, find_zone(schedule.time_zone), schedule.served_until, now)


def test_a_schedule_is_found_as_it_was_made(schedules: ScheduleStore) -> None:
    recipient = new_identity().recipient
    new = NewSchedule(
        "app",
        "30 3 * * *",
        "Europe/Berlin",
        {"format": "jsonl", "compression": "zstd", "recipients": [str(recipient)]},
        "s3://backups/nightly",
        Retention(daily=7, weekly=4),
        full_every=7,
    )
    made = schedules.create(new, "cli:ann", START)
    assert made == schedules.get(made.id)
    assert (made.cron, made.storage, made.retention, made.full_every) == (
        new.cron,
        new.storage,
        new.retention,
        new.full_every,
    )
    assert made.options == new.options
    assert made.enabled
    assert (made.created_by, made.updated_by) == ("cli:ann", "cli:ann")
    assert made.next_tick() == datetime(2026, 3, 11, 2, 30, tzinfo=UTC)


def test_schedules_are_listed_in_the_order_they_were_made(schedules: ScheduleStore) -> None:
    first = schedules.create(NIGHTLY, "a")
    second = schedules.create(NewSchedule("*", "0 * * * *"), "a")
    assert schedules.all() == [first, second]
    assert schedules.all("*") == [second]


def test_a_schedule_is_shown_as_json(schedules: ScheduleStore) -> None:
    shown = json.loads(json.dumps(schedules.create(NIGHTLY, "a", START).shown()))
    assert shown["next_tick"] == "2026-03-11T02:30:00+00:00"
    assert shown["retention"]["daily"] == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"app_id": "a/b"}, "app id: expected"),
        ({"cron": "0 3 * *"}, "cron: expected five fields"),
        ({"time_zone": "Berlin"}, "time zone: expected a name of the IANA database"),
        ({"options": {"format": "excel"}}, "option format: input should be 'bson', 'jsonl', 'parquet' or 'csv'"),
        ({"options": {"formt": "bson"}}, "plain values of format, compression, recipients, part_bytes"),
        ({"options": {"recipients": ["age1nobody"]}}, "recipient"),
        ({"options": {"passphrase": True}}, "name the recipients' public keys"),
        ({"options": {"part_bytes": 10}}, "option part_bytes: expected 1,000,000 to 100,000,000 bytes"),
        ({"options": {"part_bytes": "big"}}, "option part_bytes: input should be a valid integer"),
        ({"options": {"format": {1}}}, "options: expected plain values"),
        ({"options": {"format": "parquet", "compression": "zstd"}}, "parquet compresses inside"),
        ({"options": {"recipients": ["age1nobody"] * 21}}, "at most 20"),
        ({"storage": "ftp://host/folder"}, "storage: expected a directory's whole path"),
        ({"storage": "backups"}, "storage: expected a directory's whole path"),
        ({"storage": "s3://B"}, "give s3://bucket or s3://bucket/prefix"),
        ({"full_every": 0}, "full every: expected a whole number from 1"),
        ({"full_every": True}, "full every: expected a whole number from 1"),
        ({"full_every": 2, "options": {"format": "csv"}}, "csv is a whole one each time"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_to_do(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError) as raised:
        NewSchedule(**{"app_id": "app", "cron": "0 3 * * *"} | wrong)
    assert says in str(raised.value)


def test_a_new_schedule_catches_nothing_up(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "a", START)
    assert due(schedule, START + HOUR) is None
    assert due(schedule, START + 20 * HOUR) == schedule.next_tick()


def test_an_edited_schedule_keeps_what_is_due_unless_its_times_change(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "ann", START)
    later = START + 48 * HOUR
    edited = schedules.edit(schedule.id, {"retention": Retention(last=3), "full_every": 2}, "bob", later)
    assert (edited.retention, edited.full_every, edited.updated_by) == (Retention(last=3), 2, "bob")
    assert due(edited, later) is not None

    moved = schedules.edit(schedule.id, {"cron": "0 * * * *"}, "bob", later)
    assert due(moved, later + HOUR / 2) is None
    assert moved.next_tick() == later + HOUR


def test_a_wrong_change_changes_nothing(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "a", START)
    with pytest.raises(BadInputError, match="cron: the minute"):
        schedules.edit(schedule.id, {"full_every": 3, "cron": "77 * * * *"}, "a")
    with pytest.raises(BadInputError, match="what can be changed is cron, time_zone"):
        schedules.edit(schedule.id, {"served_until": START}, "a")
    assert schedules.get(schedule.id) == schedule


def test_a_schedule_that_rested_does_not_catch_up(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "a", START)
    resting = schedules.disable(schedule.id, "a", START + HOUR)
    assert not resting.enabled
    assert resting.next_tick() is None
    back = schedules.enable(schedule.id, "a", START + 100 * HOUR)
    assert due(back, START + 100 * HOUR) is None
    assert back.next_tick() == datetime(2026, 3, 15, 2, 30, tzinfo=UTC)


def test_enabling_one_that_works_loses_no_tick(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "a", START)
    assert due(schedules.enable(schedule.id, "a", START + 20 * HOUR), START + 20 * HOUR) is not None


def test_enabling_brings_back_one_that_a_wrong_clock_sent_ahead(schedules: ScheduleStore) -> None:
    ahead = schedules.create(NIGHTLY, "a", START + timedelta(days=9000))
    assert due(ahead, START + 48 * HOUR) is None
    assert schedules.enable(ahead.id, "a", START).next_tick() == datetime(2026, 3, 11, 2, 30, tzinfo=UTC)


def test_a_removed_schedule_is_gone(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "a")
    schedules.remove(schedule.id)
    assert schedules.all() == []
    for act in (schedules.get, schedules.remove, lambda id_: schedules.enable(id_, "a")):
        with pytest.raises(UnknownScheduleError, match="schedule list"):
            act(schedule.id)


def test_an_id_that_can_be_none_is_unknown(schedules: ScheduleStore) -> None:
    with pytest.raises(UnknownScheduleError):
        schedules.get("\ud800")


def test_of_many_at_once_one_serves_a_tick(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "a", START)
    tick = due(schedule, START + 20 * HOUR)
    assert tick is not None

    def serve(_: int) -> bool:
        try:
            schedules.mark_served(schedule, tick)
        except StaleScheduleError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(serve, range(8))) == 1
    assert schedules.get(schedule.id).served_until == tick


def test_a_schedule_changed_meanwhile_is_not_marked(schedules: ScheduleStore) -> None:
    schedule = schedules.create(NIGHTLY, "a", START)
    tick = START + 20 * HOUR
    schedules.disable(schedule.id, "a")
    with pytest.raises(StaleScheduleError, match="served, changed or removed"):
        schedules.mark_served(schedule, tick)
    schedules.enable(schedule.id, "a", START + HOUR)
    with pytest.raises(StaleScheduleError):
        schedules.mark_served(schedule, tick)
    schedules.remove(schedule.id)
    with pytest.raises(StaleScheduleError):
        schedules.mark_served(schedule, tick)


def test_the_backups_that_matter_are_found_on_each_database(schedules: ScheduleStore) -> None:
    reader = BackupReader(schedules._engine)
    with schedules._engine.begin() as connection:
        for number, (kind, status, options) in enumerate(
            [
                ("app_backup", "completed", {"storage": "/b"}),
                ("app_backup", "running", {"storage": "/a"}),
                ("app_backup", "failed", {"storage": "/a"}),
                ("app_backup", "pending", {}),
                ("user_export", "completed", {"storage": "/c"}),
                ("restore", "running", {"backup_id": "7"}),
                ("restore", "completed", {"backup_id": "8"}),
            ]
        ):
            row = {"id": str(number), "kind": kind, "status": status, "options": options}
            connection.execute(insert(export_requests), ROW | row)
    assert [request.id for request in reader.present()] == ["0", "1", "3"]
    assert reader.read_by_restores() == {"7"}
    assert reader.storages() == ["/a", "/b"]
