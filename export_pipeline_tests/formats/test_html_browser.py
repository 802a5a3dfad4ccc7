"""The page in a real browser: nothing loads, nothing in the data runs; people can search, sort, save and print."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import json_util

from export_pipeline.formats.json_text import JsonArray
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline_tests.browser import Browser, open_browser
from export_pipeline_tests.formats.test_formats import piece
from export_pipeline_tests.formats.test_html import ABOUT, FEBRUARY, HOSTILE, NAMES, page

USERS = [
    {"_id": "b", "ls": FEBRUARY, "n": 9, "price": bson.Decimal128("10.5"), "name": "Élodie Müller"},
    {"_id": "a", "ls": FEBRUARY + 86_400, "n": 100, "price": 9, "name": "Bob"},
    {"_id": "c", "ls": FEBRUARY - 86_400 * 400, "n": -5.5, "price": "on request", "name": "élodie Baker"},
    {"_id": "d", "ls": FEBRUARY + 1, "n": None, "name": "Zoë"},
]
EVENTS: list[dict[str, Any]] = [
    {
        "_id": n,
        "at": {"day": datetime(2026, 1 + n % 3, 1, tzinfo=UTC)},
        "key": f"event {n}",
        "seg": {"list": ["x"] * (n % 5)},
    }
    for n in range(300)
]
ODD = [{"_id": n, "text": text, text.replace("\0", "")[:50]: [text]} for n, text in enumerate(HOSTILE)]
ODD += [{name: name} for name in NAMES]
COLLECTIONS = {"users1": USERS, "events1": EVENTS, "odd": ODD}
WATCH = "window.alert = window.confirm = window.prompt = () => { window.pwned = 1; };"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("downloads")) as browser:
        browser.command("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        yield browser


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    file: Path = tmp_path_factory.mktemp("page") / "me.html"
    pieces: dict[str, list[Piece]] = {name: [piece(*stored)] for name, stored in COLLECTIONS.items()}
    file.write_bytes(page(pieces, ABOUT))
    return file.as_uri()


@pytest.fixture
def shown(browser: Browser, url: str) -> Browser:
    browser.emulate()
    browser.resize(1280, 900)
    browser.open(url)
    return browser


def section(name: str) -> str:
    return f"section[data-collection='\"{name}\"']"


def column(browser: Browser, name: str, number: int) -> list[str]:
    rows = f"return [...document.querySelectorAll(arguments[0])].map((row) => row.cells[{number}].textContent.trim())"
    found: list[str] = browser.run(rows, f"{section(name)} tbody.record:not([hidden]) > tr:first-child")
    return found


def press_header(browser: Browser, name: str, number: int) -> str:
    """Press a column's header; return what it says of the order."""
    header = browser.find(f"{section(name)} thead th:nth-child({number + 1})")
    browser.run("arguments[0].click()", header.find_element("css selector", "button"))
    return str(header.get_attribute("aria-sort"))


def type_into(browser: Browser, selector: str, text: str) -> None:
    field = browser.find(selector)
    field.send_keys("\ue009a" + "\ue000" + text)  # Control-a, so that what was there gives way
    browser.driver.execute_async_script("setTimeout(arguments[0], 250)")


def test_nothing_is_loaded_nothing_is_complained_about_and_nothing_in_the_data_runs(shown: Browser) -> None:
    shown.find("#open").click()
    shown.run("for (const button of document.querySelectorAll('tbody th button')) button.click()")
    shown.run("for (const e of document.querySelectorAll('td, bdi')) e.dispatchEvent(new MouseEvent('mouseover'))")
    assert shown.run("return [window.pwned, document.images.length]") == [None, 0]
    assert shown.complaints() == []
    assert shown.requests() == []


def test_a_script_that_found_its_way_in_would_not_run(browser: Browser, url: str, tmp_path: Path) -> None:
    """The page's policy holds where escaping would fail; so the test before this one can fail."""
    file = tmp_path / "forged.html"
    original = Path(url.removeprefix("file://")).read_text()
    forged = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'><p style='color: red'>"
    file.write_text(original.replace("<main ", f"{forged}<main "))
    browser.open(file.as_uri())
    assert browser.run("return window.pwned") is None
    assert len(browser.complaints()) >= 3


