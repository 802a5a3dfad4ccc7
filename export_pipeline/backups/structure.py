"""What a collection is, apart from its documents: its kind, options, validator and indexes, as the server tells them.

Kept as canonical Extended JSON, in which every BSON type survives. The server tells it as of now, never as of a
cluster time.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import bson
from pydantic import BaseModel, ConfigDict
from pymongo import MongoClient

from export_pipeline.formats.extended_json import encode_document
from export_pipeline.formats.extended_json_reader import decode_document
from export_pipeline.mongo.bson_stream import ANYTHING
from export_pipeline.mongo.connection import Document, driver_errors

Kind = Literal["collection", "capped", "timeseries", "view"]

_BRIEFLY_MS = 60_000

_NOT_COMPARED = {"version", "v", "ns", "background", "bucketMaxSpanSeconds", "bucketRoundingSeconds", "autoIndexId"}
"""What a server adds by itself, differently from version to version, at the top of options, indexes and collations."""

_SWITCHES = {"unique", "sparse", "hidden", "prepareUnique", "capped"}
"""What is the same left out as false."""


class Structure(BaseModel):
    """One collection's. Of a view, the options say what it shows; it has no indexes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    options: Mapping[str, Any]
    """As ``listCollections`` tells them and ``create`` takes them, in canonical Extended JSON."""
    indexes: tuple[Mapping[str, Any], ...] = ()
    """As ``listIndexes`` tells them and ``createIndexes`` takes them, the one on _id included."""

    @property
    def fingerprint(self) -> str:
        """A SHA-256, in hex, that two collections share which take the same documents and answer by the same indexes.

        The order of options and of indexes, the way numbers are stored, and what servers add by themselves make no
        difference; the order of an index' fields and of a pipeline's stages does.
        """
        indexes = sorted((_settled(index) for index in self.indexes), key=lambda index: json.dumps(index["name"]))
        said = [self.kind, _settled(self.options), indexes]
        return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()

    @property
    def metadata(self) -> dict[str, Any]:
        """What mongodump writes of a collection into ``<collection>.metadata.json``, but for its name."""
        types = {"capped": "collection"}
        indexes = [dict(index) for index in self.indexes]
        return {"options": dict(self.options), "indexes": indexes, "type": types.get(self.kind, self.kind)}


def as_stored(value: Mapping[str, Any]) -> Document:
    """Return options or an index as the driver takes them, every BSON type as it was.

    >>> as_stored({"size": {"$numberInt": "4096"}})
    {'size': 4096}
    """
    return bson.decode(decode_document(json.dumps(value).encode()))


def read_structures(
    client: "MongoClient[Document]", database: str, names: Sequence[str] | None = None
) -> dict[str, Structure]:
    """Return the structure of a database's collections and views by name, or of those of ``names`` that there are.

    What the server keeps for itself (``system.…``) is left out. Raises what ``driver_errors`` does.
    """
    found = {}
    with driver_errors(f"the list of collections of {database}"):
        wanted = {} if names is None else {"name": {"$in": list(names)}}
        listed = client[database].cursor_command(
            {"listCollections": 1, "filter": wanted, "maxTimeMS": _BRIEFLY_MS},
            codec_options=ANYTHING,
        )
        items = [item for item in listed if not item["name"].startswith("system.")]
    for item in items:
        options = _json_of(item["options"])
        kind: Kind = (
            item["type"] if item["type"] != "collection" else ("capped" if "capped" in options else "collection")
        )
        indexes = () if kind == "view" else _indexes(client, database, item["name"])
        found[item["name"]] = Structure(kind=kind, options=options, indexes=indexes)
    return found


def _indexes(client: "MongoClient[Document]", database: str, name: str) -> tuple[dict[str, Any], ...]:
    with driver_errors(f"the indexes of {name}"):
        listed = client[database].cursor_command(
            {"listIndexes": name, "maxTimeMS": _BRIEFLY_MS}, codec_options=ANYTHING
        )
        return tuple(_json_of(index) for index in listed)


def _json_of(document: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_document(bytes(document.raw), "canonical"))  # a RawBSONDocument
    return found


def _settled(of: Mapping[str, Any]) -> dict[str, Any]:
    """Return options or an index in the one form in which two are compared."""
    kept = {name: _plain(value) for name, value in of.items() if name not in _NOT_COMPARED}
    kept = {name: value for name, value in kept.items() if name not in _SWITCHES or value not in (False, "0")}
    for name in ("collation", "timeseries", "clusteredIndex"):
        if isinstance(kept.get(name), dict):
            kept[name] = _settled(kept[name])
    return dict(sorted(kept.items()))


def _plain(value: Any) -> Any:
    """Return a JSON value with each of BSON's numbers in one form: an index on 1.0 is one on 1."""
    match value:
        case {"$numberInt": str(text)} | {"$numberLong": str(text)}:
            return str(int(text))
        case {"$numberDouble": str(text)}:
            number = float(text)
            return str(int(number)) if number.is_integer() else str(number)
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
    return value
