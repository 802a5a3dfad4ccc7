"""What is around a package's content: readers that know nothing of this project must get through it."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from export_pipeline.errors import BadInputError, IncompleteError, StorageError
from export_pipeline.exporter import Exporter
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.packages.layers import Layers, extension_of, lock_of, media_type_of, open_layers
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.models import NewRequest
from export_pipeline_tests.packages.conftest import HELD, Export

pyrage = pytest.importorskip("pyrage")

DOCUMENTS = sum(map(len, HELD.values()))


def test_gzip_opens_with_pythons_gzip(export: Export, tmp_path: Path) -> None:
    file = tmp_path / "me.jsonl.gz"
    manifest = export(file, "jsonl", compression="gzip")
    lines = gzip.decompress(file.read_bytes()).splitlines()
    assert len(lines) == manifest.totals.documents_written == DOCUMENTS
    assert json.loads(lines[0]) == {"_col": "app_usersx", "_id": 1, "uid": "a", "name": "Ann", "__col": "mine"}
    assert manifest.file.media_type == "application/gzip"
    assert manifest.parts[0].content_bytes > 2 * manifest.file.bytes
    assert verify_package(file) == manifest


def test_zstd_opens_with_the_library_of_zstandard(export: Export, tmp_path: Path) -> None:
    file = tmp_path / "me.json.zst"
    manifest = export(file, "json", compression="zstd")
    with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
        assert len(json.loads(stream.read())) == DOCUMENTS
    assert verify_package(file) == manifest


def test_two_exports_of_the_same_data_are_compressed_to_the_same_bytes(export: Export, tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        export(tmp_path / name, "jsonl", compression="gzip")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_recipient_opens_any_format_with_age(export: Export, tmp_path: Path, name: str) -> None:
    key, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    file = tmp_path / "me.age"
    manifest = export(file, name, recipients=[str(key.to_public())])
    plain = pyrage.decrypt(file.read_bytes(), [key])
    assert FORMATS[name].count(io.BytesIO(plain)).total() == manifest.totals.documents_written
    assert len(plain) == manifest.parts[0].content_bytes
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(file.read_bytes(), [other])


def test_a_passphrase_opens_it_with_age(export: Export, tmp_path: Path) -> None:
    file = tmp_path / "me.age"
    export(file, "jsonl", "correct horse", compression="zstd")  # not asked for: it stays plain
    assert b"age-encryption" not in file.read_bytes()[:20]
    manifest = export(file, "jsonl", "correct horse", compression="zstd", passphrase=True)
    inside = pyrage.passphrase.decrypt(file.read_bytes(), "correct horse")
    with pa.CompressedInputStream(pa.BufferReader(inside), "zstd") as stream:
        assert stream.read().count(b"\n") == manifest.totals.documents_written
    with pytest.raises(pyrage.DecryptError):
        pyrage.passphrase.decrypt(file.read_bytes(), "wrong horse")


def test_a_passphrase_that_is_missing_is_an_error_before_anything_is_written(export: Export, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="none is at hand"):
        export(tmp_path / "me.age", "jsonl", passphrase=True)
    assert not list(tmp_path.glob("me*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recipients": ["ssh-ed25519 AAAA"]}, "recipient"),
        ({"recipients": [""]}, "recipient"),
        ({"recipients": "age1"}, "recipients"),
        ({"compression": "rar"}, "compression"),
        ({"split_bytes": 10}, "split_bytes"),
        ({"dotted": True}, "option dotted: the format json has no use for it"),
        ({"recipients": [str(pyrage.x25519.Identity.generate().to_public())], "passphrase": True}, "one of the two"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_row_is_written(
    ann: Exporter, options: dict[str, object], said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        ann.submit(NewRequest("x", ["a"], "json", file_options=options))
    assert ann.requests.latest() == []


def test_a_secret_key_is_not_taken_for_a_recipient_nor_repeated(ann: Exporter) -> None:
    secret = str(pyrage.x25519.Identity.generate())
    with pytest.raises(BadInputError) as raised:
        ann.submit(NewRequest("x", ["a"], "json", file_options={"recipients": [secret]}))
    assert secret not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "options", "extension", "media_type"),
    [
        ("json", {}, "json", "application/json"),
        ("jsonl", {"compression": "gzip"}, "jsonl.gz", "application/gzip"),
        ("json", {"compression": "zstd", "passphrase": True}, "json.zst.age", "application/octet-stream"),
        ("bson", {"compression": "gzip"}, "bson.zip", "application/zip"),
        ("parquet", {"recipients": ("age1",)}, "parquet.age", "application/octet-stream"),
    ],
)
def test_the_name_and_the_media_type_tell_the_layers(
    name: str, options: dict[str, object], extension: str, media_type: str
) -> None:
    chosen = WriteOptions.model_validate(options)
    assert extension_of(FORMATS[name], chosen) == extension
    assert media_type_of(FORMATS[name], chosen) == media_type


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_compressed_file_cut_short_is_noticed(compression: str, cut: int) -> None:
    options = WriteOptions.model_validate({"compression": compression})
    below = io.BytesIO()
    layers = Layers(below, options.compression, None)
    layers.write(bytes(range(256)) * 100)
    layers.close()
    content = open_layers(io.BytesIO(below.getvalue()[:-cut]), FORMATS["jsonl"], options, layers.keys)
    with pytest.raises((OSError, IncompleteError)):
        content.read()


def test_what_is_given_up_does_not_reach_the_sink() -> None:
    for compression in ("gzip", "zstd"):
        below = io.BytesIO()
        options = WriteOptions.model_validate({"compression": compression, "passphrase": True})
        layers = Layers(below, options.compression, lock_of(options, "secret"))
        layers.write(b"x" * 1000)
        before = below.getvalue()
        layers.give_up()
        assert below.getvalue() == before


def test_verify_looks_inside_only_with_a_key(export: Export, tmp_path: Path) -> None:
    file, key_file, wrong = tmp_path / "me.parquet.age", tmp_path / "key.txt", tmp_path / "wrong.txt"
    key = pyrage.x25519.Identity.generate()
    key_file.write_text(f"# created by a test\n{key}\n")
    wrong.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    export(file, "parquet", recipients=[str(key.to_public())])

    def verify(*options: object) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "export_pipeline", "verify", str(file), *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    assert "It is encrypted" in verify()[1], verify()[2]
    assert "whole; 12,001 documents" in verify("--identity", key_file)[1]
    code, _, said = verify("--identity", wrong)
    assert code != 0
    assert str(key) not in said
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert verify()[0] == 1
    assert verify("--identity", key_file)[0] == 1


def test_a_file_that_is_gone_is_named(export: Export, tmp_path: Path) -> None:
    file = tmp_path / "me.json"
    export(file, "json")
    file.unlink()
    with pytest.raises(StorageError, match="no such file"):
        verify_package(file)
