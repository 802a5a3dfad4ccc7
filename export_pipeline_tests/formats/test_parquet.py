"""Parquet as analysts open it."""

import io
import json

import bson
from pyarrow import parquet

from export_pipeline.formats.registry import FORMATS
from export_pipeline_tests.formats.test_formats import piece, written


def test_ids_read_as_an_analyst_would_type_them() -> None:
    oid = bson.ObjectId()
    documents = [{"_id": oid}, {"_id": "text"}, {"_id": 7}, {"_id": {"a": 1}}, {"no": "id"}]
    table = parquet.read_table(io.BytesIO(written(FORMATS["parquet"], {"c": [piece(*documents)]})))
    # MongoDB gives every document an _id; one without can only come from a view.
    assert table["_id"].to_pylist() == [str(oid), "text", "7", '{"a":1}', None]


def test_the_whole_document_is_there_in_canonical_extended_json() -> None:
    document = {"_id": 1, "_col": "own", "when": bson.Int64(5)}
    table = parquet.read_table(io.BytesIO(written(FORMATS["parquet"], {"c": [piece(document)]})))
    assert json.loads(table["_doc"][0].as_py()) == {
        "_id": {"$numberInt": "1"},
        "_col": "own",
        "when": {"$numberLong": "5"},
    }


def test_readers_can_skip_the_other_collections() -> None:
    data = written(FORMATS["parquet"], {name: [piece({"_id": 1})] for name in ("users", "events")})
    file = parquet.ParquetFile(io.BytesIO(data))
    ranges = [file.metadata.row_group(number).column(0).statistics for number in range(file.num_row_groups)]
    assert [(found.min, found.max) for found in ranges] == [("users", "users"), ("events", "events")]
