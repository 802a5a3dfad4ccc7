"""Leaving out, while documents are restored, what belongs to people who were erased since. Decisions, no I/O."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import bson

from export_pipeline.backups.erase_ownership import Claim
from export_pipeline.errors import IncompleteError
from export_pipeline.formats.bson_fields import fields
from export_pipeline.mongo.bson_stream import Piece, view
from export_pipeline.slices.ownership import values_at
from export_pipeline.slices.user_key import string_at

_KNOWN_AT_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Erased:
    """Whom one user key may name who was erased: the ids' hashes, and what makes a hash of an id."""

    path: tuple[str, ...]
    hash_of: Callable[[str], str]
    hashes: frozenset[str]


class Sieve:
    """Sifts one collection's documents; ``left_out`` and ``detached`` count. Of one thread."""

    def __init__(self, erased: Sequence[Erased]) -> None:
        self._erased = erased
        self._known: list[dict[str, bool]] = [{} for _ in erased]
        self.left_out = 0
        """Documents of the erased alone."""
        self.detached = 0
        """Documents of others too, which lost the ids of the erased."""

    def __call__(self, piece: Piece) -> Piece:
        """Return what is kept of a piece. Raises IncompleteError for a document that cannot be sifted."""
        kept = list(self._sifted(piece))
        if len(kept) == len(piece) and all(document is None for document in kept):
            return piece
        whole = [
            piece.data[begin:end] if document is None else document
            for document, (begin, end) in zip(kept, pairwise([*piece.offsets, len(piece.data)]), strict=True)
        ]
        return piece_of(document for document in whole if document)

    def _sifted(self, piece: Piece) -> Iterator[bytes | None]:
        """Yield for each document None where it stays as it is, what is left of it, or nothing."""
        for begin, end in pairwise([*piece.offsets, len(piece.data)]):
            document: bytes | None = None
            for number, erased in enumerate(self._erased):
                changed = self._without(document or piece.data[begin:end], number, erased)
                document = document if changed is None else changed
                if document == b"":
                    break
            yield document

    def _without(self, document: bytes, number: int, erased: Erased) -> bytes | None:
        plain = string_at(document, erased.path[0].encode()) if len(erased.path) == 1 else None
        if plain is not None:
            if not self._is_erased(number, plain.decode(errors="surrogateescape")):
                return None
            self.left_out += 1
            return b""
        viewed = view(document)
        ids = [value for value in values_at(viewed, erased.path) if isinstance(value, str)]
        claim = Claim(erased.path, frozenset(id_ for id_ in ids if self._is_erased(number, id_)))
        if not claim.ids:
            return None
        if not claim.is_shared(viewed):
            self.left_out += 1
            return b""
        self.detached += 1
        return _with_field(document, erased.path[0], claim.detached(viewed))

    def _is_erased(self, number: int, id_: str) -> bool:
        known = self._known[number]
        found = known.get(id_)
        if found is None:
            if len(known) >= _KNOWN_AT_MOST:
                known.clear()
            erased = self._erased[number]
            found = known[id_] = erased.hash_of(id_) in erased.hashes
        return found


def piece_of(documents: Iterable[bytes]) -> Piece:
    """Return documents as a piece."""
    data, offsets = bytearray(), list[int]()
    for document in documents:
        offsets.append(len(data))
        data += document
    return Piece(bytes(data), offsets)


def _with_field(document: bytes, name: str, value: Any) -> bytes:
    """Return the document with another value of a top-level field, every other byte as it was."""
    try:
        element = bson.encode({name: value})[4:-1]
    except (UnicodeEncodeError, bson.errors.BSONError):
        raise IncompleteError(
            f"a document names an erased person among others in {name}, and holds damaged text there: it can be "
            "neither left out nor written without the person"
        ) from None
    content = b"".join(
        element if field.name == name.encode() else document[field.begin : field.end]
        for field in fields(document, 0, len(document))
    )
    return (len(content) + 5).to_bytes(4, "little") + content + b"\0"
