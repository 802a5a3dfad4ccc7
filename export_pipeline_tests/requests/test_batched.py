"""Many rows in one transaction: each as by itself, and those that were moved on stay as they are."""

from datetime import UTC, datetime, timedelta

import pytest

from export_pipeline.errors import StaleRequestError
from export_pipeline.requests.batched import BatchedWork, Published
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.store import RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

EXPIRY = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)


@pytest.fixture
def batched(store: RequestStore) -> BatchedWork:
    return BatchedWork.beside(store)


def claimed(store: RequestStore, batched: BatchedWork, count: int) -> tuple[str, list[str]]:
    """Submit requests and claim them as one batch; return its id and theirs."""
    ids = [request.id for request in batched.submit([NewRequest("app", [f"u{number}"]) for number in range(count)])]
    batch = Batch(new_id(), tuple(ids))
    assert sorted(store.claim(batch)) == sorted(ids)
    return batch.id, ids


def published(request_id: str, number: int) -> Published:
    return Published(request_id, number, f"/exports/{number}", number * 100, f"{number:064}", EXPIRY)


def test_all_are_submitted_as_one_by_one(store: RequestStore, batched: BatchedWork) -> None:
    first, second, again = batched.submit([NewRequest("app", [uid], requested_by="me") for uid in "aba"])
    assert (first.status, first.selection) == ("pending", {"uids": ["a"]})
    assert second.selection == {"uids": ["b"]}
    assert again.id == first.id, "a request for the same thing joins the one that is live"
    assert [event["event"] for event in store.events(first.id)] == ["submitted", "joined"]
    assert {request.id for request in store.pending(10)} == {first.id, second.id}


def test_packages_are_recorded_together_each_with_its_own_figures(store: RequestStore, batched: BatchedWork) -> None:
    batch_id, ids = claimed(store, batched, 3)
    packages = [published(request_id, number) for number, request_id in enumerate(ids, start=1)]
    assert batched.complete(batch_id, packages[:2]) == set(ids[:2])
    for number, request_id in enumerate(ids[:2], start=1):
        row = store.get(request_id)
        assert (row.status, row.documents_done, row.documents_total) == ("completed", number, number)
        assert (row.result_uri, row.result_bytes, row.result_sha256) == (
            f"/exports/{number}",
            number * 100,
            f"{number:064}",
        )
        assert row.expires_at == EXPIRY
        assert row.finished_at is not None
        assert [event["event"] for event in store.events(request_id)] == ["submitted", "claimed", "completed"]
    assert store.get(ids[2]).status == "running"
    assert batched.still_running(batch_id, ids) == {ids[2]}


def test_one_that_was_moved_on_stays_as_it_is(store: RequestStore, batched: BatchedWork) -> None:
    batch_id, ids = claimed(store, batched, 2)
    store.cancel(ids[0], "me")
    assert batched.still_running(batch_id, ids) == {ids[1]}
    assert batched.complete(batch_id, [published(request_id, 1) for request_id in ids]) == {ids[1]}
    assert [store.get(request_id).status for request_id in ids] == ["cancelled", "completed"]
    assert batched.complete(batch_id, [published(ids[1], 2)]) == set(), "nothing is recorded twice"
    assert store.get(ids[1]).documents_done == 1


def test_another_batch_is_shut_out(store: RequestStore, batched: BatchedWork) -> None:
    batch_id, ids = claimed(store, batched, 1)
    assert batched.still_running("another", ids) == set()
    assert batched.complete("another", [published(ids[0], 1)]) == set()
    with pytest.raises(StaleRequestError):
        store.fail(ids[0], "another", code="x", message="y")
    assert batched.complete(batch_id, [published(ids[0], 1)]) == set(ids)


def test_a_secret_is_forgotten_with_its_request(store: RequestStore, batched: BatchedWork) -> None:
    batch_id, ids = claimed(store, batched, 2)
    for request_id in ids:
        store.secrets.keep(request_id, "secret")
    batched.complete(batch_id, [published(ids[0], 1)])
    assert [store.secrets.find(request_id) for request_id in ids] == [None, "secret"]


def test_none_at_all_is_fine(batched: BatchedWork) -> None:
    assert batched.complete("batch", []) == set()
    assert batched.still_running("batch", []) == set()
