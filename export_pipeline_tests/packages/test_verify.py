"""Checking a package years later, with nothing but the two files: whole, or what is wrong."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet, table
from pymongo import MongoClient

from export_pipeline.cli import main
from export_pipeline.errors import BadInputError, ExportPipelineError, IncompleteError, StorageError
from export_pipeline.exporter import Exporter
from export_pipeline.formats.registry import FORMATS
from export_pipeline.packages.verify import manifest_path, read_manifest, verify_package
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings

DATABASE = "test_verify"
CATALOG = """
version: 1
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid, purpose: to know you}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid}
- {name: empty, plugin: events, collection: "empty{app_id}", user_key: uid}
- {name: absent, plugin: events, collection: "absent{app_id}", user_key: uid}
"""
NAMES = tuple(FORMATS)


@pytest.fixture(scope="module")
def made(
    mongo_uri: str, mongo_client: MongoClient[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A package in each format; tests copy them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "catalog.yaml").write_text(CATALOG)
    mongo_client.drop_database(DATABASE)
    database = mongo_client[DATABASE]
    database["app_usersx"].insert_one({"_id": 1, "uid": "a", "name": "Ann"})
    database["eventsx"].insert_many([{"_id": n, "uid": "a", "text": f"event {n}"} for n in range(5)])
    database.create_collection("emptyx")
    at = Settings(home=folder, mongo_uri=mongo_uri, mongo_database=DATABASE, catalog=folder / "catalog.yaml")
    packages = {}
    with Exporter(at) as exporter:
        for name, format_ in FORMATS.items():
            packages[name] = folder / f"me.{format_.extension}"
            exporter.run_here(exporter.submit(NewRequest("x", ["a"], name), run_here=True), packages[name])
    return packages


CopyPackage = Callable[[str], Path]


@pytest.fixture
def package(made: dict[str, Path], tmp_path: Path) -> CopyPackage:
    """Return a function that gives a copy of a package to spoil."""

    def copy(name: str) -> Path:
        shutil.copy(manifest_path(made[name]), tmp_path)
        return Path(shutil.copy(made[name], tmp_path))

    return copy


def edited(package: Path, *path: str | int, to: Any) -> Path:
    """Change one value of a manifest."""
    manifest = json.loads(manifest_path(package).read_bytes())
    part = manifest
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to(part[path[-1]]) if callable(to) else to
    manifest_path(package).write_text(json.dumps(manifest))
    return package


def refused(package: Path, error: type[ExportPipelineError] = IncompleteError) -> str:
    with pytest.raises(error) as raised:
        verify_package(package)
    return str(raised.value)


# Whole


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_package_is_told_to_be_whole(package: CopyPackage, name: str) -> None:
    manifest = verify_package(package(name))
    assert manifest.file.format == name
    assert [report.documents_written for report in manifest.collections] == [1, 5, 0, 0]
    assert manifest.totals.collections == {"exported": 2, "empty": 1, "absent": 1}


def test_the_file_may_be_renamed_with_its_manifest_or_lie_beside_a_plain_one(package: CopyPackage) -> None:
    original = package("json")
    renamed = original.rename(original.with_name("all about Ann.txt"))
    manifest = manifest_path(original).rename(manifest_path(renamed))
    assert verify_package(renamed).totals.documents_written == 6
    manifest.rename(renamed.with_name("manifest.json"))
    assert verify_package(renamed).totals.documents_written == 6


# A file that was changed

spoiling = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", NAMES)
@spoiling
@given(st.data())
def test_no_byte_of_the_file_can_be_changed(package: CopyPackage, name: str, data: st.DataObject) -> None:
    spoiled = package(name)
    content = bytearray(spoiled.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1), "position")
    content[position] ^= data.draw(st.integers(1, 255), "bits")
    spoiled.write_bytes(content)
    refused(spoiled)


@pytest.mark.parametrize("name", NAMES)
@spoiling
@given(st.data())
def test_the_file_can_be_neither_shorter_nor_longer(package: CopyPackage, name: str, data: st.DataObject) -> None:
    spoiled = package(name)
    content = spoiled.read_bytes()
    length = data.draw(st.integers(0, len(content) - 1), "length")
    spoiled.write_bytes(content[:length])
    refused(spoiled)
    more = data.draw(st.binary(min_size=1, max_size=20) | st.sampled_from([b"\n", b" ", content]), "more")
    spoiled.write_bytes(content + more)
    refused(spoiled)
    spoiled.write_bytes(more + content)
    refused(spoiled)


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_documents_cannot_be_swapped_repeated_or_removed(package: CopyPackage, name: str) -> None:
    spoiled = package(name)
    lines = spoiled.read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if b"eventsx" in line)
    for changed in (
        [*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]],
        [*lines[: first - 1], lines[first], lines[first - 1], *lines[first + 1 :]],
        [*lines[:first], lines[first], *lines[first:]],
        [*lines[:first], *lines[first + 1 :]],
    ):
        spoiled.write_bytes(b"".join(changed))
        assert refused(spoiled).startswith("the bytes of ")


def test_rows_cannot_be_swapped(package: CopyPackage) -> None:
    spoiled = package("parquet")
    table = parquet.read_table(spoiled)
    parquet.write_table(table.take([0, 2, 1, 3, 4, 5]), spoiled)
    refused(spoiled)


def test_what_was_changed_is_named(package: CopyPackage) -> None:
    spoiled = package("json")
    spoiled.write_bytes(spoiled.read_bytes().replace(b"event 3", b"event 7"))
    assert refused(spoiled) == "the bytes of eventsx are not those that were written"


def test_an_empty_file_and_none_are_not_the_package(package: CopyPackage, tmp_path: Path) -> None:
    spoiled = package("json")
    spoiled.write_bytes(b"")
    refused(spoiled)
    spoiled.unlink()
    assert refused(spoiled, StorageError) == f"{spoiled}: no such file or directory"
    spoiled.mkdir()
    assert refused(spoiled, StorageError) == f"{spoiled}: is a directory"


# A manifest that was changed

EVENTS = ("collections", 1)
EDITS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "fewer written": ((*EVENTS, "documents_written"), 4, "the manifest itself says that fewer or more"),
    "more expected": ((*EVENTS, "documents_expected"), 6, "the manifest itself says that fewer or more"),
    "fewer in total": (("totals", "documents_written"), 5, "the manifest's totals are not the sum"),
    "more in total": (("totals", "documents_expected"), 7, "the manifest's totals are not the sum"),
    "one collection less": (("collections",), lambda items: items[1:], "the manifest's totals are not the sum"),
    "another sha256": (("file", "sha256"), "0" * 64, "the file is not the one that was written"),
    "another size": (("file", "bytes"), lambda size: size + 1, "the manifest's parts are not together"),
    "another section's sha256": ((*EVENTS, "sha256"), "0" * 64, "the bytes of eventsx are not those"),
    "another offset": ((*EVENTS, "offset"), lambda offset: offset + 1, "the bytes of eventsx are not those"),
    "another length": ((*EVENTS, "bytes"), lambda size: size - 1, "the bytes of eventsx are not those"),
    "offset below zero": ((*EVENTS, "offset"), -3, "the bytes of eventsx are not those"),
    "offset past the end": ((*EVENTS, "offset"), 10**6, "the bytes of eventsx are not those"),
    "offset past everything": ((*EVENTS, "offset"), 10**30, "the bytes of eventsx are not those"),
    "length below zero": ((*EVENTS, "bytes"), -1, "the bytes of eventsx are not those"),
    "length past everything": ((*EVENTS, "bytes"), 10**30, "the bytes of eventsx are not those"),
    "another collection": ((*EVENTS, "collection"), "otherx", "the manifest's parts are not together"),
    "another part's sha256": (("parts", 0, "sha256"), "0" * 64, "the file is not the one that was written"),
    "another part's size": (("parts", 0, "bytes"), lambda size: size + 1, "the manifest's parts are not together"),
    "another content": (("parts", 0, "content_sha256"), "0" * 64, "the content of the file is not the one"),
    "another part's counts": (("parts", 0, "documents"), {"eventsx": 6}, "the manifest's parts are not together"),
}


@pytest.mark.parametrize(("edit", "name"), [*product(EDITS, NAMES)], ids=str)
def test_a_manifest_that_was_edited_no_longer_fits(package: CopyPackage, edit: str, name: str) -> None:
    path, to, says = EDITS[edit]
    assert says in refused(edited(package(name), *path, to=to))


@pytest.mark.parametrize("name", NAMES)
def test_a_document_moved_in_the_manifest_from_one_collection_to_another_is_noticed(
    package: CopyPackage, name: str
) -> None:
    spoiled = package(name)
    for report, documents in ((0, 2), (1, 4)):
        for field in ("documents_written", "documents_expected"):
            edited(spoiled, "collections", report, field, to=documents)
    edited(spoiled, "parts", 0, "documents", to={"app_usersx": 2, "eventsx": 4})
    assert refused(spoiled) == "the file read back holds other counts than were written, in app_usersx, eventsx"


def removed_line(spoiled: Path) -> Path:
    """Remove the last event from a JSON Lines package."""
    lines = spoiled.read_bytes().splitlines(keepends=True)
    spoiled.write_bytes(b"".join(lines[:-1]))
    return spoiled


def test_a_removed_line_is_noticed_though_the_counts_are_made_to_fit(package: CopyPackage) -> None:
    spoiled = removed_line(package("jsonl"))
    for path, documents in (((*EVENTS,), 4), (("totals",), 5)):
        for field in ("documents_written", "documents_expected"):
            edited(spoiled, *path, field, to=documents)
    edited(spoiled, "parts", 0, "documents", "eventsx", to=4)
    assert refused(spoiled) == "the bytes of eventsx are not those that were written"


def test_a_removed_line_is_noticed_though_the_hashes_are_made_to_fit(package: CopyPackage) -> None:
    spoiled = removed_line(package("jsonl"))
    content = spoiled.read_bytes()
    section = content[read_manifest(spoiled).collections[1].offset :]
    for path, of in ((EVENTS, section), (("file",), content), (("parts", 0), content)):
        edited(spoiled, *path, "bytes", to=len(of))
        edited(spoiled, *path, "sha256", to=hashlib.sha256(of).hexdigest())
    edited(spoiled, "parts", 0, "content_bytes", to=len(content))
    edited(spoiled, "parts", 0, "content_sha256", to=hashlib.sha256(content).hexdigest())
    # What follows the last section, its line's end, is no longer there.
    for empty in (2, 3):
        edited(spoiled, "collections", empty, "offset", to=len(content))
    assert refused(spoiled) == "the file read back holds other counts than were written, in eventsx"


NOT_OF_THE_FORMAT = {
    "html": [b"", b"<!doctype html>\n", b"<html></html>"],
    "json": [b"[]", b"[\n", b'[\n{"_col":"}\n]\n', b'[\n{"_col":"x"}\n{"_col":"x"}\n]\n', b'[\n{"_col":"x"},\n]\n'],
    "jsonl": [b"\n", b'{"_col":"}\n', b'{"_col":"\xff"}\n', b'{"_id":1}\n', b'{"_col":"x"}'],
    "parquet": [b"PAR1PAR1", b"PAR1\0\0\0\0\0\0\0\0PAR1"],
    **{name: [b"", b"PK\5\6", b"PK\5\6" + bytes(17)] for name in ("csv", "excel", "bson")},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_vouches_for_a_file_of_no_format_is_not_believed(package: CopyPackage, name: str) -> None:
    forged = edited(package(name), "collections", to=[])
    for field in ("documents_written", "documents_expected"):
        edited(forged, "totals", field, to=0)
    without_tag = forged.with_name("without_tag")
    parquet.write_table(table({"x": [1]}), without_tag)
    for content in [*NOT_OF_THE_FORMAT[name], without_tag.read_bytes()]:
        forged.write_bytes(content)
        edited(forged, "file", "bytes", to=len(content))
        edited(forged, "file", "sha256", to=hashlib.sha256(content).hexdigest())
        refused(forged)


@pytest.mark.parametrize("named", ["json", "jsonl", "parquet", "doc", "", "../json"])
@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_names_another_format_does_not_fit(package: CopyPackage, name: str, named: str) -> None:
    if named != name:
        refused(edited(package(name), "file", "format", to=named), ExportPipelineError)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_manifest_is_refused_or_says_the_same_of_the_file(
    package: CopyPackage, name: str, data: st.DataObject
) -> None:
    spoiled = package(name)
    right = verify_package(spoiled)
    manifest = manifest_path(spoiled)
    content = bytearray(manifest.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1), "position")
    content[position] = data.draw(st.sampled_from(b'-0 9e."\n}\xff') | st.integers(0, 255), "byte")
    manifest.write_bytes(content)
    try:
        said = verify_package(spoiled)
    except ExportPipelineError:
        return
    assert said.file.sha256 == right.file.sha256
    for report, of in zip(said.collections, right.collections, strict=True):
        proven = ("documents_written", "documents_expected", "bytes")
        assert [getattr(report, field) for field in proven] == [getattr(of, field) for field in proven]
        assert report.collection == of.collection or not report.documents_written


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"not JSON", b"\xff", b'{"format_version": 2}', b"[" * 100_000]
)
def test_what_is_no_manifest_is_said(package: CopyPackage, content: bytes) -> None:
    spoiled = package("json")
    manifest_path(spoiled).write_bytes(content)
    assert refused(spoiled, BadInputError) == f"{manifest_path(spoiled)}: this is not a manifest of an export"


def test_a_manifest_of_a_later_layout_or_with_more_in_it_is_not_taken_for_one(package: CopyPackage) -> None:
    refused(edited(package("json"), "format_version", to=2), BadInputError)
    refused(edited(package("json"), "totals", to=lambda totals: {**totals, "bytes": 1}), BadInputError)


def test_a_manifest_that_is_missing_or_is_no_file_is_said(package: CopyPackage) -> None:
    spoiled = package("json")
    manifest_path(spoiled).unlink()
    says = refused(spoiled, BadInputError)
    assert says == f"{spoiled}: there is no manifest beside it (me.json.manifest.json or manifest.json)"
    manifest_path(spoiled).mkdir()
    assert "this is not a manifest of an export" in refused(spoiled, BadInputError)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_the_manifest_of_another_package_does_not_fit(
    made: dict[str, Path], package: CopyPackage, name: str, other: str
) -> None:
    if name != other:
        spoiled = package(name)
        shutil.copy(manifest_path(made[other]), manifest_path(spoiled))
        refused(spoiled)


# The command


@pytest.mark.parametrize("name", NAMES)
def test_the_command_says_what_verify_package_says(package: CopyPackage, name: str) -> None:
    whole = package(name)
    result = CliRunner().invoke(main, ["verify", str(whole)])
    assert result.exit_code == 0
    assert "whole; 6 documents" in result.stdout
    said = json.loads(CliRunner().invoke(main, ["verify", str(whole), "--json"]).stdout)
    assert (said["file"], said["whole"], said["totals"]["documents_written"]) == (whole.name, True, 6)
    whole.write_bytes(whole.read_bytes()[:-1])
    result = CliRunner().invoke(main, ["verify", str(whole), "--json"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")


def test_the_commands_exit_code_tells_bad_usage_from_a_damaged_package(package: CopyPackage, tmp_path: Path) -> None:
    without = package("json")
    manifest_path(without).unlink()
    for file in (without, tmp_path / "no such file", tmp_path):
        result = CliRunner().invoke(main, ["verify", str(file)])
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize("name", NAMES)
def test_the_command_needs_no_database_no_settings_and_writes_nothing(
    package: CopyPackage, name: str, tmp_path: Path
) -> None:
    whole = package(name)
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir(mode=0o555)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(nowhere),
        "DAGSTER_HOME": str(nowhere / "none"),
        "EXPORT_PIPELINE_MONGO_URI": "mongodb://127.0.0.1:9",
        "EXPORT_PIPELINE_CATALOG": "/no/such/catalogue.yaml",
        "EXPORT_PIPELINE_BATCH_SIZE": "not a number",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "export_pipeline", "verify", str(whole)]
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        command, cwd=nowhere, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "whole; 6 documents" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before