def test_the_page_is_accessible(shown: Browser) -> None:
    shown.find("#open").click()
    assert shown.audit() == []
    assert shown.run("return document.documentElement.lang") == "en"


def test_the_audit_finds_what_is_not_accessible(shown: Browser) -> None:
    shown.run("document.querySelector('#save').textContent = ''; document.querySelector('thead th').scope = ''")
    shown.run("document.body.append(document.createElement('h1'))")
    says = {found.partition(":")[0] for found in shown.audit()}
    assert says == {"a control has no name", "a header has no scope", "not one h1", "a heading is empty"}


def test_searching_narrows_the_rows_whatever_the_case_and_accents(shown: Browser) -> None:
    type_into(shown, "#search", "ELODIE")
    assert column(shown, "users1", 4) == ["Élodie Müller", "élodie Baker"]
    assert not shown.find(section("events1")).is_displayed()
    assert shown.find("#found").text.startswith("2 of the ")
    type_into(shown, "#search", "elodie bak")
    assert column(shown, "users1", 4) == ["élodie Baker"]
    type_into(shown, "#search", "\ue003" * 20)  # the key that takes back
    assert len(column(shown, "users1", 4)) == 4
    assert shown.find(section("events1")).is_displayed()


def test_one_table_can_be_searched_alone(shown: Browser) -> None:
    shown.find("#open").click()
    type_into(shown, f"{section('events1')} input", "event 17")
    assert column(shown, "events1", 2) == ["event 17", "event 117", *(f"event 17{n}" for n in range(10))]
    assert shown.find(f"{section('events1')} .found").text == "12 of the 200 shown match"
    assert len(column(shown, "users1", 4)) == 4


def test_sorting_orders_times_and_numbers_by_value_and_leaves_what_is_empty_last(shown: Browser) -> None:
    assert press_header(shown, "users1", 1) == "ascending"
    assert column(shown, "users1", 5) == ["c", "b", "d", "a"]
    assert press_header(shown, "users1", 1) == "descending"
    assert column(shown, "users1", 5) == ["a", "d", "b", "c"]
    assert press_header(shown, "users1", 2) == "ascending"
    assert column(shown, "users1", 2) == ["-5.5", "9", "100", "empty"]
    assert press_header(shown, "users1", 2) == "descending"
    assert column(shown, "users1", 2) == ["100", "9", "-5.5", "empty"]
    press_header(shown, "users1", 3)
    assert column(shown, "users1", 3) == ["9", "10.5", "on request", ""]
    press_header(shown, "users1", 4)
    assert column(shown, "users1", 4) == ["Bob", "élodie Baker", "Élodie Müller", "Zoë"]
    press_header(shown, "users1", 0)
    assert column(shown, "users1", 5) == ["b", "a", "c", "d"]
    assert len(shown.driver.find_elements("css selector", "[aria-sort]")) == 1


def test_a_record_opens_whole_by_keyboard_and_moves_with_its_row(shown: Browser) -> None:
    shown.find("#open").click()
    assert shown.texts("pre") == []
    button = shown.find(f"{section('users1')} tbody.record:nth-of-type(2) th button")
    button.send_keys("\n")
    assert button.get_attribute("aria-expanded") == "true"
    (whole,) = shown.texts("pre")
    assert json.loads(whole)["name"] == "Bob"
    press_header(shown, "users1", 4)
    assert shown.run("return arguments[0].closest('tbody').querySelector('pre').textContent", button) == whole
    button.send_keys("\n")
    assert shown.texts("pre") == []


def test_saving_gives_all_the_data(shown: Browser) -> None:
    saved = shown.download(shown.find("#save"))
    content = saved.read_bytes()
    assert saved.name == "my-data.json"
    assert JsonArray().count(io.BytesIO(content)) == {name: len(stored) for name, stored in COLLECTIONS.items()}
    found = iter(content.decode().split("\n")[1:-2])
    options = json_util.CANONICAL_JSON_OPTIONS.with_options(tz_aware=True)
    for name, stored in COLLECTIONS.items():
        for document, line in zip(stored, found, strict=False):
            members = json.loads(line.removesuffix(","), object_pairs_hook=list)
            assert members[0] == ("_col", name)
            if name != "odd":  # where names look like the wrappers of types
                read = json_util.loads(line.removesuffix(","), json_options=options)
                assert bson.encode(read) == bson.encode({"_col": name} | document)
    assert shown.find("#saved").text == f"{sum(map(len, COLLECTIONS.values()))} records saved as my-data.json."
    assert shown.complaints() == []
    assert shown.requests() == []


