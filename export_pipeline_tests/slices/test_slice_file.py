"""What is added to a slice for a request comes back for that request: all of it, once, in its order."""

import tempfile
from pathlib import Path

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.errors import IncompleteError, StorageError
from export_pipeline.mongo.bson_stream import documents
from export_pipeline.slices import slice_file
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.slice_file import (
    Owned,
    SliceIndex,
    SliceWriter,
    data_key,
    load_index,
    store_index,
)
from export_pipeline.storage import DirectoryStorage, Storage
from export_pipeline_tests.slices.batches import BATCH

A, B, C = (bson.encode({"text": letter * 20}) for letter in "abc")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return DirectoryStorage(tmp_path)


def write(storage: Storage, added: list[tuple[str, bytes]], gather_bytes: int = 8 << 20) -> SliceIndex:
    """Write a slice of these (request, documents end to end) and return its index."""
    with storage.create(data_key(BATCH, "events")) as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(slice_file, "GATHER_BYTES", gather_bytes)
        writer = SliceWriter(file)
        for request_id, data in added:
            writer.add(request_id, data, len(list(documents(data))))
        owned = writer.finish()
        size = file.tell()
        file.commit()
    return SliceIndex(name="events", outcome="exported", documents=len(added), bytes=size, owned=owned)


def read(storage: Storage, index: SliceIndex, request_id: str) -> list[bytes]:
    with BatchSlices(storage, BATCH) as slices, slices.open(index, request_id) as pieces:
        return [document for piece in pieces for document in documents(piece.data)]


DOCUMENTS = st.binary(max_size=60).map(lambda data: bson.encode({"data": data}))
RUNS = st.lists(DOCUMENTS, min_size=1, max_size=3).map(b"".join)
ADDED = st.lists(st.tuples(st.sampled_from(["r1", "r2", "r3"]), RUNS), max_size=20)


@given(ADDED, st.integers(1, 500))
def test_each_request_gets_back_its_own_documents_in_order(added: list[tuple[str, bytes]], gather_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = DirectoryStorage(folder)
        index = write(storage, added, gather_bytes)
        for request_id in ("r1", "r2", "r3"):
            own = [document for owner, data in added if owner == request_id for document in documents(data)]
            assert read(storage, index, request_id) == own


@given(ADDED, st.integers(1, 500))
def test_the_ranges_cover_the_file_and_do_not_overlap(added: list[tuple[str, bytes]], gather_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = write(DirectoryStorage(folder), added, gather_bytes)
    ranges = sorted(stretch for owned in index.owned.values() for stretch in owned.ranges)
    end = 0
    for offset, length in ranges:
        assert (offset, length > 0) == (end, True)
        end = offset + length
    assert end == index.bytes == sum(len(data) for _, data in added)
    for owned in index.owned.values():
        assert owned.bytes == sum(length for _, length in owned.ranges)


def test_documents_of_one_request_lie_together_whatever_order_they_came_in(storage: Storage) -> None:
    index = write(storage, [("r1", A), ("r2", B), ("r1", C), ("r2", B)])
    assert {request_id: len(owned.ranges) for request_id, owned in index.owned.items()} == {"r1": 1, "r2": 1}


def test_each_time_enough_has_gathered_it_is_put_down_together(storage: Storage) -> None:
    index = write(storage, [("r1", A), ("r2", B)] * 4, gather_bytes=4 * len(A))
    assert {request_id: len(owned.ranges) for request_id, owned in index.owned.items()} == {"r1": 2, "r2": 2}


def test_a_lone_request_has_one_range_however_long_it_gets(storage: Storage) -> None:
    index = write(storage, [("r1", A)] * 50, gather_bytes=1)
    assert index.owned["r1"].ranges == ((0, 50 * len(A)),)


def test_what_gathers_in_memory_is_bounded(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_file, "GATHER_BYTES", 100)
    with storage.create("slices/x/y") as file:
        writer = SliceWriter(file)
        for number in range(1, 50):
            writer.add(f"r{number % 7}", A)
            assert number * len(A) - file.tell() < 100


def test_a_request_that_owns_nothing_reads_nothing(storage: Storage) -> None:
    assert read(storage, write(storage, [("r1", A)]), "r2") == []
    assert read(storage, SliceIndex(name="absent", outcome="absent"), "r1") == []


# The index


def test_an_index_is_the_same_after_it_was_stored(storage: Storage) -> None:
    index = write(storage, [("r1", A), ("r2", B), ("r1", C)], gather_bytes=1)
    assert load_index(storage, BATCH, "events") is None, "the slice is not finished before its index is stored"
    store_index(storage, BATCH, index)
    assert load_index(storage, BATCH, "events") == index
    assert load_index(storage, "batch-2", "events") is None


# Damage


def damaged(index: SliceIndex, request_id: str, **values: object) -> SliceIndex:
    owned = index.owned[request_id].model_copy(update=values)
    return index.model_copy(update={"owned": {**index.owned, request_id: owned}})


@pytest.mark.parametrize("documents_said", [0, 1, 3])
def test_another_number_of_documents_than_the_index_says_is_noticed(storage: Storage, documents_said: int) -> None:
    index = damaged(write(storage, [("r1", A), ("r1", B)]), "r1", documents=documents_said)
    with pytest.raises(IncompleteError, match="the slice of events is damaged"):
        read(storage, index, "r1")


@pytest.mark.parametrize("ranges", [((0, 7),), ((1, len(A)),), ((0, 2 * len(A)),), ((9999, len(A)),)])
def test_ranges_that_hold_no_whole_documents_are_noticed(storage: Storage, ranges: object) -> None:
    index = damaged(write(storage, [("r1", A)]), "r1", ranges=ranges)
    with pytest.raises(IncompleteError):
        read(storage, index, "r1")


def test_a_file_that_was_cut_off_is_noticed(storage: Storage, tmp_path: Path) -> None:
    index = write(storage, [("r1", A), ("r1", B)])
    file = tmp_path / data_key(BATCH, "events")
    for size in range(2 * len(A)):
        file.write_bytes((A + B)[:size])
        with pytest.raises(IncompleteError):
            read(storage, index, "r1")


def test_a_file_that_is_gone_is_noticed(storage: Storage) -> None:
    index = write(storage, [("r1", A)])
    storage.delete(data_key(BATCH, "events"))
    with pytest.raises(StorageError, match="no such file"):
        read(storage, index, "r1")


def test_owned_counts_documents_and_bytes(storage: Storage) -> None:
    index = write(storage, [("r1", A + B), ("r2", C)])
    assert index.owned["r1"] == Owned(documents=2, bytes=len(A + B), ranges=((0, len(A + B)),))
    assert index.owned["r2"] == Owned(documents=1, bytes=len(C), ranges=((len(A + B), len(C)),))
