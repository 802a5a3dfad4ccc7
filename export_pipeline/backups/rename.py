"""An app's id changed on the way back: in names, in what views show, and where shared documents name the app. No I/O.

Nothing else is changed: an id in other fields is data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import bson

from export_pipeline.backups.structure import Structure
from export_pipeline.catalog.model import APP_ID
from export_pipeline.errors import BadInputError
from export_pipeline.formats.bson_fields import fields

_DOCUMENT, _ARRAY = 0x03, 0x04
_NAMED_BY = ("from", "coll", "$unionWith")
"""Where the stages of a view's pipeline name other collections (``$lookup``, ``$graphLookup``, ``$unionWith``)."""


def renamed(name: str, old: str, new: str, templates: Sequence[str]) -> str:
    """Return a collection's name for another app. Raises BadInputError where it is not sure what in it is the id.

    >>> renamed("app_usersx", "x", "y", ["app_users{app_id}"]), renamed("text.x", "x", "y", [])
    ('app_usersy', 'text.y')
    """
    for template in sorted(templates, key=len, reverse=True):
        if template.replace(APP_ID, old) == name:
            return template.replace(APP_ID, new)
    if name.endswith(old):
        return name.removesuffix(old) + new
    if name.count(old) == 1:
        return name.replace(old, new)
    raise BadInputError(f"{name}: it is not clear where the app's id is in this name; leave it out with --without")


def structure_for(structure: Structure, names: Mapping[str, str]) -> Structure:
    """Return the structure of a view that shows collections under their new names; of others, what was given."""
    if structure.kind != "view":
        return structure
    options = dict(structure.options)
    options["viewOn"] = names.get(options["viewOn"], options["viewOn"])
    if "pipeline" in options:
        options["pipeline"] = _in_stages(options["pipeline"], names)
    return structure.model_copy(update={"options": options})


def _in_stages(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_in_stages(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: names.get(inner, inner) if key in _NAMED_BY and isinstance(inner, str) else _in_stages(inner, names)
        for key, inner in value.items()
    }


class AppValue:
    """Changes the app's id at one path of a shared collection's documents, every other byte as it was."""

    def __init__(self, path: str, old: Any, new: Any) -> None:
        self._path = [part.encode() for part in path.split(".")]
        self._old, self._new = _typed(old), _typed(new)

    def apply(self, document: bytes) -> bytes:
        """Return the document for the new app. Raises EncodingError for what is not a document."""
        return self._in_document(document, 0)

    def _in_document(self, document: bytes, depth: int) -> bytes:
        elements = []
        for field in fields(document, 0, len(document)):
            element = document[field.begin : field.end]
            if field.name == self._path[depth]:
                type_, value = self._in_value(element[0], document[field.value : field.end], depth)
                element = bytes([type_]) + document[field.begin + 1 : field.value] + value
            elements.append(element)
        return _framed(elements)

    def _in_value(self, type_: int, value: bytes, depth: int) -> tuple[int, bytes]:
        """Return a value at the path's part number ``depth``; arrays are opened once, as a query does."""
        if type_ == _ARRAY:
            return type_, self._in_array(value, depth)
        return self._in_item(type_, value, depth)

    def _in_item(self, type_: int, value: bytes, depth: int) -> tuple[int, bytes]:
        if depth + 1 == len(self._path):
            return self._new if (type_, value) == self._old else (type_, value)
        return (type_, self._in_document(value, depth + 1)) if type_ == _DOCUMENT else (type_, value)

    def _in_array(self, array: bytes, depth: int) -> bytes:
        elements = []
        for field in fields(array, 0, len(array)):
            type_, value = self._in_item(array[field.begin], array[field.value : field.end], depth)
            elements.append(bytes([type_]) + array[field.begin + 1 : field.value] + value)
        return _framed(elements)


def _typed(value: Any) -> tuple[int, bytes]:
    encoded = bson.encode({"": value})
    return encoded[4], encoded[6:-1]


def _framed(elements: Sequence[bytes]) -> bytes:
    content = b"".join(elements)
    return (len(content) + 5).to_bytes(4, "little") + content + b"\0"