def test_data_that_are_not_whole_are_not_saved(shown: Browser) -> None:
    shown.run("document.querySelector('script[type=\"application/gzip\"]').remove()")
    shown.find("#save").click()
    shown.driver.execute_async_script(
        """
        const look = () => (document.getElementById("save").disabled ? setTimeout(look, 20) : arguments[0]());
        look();
        """
    )
    assert shown.find("#saved").text.startswith("Not saved: the page holds ")


@pytest.mark.parametrize("is_open", [False, True])
def test_a_phone_need_not_scroll_sideways_but_within_tables(shown: Browser, *, is_open: bool) -> None:
    shown.resize(360, 740, is_phone=True)
    if is_open:
        shown.find("#open").click()
        shown.run("for (const button of document.querySelectorAll('tbody th button')) button.click()")
        assert shown.run(
            "return [...document.querySelectorAll('.table')].some((box) => box.scrollWidth > box.clientWidth)"
        )
    assert shown.run("return document.documentElement.scrollWidth") == 360


def luminance(browser: Browser, selector: str, what: str) -> float:
    colour = browser.run(f"return getComputedStyle(document.querySelector(arguments[0])).{what}", selector)
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_colours_of_the_device_with_enough_contrast(shown: Browser, scheme: str) -> None:
    shown.emulate(prefers_color_scheme=scheme)
    page_is = luminance(shown, "body", "backgroundColor")
    assert (page_is < 0.2) == (scheme == "dark")
    on_card = [(selector, "color", "article.card") for selector in (".card a", ".card .count", ".card p", "figcaption")]
    for selector, what, behind in [
        ("h1", "color", "body"),
        ("dt", "color", "body"),
        *on_card,
        ("#save", "color", "#save"),
    ]:
        front, back = luminance(shown, selector, what), luminance(shown, behind, "backgroundColor")
        ratio = (max(front, back) + 0.05) / (min(front, back) + 0.05)
        assert ratio >= 4.5, f"{selector}: {ratio:.1f}"  # WCAG 2.2, 1.4.3


def test_on_paper_all_tables_are_open_and_no_control_is_there(shown: Browser) -> None:
    assert not shown.find(f"{section('users1')} table").is_displayed()
    shown.emulate("print")
    assert [found for found in shown.texts("button, input, .skip") if found] == []
    heights = shown.run("return [...document.querySelectorAll('.table')].map((e) => [e.clientHeight, e.scrollHeight])")
    assert all(0 < height == whole for height, whole in heights)
    paper = shown.command("Page.printToPDF", {"preferCSSPageSize": True})
    assert len(paper["data"]) > 50_000


def test_without_scripts_all_is_there_to_be_read(shown: Browser, url: str, tmp_path: Path) -> None:
    assert not shown.find(".no-script").is_displayed()
    file = tmp_path / "no_script.html"
    file.write_text(Path(url.removeprefix("file://")).read_text().replace("script-src", "script-src 'none'; x-src"))
    shown.open(file.as_uri())
    assert shown.find(".no-script").is_displayed()
    assert shown.texts("button, input") == []
    shown.find(f"{section('users1')} summary").click()
    assert "2026-02-02 02:40:00" in shown.find(f"{section('users1')} table").text
    shown.find(f"{section('users1')} tr.whole summary").click()
    (whole,) = shown.texts(f"{section('users1')} pre")
    assert json.loads(whole)["_id"] == "b"


def test_a_link_to_a_collection_opens_its_table(shown: Browser) -> None:
    shown.find("a[href='#collection-1']").click()
    shown.driver.execute_async_script("setTimeout(arguments[0], 100)")
    assert shown.find(f"{section('users1')} table").is_displayed()


def test_a_page_that_was_cut_short_says_so(shown: Browser, url: str, tmp_path: Path) -> None:
    assert not shown.find(".cut-short").is_displayed()
    content = Path(url.removeprefix("file://")).read_bytes()
    file = tmp_path / "cut.html"
    file.write_bytes(content[: len(content) // 2])
    shown.open(file.as_uri())
    assert shown.find(".cut-short").is_displayed()
