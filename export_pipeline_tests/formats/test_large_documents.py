"""Documents of the largest size, and names that are data: nothing is lost, columns stay bounded, Excel says no."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo import MongoClient

from export_pipeline.exporter import Exporter
from export_pipeline.formats.columns import MOST_COLUMNS
from export_pipeline.formats.excel import ExcelLimitError
from export_pipeline.formats.parquet_schema import MOST_COLUMNS as MOST_PARQUET_COLUMNS
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.packages.verify import verify_package
from export_pipeline_tests.formats.hostile_documents import Case
from export_pipeline_tests.formats.promises import KINDS, Kind
from export_pipeline_tests.formats.raw_bson import document, string
from export_pipeline_tests.formats.readers import parsed
from export_pipeline_tests.formats.test_formats import piece, written
from export_pipeline_tests.formats.test_hostile_documents import open_installation, store
from export_pipeline_tests.formats.test_readers import export

# Names that are data

NAMES_EACH, DOCUMENTS = 1_000, 200


def values_of(number: int) -> dict[str, int]:
    """Return fields that no other document has."""
    return {f"{number}-{place}": place for place in range(number, number + NAMES_EACH)}


def values_in(read: Any) -> dict[str, int]:
    """Return the fields that a reader found, wherever they stand."""
    if isinstance(read, bytes):
        return bson.decode(read)
    if isinstance(read, str):
        members = parsed(read).items()
        return {name: int(value["$numberInt"]) if isinstance(value, dict) else value for name, value in members}
    own = {name: int(cell) for name, cell in read.items() if name not in ("_col", "_rest") and cell not in ("", None)}
    rest: dict[str, int] = parsed(read.get("_rest") or "{}")
    return own | rest


def read_back(kind: Kind, documents: list[dict[str, Any]]) -> list[Any]:
    return kind.read(written(FORMATS[kind.format], {"c": [piece(*documents)]}, WriteOptions(**kind.options)))["c"]


@pytest.mark.parametrize(
    "name", ["json", "jsonl canonical", "parquet", "parquet without _doc", "csv", "excel", "html", "bson"]
)
def test_of_two_hundred_thousand_names_none_is_lost_and_columns_stay_bounded(name: str) -> None:
    documents = [{"_id": number} | values_of(number) for number in range(DOCUMENTS)]
    found = read_back(KINDS[name], documents)
    assert [values_in(read) for read in found] == documents
    if isinstance(found[0], dict):
        of_its_own = {"_col", "_rest"}
        assert len(found[0].keys() - of_its_own) == (MOST_PARQUET_COLUMNS if "parquet" in name else MOST_COLUMNS)


@pytest.mark.parametrize("name", ["csv dotted", "excel dotted"])
def test_dotted_columns_stay_bounded_too(name: str) -> None:
    documents = [{"_id": number, "by": values_of(number)} for number in range(DOCUMENTS)]
    found = read_back(KINDS[name], documents)
    for number, read in enumerate(found):
        expected = {f"by.{name}": value for name, value in values_of(number).items()}
        assert values_in(read) == {"_id": number} | expected
    assert len(found[0].keys() - {"_col", "_rest"}) == MOST_COLUMNS


# The largest document, through the whole path

LARGEST = 16 << 20
"""Bytes that MongoDB stores in a document."""


@pytest.fixture(scope="module")
def exporter(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    yield from open_installation(mongo_uri, tmp_path_factory.mktemp("home"), "test_large_documents")


@pytest.fixture(scope="module")
def large(exporter: Exporter, mongo_client: MongoClient[Any]) -> bytes:
    room = LARGEST - len(holding(b""))
    (stored,) = store(exporter, mongo_client, "large", holding((b'"quoted", =1 <b>\n' * (room // 17 + 1))[:room]))
    assert len(stored) == LARGEST
    return stored


def holding(text: bytes) -> bytes:
    return Case(document((0x02, b"v", string(text)))[4:-1]).document(0)


@pytest.mark.parametrize("name", ["json", "jsonl canonical", "parquet", "csv", "html", "bson"])
def test_the_largest_document_goes_through_the_whole_path(
    name: str, exporter: Exporter, large: bytes, tmp_path: Path
) -> None:
    kind = KINDS[name]
    export(exporter, kind, tmp_path / "file", "large", ["a"])
    verify_package(tmp_path / "file")
    (read,) = kind.read((tmp_path / "file").read_bytes())["alllarge"]
    kind.promise(large, read)


def test_the_largest_document_is_not_for_excel(exporter: Exporter, large: bytes, tmp_path: Path) -> None:
    with pytest.raises(ExcelLimitError, match=r"^alllarge: a text in column 'v' .* choose the format csv$"):
        export(exporter, KINDS["excel"], tmp_path / "file", "large", ["a"])
    assert not list(tmp_path.iterdir())
