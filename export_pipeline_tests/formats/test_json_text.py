"""JSON and JSON Lines as files; what a document becomes is ``test_extended_json``'s, what all formats do elsewhere."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import bson
import pytest

from export_pipeline.errors import IncompleteError
from export_pipeline.formats import encoder_pool
from export_pipeline.formats.bson_walk import EncodingError, Mode
from export_pipeline.formats.json_text import JsonArray, JsonLines
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.mongo.bson_stream import Piece, whole_documents

BOTH = pytest.mark.parametrize("format_", [JsonArray, JsonLines])


def piece(*documents: dict[str, Any]) -> Piece:
    data = b"".join(map(bson.encode, documents))
    return Piece(data, whole_documents(data)[0])


def written(format_: JsonArray | JsonLines, mode: Mode = "relaxed") -> tuple[bytes, dict[str, int]]:
    """Write some collections; return the file, and the renamed tags of each collection."""
    sink, renamed = io.BytesIO(), {}
    writer = format_.writer(sink, WriteOptions(json_mode=mode))
    for collection, pieces, tag in (
        ("users", 1, {}),
        ("events", 12, {"_col": "mine"}),
        ("none", 0, {}),
        ("last", 3, {}),
    ):
        for number in range(pieces):
            writer.write(collection, piece(*({"_id": number, **tag, "n": n, "text": "x" * 400} for n in range(300))))
            for encoder in writer._encoder._workers:
                while not encoder._ready:  # or this process would write the whole file before the other can begin
                    assert encoder.take_in(60)
        renamed[collection] = writer.end_collection()
        # What is written of a collection is there when it ends: the manifest counts its bytes.
        assert pieces == 0 or sink.getvalue().endswith(b"}")
    writer.close()
    return sink.getvalue(), renamed


@BOTH
@pytest.mark.parametrize("mode", ["relaxed", "canonical"])
def test_two_processes_write_the_same_file(
    format_: type[JsonArray | JsonLines], mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_pool, "SMALL_EXPORT", 0)
    alone = written(format_(), mode)
    assert written(format_(processes=2), mode) == alone
    assert alone[1] == {"users": 0, "events": 12 * 300, "none": 0, "last": 0}
    assert format_().count(io.BytesIO(alone[0])) == Counter(users=300, events=3600, last=900)


def test_an_array_is_json() -> None:
    documents = json.loads(written(JsonArray())[0])
    assert len(documents) == 4800
    assert list(documents[300]) == ["_col", "_id", "__col", "n", "text"]


def test_each_line_is_json() -> None:
    lines = written(JsonLines())[0].splitlines()
    assert [json.loads(line)["_col"] for line in (lines[0], lines[300], lines[-1])] == ["users", "events", "last"]


def test_what_is_not_valid_fails_the_file() -> None:
    writer = JsonLines().writer(io.BytesIO(), WriteOptions())
    writer.write("events", piece({"n": 1}))
    with pytest.raises(EncodingError, match=r"^collection 'events': field \"n\" is not valid BSON"):
        writer.write("events", Piece(b"\x0c\0\0\0\x77n\0\1\0\0\0\0", [0]))


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"", "begin"),
        (b'{"_col":"a"}\n', "begin"),
        (b'[\n{"_col":"a"},\n]\n', "does not end"),
        (b'[\n{"_col":"a"}\n', "ends before"),
        (b'[\n{"_col":"a"}\n{"_col":"a"}\n]\n', "comma"),
        (b'[\n{"_col":"a"}\n]\nmore', "does not end"),
        (b'[\n{"col":"a"}\n]\n', "tagged"),
    ],
)
def test_an_array_that_is_not_whole_is_noticed(file: bytes, why: str) -> None:
    with pytest.raises(IncompleteError, match=why):
        JsonArray().count(io.BytesIO(file))


@pytest.mark.parametrize("file", [b'{"_col":"a"}', b'{"_col":"a"}\n\n', b'{"_col":"a\n', b"[\n]\n"])
def test_a_line_that_is_not_whole_is_noticed(file: bytes) -> None:
    with pytest.raises(IncompleteError, match="tagged"):
        JsonLines().count(io.BytesIO(file))


# Many small files at once


def several(format_: JsonArray | JsonLines, pieces: Sequence[Piece]) -> list[tuple[bytes, int]]:
    """A file for each piece, with how many tags were renamed."""
    files = []
    for each in pieces:
        sink = io.BytesIO()
        writer = format_.writer(sink, WriteOptions())
        writer.write("events", each)
        renamed = writer.end_collection()
        writer.close()
        files.append((sink.getvalue(), renamed))
    return files


@BOTH
@pytest.mark.parametrize("tag", [{}, {"_col": "mine"}])
def test_files_encoded_together_are_those_encoded_alone(
    format_: type[JsonArray | JsonLines], tag: dict[str, str]
) -> None:
    pieces = [piece(*({"_id": n, "of": of, **tag, "x": n / 3} for n in range(of))) for of in (1, 5, 300, 2)]
    together = format_().encode_together("events", pieces, WriteOptions())
    assert [each.data for each in together] == [each.data for each in pieces]
    assert several(format_(), together) == several(format_(), pieces)
    assert (together == pieces) == bool(tag), "where tags give way, each file encodes and counts its own"


@BOTH
def test_damage_is_left_to_the_file_that_it_is_in(format_: type[JsonArray | JsonLines]) -> None:
    damaged = bytearray(piece({"_id": 1, "flag": True}).data)
    damaged[-2] = 7  # no boolean
    pieces = [piece({"_id": 0}), Piece(bytes(damaged), [0])]
    together = format_().encode_together("events", pieces, WriteOptions())
    assert several(format_(), together[:1]) == several(format_(), pieces[:1])
    with pytest.raises(EncodingError, match="events"):
        several(format_(), together[1:])


def test_a_piece_that_is_cut_is_encoded_anew() -> None:
    (whole,) = JsonLines().encode_together("events", [piece({"_id": 0}, {"_id": 1})], WriteOptions())
    assert several(JsonLines(), [whole.cut(1, 2)])[0][0] == b'{"_col":"events","_id":1}\n'
