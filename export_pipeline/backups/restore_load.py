"""Loading one part into its collection, and comparing a loaded collection with the manifest."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pymongo.collection import Collection

from export_pipeline.backups.content import UnorderedContent, ordered_content
from export_pipeline.backups.manifest import PartFile
from export_pipeline.backups.raw_cursor import LeanRawBatchCursor
from export_pipeline.backups.reading import read_ahead
from export_pipeline.backups.rename import AppValue
from export_pipeline.backups.restore_ledger import Erased, Sieve, piece_of
from export_pipeline.backups.restore_plan import Target
from export_pipeline.backups.restore_source import BackupSource
from export_pipeline.backups.restore_target import RestoreFailedError, writing
from export_pipeline.errors import IncompleteError
from export_pipeline.mongo.bson_stream import ANYTHING, Piece, documents, whole_documents

OnDocuments = Callable[[int], None]
"""Called with the number of documents that have just been loaded, 0 while they are compared; what it raises ends the
restore."""

_THROUGH_EXTENDED_JSON = {"jsonl", "parquet"}

_DUPLICATE_KEY = 11000
_MOST_DOCUMENTS = 50_000
"""The server takes 100,000 at a time; of the smallest documents, 4 MB are more."""

_READ_AT_ONCE = 5000
_IN_MEMORY = {"w": 1}
"""The record of a part waits until a majority has all that was written before it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a part's documents."""

    documents: int
    """Those that were kept, with the next."""
    bytes: int
    left_out: int
    detached: int
    exact: bool
    """Whether the part gave the documents back bit by bit. Extended JSON does not hold all that BSON can: of an array,
    for instance, whose items are called other than "0", "1" and so on."""
    content: str
    """What was kept: the SHA-256 of the documents end to end, or their unordered content."""

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Self:
        """Return what a former process recorded."""
        return cls(*(recorded[name] for name in cls.__slots__))

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what ``of`` takes."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Loading:
    """One collection that is loaded, whom of the erased it may name, and where to."""

    target: Target
    erased: Sequence[Erased]
    collection: Collection[Any]

    @property
    def is_ordered(self) -> bool:
        """Whether the collection is read back in the order in which its parts are."""
        return self.target.source.order != "unordered" and self.target.app_value is None


def load_part(
    source: BackupSource, loading: Loading, part: PartFile, *, again: bool, on_documents: OnDocuments
) -> Loaded:
    """Load a part. With ``again``, documents that are there already are what an interrupted restore put there.

    Raises IncompleteError where the part does not hold what the manifest says, RestoreFailedError.
    """
    sieve, ordered, unordered = Sieve(loading.erased), hashlib.sha256(), UnorderedContent()
    as_read, read, kept, size = hashlib.sha256(), 0, 0, 0
    as_it_was = not loading.erased and loading.target.app_value is None
    for piece in source.pieces(loading.target.source, part):
        as_read.update(piece.data)
        read += len(piece)
        remaining = _changed(piece, sieve, loading.target.app_value)
        if not loading.is_ordered:
            unordered.add(remaining)
        elif not as_it_was:  # hashing takes its time, so nothing is hashed twice
            ordered.update(remaining.data)
        _insert(loading, remaining, again=again)
        kept += len(remaining)
        size += len(remaining.data)
        on_documents(len(piece))
    exact = as_read.hexdigest() == part.documents_sha256
    if read != part.documents or not (exact or source.manifest.options.format in _THROUGH_EXTENDED_JSON):
        raise IncompleteError(f"{loading.target.source.folder}/{part.name}: its documents are not the manifest's")
    in_order = as_read if as_it_was else ordered
    content = in_order.hexdigest() if loading.is_ordered else unordered.sha256()
    return Loaded(kept, size, sieve.left_out, sieve.detached, exact, content)


