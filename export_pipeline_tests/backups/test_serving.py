"""Serving schedules: what is ordered, by whom, and what holds it up."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from export_pipeline.backups.retention import Retention
from export_pipeline.backups.schedules import NewSchedule, Schedule
from export_pipeline.backups.serving import due_order, serve, served_backups
from export_pipeline.errors import StorageError
from export_pipeline.installation import Installation
from export_pipeline.requests.backups import BackupRequests, NewBackup
from export_pipeline.requests.models import Request
from export_pipeline.requests.submitting import IdempotencyConflictError
from export_pipeline.settings import Settings
from export_pipeline_tests.backups.simulation import TAKES, Simulation, make_request, tick_of

START = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURLY = NewSchedule("app", "0 * * * *", retention=Retention(last=2))


@pytest.fixture
def simulation(tmp_path: Path) -> Iterator[Simulation]:
    with Installation(Settings(home=tmp_path)) as installation:
        yield Simulation(installation)


@pytest.fixture
def hourly(simulation: Simulation) -> Schedule:
    return simulation.schedules.create(HOURLY, "test", START)


def test_a_due_backup_is_ordered_once(simulation: Simulation, hourly: Schedule) -> None:
    assert simulation.step(START + HOUR / 2).ordered == ()
    assert len(simulation.step(START + HOUR).ordered) == 1
    assert simulation.step(START + HOUR + TAKES).ordered == ()
    assert [tick_of(order) for order in simulation.orders] == [START + HOUR]


def test_a_slow_backup_is_not_overtaken_and_its_followers_are_one(simulation: Simulation, hourly: Schedule) -> None:
    simulation.step(START + HOUR)
    for hours in (2, 3, 4):
        served = serve(
            simulation.schedules, simulation.reader, simulation.submit, simulation.remove, START + hours * HOUR
        )
        assert served.ordered == ()
    simulation.step(START + 4 * HOUR + TAKES)
    assert [tick_of(order) for order in simulation.orders] == [START + HOUR, START + 4 * HOUR]


def test_a_crash_after_the_order_makes_no_second_backup(simulation: Simulation, hourly: Schedule) -> None:
    order = due_order(hourly, [], START + HOUR)
    assert order is not None
    simulation.submit(order.request)  # and the process died
    simulation.step(START + HOUR + TAKES)
    assert len(simulation.orders) == 1
    assert simulation.schedules.get(hourly.id).served_until == START + HOUR


def test_an_order_that_was_taken_on_another_base_is_served(simulation: Simulation, hourly: Schedule) -> None:
    def conflicting(_: NewBackup) -> Request:
        raise IdempotencyConflictError("another base")

    served = serve(simulation.schedules, simulation.reader, conflicting, simulation.remove, START + HOUR)
    assert served.problems == ()
    assert simulation.schedules.get(hourly.id).served_until == START + HOUR


def test_many_processes_order_one_backup(simulation: Simulation, hourly: Schedule) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(simulation.step, [START + HOUR] * 8))
    assert len(simulation.reader.present()) == 1


def test_two_schedules_of_an_app_take_turns(simulation: Simulation, hourly: Schedule) -> None:
    daily = simulation.schedules.create(replace(HOURLY, cron="0 14 * * *"), "test", START)
    simulation.step(START + HOUR)
    simulation.step(START + 2 * HOUR)  # both are due, and the daily one has waited longer
    assert [order.schedule_id for order in simulation.orders] == [hourly.id, daily.id]
    simulation.step(START + 2 * HOUR + TAKES)
    assert [tick_of(order) for order in simulation.orders][2:] == [START + 2 * HOUR]


def test_a_backup_by_hand_is_waited_for(simulation: Simulation, hourly: Schedule) -> None:
    by_hand = BackupRequests(simulation.installation.database).submit(NewBackup("app"))
    assert simulation.step(START + HOUR).ordered == ()
    simulation.installation.requests.cancel(by_hand.id, "test")
    assert len(simulation.step(START + HOUR).ordered) == 1


def test_a_resting_schedule_makes_and_removes_nothing(simulation: Simulation, hourly: Schedule) -> None:
    for hours in (1, 2):
        simulation.step(START + hours * HOUR)
    simulation.schedules.edit(hourly.id, {"retention": Retention(last=1)}, "test", START + 2 * HOUR)
    simulation.schedules.disable(hourly.id, "test")
    served = simulation.step(START + 50 * HOUR)
    assert (served.ordered, served.removed) == ((), ())
    simulation.schedules.enable(hourly.id, "test", START + 50 * HOUR)
    served = simulation.step(START + 50 * HOUR)
    assert (len(served.ordered), len(served.removed)) == (0, 1)


def test_one_that_cannot_be_served_holds_up_no_other(simulation: Simulation, hourly: Schedule) -> None:
    other = simulation.schedules.create(replace(HOURLY, app_id="other"), "test", START)

    def submit(order: NewBackup) -> Request:
        if order.schedule_id == hourly.id:
            raise StorageError("no space")
        return simulation.submit(order)

    served = serve(simulation.schedules, simulation.reader, submit, simulation.remove, START + HOUR)
    assert len(served.ordered) == 1
    assert served.problems == (f"schedule {hourly.id} could not be served: storage: no space",)
    assert simulation.schedules.get(other.id).served_until == START + HOUR
    assert simulation.schedules.get(hourly.id).served_until == START  # it is still due


@pytest.mark.parametrize("change", [{"storage": "/elsewhere"}, {"options": {"compression": "zstd"}}])
def test_after_a_change_of_place_or_form_the_next_backup_is_full(
    simulation: Simulation, change: dict[str, Any]
) -> None:
    schedule = simulation.schedules.create(replace(HOURLY, full_every=9), "test", START)
    for hours in (1, 2):
        simulation.step(START + hours * HOUR)
    assert [order.base is None for order in simulation.orders] == [True, False]
    simulation.schedules.edit(schedule.id, change, "test")
    simulation.step(START + 3 * HOUR)
    assert simulation.orders[-1].base is None


def test_what_a_backup_of_somebody_else_builds_on_stays(simulation: Simulation, hourly: Schedule) -> None:
    for hours in range(1, 5):
        simulation.step(START + hours * HOUR)
    simulation.step(START + 4 * HOUR + TAKES)
    kept = simulation.present(hourly)
    rules = replace(hourly, retention=Retention(last=1))
    now = START + 5 * HOUR
    assert [each.id for each in served_backups(rules, kept, set(), now)] == [kept[0].id]
    by_hand = replace(kept[1], id="by-hand", options={"format": "bson", "base": kept[0].id})
    assert served_backups(rules, [*kept, by_hand], set(), now) == []
    assert served_backups(rules, kept, {kept[0].id}, now) == []


def test_a_restore_under_way_keeps_its_backup(simulation: Simulation, hourly: Schedule) -> None:
    for hours in (1, 2):
        simulation.step(START + hours * HOUR)
    simulation.step(START + 2 * HOUR + TAKES)
    first, _ = simulation.present(hourly)
    restore = {"kind": "restore", "status": "running", "options": {"backup_id": first.id}}
    make_request(simulation.installation, **restore)
    simulation.schedules.edit(hourly.id, {"retention": Retention(last=1)}, "test", START)
    assert simulation.step(START + 2.5 * HOUR).removed == ()
