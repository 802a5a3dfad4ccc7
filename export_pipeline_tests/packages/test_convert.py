"""A lossless package becomes any other format, without the database, and loses nothing on the way."""

import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from export_pipeline.cli import main
from export_pipeline.errors import BadInputError
from export_pipeline.formats import lossless
from export_pipeline.formats.registry import FORMATS, checked_options
from export_pipeline.packages.convert import convert
from export_pipeline.packages.layers import Keys
from export_pipeline.packages.parts import Form
from export_pipeline.packages.verify import read_manifest, verify_package
from export_pipeline_tests.packages.conftest import HELD, Export

LOSSLESS: dict[str, dict[str, Any]] = {
    "json": {"json_mode": "canonical"},
    "jsonl": {"json_mode": "canonical"},
    "parquet": {},
    "html": {},
    "bson": {},
}


def form(name: str, **options: Any) -> tuple[Form, dict[str, Any]]:
    return Form(FORMATS[name], checked_options(FORMATS[name], options)), {"format": name, **options}


def held_in(package: Path) -> dict[str, list[bytes]]:
    found = defaultdict(list)
    with package.open("rb") as file:
        for collection, document in lossless.documents(read_manifest(package).file.format, io.BytesIO(file.read())):
            found[collection].append(document)
    return found


@pytest.mark.parametrize("source", LOSSLESS)
def test_a_lossless_package_gives_back_what_was_stored(export: Export, tmp_path: Path, source: str) -> None:
    package = tmp_path / "me"
    export(package, source, **LOSSLESS[source])
    assert held_in(package) == HELD


@pytest.mark.parametrize("source", LOSSLESS)
def test_it_becomes_every_other_format_and_that_verifies(export: Export, tmp_path: Path, source: str) -> None:
    package = tmp_path / "me"
    original = export(package, source, **LOSSLESS[source])
    for name in FORMATS:
        converted = tmp_path / f"me.{name}"
        wanted = LOSSLESS.get(name, {})
        manifest = convert(package, *form(name, **wanted), converted)
        assert verify_package(converted) == manifest
        assert manifest.totals == original.totals
        assert manifest.moment == original.moment
        assert manifest.converted_from is not None
        assert manifest.converted_from.sha256 == original.file.sha256
        if name in LOSSLESS:
            assert held_in(converted) == HELD


def test_a_conversion_is_what_an_export_would_have_been(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "archive", "bson")
    for name in ("json", "csv", "excel", "parquet"):
        exported = export(tmp_path / f"exported.{name}", name)
        converted = convert(tmp_path / "archive", *form(name), tmp_path / f"converted.{name}")
        assert converted.file.sha256 == exported.file.sha256
        assert converted.collections == exported.collections


@pytest.mark.parametrize(
    ("name", "options"),
    [("json", {}), ("jsonl", {}), ("csv", {}), ("excel", {}), ("parquet", {"lossless": False})],
)
def test_a_package_that_lost_something_is_not_converted(
    export: Export, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    export(tmp_path / "me", name, **options)
    with pytest.raises(BadInputError, match="does not keep what was stored"):
        convert(tmp_path / "me", *form("bson"), tmp_path / "new")
    assert not list(tmp_path.glob("new*"))


def test_parts_become_one_file_and_one_file_becomes_parts(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "me.jsonl", "jsonl", json_mode="canonical", split_bytes=1_000_000, compression="zstd")
    convert(tmp_path / "me.jsonl", *form("bson"), tmp_path / "whole")
    assert held_in(tmp_path / "whole") == HELD
    manifest = convert(tmp_path / "whole", *form("bson", split_bytes=1_000_000), tmp_path / "cut")
    assert len(manifest.parts) > 1
    assert verify_package(tmp_path / "cut") == manifest


def test_a_damaged_package_is_not_converted(export: Export, tmp_path: Path) -> None:
    package = tmp_path / "me"
    export(package, "bson")
    content = bytearray(package.read_bytes())
    content[5_000] ^= 1
    package.write_bytes(content)
    done = CliRunner().invoke(main, ["convert", str(package), "--format", "json", "--output", str(tmp_path / "new")])
    assert done.exit_code == 1
    assert not list(tmp_path.glob("new*"))


def test_an_encrypted_package_needs_its_key(export: Export, tmp_path: Path) -> None:
    package = tmp_path / "me"
    export(package, "parquet", "open sesame", passphrase=True)
    with pytest.raises(BadInputError, match="encrypted"):
        convert(package, *form("json"), tmp_path / "new")
    convert(package, *form("bson"), tmp_path / "new", Keys(passphrase="open sesame"))
    assert held_in(tmp_path / "new") == HELD


def test_the_command_line_converts_offline(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "me.bson.zip", "bson")
    source, output = str(tmp_path / "me.bson.zip"), str(tmp_path / "c.zip")
    command = ["convert", source, "--format", "csv", "--dotted", "--output", output]
    nowhere = {"EXPORT_PIPELINE_MONGO_URI": "mongodb://127.0.0.1:1"}
    done = CliRunner().invoke(main, command, env=nowhere, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "12,000" in done.output
    assert verify_package(tmp_path / "c.zip").options["dotted"] is True
