"""Counting, deleting and detaching the documents of one collection that belong to people who are to be erased.

Reads and writes go to the primary. Documents without arrays on the way to their ids are deleted by the server at once;
the others are looked at one by one. Each step can run twice.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pymongo
from bson.errors import BSONError
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from export_pipeline.backups.erase_ownership import Claim
from export_pipeline.errors import ExportPipelineError, IncompleteError
from export_pipeline.mongo.bson_stream import ANYTHING
from export_pipeline.mongo.connection import Document, translate
from export_pipeline.mongo.snapshot import BYTE_FOR_BYTE

_ROUNDS = 5
_UNAUTHORIZED = 13


class EraseFailedError(ExportPipelineError):
    """Documents could not be removed; the message names their collection."""

    code = "erase_failed"


@dataclass(frozen=True, slots=True)
class Found:
    """How many documents of a collection belong to the people: to them alone, and to others too."""

    own: int
    shared: int


class ErasableCollection:
    """One collection's documents of the people, as the selector of an export finds them."""

    def __init__(
        self,
        client: MongoClient[Document],
        name: tuple[str, str],
        selectors: Sequence[Document],
        claim: Claim | None,
        time_limit: timedelta,
    ) -> None:
        self.name = name[1]
        self._collection: Collection[Any] = client[name[0]].get_collection(
            name[1],
            ANYTHING,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority"),
        )
        # Without a selector, as of people who have no device, nothing is theirs.
        self._selector: Document = {"$or": list(selectors)} if selectors else {"_id": {"$in": []}}
        self._claim = claim  # what a hook finds belongs to whom it finds it for
        self._time_limit = time_limit.total_seconds()

    def count(self) -> Found:
        """Count on the server; what lies in arrays is looked at."""
        with self._asking():
            own = self._counted(self._plain)
        in_arrays = [claim.is_shared(document) for claim, document in self._in_arrays()]
        return Found(own + in_arrays.count(False), in_arrays.count(True))

    def left(self) -> int:
        """Count the documents that are found still."""
        with self._asking():
            return self._counted(self._selector)

    def erase(self) -> None:
        """Delete what is theirs alone, detach what is others' too, until nothing is found.

        Raises IncompleteError where documents are written faster than that.
        """
        for _ in range(_ROUNDS):
            with self._asking():
                self._collection.delete_many(self._plain, collation=BYTE_FOR_BYTE)
            for claim, document in self._in_arrays():
                with self._asking():
                    self._erase_one(claim, document)
            if not self.left():
                return
        raise IncompleteError(
            f"{self.name}: documents of these people are written while theirs are erased; stop what writes them, and "
            "confirm the same erasure again"
        )

    @property
    def _plain(self) -> Document:
        """The selector of documents without an array on the way to their id: they are one person's alone."""
        prefixes = (
            [".".join(self._claim.path[: depth + 1]) for depth in range(len(self._claim.path))] if self._claim else []
        )
        no_arrays = [{prefix: {"$not": {"$type": "array"}}} for prefix in prefixes if prefix != "_id"]
        return {"$and": [self._selector, *no_arrays]}

    def _in_arrays(self) -> Iterator[tuple[Claim, Any]]:
        """Yield the other documents' ids and keys, and by what they are claimed."""
        if self._claim is None or self._claim.path == ("_id",):
            return
        others = {"$and": [self._selector, {"$nor": [self._plain]}]}
        fields = dict.fromkeys(["_id", self._claim.path[0]], 1)
        limit_ms = int(self._time_limit * 1000)
        with self._errors():
            for document in self._collection.find(others, fields, collation=BYTE_FOR_BYTE, max_time_ms=limit_ms):
                yield self._claim, document

    def _erase_one(self, claim: Claim, document: Any) -> None:
        """Delete or change a document unless it has changed since it was read: then the next round finds it."""
        top = claim.path[0]
        this_one = {"$and": [{"_id": document["_id"]}, {top: {"$eq": document[top]}}]}
        if claim.is_shared(document) and top != "_id":
            self._collection.update_one(this_one, {"$set": {top: claim.detached(document)}}, collation=BYTE_FOR_BYTE)
        else:
            self._collection.delete_one(this_one, collation=BYTE_FOR_BYTE)

    def _counted(self, selector: Document) -> int:
        return self._collection.count_documents(selector, collation=BYTE_FOR_BYTE)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._errors(), pymongo.timeout(self._time_limit):
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OperationFailure as error:
            raise _refused(error, self.name) from None
        except (PyMongoError, BSONError) as error:
            raise translate(error, self.name) from None
        except UnicodeEncodeError:
            raise EraseFailedError(
                f"{self.name}: a document that is other people's too holds damaged text, which cannot be written back; "
                "mend the text first"
            ) from None


def _refused(error: OperationFailure, what: str) -> ExportPipelineError:
    name = (error.details or {}).get("codeName", f"code {error.code}")
    if error.code == _UNAUTHORIZED:
        return EraseFailedError(f"{what}: not authorized; erasing needs the role 'readWrite' on its database")
    return EraseFailedError(f"{what}: MongoDB refused to count or remove documents ({name})")
