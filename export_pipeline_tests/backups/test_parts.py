import csv
import io
from typing import Any

import bson
import pytest

from export_pipeline.backups.manifest import BackupOptions
from export_pipeline.backups.parts import content_limit, part_format, part_name, range_bytes
from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.mongo.bson_stream import Piece, whole_documents

FORMATS = ["bson", "jsonl", "parquet", "csv"]


def piece_of(*documents: dict[str, Any]) -> Piece:
    data = b"".join(map(bson.encode, documents))
    return Piece(data, whole_documents(data)[0])


def written(name: Any, piece: Piece, limit: int = 1 << 30) -> list[bytes]:
    """Return the files that a piece makes."""
    format_ = part_format(name)
    survey = format_.survey()
    if survey is not None:
        survey.see("events", piece)
    files, begin = [], 0
    while begin < len(piece):
        sink = io.BytesIO()
        writer = format_.writer(sink, "events", survey)
        while begin < len(piece) and (taken := writer.add(piece.cut(begin, len(piece)), limit)):
            begin += taken
        writer.close()
        files.append(sink.getvalue())
    return files


EVENTS = piece_of(*({"_id": number, "text": "x" * (number % 50), "n": [number, {"a": None}]} for number in range(500)))


@pytest.mark.parametrize("name", FORMATS)
def test_files_stay_within_the_limit_and_are_counted(name: Any) -> None:
    files = written(name, EVENTS, limit=12_000)
    assert len(files) > 1
    assert max(map(len, files)) <= 12_000
    assert sum(part_format(name).count(io.BytesIO(file)) for file in files) == 500


@pytest.mark.parametrize("name", ["bson", "jsonl", "parquet"])
def test_a_lossless_file_gives_its_documents_back(name: Any) -> None:
    found = [piece for file in written(name, EVENTS, 30_000) for piece in part_format(name).pieces(io.BytesIO(file))]
    assert b"".join(piece.data for piece in found) == EVENTS.data
    assert sum(map(len, found)) == 500


@pytest.mark.parametrize("name", FORMATS)
def test_a_document_larger_than_a_file_has_one_of_its_own(name: Any) -> None:
    piece = piece_of({"_id": 1}, {"_id": 2, "text": "x" * 50_000}, {"_id": 3})
    files = written(name, piece, limit=9_000)
    assert [part_format(name).count(io.BytesIO(file)) for file in files] == [1, 1, 1]


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_found_out(name: Any) -> None:
    (file,) = written(name, EVENTS)
    with pytest.raises(ExportPipelineError):
        part_format(name).count(io.BytesIO(file[:-1]))


def test_bson_is_what_pymongo_reads() -> None:
    (file,) = written("bson", EVENTS)
    assert [document["_id"] for document in bson.decode_file_iter(io.BytesIO(file))] == list(range(500))


def test_csv_has_one_header_for_all_files_and_is_not_read_back() -> None:
    piece = piece_of({"_id": 1, "a": "=1+1"}, {"_id": 2, "b": 'two\n"lines"'})
    first, second = (list(csv.reader(io.StringIO(file.decode(), newline=""))) for file in written("csv", piece, 30))
    assert first == [["_col", "_id", "a", "b"], ["events", "1", "'=1+1", ""]]
    assert second == [["_col", "_id", "a", "b"], ["events", "2", "", 'two\n"lines"']]
    with pytest.raises(BadInputError, match="restore a backup of another format"):
        part_format("csv").pieces(io.BytesIO())


def test_a_file_is_called_by_its_layers() -> None:
    sealed = BackupOptions(format="jsonl", compression="gzip", recipients=("age1x",))
    assert part_name("part-00000", 2, sealed) == "part-00000-2.jsonl.gz.age"


def test_ranges_fill_a_file_and_leave_room_for_its_layers() -> None:
    plain, packed = BackupOptions(), BackupOptions(format="jsonl", compression="zstd")
    assert content_limit(plain) == 100_000_000
    assert 98_000_000 < content_limit(packed) < 100_000_000
    assert range_bytes(packed) < range_bytes(plain) < 100_000_000
