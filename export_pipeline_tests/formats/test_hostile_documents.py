"""Documents that break exports elsewhere: each is read back as promised, or refused with a reason that helps.

What is promised is in ``promises``; where PyMongo is no judge of it, each case says for itself what is to be read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from export_pipeline.exporter import Exporter
from export_pipeline.formats.excel import ExcelLimitError
from export_pipeline.formats.extended_json import EncodingError
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.packages.verify import verify_package
from export_pipeline.settings import Settings
from export_pipeline_tests.browser import open_browser
from export_pipeline_tests.formats.hostile_documents import CASES, FORMULAS, IDS, INVALID, Case
from export_pipeline_tests.formats.promises import KINDS, Kind, is_kept_by_pymongo
from export_pipeline_tests.formats.raw_bson import Element, document, nested, string
from export_pipeline_tests.formats.readers import READERS, Page, parsed, respelled, spelled
from export_pipeline_tests.formats.test_csv_zip import raw
from export_pipeline_tests.formats.test_formats import piece, written
from export_pipeline_tests.formats.test_readers import CATALOG, counted, export

ALL = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
BUT_BSON = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=name) for name, kind in KINDS.items() if kind.format != "bson"]
)
BSON = KINDS["bson"]


def file_of(kind: Kind, *documents: bytes) -> bytes:
    return written(FORMATS[kind.format], {"c": [raw(*documents)]}, WriteOptions(**kind.options))


def check(kind: Kind, case: Case, number: int, stored: bytes, read: Any) -> None:
    """Check what was read of a case that was stored with this number."""
    if kind.format == "bson" or is_kept_by_pymongo(stored):
        kind.promise(stored, read)
    elif isinstance(read, str):
        assert read == respelled(expected_json(case, number, is_relaxed=kind in (KINDS["json"], KINDS["jsonl"])))
    elif "_rest" in read and kind.format == "parquet":
        check_parquet_row(parsed(expected_json(case, number, is_relaxed=True)).members, read)
    else:
        cells = case.dotted if kind.options.get("dotted") else case.row
        found = {name: spelled(cell).strip('"') if isinstance(cell, bool) else str(cell) for name, cell in read.items()}
        assert {name: cell for name, cell in found.items() if cell not in ("", "None")} == {
            "_col": found["_col"],
            "_id": str(number),
            "uid": "a",
            **cells,
        }


def expected_json(case: Case, number: int, *, is_relaxed: bool) -> str:
    if is_relaxed:
        return f'{{"_id": {number}, "uid": "a", {case.relaxed}}}'
    return f'{{"_id": {{"$numberInt": "{number}"}}, "uid": "a", {case.canonical}}}'


def check_parquet_row(members: list[tuple[str, Any]], read: Mapping[str, Any]) -> None:
    """Check that each member is in its column or in the rest, and that there is nothing else."""
    rest = [(name, spelled(value)) for name, value in parsed(read["_rest"] or "{}").members]
    columns = {name: cell for name, cell in read.items() if name != "_rest" and cell is not None}
    for name, value in members:
        if (name, spelled(value)) in rest:
            rest.remove((name, spelled(value)))
        else:
            cell = columns.pop(name)
            as_typed = spelled(parsed('{"$numberDouble": "NaN"}')) if cell != cell else spelled(cell)
            assert spelled(value) == as_typed or spelled(value) == respelled(cell), name
    assert rest == []
    assert columns == {}


@ALL
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_stored_is_what_others_read(kind: Kind, case: Case) -> None:
    stored = case.document(7)
    (read,) = kind.read(file_of(kind, stored))["c"]
    check(kind, case, 7, stored, read)


def test_the_cases_that_pymongo_cannot_judge_judge_themselves() -> None:
    for name, case in CASES.items():
        assert is_kept_by_pymongo(case.document(1)) == (not case.canonical), name


# Scripts and formulas


@pytest.fixture(scope="module")
def page() -> bytes:
    return file_of(KINDS["html"], *(case.document(number) for number, case in enumerate(CASES.values())))


def test_no_text_becomes_an_element_of_the_page(page: bytes) -> None:
    elements = Page(page).elements
    bare = Page(file_of(KINDS["html"], document())).elements
    assert {tag for tag, _ in elements} <= {tag for tag, _ in bare} | {"td", "small", "time", "pre", "p", "bdi"}
    assert Counter(tag for tag, _ in elements)["script"] == Counter(tag for tag, _ in bare)["script"]
    assert not [attributes for _, attributes in elements if any(name.startswith("on") for name in attributes)]


def test_nothing_runs_in_a_browser(page: bytes, tmp_path: Path) -> None:
    (tmp_path / "me.html").write_bytes(page)
    with open_browser(tmp_path) as browser:
        browser.open((tmp_path / "me.html").as_uri())
        browser.find("#open").click()
        browser.run("for (const summary of document.querySelectorAll('details')) summary.open = true")
        assert browser.run("return [window.pwned, document.images.length]") == [None, 0]
        assert browser.complaints() == []
        assert browser.requests() == []
        assert browser.find("summary .count").text == f"{len(CASES)} records"


def test_spreadsheets_run_no_formula_unless_that_was_asked_for() -> None:
    stored = piece(*({"_id": text} for text in FORMULAS))
    for options, beginning in ((WriteOptions(), "'"), (WriteOptions(formulas=True), "")):
        rows = READERS["csv"](written(FORMATS["csv"], {"c": [stored]}, options))["c"]
        runnable = [text for text in FORMULAS if text[0] not in "' "]
        assert [row["_id"] for row in rows[: len(runnable)]] == [f"{beginning}{text}" for text in runnable]
    # In a workbook a text is marked as one; the reader asserts that no cell is a formula.
    assert [row["_id"] for row in READERS["excel"](written(FORMATS["excel"], {"c": [stored]}))["c"]] == FORMULAS


# What is refused


@BUT_BSON
@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
def test_text_that_is_not_utf_8_is_refused_by_the_name_of_its_field(kind: Kind, invalid: Element) -> None:
    with pytest.raises(EncodingError, match=r"^collection 'c': field \"v\" ") as raised:
        file_of(kind, document((0x02, b"before", string(b"fine")), invalid))
    told: list[BaseException] = [raised.value]
    while (cause := told[-1].__cause__ or told[-1].__context__) is not None:
        told.append(cause)
    assert {type(error) for error in told} == {EncodingError}  # others would carry the text
    assert not any("secret" in str(error) for error in told)


@BUT_BSON
def test_a_name_that_is_not_utf_8_is_refused(kind: Kind) -> None:
    with pytest.raises(EncodingError, match=r"^collection 'c': field "):
        file_of(kind, document((0x10, b"\xff", b"\0\0\0\0")))


@BUT_BSON
def test_more_levels_than_readers_take_are_refused(kind: Kind) -> None:
    with pytest.raises(EncodingError, match=r"^collection 'c': field \"v\" is nested deeper than 256 levels"):
        file_of(kind, document((0x03, b"v", nested(300))))


def test_bson_keeps_what_the_others_refuse() -> None:
    stored = [document(element) for element in INVALID.values()]
    stored += [document((0x10, b"\xff", b"\0\0\0\0")), document((0x03, b"v", nested(300)))]
    assert BSON.read(file_of(BSON, *stored)) == {"c": stored}


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"v": "x" * 32_768}, "v"),
        ({"v": "😀" * 16_384}, "v"),
        ({"v": ["x" * 32_764]}, "v"),
        ({"v": {f"n{number}": number for number in range(4_000)}}, "v"),
        ({"n" * 33_000: 1}, "_rest"),
    ],
)
def test_what_is_too_long_for_a_cell_of_excel_is_refused_with_an_alternative(
    fields: dict[str, Any], column: str
) -> None:
    with pytest.raises(ExcelLimitError, match=f"^c: a text in column '{column}' is longer .* choose the format csv$"):
        written(FORMATS["excel"], {"c": [piece({"_id": 1}, fields)]})


# Through the whole path: stored in MongoDB, exported, verified, read back


def open_installation(mongo_uri: str, home: Path, database: str) -> Iterator[Exporter]:
    """Open an installation on a database of its own, which is dropped at the end."""
    (home / "catalog.yaml").write_text(CATALOG)
    settings = Settings(home=home, mongo_uri=mongo_uri, mongo_database=database, catalog=home / "catalog.yaml")
    with Exporter(settings) as exporter:
        yield exporter
        exporter.client.drop_database(database)


def store(exporter: Exporter, client: MongoClient[Any], app_id: str, *documents: bytes) -> list[bytes]:
    """Put documents into the collection of an app; return what the server made of them."""
    as_stored = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)
    collection: Any = client[exporter.settings.mongo_database].get_collection(f"all{app_id}", as_stored)
    collection.insert_many([RawBSONDocument(document) for document in documents])
    return [found.raw for found in collection.find()]


@pytest.fixture(scope="module")
def exporter(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    yield from open_installation(mongo_uri, tmp_path_factory.mktemp("home"), "test_hostile_documents")


@pytest.fixture(scope="module")
def stored(exporter: Exporter, mongo_client: MongoClient[Any]) -> list[bytes]:
    documents = [case.document(number) for number, case in enumerate(CASES.values())]
    found = store(exporter, mongo_client, "cases", *documents)
    assert found == documents  # the server takes them all, and changes none
    return found


@ALL
def test_all_of_them_go_through_the_whole_path(
    kind: Kind, exporter: Exporter, stored: list[bytes], tmp_path: Path
) -> None:
    manifest = export(exporter, kind, tmp_path / "file", "cases", ["a"])
    assert verify_package(tmp_path / "file") == manifest
    found = kind.read((tmp_path / "file").read_bytes())["allcases"]
    assert counted(manifest) == Counter(allcases=len(found))
    for number, (case, one, read) in enumerate(zip(CASES.values(), stored, found, strict=True)):
        check(kind, case, number, one, read)


@ALL
def test_documents_with_odd_ids_go_through_the_whole_path(
    kind: Kind, exporter: Exporter, odd_ids: list[bytes], tmp_path: Path
) -> None:
    manifest = export(exporter, kind, tmp_path / "file", "ids", ["a"])
    assert verify_package(tmp_path / "file") == manifest
    found = kind.read((tmp_path / "file").read_bytes())["allids"]
    for one, read in zip(odd_ids, found, strict=True):
        kind.promise(one, read)


@pytest.fixture(scope="module")
def odd_ids(exporter: Exporter, mongo_client: MongoClient[Any]) -> list[bytes]:
    return store(exporter, mongo_client, "ids", *(bson.encode({"_id": each, "uid": "a"}) for each in IDS))


@pytest.fixture(scope="module")
def damaged(exporter: Exporter, mongo_client: MongoClient[Any]) -> list[bytes]:
    """What a server takes although its text is none."""
    return store(
        exporter, mongo_client, "damaged", Case(document((0x02, b"v", string(b"secret\xff")))[4:-1]).document(0)
    )


@BUT_BSON
def test_damaged_text_fails_the_request_and_is_not_told(
    kind: Kind, exporter: Exporter, damaged: list[bytes], tmp_path: Path
) -> None:
    with pytest.raises(
        EncodingError, match=r"^collection 'alldamaged': field \"v\" holds text that is not valid UTF-8"
    ):
        export(exporter, kind, tmp_path / "file", "damaged", ["a"])
    request = exporter.requests.latest()[0]
    assert (request.status, request.error_code) == ("failed", "encoding")
    assert "secret" not in str(request.error_message)
    assert not list(tmp_path.iterdir())


def test_damaged_text_can_be_had_as_bson(exporter: Exporter, damaged: list[bytes], tmp_path: Path) -> None:
    export(exporter, BSON, tmp_path / "file", "damaged", ["a"])
    verify_package(tmp_path / "file")
    assert BSON.read((tmp_path / "file").read_bytes()) == {"alldamaged": damaged}
