"""A cursor of raw batches that costs the client half: PyMongo's own makes an object of each document on the way.

All here leans on how PyMongo unpacks a server's reply; the tests compare each batch with PyMongo's own.
"""

from collections.abc import Mapping
from typing import Any

import bson
from pymongo.cursor import RawBatchCursor

from export_pipeline.formats.bson_fields import Field, fields

_EMPTY_ARRAY = bson.encode({})


class LeanRawBatchCursor(RawBatchCursor[dict[str, Any]]):
    """What ``find_raw_batches`` returns, with the same arguments after the collection."""

    def _unpack_response(
        self,
        response: Any,
        cursor_id: int | None,
        codec_options: bson.CodecOptions[Mapping[str, Any]],
        user_fields: Mapping[str, Any] | None = None,
        legacy_response: bool = False,
    ) -> list[Any]:
        payload = getattr(response, "payload_document", None)
        found = None if payload is None else split_reply(bytes(payload))
        if found is None:  # an error, or another protocol's reply
            return super()._unpack_response(response, cursor_id, codec_options, user_fields, legacy_response)
        reply, key, batch = found
        reply["cursor"][key] = batch
        bson._convert_raw_document_lists_to_streams(reply)  # noqa: SLF001
        return [reply]


def split_reply(payload: bytes) -> tuple[dict[str, Any], str, bytes] | None:
    """Return a reply without its batch, the batch's name, and the batch as a BSON array; None where there is none."""
    cursor = _field(payload, 0, len(payload), b"cursor")
    if cursor is None:
        return None
    for key in (b"nextBatch", b"firstBatch"):
        batch = _field(payload, cursor.value, cursor.end, key)
        if batch is not None:
            less = batch.end - batch.value - len(_EMPTY_ARRAY)
            small = b"".join(
                (
                    _length(payload, 0, less),
                    payload[4 : cursor.value],
                    _length(payload, cursor.value, less),
                    payload[cursor.value + 4 : batch.value],
                    _EMPTY_ARRAY,
                    payload[batch.end :],
                )
            )
            return bson.decode(small), key.decode(), payload[batch.value : batch.end]
    return None


def _field(data: bytes, start: int, stop: int, name: bytes) -> Field | None:
    return next((field for field in fields(data, start, stop) if field.name == name), None)


def _length(data: bytes, at: int, less: int) -> bytes:
    return (int.from_bytes(data[at : at + 4], "little") - less).to_bytes(4, "little")
