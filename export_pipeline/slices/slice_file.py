"""The slice file: the raw documents of one collection for a whole batch, and the index of whose bytes are where.

Written in one pass whatever order the documents come in: each request's documents gather in memory and are put
down together, so that even an unordered read leaves long runs of one person's documents.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Literal

from export_pipeline.errors import IncompleteError
from export_pipeline.mongo.bson_stream import Piece, pieces
from export_pipeline.slices.plan import Failure
from export_pipeline.slices.stored import Stored, batch_folder, store_json
from export_pipeline.storage import PendingFile, Storage

Outcome = Literal["exported", "empty", "absent", "failed", "not_asked"]
"""``absent``: there is no such collection; ``not_asked``: no request of the batch asks for it."""

GATHER_BYTES = 8 << 20
"""How much gathers before it is put down."""


class Owned(Stored):
    """What one request owns in a slice: documents, bytes, and (offset, length) of each run of them."""

    documents: int
    bytes: int
    ranges: tuple[tuple[int, int], ...]
    redacted: Mapping[str, int] = {}
    """By field, how many values were taken out or masked."""


class SliceIndex(Stored):
    """What a slice holds. It is written after the slice file: where it exists, the slice is whole."""

    name: str
    outcome: Outcome
    documents: int = 0
    """Documents read; one that belongs to several requests counts once."""
    bytes: int = 0
    owned: Mapping[str, Owned] = {}
    failure: Failure | None = None


class SliceWriter:
    """Gathers documents by request and puts them down in runs."""

    def __init__(self, file: PendingFile) -> None:
        self._file = file
        self._gathered: dict[str, list[bytes]] = defaultdict(list)
        self._gathered_bytes = 0
        self._ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._documents: dict[str, int] = defaultdict(int)
        self._redacted: dict[str, Counter[str]] = defaultdict(Counter)

    def note_redacted(self, request_id: str, values: Mapping[str, int]) -> None:
        """Count values that were taken out or masked, by field."""
        self._redacted[request_id].update(values)

    def add(self, request_id: str, data: bytes, documents: int = 1) -> None:
        """Add ``documents`` whole documents, end to end in ``data``."""
        self._gathered[request_id].append(data)
        self._gathered_bytes += len(data)
        self._documents[request_id] += documents
        if self._gathered_bytes >= GATHER_BYTES:
            self._put_down()

    def finish(self) -> dict[str, Owned]:
        """Put down the rest and return what each request owns."""
        self._put_down()
        return {
            request_id: Owned(
                documents=self._documents[request_id],
                bytes=sum(length for _, length in ranges),
                ranges=tuple(ranges),
                redacted=self._redacted[request_id],
            )
            for request_id, ranges in self._ranges.items()
        }

    def _put_down(self) -> None:
        offset = self._file.tell()
        for request_id in sorted(
            self._gathered
        ):  # the order in which packages are made, so that reading goes straight on
            length = self._file.write(b"".join(self._gathered[request_id]))
            ranges = self._ranges[request_id]
            if ranges and sum(ranges[-1]) == offset:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
            else:
                ranges.append((offset, length))
            offset += length
        self._gathered.clear()
        self._gathered_bytes = 0


def data_key(batch_id: str, name: str) -> str:
    """Return where a slice's documents are stored."""
    return f"{batch_folder(batch_id)}/{name}.bson"


def index_key(batch_id: str, name: str) -> str:
    """Return where a slice's index is stored."""
    return f"{batch_folder(batch_id)}/{name}.json"


def store_index(storage: Storage, batch_id: str, index: SliceIndex) -> None:
    """Store the index; from here on the slice counts as finished."""
    store_json(storage, index_key(batch_id, index.name), index)


def load_index(storage: Storage, batch_id: str, name: str) -> SliceIndex | None:
    """Return a slice's index; None where the slice is not finished."""
    key = index_key(batch_id, name)
    if not storage.exists(key):
        return None
    with storage.open(key) as file:
        return SliceIndex.model_validate_json(file.read())


def owned_pieces(file: BinaryIO, index: SliceIndex, request_id: str) -> Iterator[Piece]:
    """Yield the documents of a request that owns some, from the slice file, in pieces of bounded size.

    Raises IncompleteError, at the end, if the slice holds fewer or more than its index says.
    """
    owned = index.owned[request_id]
    documents = 0
    for offset, length in owned.ranges:
        for piece in pieces(file, offset, length):
            documents += len(piece)
            yield piece
    if documents != owned.documents:
        raise IncompleteError(f"the slice of {index.name} is damaged; it must be read again")
