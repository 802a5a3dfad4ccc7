"""What a collection holds, as one SHA-256: equal for two collections that hold the same documents.

Where a collection comes in an order, it is made of its parts', each hashed once, by whichever thread or process wrote
it. Where it does not, the order of its documents, and of their fields, makes no difference.
"""

import hashlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

from export_pipeline.backups.manifest import PartFile
from export_pipeline.formats.bson_fields import fields
from export_pipeline.mongo.bson_stream import Piece

Order = Literal["_id", "natural", "unordered"]


def ordered_content(parts: Iterable[tuple[int, str]]) -> str:
    """Return the SHA-256 of a collection that has an order, from its parts' numbers of documents and SHA-256.

    To compare a restored collection, read it in that order and hash as many documents at a time as each part has.
    """
    digest = hashlib.sha256()
    for documents, sha256 in parts:
        digest.update(f"{documents} {sha256}\n".encode())
    return digest.hexdigest()


class UnorderedContent:
    """The sum, modulo 2**256, of the SHA-256 of each document with its fields in one order.

    In one order, since a time series gives its measurements back with their fields in another order.

    >>> from bson import encode
    >>> first, second = encode({"a": 1, "b": 2}), encode({"b": 2, "a": 1})
    >>> one, two = UnorderedContent(), UnorderedContent()
    >>> one.add(Piece(first, [0])), two.add(Piece(second, [0])), one.sha256() == two.sha256()
    (None, None, True)
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, piece: Piece) -> None:
        """Count documents."""
        for begin, end in pairwise([*piece.offsets, len(piece.data)]):
            elements = sorted(piece.data[field.begin : field.end] for field in fields(piece.data, begin, end))
            self._sum += int.from_bytes(hashlib.sha256(b"".join(elements)).digest())

    def add_sum(self, sha256: str) -> None:
        """Count the documents of another."""
        self._sum += int(sha256, 16)

    def sha256(self) -> str:
        """Return the sum, as hex."""
        return f"{self._sum % (1 << 256):064x}"


def content_sha256(order: Order, parts: Iterable[PartFile]) -> str:
    """Return what a collection of these parts holds."""
    if order != "unordered":
        return ordered_content((part.documents, part.documents_sha256) for part in parts)
    content = UnorderedContent()
    for part in parts:
        content.add_sum(part.documents_sum or "0")
    return content.sha256()
