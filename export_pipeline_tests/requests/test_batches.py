"""The decision which requests share a run, checked over many sets of requests."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.requests.batches import MOST_PEOPLE, new_id, plan_batches
from export_pipeline.requests.models import Request

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def pending(
    number: int,
    app_id: str = "app",
    *,
    company: int | None = None,
    people: int = 1,
    priority: int = 0,
    due_in_days: int | None = 30,
) -> Request:
    return Request(
        id=f"r{number:03}",
        kind="user_export",
        app_id=app_id,
        selection={"uids": ["u"] * people},
        options={},
        status="pending",
        attempt=0,
        priority=priority,
        requested_by="me",
        requested_at=NOW,
        due_at=None if due_in_days is None else NOW + timedelta(days=due_in_days),
        started_at=None,
        updated_at=NOW,
        finished_at=None,
        expires_at=None,
        batch_id=None,
        run_id=None,
        documents_done=0,
        documents_total=None,
        bytes_written=0,
        result_uri=None,
        result_bytes=None,
        result_sha256=None,
        error_code=None,
        error_message=None,
        idempotency_key=None,
        company=company,
    )


@st.composite
def several_pending(draw: st.DrawFn) -> list[Request]:
    return [
        pending(
            number,
            draw(st.sampled_from(["a", "b", "c"])),
            company=draw(st.sampled_from([None, None, None, 1, 2, 8])),
            priority=draw(st.integers(0, 2)),
            due_in_days=draw(st.none() | st.integers(-5, 30)),
        )
        for number in draw(st.permutations(range(draw(st.integers(0, 30)))))
    ]


LIMITS = st.integers(1, 10)


def planned(requests: list[Request], limit: int) -> list[list[Request]]:
    by_id = {request.id: request for request in requests}
    return [[by_id[request_id] for request_id in batch.request_ids] for batch in plan_batches(requests, limit)]


def urgency(request: Request) -> tuple[int, datetime]:
    return (-request.priority, request.due_at or datetime.max.replace(tzinfo=UTC))


def test_a_quiet_time_gives_a_batch_of_one() -> None:
    [batch] = plan_batches([pending(1)], 500)
    assert batch.request_ids == ("r001",)


def test_nothing_pending_gives_no_batch() -> None:
    assert plan_batches([], 500) == []


def test_a_backlog_of_one_app_is_cut_at_the_limit() -> None:
    assert [len(batch) for batch in planned([pending(number) for number in range(25)], 10)] == [10, 10, 5]


def test_an_urgent_request_is_served_first_and_takes_its_neighbours_along() -> None:
    requests = [pending(1, "a"), pending(2, "b"), pending(3, "b", priority=1), pending(4, "c", due_in_days=1)]
    assert [batch.request_ids for batch in plan_batches(requests, 500)] == [("r003", "r002"), ("r004",), ("r001",)]


@given(several_pending(), LIMITS)
def test_every_request_is_in_exactly_one_batch(requests: list[Request], limit: int) -> None:
    counts = Counter(request.id for batch in planned(requests, limit) for request in batch)
    assert counts == Counter(request.id for request in requests)


@given(several_pending(), LIMITS)
def test_no_batch_is_over_the_limit_or_mixes_apps(requests: list[Request], limit: int) -> None:
    for batch in planned(requests, limit):
        assert 1 <= len(batch) <= limit
        assert len({request.app_id for request in batch}) == 1


@given(several_pending(), LIMITS)
def test_a_request_that_has_failed_has_no_more_company_than_it_may(requests: list[Request], limit: int) -> None:
    for batch in planned(requests, limit):
        assert all(len(batch) <= (request.company or limit) for request in batch)


@given(several_pending(), LIMITS)
def test_no_more_batches_than_needed(requests: list[Request], limit: int) -> None:
    alike = Counter((request.app_id, min(request.company or limit, limit)) for request in requests)
    assert len(planned(requests, limit)) == sum(-(-count // size) for (_, size), count in alike.items())


@given(st.lists(st.integers(1, 60_000), max_size=30))
def test_a_batch_has_a_bounded_number_of_people_unless_one_request_has_more(people: list[int]) -> None:
    batches = planned([pending(number, people=count) for number, count in enumerate(people)], 500)
    totals = [[request.most_people for request in batch] for batch in batches]
    assert all(sum(counts) <= MOST_PEOPLE or len(counts) == 1 for counts in totals)
    assert all(sum(first) + second[0] > MOST_PEOPLE for first, second in pairwise(totals)), "none is cut without need"


@given(several_pending(), LIMITS)
def test_urgent_ones_come_first(requests: list[Request], limit: int) -> None:
    batches = planned(requests, limit)
    first = [urgency(batch[0]) for batch in batches]
    assert first == sorted(first)
    for batch in batches:
        assert [urgency(request) for request in batch] == sorted(urgency(request) for request in batch)


@given(several_pending(), LIMITS)
def test_the_plan_does_not_depend_on_the_order_of_the_rows(requests: list[Request], limit: int) -> None:
    forwards = [batch.request_ids for batch in plan_batches(requests, limit)]
    assert forwards == [batch.request_ids for batch in plan_batches(requests[::-1], limit)]


def test_ids_are_version_7_and_in_the_order_of_their_making() -> None:
    ids = [new_id() for _ in range(1000)]
    assert {(len(made), made[14]) for made in ids} == {(36, "7")}
    assert ids == sorted(set(ids))


def test_each_batch_has_an_id_of_its_own() -> None:
    batches = plan_batches([pending(number) for number in range(9)], 2)
    assert len({batch.id for batch in batches}) == len(batches) == 5