def compare(loading: Loading, parts: Sequence[Loaded], on_documents: OnDocuments) -> None:
    """Read a loaded collection back, and compare it with what was loaded. Raises IncompleteError."""
    kept = [part for part in parts if part.documents]
    if loading.is_ordered:
        wanted = ordered_content((part.documents, part.content) for part in kept)
        for order in _orders(loading, kept):
            content = _ordered(loading, kept, order, on_documents)
            if content == wanted:
                break
    else:
        together = UnorderedContent()
        for part in kept:
            together.add_sum(part.content)
        wanted = together.sha256()
        content = _unordered(loading, on_documents)
    if content != wanted:
        with writing(loading.collection.name):
            found = loading.collection.estimated_document_count()
        raise IncompleteError(
            f"{'.'.join(loading.target.name)}: it does not hold the documents that were loaded into it: those are "
            f"{sum(part.documents for part in kept):,}, and it has {found:,}"
        )


def _changed(piece: Piece, sieve: Sieve, app_value: AppValue | None) -> Piece:
    sifted = sieve(piece)
    return sifted if app_value is None else piece_of(map(app_value.apply, documents(sifted.data)))


class _Sequence:
    """Documents end to end, as MongoDB's wire protocol takes them (OP_MSG, a document sequence), not one by one.

    PyMongo writes ``raw`` as it stands where it finds a document that is marked as raw; ``RawBSONDocument`` itself
    takes a single one only. test_restore.py fails when that changes.
    """

    _type_marker = 101

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


def _insert(loading: Loading, piece: Piece, *, again: bool) -> None:
    """Insert documents. With ``again``, those that are there already are left as they are: the comparison tells."""
    collection = loading.collection
    for begin in range(0, len(piece), _MOST_DOCUMENTS):
        batch = piece.cut(begin, min(begin + _MOST_DOCUMENTS, len(piece)))
        command = {
            "insert": collection.name,
            "documents": [_Sequence(batch.data)],
            "ordered": loading.target.structure.kind == "capped",
            "writeConcern": _IN_MEMORY,
        }
        with writing(collection.name):
            # A refusal quotes the document's _id, which may be a date that Python does not know.
            answer = collection.database.command(command, codec_options=ANYTHING)
        codes = {int(refused["code"]) for refused in answer.get("writeErrors", ())}
        if again and codes == {_DUPLICATE_KEY}:
            continue
        if _DUPLICATE_KEY in codes:
            raise RestoreFailedError(f"{collection.name}: another program writes to it; restore into a new database")
        if codes or answer["n"] != len(batch):
            told = f" (code {', '.join(map(str, sorted(codes)))})" if codes else ""
            raise RestoreFailedError(f"{collection.name}: MongoDB did not take all documents{told}")


def _orders(loading: Loading, parts: Sequence[Loaded]) -> list[str]:
    """Return the orders in which the documents may be found as they were loaded, the likeliest first."""
    if loading.target.source.order == "natural":
        return ["$natural"]
    # A part is loaded from its beginning to its end, and reading in that order spares the server the index.
    return ["$natural", "_id"] if len(parts) == 1 else ["_id"]


def _ordered(loading: Loading, parts: Sequence[Loaded], order: str, on_documents: OnDocuments) -> str:
    """Return the collection's content, hashed as many bytes at a time as each part has."""
    by = {order: 1}
    hashes: list[tuple[int, str]] = []
    digest, left = hashlib.sha256(), parts[0].bytes if parts else 0
    with writing(loading.collection.name):
        for batch in _read_back(loading, sort=by, hint=by):
            rest = memoryview(batch)
            while rest and left:
                digest.update(rest[:left])
                rest, left = rest[left:], left - min(left, len(rest))
                if not left:
                    hashes.append((parts[len(hashes)].documents, digest.hexdigest()))
                    digest, left = hashlib.sha256(), parts[len(hashes)].bytes if len(hashes) < len(parts) else 0
            if rest:
                return "more than was loaded"
            on_documents(0)
    return ordered_content(hashes)


def _read_back(loading: Loading, **query: Any) -> Iterator[bytes]:
    return read_ahead(iter(LeanRawBatchCursor(loading.collection, {}, **query, batch_size=_READ_AT_ONCE)))


def _unordered(loading: Loading, on_documents: OnDocuments) -> str:
    content = UnorderedContent()
    with writing(loading.collection.name):
        for batch in _read_back(loading):
            content.add(Piece(batch, whole_documents(batch)[0]))
            on_documents(0)
    return content.sha256()
