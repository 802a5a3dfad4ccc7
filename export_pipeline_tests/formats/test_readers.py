"""The one test that every format passes: what is written is read back by others, and the manifest counts the same."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow.compute as pc
import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pymongo import MongoClient

from export_pipeline.catalog.narrowing import EVERYTHING, parse_narrowing
from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.formats.excel import ExcelLimitError
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline_tests.browser import open_browser
from export_pipeline_tests.conftest import DEMO_DATABASE
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.promises import KINDS, Kind, decoded, is_kept_by_pymongo
from export_pipeline_tests.formats.readers import READERS, unpacked
from export_pipeline_tests.formats.test_csv_zip import raw
from export_pipeline_tests.formats.test_formats import written

Stored = Mapping[str, Sequence[bytes]]
"""Documents as they are stored, by collection."""

ALL = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

documents = raw_bson.documents() | raw_bson.documents(unusual=False)


def test_every_format_has_a_reader_and_a_promise() -> None:
    assert READERS.keys() == FORMATS.keys() == {kind.format for kind in KINDS.values()}


def compare(kind: Kind, stored: Stored, data: bytes) -> Counter[str]:
    """Compare what others read with what was stored; return how many documents they counted."""
    found = kind.read(data)
    assert found.keys() == stored.keys()
    for collection, read in found.items():
        for document, one in zip(stored[collection], read, strict=True):
            kind.promise(document, one)
    return Counter({collection: len(read) for collection, read in found.items()})


@ALL
@settings(max_examples=30)
@given(st.lists(documents, min_size=1, max_size=8), st.lists(documents, min_size=1, max_size=3))
def test_generated_documents_are_read_back(kind: Kind, users: list[bytes], events: list[bytes]) -> None:
    stored = {"users": users, "events": events}
    pieces = {name: [raw(document) for document in documents] for name, documents in stored.items()}
    data = written(FORMATS[kind.format], pieces, WriteOptions(**kind.options))
    assert compare(kind, stored, data) == FORMATS[kind.format].count(io.BytesIO(data))


@ALL
@settings(max_examples=3)
@given(st.lists(documents, min_size=1, max_size=5))
def test_many_documents_are_read_back_as_few(kind: Kind, few: list[bytes]) -> None:
    """Where there are many, writers learn what they have in common, and write hundreds at once."""
    times = 700 // len(few)
    found = kind.read(written(FORMATS[kind.format], {"c": [raw(*few * times)]}, WriteOptions(**kind.options)))["c"]
    assert [*map(repr, found)] == [*map(repr, found[: len(few)])] * times
    for document, one in zip(few, found, strict=False):
        kind.promise(document, one)


# Through the whole path, with a manifest


def export(exporter: Exporter, kind: Kind, output: Path, app_id: str, uids: Sequence[str], **more: Any) -> Manifest:
    file_options = {name: value for name, value in kind.options.items() if name != "json_mode"}
    json_mode = kind.options.get("json_mode", "relaxed")
    new = NewRequest(app_id, uids, kind.format, json_mode, file_options=file_options, **more)
    return exporter.run_here(exporter.submit(new, run_here=True), output)


def counted(manifest: Manifest) -> Counter[str]:
    reports = manifest.collections
    return +Counter({report.collection: report.documents_written for report in reports})


SPECIMENS = "remote_config_history"
"""The collection in which the demo keeps one of everything; one of its texts is too long for Excel."""


class Demo:
    """The demo's data, and an installation to export from it."""

    def __init__(self, exporter: Exporter, data: DemoData) -> None:
        self.app_id = data.app_ids[0]
        self.uids = [data.small_uid, data.heaviest_uid, data.merged_uid]
        self.specimens = exporter.catalog.entry(SPECIMENS).collection_of(self.app_id)
        self._exporter = exporter

    def export(self, name: str, folder: Path, *, without_specimens: bool = False) -> tuple[bytes, Manifest]:
        narrowing = parse_narrowing({"exclude_collections": [SPECIMENS]}) if without_specimens else EVERYTHING
        file = folder / f"{name}.file"
        manifest = export(self._exporter, KINDS[name], file, self.app_id, self.uids, narrowing=narrowing)
        return file.read_bytes(), manifest

    def stored(self, uids: Sequence[str]) -> dict[str, Counter[bytes]]:
        """Return what plain finds over the catalogue return."""
        found: dict[str, Counter[bytes]] = {}
        options = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)
        for entry in self._exporter.catalog.entries:
            database: Any = self._exporter.client[entry.database or DEMO_DATABASE]
            collection = database.get_collection(entry.collection_of(self.app_id), options)
            held = Counter(each.raw for each in collection.find({entry.user_key: {"$in": [*uids]}}))
            if held:
                found[collection.name] = held
        return found


