"""A batch's slices stay open while its packages are made; what was read ahead is given once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import bson
import pytest

from export_pipeline.errors import IncompleteError, StorageError
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline.slices import batch_slices
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.slice_file import SliceIndex, SliceWriter, data_key, index_key, store_index
from export_pipeline.storage import DirectoryStorage
from export_pipeline_tests.slices.batches import BATCH

REQUESTS = ("r1", "r2", "r3")
DOCUMENTS = {request_id: bson.encode({"of": request_id}) for request_id in REQUESTS}


class CountingStorage(DirectoryStorage):
    """Counts how often each file is opened, and which are open."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: Counter[str] = Counter()
        self.open_now: set[str] = set()

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        with super().open(key) as file:
            self.opened[key] += 1
            self.open_now.add(key)
            yield file
            self.open_now.remove(key)


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(tmp_path)


def write(storage: CountingStorage, name: str) -> SliceIndex:
    """Write a slice in which each request owns one document, and return its index."""
    with storage.create(data_key(BATCH, name)) as file:
        writer = SliceWriter(file)
        for request_id in reversed(REQUESTS):
            writer.add(request_id, DOCUMENTS[request_id])
        owned = writer.finish()
        file.commit()
    index = SliceIndex(name=name, outcome="exported", documents=3, owned=owned)
    store_index(storage, BATCH, index)
    return index


def read(slices: BatchSlices, index: SliceIndex, request_id: str) -> list[bytes]:
    with slices.open(index, request_id) as pieces:
        return [piece.data for piece in pieces]


def test_each_file_is_opened_once_for_all_requests_and_closed_at_the_end(storage: CountingStorage) -> None:
    write(storage, "events")
    with BatchSlices(storage, BATCH) as slices:
        for request_id in REQUESTS:
            index = slices.index("events")
            assert index is not None
            assert read(slices, index, request_id) == [DOCUMENTS[request_id]]
        assert slices.index("absent") is None
    assert storage.opened == {data_key(BATCH, "events"): 1, index_key(BATCH, "events"): 1}
    assert storage.open_now == set()


def test_only_so_many_files_stay_open(storage: CountingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_slices, "MOST_OPEN", 1)
    indexes = [write(storage, name) for name in ("a", "b")]
    with BatchSlices(storage, BATCH) as slices:
        for request_id in REQUESTS:
            for index in indexes:
                assert read(slices, index, request_id) == [DOCUMENTS[request_id]]
        assert storage.open_now == {data_key(BATCH, "a")}
    assert storage.opened == {data_key(BATCH, "a"): 1, data_key(BATCH, "b"): 3}


def test_documents_lie_in_the_order_in_which_packages_are_made(storage: CountingStorage) -> None:
    owned = write(storage, "events").owned
    assert sorted(owned, key=lambda request_id: owned[request_id].ranges) == list(REQUESTS)


def test_what_was_read_ahead_is_given_once_as_it_was_prepared(storage: CountingStorage) -> None:
    index = write(storage, "events")
    seen: list[bytes] = []

    def reversed_bytes(pieces: Sequence[Piece]) -> list[Piece]:
        seen.extend(piece.data for piece in pieces)
        return [Piece(piece.data[::-1], piece.offsets) for piece in pieces]

    with BatchSlices(storage, BATCH) as slices:
        slices.read_ahead(index, ["r1", "r3"], reversed_bytes)
        assert seen == [DOCUMENTS["r1"], DOCUMENTS["r3"]]
        assert read(slices, index, "r3") == [DOCUMENTS["r3"][::-1]]
        assert read(slices, index, "r2") == [DOCUMENTS["r2"]]
        assert read(slices, index, "r3") == [DOCUMENTS["r3"]]
        slices.forget_ahead()
        assert read(slices, index, "r1") == [DOCUMENTS["r1"]]


def test_damage_is_left_to_the_request_that_it_concerns(storage: CountingStorage) -> None:
    index = write(storage, "events")
    damaged = index.owned["r2"].model_copy(update={"documents": 9})
    index = index.model_copy(update={"owned": {**index.owned, "r2": damaged}})
    with BatchSlices(storage, BATCH) as slices:
        slices.read_ahead(index, REQUESTS, lambda pieces: pieces)
        assert read(slices, index, "r1") == [DOCUMENTS["r1"]]
        with pytest.raises(IncompleteError, match="the slice of events is damaged"):
            read(slices, index, "r2")
        assert read(slices, index, "r3") == [DOCUMENTS["r3"]]


def test_a_disk_that_cannot_be_read_is_a_storage_error(
    storage: CountingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write(storage, "events")

    def fail(*_: object) -> Iterator[Piece]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(batch_slices, "owned_pieces", fail)
    with BatchSlices(storage, BATCH) as slices, pytest.raises(StorageError, match=r"events\.bson: input/output error"):
        read(slices, index, "r1")
