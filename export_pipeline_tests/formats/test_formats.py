"""What every format must do; a new format is tested by being in the table."""

import io
from collections import Counter
from typing import Any

import bson
import pytest

from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.formats.protocol import Format, WriteOptions
from export_pipeline.formats.registry import FORMATS, find_format, write_options
from export_pipeline.mongo.bson_stream import Piece, whole_documents

ALL = pytest.mark.parametrize("format_", FORMATS.values(), ids=FORMATS)


class Memory(io.BytesIO):
    """A file in memory that a writer must not close."""

    def close(self) -> None:
        raise AssertionError("the sink is not the writer's to close")


def piece(*documents: dict[str, Any]) -> Piece:
    data = b"".join(map(bson.encode, documents))
    return Piece(data, whole_documents(data)[0])


def written(format_: Format, collections: dict[str, list[Piece]], options: WriteOptions | None = None) -> bytes:
    memory = Memory()
    options = options or WriteOptions()
    survey = format_.survey(options)
    if survey is not None:
        for collection, pieces in collections.items():
            for part in pieces:
                survey.see(collection, part)
    writer = format_.writer(memory, options, survey)
    for collection, pieces in collections.items():
        for part in pieces:
            writer.write(collection, part)
        writer.end_collection()
    writer.close()
    return memory.getvalue()


@ALL
def test_what_was_written_is_counted_by_collection(format_: Format) -> None:
    data = written(
        format_,
        {
            "users": [piece({"_id": 1, "text": 'a "quoted"\nline', "_col": "x"})],
            "nothing": [],
            "events": [piece({"_id": n}, {"_id": -n}) for n in range(5)],
        },
    )
    assert format_.count(io.BytesIO(data)) == Counter(users=1, events=10)


@ALL
def test_a_file_without_documents_is_valid(format_: Format) -> None:
    assert format_.count(io.BytesIO(written(format_, {"users": []}))).total() == 0


@ALL
@pytest.mark.parametrize("cut", [1, 2, 7, 20])
def test_a_file_cut_short_is_noticed(format_: Format, cut: int) -> None:
    whole = {"users": [piece({"_id": 1}, {"_id": 2}, {"_id": 3})]}
    data = written(format_, whole)
    try:
        counted = format_.count(io.BytesIO(data[:-cut]))
    except IncompleteError:
        return
    # JSON Lines has no end to miss; there the count tells.
    assert counted != Counter(users=3)


def test_json_is_one_array_with_a_document_per_line() -> None:
    data = written(FORMATS["json"], {"users": [piece({"_id": 1}), piece({"_id": 2})], "events": [piece({"_id": 3})]})
    assert data == b'[\n{"_col":"users","_id":1},\n{"_col":"users","_id":2},\n{"_col":"events","_id":3}\n]\n'


def test_canonical_json_keeps_types_apart() -> None:
    data = written(
        FORMATS["jsonl"], {"users": [piece({"_id": 1, "n": bson.Int64(1)})]}, WriteOptions(json_mode="canonical")
    )
    assert data == b'{"_col":"users","_id":{"$numberInt":"1"},"n":{"$numberLong":"1"}}\n'


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInputError, match=f"^format: 'doc' is unknown; known are {', '.join(FORMATS)}$"):
        find_format("doc")


@pytest.mark.parametrize("mode", ["odd", None, 1, "RELAXED"])
def test_an_unknown_json_mode_is_refused(mode: object) -> None:
    with pytest.raises(BadInputError, match="known are relaxed, canonical"):
        write_options({"json_mode": mode})


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(BadInputError, match="option 'colour' is unknown; known are json_mode"):
        write_options({"colour": "red"})