@pytest.fixture(scope="module")
def demo_app(mongo_uri: str, demo: DemoData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with Exporter(Settings(home=tmp_path_factory.mktemp("home"), mongo_uri=mongo_uri)) as exporter:
        yield Demo(exporter, demo)


@pytest.fixture(scope="module")
def stored(demo_app: Demo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """What the database holds, in the order of an export."""
    data, manifest = demo_app.export("bson", tmp_path_factory.mktemp("bson"))
    found = READERS["bson"](data)
    held = demo_app.stored([*manifest.users.uids, *manifest.users.merged_uids])
    assert {name: Counter(documents) for name, documents in found.items()} == held
    return found


@ALL
def test_the_demo_is_read_back(
    kind: Kind, demo_app: Demo, stored: dict[str, list[bytes]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    is_excel = kind.format == "excel"
    data, manifest = demo_app.export(name, tmp_path, without_specimens=is_excel)
    expected = {name: held for name, held in stored.items() if not is_excel or name != demo_app.specimens}
    found = compare(kind, expected, data)
    assert found == counted(manifest)
    assert found.total() == manifest.totals.documents_written > 1000


def test_the_demo_has_mostly_documents_that_can_be_compared_in_full(stored: dict[str, list[bytes]]) -> None:
    everything = [document for documents in stored.values() for document in documents]
    assert sum(map(is_kept_by_pymongo, everything)) > len(everything) * 0.9


def test_what_excel_cannot_hold_is_an_error_that_names_another_format(demo_app: Demo, tmp_path: Path) -> None:
    with pytest.raises(ExcelLimitError, match=f"^{demo_app.specimens}: .* choose the format csv$"):
        demo_app.export("excel", tmp_path)
    assert not list(tmp_path.iterdir())


CATALOG = 'version: 1\ncollections:\n- {name: all, plugin: all, collection: "all{app_id}", user_key: uid}\n'
UID = raw_bson.document((0x02, b"uid", raw_bson.string(b"a")))[4:-1]


@pytest.fixture(scope="module")
def generated(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    home = tmp_path_factory.mktemp("generated")
    (home / "catalog.yaml").write_text(CATALOG)
    settings = Settings(
        home=home, mongo_uri=mongo_uri, mongo_database="test_readers_generated", catalog=home / "catalog.yaml"
    )
    with Exporter(settings) as exporter:
        yield exporter
        exporter.client.drop_database("test_readers_generated")


@ALL
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(documents, min_size=5, max_size=15))
def test_generated_documents_that_were_stored_are_read_back(
    kind: Kind, made: list[bytes], generated: Exporter, mongo_client: MongoClient[Any], tmp_path: Path
) -> None:
    collection = mongo_client["test_readers_generated"].get_collection(
        "allx", CodecOptions[RawBSONDocument](document_class=RawBSONDocument)
    )
    collection.drop()
    for number, document in enumerate(made):
        head = raw_bson.document((0x10, b"_id", number.to_bytes(4, "little")))[4:-1] + UID
        content = head + document[4:-1]
        collection.insert_one(RawBSONDocument((len(content) + 5).to_bytes(4, "little") + content + b"\0"))
    manifest = export(generated, kind, tmp_path / "file", "x", ["a"])
    stored = {"allx": [each.raw for each in collection.find()]}
    assert compare(kind, stored, (tmp_path / "file").read_bytes()) == counted(manifest) == Counter(allx=len(made))


# As analysts open it


SINCE, MOST = datetime(2026, 1, 1, tzinfo=UTC), 1


def _count(values: Any) -> dict[str, int]:
    return {str(name): int(count) for name, count in values}


def _with_duckdb(file: Path) -> tuple[dict[str, int], int]:
    by_tag = duckdb.execute("SELECT _col, count(*) FROM read_parquet(?) GROUP BY 1", [str(file)]).fetchall()
    query = f"SELECT count(*) FROM read_parquet(?) WHERE cd >= TIMESTAMPTZ '{SINCE.isoformat()}' AND c <= {MOST}"
    ((filtered,),) = duckdb.execute(query, [str(file)]).fetchall()
    return _count(by_tag), filtered


def _with_polars(file: Path) -> tuple[dict[str, int], int]:
    scan = polars.scan_parquet(file)
    by_tag = scan.group_by("_col").len().collect().rows()
    return _count(by_tag), scan.filter((polars.col("cd") >= SINCE) & (polars.col("c") <= MOST)).collect().height


def _with_pandas(file: Path) -> tuple[dict[str, int], int]:
    frame = pandas.read_parquet(file)
    return _count(frame["_col"].value_counts().items()), len(frame[(frame["cd"] >= SINCE) & (frame["c"] <= MOST)])


def _with_pyarrow(file: Path) -> tuple[dict[str, int], int]:
    by_tag = parquet.read_table(file, columns=["_col"])["_col"].value_counts().to_pylist()
    typed = parquet.read_table(file, filters=(pc.field("cd") >= SINCE) & (pc.field("c") <= MOST))
    return _count((item["values"], item["counts"]) for item in by_tag), typed.num_rows


@pytest.mark.parametrize("ask", [_with_duckdb, _with_polars, _with_pandas, _with_pyarrow])
def test_parquet_counts_by_tag_and_filters_by_date_and_number(
    ask: Callable[[Path], tuple[dict[str, int], int]], demo_app: Demo, stored: dict[str, list[bytes]], tmp_path: Path
) -> None:
    data, manifest = demo_app.export("parquet", tmp_path)
    (tmp_path / "me.parquet").write_bytes(data)
    events = [decoded(document) for held in stored.values() for document in held]
    expected = sum(
        isinstance(each.get("cd"), datetime) and each["cd"] >= SINCE and each.get("c", MOST + 1) <= MOST
        for each in events
    )
    assert ask(tmp_path / "me.parquet") == (dict(counted(manifest)), expected)
    assert 10 < expected < sum("cd" in each for each in events) - 10


def test_duckdb_finds_the_types_of_csv_by_itself(
    demo_app: Demo, stored: dict[str, list[bytes]], tmp_path: Path
) -> None:
    data, manifest = demo_app.export("csv", tmp_path)
    counts = counted(manifest)
    for name, content in unpacked(data).items():
        collection = name.removesuffix(".csv")
        file = tmp_path / name
        file.write_bytes(content)
        ((count,),) = duckdb.execute("SELECT count(*) FROM read_csv(?)", [str(file)]).fetchall()
        assert count == counts.pop(collection), collection
        if collection.startswith("drill_events"):
            query = f"SELECT count(*) FROM read_csv(?) WHERE cd >= TIMESTAMPTZ '{SINCE.isoformat()}' AND c <= {MOST}"
            ((filtered,),) = duckdb.execute(query, [str(file)]).fetchall()
            held = map(decoded, stored[collection])
            assert filtered == sum(each["cd"] >= SINCE and each["c"] <= MOST for each in held) > 10
    assert not counts


def test_the_page_shows_the_counts_of_the_manifest(demo_app: Demo, tmp_path: Path) -> None:
    data, manifest = demo_app.export("html", tmp_path)
    (tmp_path / "me.html").write_bytes(data)
    with open_browser(tmp_path) as browser:
        browser.open((tmp_path / "me.html").as_uri())
        shown = {
            browser.run("return JSON.parse(arguments[0].dataset.collection)", section): section.find_element(
                "css selector", "summary .count"
            ).text
            for section in browser.driver.find_elements("css selector", "section.collection")
        }
        lead = browser.find(".lead strong").text
        assert browser.complaints() == []
    expected = counted(manifest)
    assert shown == {name: f"{count:,} record{'s' * (count > 1)}" for name, count in expected.items()}
    assert lead == f"{expected.total():,} records"
