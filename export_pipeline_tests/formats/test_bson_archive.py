"""The BSON archive: the documents as they are stored, where mongorestore looks for them."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.test_formats import piece, written

BSON = FORMATS["bson"]
TWO = {"users": [piece({"_id": 1, "_col": "own"})], "events": [piece({"_id": 1}, {"_id": 2}), piece({"_id": 3})]}


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def test_the_layout_is_that_of_a_dump() -> None:
    files = unpacked(written(BSON, TWO | {"nothing": []}))
    assert list(files) == [
        f"dump/export/{name}" for name in ("users.metadata.json", "users.bson", "events.metadata.json", "events.bson")
    ]
    assert json.loads(files["dump/export/users.metadata.json"]) == {
        "options": {},
        "indexes": [{"v": 2, "key": {"_id": 1}, "name": "_id_"}],
        "collectionName": "users",
        "type": "collection",
    }
    assert list(bson.decode_file_iter(io.BytesIO(files["dump/export/users.bson"]))) == [{"_id": 1, "_col": "own"}]
    assert [each["_id"] for each in bson.decode_file_iter(io.BytesIO(files["dump/export/events.bson"]))] == [1, 2, 3]


@given(st.lists(st.lists(raw_bson.documents(), min_size=1, max_size=5), max_size=4))
def test_documents_are_written_byte_for_byte(parts: list[list[bytes]]) -> None:
    pieces = [Piece(b"".join(part), whole_documents(b"".join(part))[0]) for part in parts]
    data = written(BSON, {"c": pieces})
    assert unpacked(data).get("dump/export/c.bson", b"") == b"".join(part.data for part in pieces)
    assert BSON.count(io.BytesIO(data)).total() == sum(map(len, pieces))


def test_the_file_depends_on_nothing_but_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(BSON, TWO)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert written(BSON, TWO) == first


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "a\\b", "C:x", "a%2Fb", "..", ".", " a ", "a.", "Ñ😀", "%"]
)
def test_no_collection_can_name_a_file_elsewhere(name: str) -> None:
    data = written(BSON, {name: [piece({"_id": 1})]})
    for member in unpacked(data):
        folder, _, file = member.rpartition("/")
        assert folder == "dump/export"
        assert not set(file) & set('\\/:*?"<>|')
        assert file.strip(". ") == file or name in ("..", " a ")
    assert BSON.count(io.BytesIO(data)) == Counter({name: 1})


USERS = unpacked(written(BSON, {"users": TWO["users"]}))
METADATA, DOCUMENTS = USERS


@pytest.mark.parametrize(
    "files",
    [
        USERS | {"more": b""},
        {"more": b""} | USERS,
        USERS | {"dump/export/x.metadata.json": b'{"collectionName": "x"}'},
        {DOCUMENTS: USERS[DOCUMENTS]},
        {METADATA: USERS[METADATA], "dump/export/other.bson": b""},
        USERS | {METADATA: b'{"collectionName": "other"}'},
        USERS | {METADATA: b"[]"},
        USERS | {METADATA: b"[" * 50_000},
        USERS | {METADATA: b" " * 100_000},
        USERS | {DOCUMENTS: USERS[DOCUMENTS][:-1]},
        USERS | {DOCUMENTS: USERS[DOCUMENTS] + b"\0"},
        USERS | {DOCUMENTS: b"\0\0\0\0\0\0"},
        USERS | {DOCUMENTS: b"\xff\xff\xff\x7f" + bytes(20 << 20)},
    ],
)
def test_a_zip_file_that_is_no_such_dump_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(IncompleteError):
        BSON.count(io.BytesIO(packed(files)))


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "bytes before": lambda data: b"x" + data,
    "bytes after": lambda data: data + b"x",
    "twice": lambda data: data * 2,
    "without its directory": lambda data: data[: data.index(b"PK\1\2")],
    "a hole before the directory": lambda data: data.replace(b"PK\1\2", b"xPK\1\2", 1),
    "another document": lambda data: data.replace(b"own", b"ewn"),
    "a member's sizes": lambda data: data.replace(b"PK\7\b", b"PK\7\t"),
    "a member twice": lambda data: data.replace(b"users.bson", b"users.bsom"),
    "encrypted": lambda data: data.replace(b"PK\1\2\x2d\3\x2d\0\x08", b"PK\1\2\x2d\3\x2d\0\x09"),
    "not stored": lambda data: data.replace(b"PK\1\2\x2d\3\x2d\0\x08\0\0", b"PK\1\2\x2d\3\x2d\0\x08\0\x0c"),
    "nothing": lambda data: b"",
}


@pytest.mark.parametrize("how", SPOILED)
def test_damage_is_noticed(how: str) -> None:
    data = written(BSON, TWO)
    spoiled = SPOILED[how](data)
    assert spoiled != data
    with pytest.raises(IncompleteError):
        BSON.count(io.BytesIO(spoiled))


@given(st.data())
def test_a_changed_byte_is_noticed_or_changes_no_document(data: st.DataObject) -> None:
    whole = written(BSON, TWO)
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        counted = BSON.count(io.BytesIO(bytes(content)))
    except IncompleteError:
        return
    assert counted == Counter(users=1, events=3)


def test_a_collections_bytes_end_with_it() -> None:
    """So that the manifest's hash of a section is that of its collection alone."""
    memory = io.BytesIO()
    writer = BSON.writer(memory, WriteOptions())
    sections = []
    for name, pieces in TWO.items():
        begin = memory.tell()
        for each in pieces:
            writer.write(name, each)
        writer.end_collection()
        sections.append(memory.getvalue()[begin:])
    end = memory.tell()
    writer.close()
    assert sections[1] == memory.getvalue()[len(sections[0]) : end]
    assert sections[1].startswith(b"PK\3\4")
    assert sections[1][-24:-20] == b"PK\7\b"
    assert memory.getvalue()[end:].startswith(b"PK\1\2")


def test_a_writer_that_is_given_up_writes_nothing_more() -> None:
    memory = io.BytesIO()
    writer = BSON.writer(memory, WriteOptions())
    writer.write("users", piece({"_id": 1}))
    del writer
    with pytest.raises(IncompleteError):
        BSON.count(io.BytesIO(memory.getvalue()))
