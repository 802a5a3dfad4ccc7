"""Signs of life: a worker shows them and learns when to stop; a watch finds the dead, whatever the clocks do."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.errors import StaleRequestError
from export_pipeline.requests import leases
from export_pipeline.requests.database import RequestsDatabaseError
from export_pipeline.requests.leases import BEAT, SILENCE, Lease, Watch
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.store import RequestStore

pytest_plugins = "export_pipeline_tests.postgres"


@pytest.fixture
def running(store: RequestStore) -> Request:
    """A request at work."""
    return store.submit(NewRequest("app", ["u"]), run_here=True)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_lost(lease: Lease) -> bool:
    try:
        lease.check()
    except StaleRequestError:
        return True
    return False


def test_a_worker_keeps_its_lease_moving(store: RequestStore, running: Request) -> None:
    before = datetime.now(UTC)
    with Lease(store, str(running.batch_id), beat=0.01) as lease:
        first = store.get(running.id).lease_until
        assert first is not None
        assert before + leases.LEASE <= first
        until(lambda: store.get(running.id).lease_until != first)
        lease.check()


def test_a_worker_learns_that_its_request_was_cancelled(store: RequestStore, running: Request) -> None:
    with Lease(store, str(running.batch_id), beat=0.01) as lease:
        store.cancel(running.id, "ann")
        until(lambda: is_lost(lease))
    assert store.get(running.id).lease_until is None


def test_a_worker_that_comes_too_late_does_not_begin(store: RequestStore, running: Request) -> None:
    store.cancel(running.id, "ann")
    with Lease(store, str(running.batch_id)) as lease, pytest.raises(StaleRequestError, match="no running request"):
        lease.check()


def test_a_database_that_is_away_for_a_moment_does_not_end_the_work(
    store: RequestStore, running: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, calls = store.renew_lease, []

    def away_at_first(batch_id: str, until: datetime) -> int:
        calls.append(until)
        if len(calls) in (2, 3):
            raise RequestsDatabaseError("the database is away")
        return renew(batch_id, until)

    monkeypatch.setattr(store, "renew_lease", away_at_first)
    with Lease(store, str(running.batch_id), beat=0.01) as lease:
        until(lambda: len(calls) > 4)
        lease.check()


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def looks(watch: Watch, clock: Clock, *marks: object, every: float = 30) -> list[bool]:
    """Look once for each mark, some time apart; return whether the worker was found dead."""
    found = []
    for mark in marks:
        found.append(bool(watch.silent({"batch": mark})))
        clock.now += every
    return found


def test_a_mark_that_stands_still_is_a_dead_worker_after_a_while() -> None:
    assert looks(Watch(clock := Clock()), clock, "a", "a", "a", "b", "b", "b") == [False, False, True] * 2


def test_the_time_that_a_lease_tells_is_never_compared_with_a_clock() -> None:
    long_ago, far_ahead = (datetime(year, 1, 1, tzinfo=UTC) for year in (1990, 2090))
    moving = [moment + timedelta(seconds=beat) for moment in (long_ago, far_ahead) for beat in range(3)]
    assert not any(looks(Watch(clock := Clock()), clock, *moving))
    assert looks(Watch(clock := Clock()), clock, *[far_ahead] * 3)[-1]


def test_what_nobody_looked_at_is_not_found_dead_at_the_first_look() -> None:
    """As when the daemon was stopped, or the database away, for an hour: workers need a moment to show themselves."""
    assert looks(Watch(clock := Clock()), clock, "a", "a", "b", every=3600) == [False, False, False]


def test_what_one_process_has_seen_the_next_one_knows() -> None:
    """Dagster replaces the process of a sensor every minute, on a busy machine after two looks."""
    clock, memory = Clock(), None
    found = []
    for mark in ("a", "a", "a", "b"):
        watch = Watch(clock, memory)
        found.append(watch.silent({"batch": mark}))
        memory = watch.memory
        clock.now += 30
    assert found == [set(), set(), {"batch"}, set()]


@pytest.mark.parametrize("memory", ["", "null", "[]", "[1, 2]", '{"a": 1}', '[1, {"batch": "a"}]', "not JSON"])
def test_a_memory_that_says_nothing_is_none(memory: str) -> None:
    assert looks(Watch(clock := Clock(), memory), clock, "a", "a", "a") == [False, False, True]


def test_after_a_restart_the_clock_begins_anew_and_nobody_is_dead_for_that() -> None:
    watch = Watch(clock := Clock())
    assert looks(watch, clock, "a", "a") == [False, False]
    clock.now = 5.0
    assert looks(Watch(clock, watch.memory), clock, "a") == [False]


def test_a_worker_that_is_gone_is_forgotten() -> None:
    watch = Watch(clock := Clock())
    looks(watch, clock, "a", "a")
    watch.silent({})
    assert looks(watch, clock, "a", "a") == [False, False]


@given(st.lists(st.floats(1, 120), min_size=5, max_size=30))
def test_a_worker_that_beats_is_never_found_dead(gaps: list[float]) -> None:
    watch = Watch(clock := Clock())
    for gap in gaps:
        assert watch.silent({"batch": clock.now // BEAT}) == set()
        clock.now += max(gap, BEAT)


@given(st.lists(st.floats(1, 120), min_size=70, max_size=100))
def test_a_dead_worker_is_found_in_the_end(gaps: list[float]) -> None:
    watch = Watch(clock := Clock())
    passed = 0.0
    for gap in gaps:
        if watch.silent({"batch": "still"}):
            break
        clock.now += gap
        passed += gap
    assert passed >= SILENCE or clock.now - 1000 >= SILENCE
    assert watch.silent({"batch": "still"})
