"""Readers that know nothing of what wrote a file: its bytes in, what each collection in it holds out.

Built on other people's code alone. Documents are read as Extended JSON in one spelling, or as BSON; rows as cells by
column. Several readers of one format have to agree.
"""

import csv
import gzip
import io
import json
import re
import sys
import tempfile
import zipfile
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import bson
import duckdb
import openpyxl
import pandas
import polars
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pyarrow import parquet

csv.field_size_limit(sys.maxsize)

Read = dict[str, list[Any]]
"""What was read, by collection, in the order of the file."""

LARGEST_DOCUMENT = 256 << 20
"""As text, in bytes."""


# JSON


class Object(dict[str, Any]):
    """A JSON object; ``members`` keeps what a dict loses, names that come twice."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        self.members = members


def parsed(text: str | bytes) -> Any:
    return json.loads(text, object_pairs_hook=Object, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def spelled(value: Any) -> str:
    """Return JSON in one spelling: every member in its order, numbers and text as Python writes them."""
    if isinstance(value, Object):
        members = ",".join(f"{json.dumps(name)}:{spelled(inner)}" for name, inner in value.members)
        return f"{{{members}}}"
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    return json.dumps(value)


def respelled(text: str | bytes) -> str:
    return spelled(parsed(text))


def _untagged(documents: Iterable[Any]) -> Read:
    """Take the tags off: fields that are called like it made place by an underscore."""
    found: Read = {}
    for document in documents:
        (tag, collection), *members = document.members
        assert tag == "_col"
        own = [(name[1:] if re.fullmatch("__+col", name) else name, value) for name, value in members]
        found.setdefault(collection, []).append(spelled(Object(own)))
    return found


def _json(data: bytes) -> Read:
    return _untagged(parsed(data))


def _json_lines(data: bytes) -> Read:
    return _untagged(map(parsed, data.removesuffix(b"\n").split(b"\n")) if data else ())


# Parquet


def _by_duckdb(file: Path) -> list[tuple[str, str]]:
    return duckdb.execute("SELECT _col, _doc FROM read_parquet(?)", [str(file)]).fetchall()


def _by_pyarrow(file: Path) -> list[tuple[str, str]]:
    table = parquet.read_table(file)
    return list(zip(table["_col"].to_pylist(), table["_doc"].to_pylist(), strict=True))


def _by_pandas(file: Path) -> list[tuple[str, str]]:
    frame = pandas.read_parquet(file)
    return list(zip(frame["_col"], frame["_doc"], strict=True))


def _by_polars(file: Path) -> list[tuple[str, str]]:
    frame = polars.read_parquet(file)
    return list(zip(frame["_col"], frame["_doc"], strict=True))


PARQUET_READERS: dict[str, Callable[[Path], list[tuple[str, str]]]] = {
    "pyarrow": _by_pyarrow,
    "pandas": _by_pandas,
    "Polars": _by_polars,
    "DuckDB": _by_duckdb,
}
"""Each reads all tags and whole documents of a file."""


def _parquet(data: bytes) -> Read:
    with _file(data) as file:
        first, *others = (read(file) for read in PARQUET_READERS.values())
    assert all(other == first for other in others)
    found: Read = {}
    for collection, document in first:
        found.setdefault(collection, []).append(respelled(document))
    return found


def parquet_rows(data: bytes) -> Read:
    """Read columns, not whole documents; JSON columns as text."""
    found: Read = {}
    for row in parquet.read_table(io.BytesIO(data)).to_pylist():
        found.setdefault(row.pop("_col"), []).append(row)
    return found


class _file:  # noqa: N801 - used like a function
    """A file that holds ``data`` for as long as it is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Path:
        file = Path(self._folder.name, "file")
        file.write_bytes(self._data)
        return file

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


# CSV


def _csv(data: bytes) -> Read:
    found: Read = {}
    for name, content in unpacked(data).items():
        header, *lines = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        assert len(set(header)) == len(header)
        assert lines == _by_duckdb_csv(content, header)
        found[unquote(name.removesuffix(".csv"))] = [dict(zip(header, line, strict=True)) for line in lines]
    return found


def _by_duckdb_csv(content: bytes, header: Sequence[str]) -> list[list[str]]:
    columns = {f"column {number}": "VARCHAR" for number in range(len(header))}
    query = f"""
        SELECT * FROM read_csv(?, auto_detect=false, header=true, delim=',', quote='"', escape='"', new_line='\\r\\n',
            columns={columns}, max_line_size={LARGEST_DOCUMENT})
    """
    with _file(content) as file:
        return [[cell or "" for cell in row] for row in duckdb.execute(query, [str(file)]).fetchall()]


def unpacked(data: bytes) -> dict[str, bytes]:
    """Return the members of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


# Excel


def _excel(data: bytes) -> Read:
    book = openpyxl.load_workbook(io.BytesIO(data))
    assert not any(cell.data_type == "f" or cell.hyperlink for sheet in book for row in sheet for cell in row)
    header, *listed = book["Contents"].iter_rows(values_only=True)
    assert header == ("Sheet", "Collection", "Documents")
    assert [name for name, _, _ in listed] == book.sheetnames[1:]
    found: Read = {}
    for name, collection, documents in listed:
        names, *rows = ([_text(cell) for cell in row] for row in book[name].iter_rows(values_only=True))
        assert len(set(names)) == len(names)
        assert len(rows) == documents
        found[_text(collection)] = [dict(zip(names, row, strict=True)) for row in rows]
    return found


def _text(cell: Any) -> Any:
    """Undo the escapes of ECMA-376 (22.9.2.19), which openpyxl leaves in texts."""
    if not isinstance(cell, str):
        return cell
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), cell)


# HTML


class Page(HTMLParser):
    """A page as browsers parse it: its elements, and the blocks of data in each collection's section."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[tuple[str, str]] = []
        self._collection = ""
        self._is_block = False
        self.feed(data.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self._collection = attributes.get("data-collection") or self._collection
        self._is_block = (tag, attributes.get("type")) == ("script", "application/gzip")
        if self._is_block:
            self.blocks.append((json.loads(self._collection), ""))

    def handle_endtag(self, tag: str) -> None:
        self._is_block = False

    def handle_data(self, data: str) -> None:
        if self._is_block:
            collection, before = self.blocks[-1]
            self.blocks[-1] = collection, before + data


def _html(data: bytes) -> Read:
    found: Read = {}
    for collection, block in Page(data).blocks:
        for tag, documents in _json_lines(gzip.decompress(b64decode(block))).items():
            assert tag == collection
            found.setdefault(collection, []).extend(documents)
    return found


# BSON


def _bson(data: bytes) -> Read:
    return dict(_dumped(unpacked(data)))


def _dumped(files: dict[str, bytes]) -> Iterator[tuple[str, list[bytes]]]:
    as_stored = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)
    for name, content in files.items():
        if name.endswith(".metadata.json"):
            documents = io.BytesIO(files[name.replace(".metadata.json", ".bson")])
            read = bson.decode_file_iter(documents, as_stored)
            yield json.loads(content)["collectionName"], [bytes(document.raw) for document in read]


READERS: dict[str, Callable[[bytes], Read]] = {
    "json": _json,
    "jsonl": _json_lines,
    "parquet": _parquet,
    "csv": _csv,
    "excel": _excel,
    "html": _html,
    "bson": _bson,
}
"""By format. A new format needs one, or the shared tests fail."""
