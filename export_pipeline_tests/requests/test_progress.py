"""How far a batch and its requests are, and about how long they still take."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from export_pipeline.requests import progress as progress_module
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.progress import READING, WRITING, Progress, ReadingProgress, Tally, time_left
from export_pipeline.requests.store import RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_totals_are_given_to_the_collections_in_their_order() -> None:
    tally = Tally(WRITING, {"users": 1, "absent": 0, "crashes": 10})
    for documents, written in ((1, 100), (5, 500), (11, 1100)):
        tally.advance(documents, written)
    assert tally.stored()["collections"] == {"users": [1, 1, 100], "crashes": [10, 10, 1000]}


def stored(phase: str, expected: int, done: int, seconds: float) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=seconds)).isoformat()
    return {"phase": phase, "since": since, "collections": {"a": [expected, done, 0]}}


@pytest.mark.parametrize(
    ("progress", "left"),
    [
        (None, None),
        (stored(WRITING, 100, 0, 10), None),
        (stored(WRITING, 100, 50, 10), 10),
        (stored(WRITING, 100, 100, 10), 0),
        (stored(WRITING, 100, 120, 10), 0),
        (stored(READING, 100, 50, 10), 30),  # 50 more to read, and 100 to write
        (stored(WRITING, 100, 50, -10), None),  # a clock that jumped
    ],
)
def test_the_time_left_is_told_by_the_rate_so_far(progress: dict[str, Any] | None, left: float | None) -> None:
    assert time_left(progress, NOW) == (None if left is None else timedelta(seconds=left))


def test_the_rows_of_a_batch_show_what_is_read_and_written(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = store.submit(NewRequest("app", ["u"]), run_here=True)
    batch_id = str(request.batch_id)
    monkeypatch.setattr(progress_module, "PROGRESS_EVERY", 0.0)
    reading = ReadingProgress(store, batch_id, {"users": 3})
    reading("users", 2)
    seen = store.get(request.id).progress
    assert seen is not None
    assert (seen["phase"], seen["collections"]) == (READING, {"users": [3, 2, 0]})
    writing = Progress(store, request.id, batch_id, {"users": 3})
    writing(1, 50)
    row = store.get(request.id)
    assert row.progress is not None
    assert (row.progress["phase"], row.progress["collections"]) == (WRITING, {"users": [3, 1, 50]})
    assert (row.documents_done, row.bytes_written) == (1, 50)


def test_figures_are_written_once_a_second_at_most(store: RequestStore) -> None:
    request = store.submit(NewRequest("app", ["u"]), run_here=True)
    reading = ReadingProgress(store, str(request.batch_id), {"users": 3})
    writing = Progress(store, request.id, str(request.batch_id))
    before = store.get(request.id)
    for count in range(100):
        reading("users", 1)
        writing(count, count)
    assert store.get(request.id) == before
