"""The user key's value where it is a plain string at the top of a document, as it mostly is: found without decoding."""

from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says

from export_pipeline.formats.bson_fields import ENDS, SIZES, TYPES
from export_pipeline.formats.bson_walk import STRING

_FIXED = {TYPES[kind][0]: size for kind, size in SIZES.items()}
_int32 = Struct("<i").unpack_from


def string_at(document: bytes, name: bytes) -> bytes | None:
    """Return the string that the field ``name`` of a BSON document holds, in UTF-8.

    None where it holds something else, is not there, or what stands before it cannot be read.

    >>> import bson
    >>> string_at(bson.encode({"_id": 7, "uid": "a"}), b"uid")
    b'a'
    """
    position, last = 4, len(document) - 1
    try:
        while position < last:
            kind, value = document[position], document.index(0, position) + 1
            if document[position + 1 : value - 1] == name:
                if kind != STRING:
                    break
                end = value + 4 + _int32(document, value)[0]
                return document[value + 4 : end - 1] if value + 4 < end <= last else None
            size = _FIXED.get(kind)
            position = ENDS[kind](document, value) if size is None else value + size
    except (IndexError, KeyError, ValueError, StructError):
        pass
    return None
