"""A package in parts: each a whole file of its format, none larger than asked for, no document in two of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument

from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.exporter import Exporter
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.packages.naming import part_name, whole_name
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.models import NewRequest
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.packages.conftest import EVENTS, Export

LIMIT = 1_000_000
SPLITTABLE = [name for name, format_ in FORMATS.items() if "split_bytes" in format_.takes]


def test_parts_are_json_arrays_of_their_own_and_together_the_whole(export: Export, tmp_path: Path) -> None:
    manifest = export(tmp_path / "me.json", "json", split_bytes=LIMIT)
    parts = sorted(tmp_path.glob("me.part-*.json"))
    assert [part.name for part in manifest.parts] == [part.name for part in parts]
    assert parts[0].name == "me.part-00000.json"
    assert len(parts) > 2
    assert not (tmp_path / "me.json").exists()
    documents = [document for part in parts for document in json.loads(part.read_bytes())]
    assert [document["_id"] for document in documents] == [1, *(event["_id"] for event in EVENTS)]
    sizes = [part.stat().st_size for part in parts]
    assert max(sizes) <= LIMIT
    assert min(sizes[:-1]) > 0.9 * LIMIT  # and they are not cut needlessly small


LAYERS: dict[str, dict[str, Any]] = {"plain": {}, "gzip": {"compression": "gzip"}, "age": {"passphrase": True}}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        (name, layers)
        for name in SPLITTABLE
        for layers, options in LAYERS.items()
        if "compression" not in options or "compression" in FORMATS[name].takes
    ],
)
def test_no_part_is_larger_than_asked_for_and_all_are_counted(
    export: Export, tmp_path: Path, name: str, layers: str
) -> None:
    manifest = export(tmp_path / "me", name, "secret", split_bytes=LIMIT, **LAYERS[layers])
    parts = sorted(tmp_path.glob("me.part-*"))
    assert len(parts) == len(manifest.parts)
    assert max(part.stat().st_size for part in parts) <= LIMIT
    assert sum(sum(part.documents.values()) for part in manifest.parts) == manifest.totals.documents_written
    assert verify_package(tmp_path / "me") == manifest


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(SPLITTABLE)))
def test_a_file_for_people_is_not_split(export: Export, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="option split_bytes"):
        export(tmp_path / "me", name, split_bytes=LIMIT)


def test_a_document_larger_than_a_part_has_one_of_its_own(ann: Exporter, tmp_path: Path) -> None:
    large = {"_id": "large", "uid": "b", "text": "x" * 2 * LIMIT}
    database = ann.client[ann.settings.mongo_database]
    database["eventsx"].insert_many([{"_id": "before", "uid": "b"}, large, {"_id": "after", "uid": "b"}])
    new = NewRequest("x", ["b"], "jsonl", file_options={"split_bytes": LIMIT})
    manifest = ann.run_here(ann.submit(new, run_here=True), tmp_path / "b.jsonl")
    assert [part.documents for part in manifest.parts] == [{"eventsx": 1}] * 3
    assert manifest.parts[1].bytes > LIMIT


def test_what_grows_most_in_json_stays_within_a_part(ann: Exporter, tmp_path: Path) -> None:
    # In canonical JSON an undefined value of two bytes becomes 23, and a control character of one byte six.
    undefined = b"\x06\0" * 5_000
    dense = (len(undefined) + 5).to_bytes(4, "little") + undefined + b"\0"
    of_it = {"uid": "c", "d": RawBSONDocument(dense), "t": "\1" * 500}
    ann.client[ann.settings.mongo_database]["eventsx"].insert_many([{"_id": -1 - n, **of_it} for n in range(40)])
    new = NewRequest("x", ["c"], "jsonl", "canonical", file_options={"split_bytes": LIMIT})
    manifest = ann.run_here(ann.submit(new, run_here=True), tmp_path / "c.jsonl")
    assert len(manifest.parts) > 4
    assert max(part.bytes for part in manifest.parts) <= LIMIT


def test_a_package_without_documents_is_one_part(ann: Exporter, tmp_path: Path) -> None:
    new = NewRequest("x", ["nobody"], "json", file_options={"split_bytes": LIMIT})
    manifest = ann.run_here(ann.submit(new, run_here=True), tmp_path / "n.json")
    assert [part.documents for part in manifest.parts] == [{}]
    assert (tmp_path / "n.part-00000.json").read_bytes() == b"[\n]\n"


def test_parts_are_downloaded_together_and_verified_by_any_of_them(ann: Exporter, tmp_path: Path) -> None:
    new = NewRequest("x", ["a"], "jsonl", file_options={"split_bytes": LIMIT, "compression": "gzip"})
    row = ann.submit(new, run_here=True)
    manifest = ann.run_here(row)
    row = ann.requests.get(row.id)
    assert row.result_uri is not None
    assert row.result_uri.endswith("export.part-00000.jsonl.gz")
    assert (row.result_bytes, row.result_sha256) == (manifest.file.bytes, manifest.file.sha256)
    copies = ann.download(row, tmp_path / "mine.jsonl.gz")
    assert [copy.name for copy in copies] == [f"mine.part-{n:05}.jsonl.gz" for n in range(len(manifest.parts))]
    assert verify_package(copies[-1]) == manifest
    copies[0].unlink()
    with pytest.raises(Exception, match="part-00000"):
        verify_package(tmp_path / "mine.jsonl.gz")


def test_parts_that_were_swapped_are_noticed(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "me.json", "json", split_bytes=LIMIT)
    first, second, *_ = sorted(tmp_path.glob("me.part-*.json"))
    aside = first.rename(tmp_path / "aside")
    second.rename(first)
    aside.rename(second)
    with pytest.raises(IncompleteError):
        verify_package(tmp_path / "me.json")


@pytest.mark.parametrize(
    ("name", "part"),
    [("me.json", "me.part-00012.json"), ("about me", "about me.part-00012"), ("a.b.json", "a.b.part-00012.json")],
)
def test_a_parts_name_tells_the_wholes(name: str, part: str) -> None:
    assert part_name(name, 12, FORMATS["json"], WriteOptions()) == part
    assert whole_name(part) == name


def test_the_first_and_last_id_are_told_whatever_they_are(ann: Exporter, tmp_path: Path) -> None:
    half = raw_bson.document((0x02, b"_id", raw_bson.string(b"\xed\xa0\x80")), (0x02, b"uid", raw_bson.string(b"d")))
    symbol = raw_bson.document((0x0E, b"_id", raw_bson.string(b"s")), (0x02, b"uid", raw_bson.string(b"d")))
    database = ann.client[ann.settings.mongo_database]
    database["app_usersx"].insert_one(RawBSONDocument(half))
    database["eventsx"].insert_one(RawBSONDocument(symbol))
    manifest = ann.run_here(ann.submit(NewRequest("x", ["d"], "bson"), run_here=True), tmp_path / "d")
    users, events, *_ = manifest.collections
    assert (users.first_id, events.last_id) == ("\\ud800", {"$symbol": "s"})
    assert verify_package(tmp_path / "d") == manifest
