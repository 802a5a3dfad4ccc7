"""The page read back: whole or refused, with nothing in it that a browser would run. See also test_html_browser."""

import base64
import hashlib
import io
import re
import tracemalloc
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import bson
import pytest
from bson import json_util
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st

from export_pipeline.errors import ExportPipelineError, IncompleteError
from export_pipeline.formats import html, html_data
from export_pipeline.formats.extended_json import EncodingError, encode_batch
from export_pipeline.formats.html import Html, documents
from export_pipeline.formats.html_chart import chart
from export_pipeline.formats.html_times import milliseconds, month_of, spans
from export_pipeline.formats.html_values import shown
from export_pipeline.formats.protocol import About, CollectionAbout, WriteOptions
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.test_csv_zip import raw
from export_pipeline_tests.formats.test_formats import Memory, piece, written

HTML = Html()
OPTIONS = WriteOptions()
DAY = 86_400
FEBRUARY = 1_770_000_000
"""2 February 2026, in seconds."""

ABOUT = About(
    request_id="0190-export",
    app_id="app1",
    uids=("u<1>",),
    requested_by="Ann & Bob",
    requested_at=datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    read_at=datetime(2026, 3, 1, 9, 31, tzinfo=UTC),
    collections={
        "users1": CollectionAbout("users", "users", "profile", "To know you.", "2 years", "You", "ls", "s"),
        "crash_users1": CollectionAbout("crash_users", "crashes", "diagnostics", "To mend errors."),
        "events1": CollectionAbout("events", "drill", "usage", "To <improve>.", time_field="at.day", time_unit="date"),
    },
)

HOSTILE = [
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "</script><script>window.pwned = 1</script>",
    "]]> --> <!-- </style></title></textarea>",
    "' onmouseover='window.pwned = 1",
    "javascript:window.pwned=1",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt; &amp;",
    "a\0b\x1f\x7f\x85\r\n\u2028",
    "abc\u202etxt.exe",
    "\ufffe\uffff\ufeff",
    "=1+1",
    "",
    "x" * 100_000,
]
NAMES = ["__proto__", "constructor", "$date", "$oid", "a.b", "$", "", "<b>", '"', "hasOwnProperty", "_col", "\u202e"]


def page(collections: dict[str, list[Piece]], about: About | None = None, sections: list[bytes] | None = None) -> bytes:
    """Write a page as ``packages`` does; ``sections`` takes the bytes of each collection."""
    memory = Memory()
    survey = HTML.survey(OPTIONS, about)
    for collection, pieces in collections.items():
        for part in pieces:
            survey.see(collection, part)
    writer = HTML.writer(memory, OPTIONS, survey, about)
    for collection, pieces in collections.items():
        begin = memory.tell()
        for part in pieces:
            writer.write(collection, part)
        writer.end_collection()
        if sections is not None:
            sections.append(memory.getvalue()[begin:])
    writer.close()
    return memory.getvalue()


def lines(data: bytes) -> list[tuple[str, bytes]]:
    return list(documents(io.BytesIO(data)))


def refused(data: bytes) -> str:
    with pytest.raises(IncompleteError) as raised:
        HTML.count(io.BytesIO(data))
    return str(raised.value)


VOID = {"meta", "link", "input", "img"}


class Reader(HTMLParser):
    """The page as a parser sees it: elements, attributes and the text right in each."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.words: list[str] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(data.decode())
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(self.found[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][2].append(data)
            if self._open[-1][0] not in ("style", "script"):
                self.words.append(data)

    def texts(self, tag: str, class_: str | None = None) -> list[str]:
        return [
            "".join(text)
            for found, attributes, text in self.found
            if found == tag and (class_ is None or class_ in (attributes.get("class") or "").split())
        ]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


# All the data is in the page


def test_the_page_holds_every_document_as_canonical_json() -> None:
    users = [{"_id": bson.Int64(1), "at": datetime(2026, 1, 1, tzinfo=UTC), "n": bson.Decimal128("1.10"), "f": 1.0}]
    events = [{"_id": n, "text": "x" * n} for n in range(500)]
    data = page({"users1": [piece(*users)], "events1": [piece(*events[:7]), piece(*events[7:])]})
    found = lines(data)
    assert (
        Counter(collection for collection, _ in found) == HTML.count(io.BytesIO(data)) == Counter(users1=1, events1=500)
    )
    options = json_util.CANONICAL_JSON_OPTIONS.with_options(tz_aware=True)
    for (collection, line), document in zip(found, [*users, *events], strict=True):
        read = json_util.loads(line.decode(), json_options=options)
        assert read.pop("_col") == collection
        assert bson.encode(read) == bson.encode(document)


@settings(max_examples=60)
@given(st.lists(raw_bson.documents(), min_size=1, max_size=6))
def test_whatever_the_documents_the_page_holds_them_and_can_be_read(stored: list[bytes]) -> None:
    data = page({"c": [raw(*stored)]})
    expected = encode_batch(b"".join(stored), "c", "canonical", b"\n").data.split(b"\n")
    assert lines(data) == [("c", line) for line in expected]
    assert len(Reader(data).texts("tbody", "record")) == len(stored)
    assert not set(data.decode()) & set("\0\x0b\x85\u202e\u2028\ufffe")


def test_documents_over_many_blocks_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_data, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(html_data, "_LINE_BYTES", 30)
    stored = [{"_id": n, "text": "x" * (n * 37 % 2500)} for n in range(100)]
    data = page({"c": [piece(*stored[n : n + 9]) for n in range(0, 100, 9)]})
    assert data.count(html_data.OPENING) > 50
    assert [json_util.loads(line.decode())["_id"] for _, line in lines(data)] == list(range(100))


def test_a_field_called_like_the_tag_gives_way_and_is_counted() -> None:
    memory = Memory()
    survey = HTML.survey(OPTIONS)
    survey.see("c", piece({"_col": 1}, {"_id": 2}))
    writer = HTML.writer(memory, OPTIONS, survey)
    writer.write("c", piece({"_col": 1}, {"_id": 2}))
    assert writer.end_collection() == 1
    assert writer.end_collection() == 0
    writer.close()
    assert lines(memory.getvalue())[0][1] == b'{"_col":"c","__col":{"$numberInt":"1"}}'


@pytest.mark.parametrize("name", ["a b", "é", "a'b&c", "a>b", 'a"b', "<script>", "a\\b", "\u202ea", "x\ny"])
def test_any_name_of_a_collection_is_read_back(name: str) -> None:
    data = page({name: [piece({"_id": 1})], "other": [piece({"_id": 2})]})
    assert HTML.count(io.BytesIO(data)) == Counter({name: 1, "other": 1})


def test_a_collections_bytes_are_its_own() -> None:
    sections: list[bytes] = []
    data = page({"a": [piece({"_id": 1})], "none": [], "b": [piece({"_id": 2}), piece({"_id": 3})]}, sections=sections)
    first, none, second = sections
    assert first + second in data
    assert none == b""
    for section, records in ((first, b'data-records="1"'), (second, b'data-records="2"')):
        assert section.startswith(b'<section class="collection" ')
        assert section.endswith(b"</section><!-- collection -->\n")
        assert records in section


def test_the_page_depends_on_nothing_but_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    first = page({"users1": [piece({"_id": 1, "ls": FEBRUARY})]}, ABOUT)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert page({"users1": [piece({"_id": 1, "ls": FEBRUARY})]}, ABOUT) == first


# What is not whole is refused

SMALL = page({"users": [piece({"_id": 1, "a": "b"}, {"_id": 2})], "events": [piece({"_id": 3})]})


@settings(max_examples=300)
@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    content = bytearray(SMALL)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    refused(bytes(content))


@settings(max_examples=200)
@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=9))
def test_the_page_can_be_neither_shorter_nor_longer(length: int, more: bytes) -> None:
    refused(SMALL[:length])
    refused(SMALL + more)
    refused(more + SMALL)
    refused(SMALL[:length] + more + SMALL[length:])


def resealed(changed: bytes) -> bytes:
    """Give a changed page the seal that fits it: what is in it has to be found out otherwise."""
    content, _, _ = changed.rpartition(b"<!-- sha256")
    return content + html_data.seal(hashlib.sha256(content).hexdigest())


def first(pattern: bytes) -> bytes:
    found = re.search(pattern, SMALL, re.DOTALL)
    assert found
    return found[0]


BLOCK = first(rb'<script type="application/gzip">\n.*?</script>\n')
BLOCK_LINE = BLOCK.split(b"\n")[1]
SECTION = first(rb'<section class="collection".*?</section><!-- collection -->\n')


def block(text: bytes) -> bytes:
    made: list[bytes] = []
    blocks = html_data.Blocks(made.append)
    blocks.add(text)
    blocks.end()
    return b"".join(made)


CHANGES = {
    "nothing": (b"", b"", None),
    "a block is gone": (BLOCK, b"", "users: the page does not hold as many documents as it says"),
    "a block comes twice": (BLOCK, BLOCK * 2, "users: the page does not hold as many"),
    "a section is gone": (SECTION, b"", "the page does not hold as many documents as it says"),
    "a section comes twice": (SECTION, SECTION * 2, "the page holds a collection twice"),
    "a row is gone": (b'<tbody class="record">\n', b"", "users: the page does not hold as many documents"),
    "other rows": (b'data-shown="2"', b'data-shown="1"', "users: the page does not hold as many documents"),
    "another total": (b'<main data-records="3">', b'<main data-records="4">', "does not hold as many"),
    "no total": (b'<main data-records="3">', b"<main>", "ends before it says how many"),
    "another count": (b'data-records="2" data-shown', b'data-records="3" data-shown', "users: the page does not hold"),
    "another collection": (b"&#34;users&#34;", b"&#34;other&#34;", "other: a line of the page's data is not one"),
    "a nameless section": (b"&#34;users&#34;", b"&#34;users", "does not name its collection"),
    "a surrogate for a name": (b"&#34;users&#34;", b"&#34;\\ud800&#34;", "does not name its collection"),
    "a block without its end": (BLOCK_LINE + b"\n</script>", BLOCK_LINE, "a block of the page's data is damaged"),
    "half a block": (BLOCK_LINE, BLOCK_LINE[: len(BLOCK_LINE) // 8 * 4], "does not end as it should"),
    "half a character": (BLOCK_LINE, BLOCK_LINE[:-1], "a block of the page's data is damaged"),
    "an empty line in a block": (BLOCK_LINE, b"\n" + BLOCK_LINE, "does not end as it should"),
    "other than base64": (BLOCK_LINE, b"*" + BLOCK_LINE[1:], "a block of the page's data is damaged"),
    "other than gzip": (BLOCK_LINE, base64.b64encode(b"plain text"), "a block of the page's data is damaged"),
    "more after gzip": (BLOCK_LINE, BLOCK_LINE + b"\n" + BLOCK_LINE, "does not end as it should"),
    "other than JSON": (BLOCK, block(b'{"_col":"users"}\nx\n'), "users: a line of the page's data is not one"),
    "another tag": (BLOCK, block(b'{"_col":"users2"}\n' * 2), "users: a line of the page's data is not one"),
    "half a document": (BLOCK, block(b'{"_col":"users"}\n{"_col":"users"}')[:-1], "damaged|middle of a document"),
    "a block outside": (SECTION, SECTION + BLOCK, "holds documents outside a collection's section"),
    "a row outside": (SECTION, SECTION + b'<tbody class="record">\n', "holds documents outside"),
    "no end of a section": (b"</section><!-- collection -->\n", b"", "users: a line of the page's data is not one"),
    "no end": (b"</html>\n", b"", "it was cut short or changed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_page_that_was_edited_and_sealed_anew_contradicts_itself(change: str) -> None:
    before, after, says = CHANGES[change]
    assert before in SMALL
    changed = resealed(SMALL.replace(before, after, 1))
    if says is None:
        assert HTML.count(io.BytesIO(changed)) == Counter(users=2, events=1)
    else:
        assert re.search(says, refused(changed))


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"<!doctype html>\n", b"[\n]\n", bytes(3_000_000)])
def test_what_is_no_page_is_refused(content: bytes) -> None:
    refused(content)
    refused(resealed(content))


def test_text_that_unpacks_to_more_than_a_document_can_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_data, "_LONGEST_DOCUMENT", 1 << 20)
    bomb = resealed(SMALL.replace(BLOCK, block(b'{"_col":"users"' + b" " * (4 << 20) + b"}\n"), 1))
    assert "larger than a document can be" in refused(bomb)


def test_other_documents_than_the_survey_saw_are_refused() -> None:
    survey = HTML.survey(OPTIONS)
    survey.see("c", piece({"_id": 1}, {"_id": 2}))
    survey.see("d", piece({"_id": 1}))
    writer = HTML.writer(Memory(), OPTIONS, survey)
    writer.write("c", piece({"_id": 1}))
    with pytest.raises(IncompleteError, match=r"^c: fewer or more documents came than were seen before; retry$"):
        writer.end_collection()
    writer = HTML.writer(Memory(), OPTIONS, survey)
    writer.write("c", piece({"_id": 1}, {"_id": 2}))
    writer.end_collection()
    with pytest.raises(IncompleteError, match=r"^d: fewer or more documents"):
        writer.close()


def test_what_is_not_bson_is_refused_and_says_where_but_not_what() -> None:
    damaged = raw(raw_bson.document((2, b"secret", raw_bson.string(b"my text \xff"))))
    with pytest.raises(EncodingError) as raised:
        page({"c": [damaged]}, ABOUT)
    assert str(raised.value) == """collection 'c': field "secret" holds text that is not valid UTF-8"""


# Memory stays flat


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)


def _peak(times: int, part: Piece) -> int:
    survey = HTML.survey(OPTIONS, ABOUT)
    for _ in range(times):
        survey.see("users1", part)
    tracemalloc.start()
    writer = HTML.writer(_Nowhere(), OPTIONS, survey, ABOUT)
    for _ in range(times):
        writer.write("users1", part)
    writer.end_collection()
    writer.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_documents() -> None:
    part = piece(*({"_id": n, "ls": FEBRUARY + n, "text": f"{n:0900}"} for n in range(1000)))
    _peak(1, part)
    assert _peak(40, part) < 1.25 * _peak(8, part)


def test_the_survey_keeps_nothing_of_the_documents() -> None:
    survey = HTML.survey(OPTIONS, ABOUT)
    for n in range(3000):
        survey.see("users1", piece({"_id": n, "ls": FEBRUARY + n * 60, f"name{n}": "x"}))
    assert len(survey.held) == 1
    assert survey.months == {2026 * 12 + 1: 3000}


def test_reading_back_takes_little_memory() -> None:
    part = piece(*({"_id": n, "text": hashlib.sha256(b"%d" % n).hexdigest() * 30} for n in range(2000)))
    data = page({"c": [part] * 10})
    tracemalloc.start()
    assert HTML.count(io.BytesIO(data)) == Counter(c=20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < len(part.data) * 10


# What it shows


def test_the_head_says_who_asked_when_and_what_is_held_and_what_for() -> None:
    text = Reader(page({"users1": [piece({"_id": 1, "ls": FEBRUARY})], "events1": [piece({"a": 1})] * 3}, ABOUT)).text
    assert "Everything that was found about you, in one file: 4 records in 2 of the 3 places that were searched" in text
    assert "True as of1 March 2026, 09:31 UTC" in text
    assert "Asked for on1 March 2026, 09:30 UTC" in text
    assert "Asked for byAnn & Bob" in text
    assert "Accountu<1>" in text
    assert "Profile 1 record To know you. Users 1 Kept: 2 years From: You " in text
    assert "Usage 3 records To <improve>. Events 3 " in text
    assert "Diagnostics nothing held To mend errors. Crash users nothing held " in text
    assert text.index("Usage 3 records") < text.index("Diagnostics nothing held")
    assert "app users1" not in text
    assert "Technical name: users1" in text


def test_without_knowing_what_it_is_about_the_page_says_what_it_holds() -> None:
    text = Reader(page({"users1": [piece({"_id": 1})]})).text
    assert "Everything that was found, in one file: 1 record in 1 place." in text
    assert "Asked for" not in text
    assert "Nothing is held" in Reader(page({})).text
    assert "0 records in 0 of the 3 places" in Reader(page({}, ABOUT)).text


def test_a_page_that_was_narrowed_does_not_claim_to_be_everything() -> None:
    whole = Reader(page({}, ABOUT)).text
    part = Reader(page({}, replace(ABOUT, narrowed_by=("since", "exclude_collections")))).text
    assert "Everything that was found about you" in whole
    assert "Everything" not in part
    assert "More may be held than is shown here: the request was narrowed by since, exclude collections." in part


def test_many_uids_are_not_all_named() -> None:
    about = About("r", "a", tuple(f"u{n}" for n in range(40)), "x", ABOUT.read_at, ABOUT.read_at, {})
    assert "u10, u11 and 28 more" in Reader(page({}, about)).text


def test_of_a_large_collection_the_first_rows_are_shown_and_the_page_says_so() -> None:
    data = page({"users1": [piece(*({"_id": n} for n in range(1234)))]}, ABOUT)
    text = Reader(data).text
    assert "The table shows the first 200 of 1,234 records. The other 1,034 are in this page too" in text
    assert len(Reader(data).texts("tbody", "record")) == 200
    assert len(lines(data)) == 1234


def test_rows_have_a_budget_of_bytes_and_one_is_always_shown() -> None:
    large = [{"_id": n, "text": "x" * 100_000} for n in range(9)]
    assert len(Reader(page({"c": [piece(*large)]})).texts("tbody", "record")) == 2
    assert html.MOST_ROW_BYTES < 1 << 20
    assert len(Reader(page({"c": [piece({"t": "x" * (1 << 20)}), piece({"a": 1})]})).texts("tbody", "record")) == 1


@pytest.mark.parametrize(
    ("value", "text", "kind"),
    [
        ("text", "text", "text"),
        (5, "5", "number"),
        (bson.Int64(2**63 - 1), "9223372036854775807", "number"),
        (0.1, "0.1", "number"),
        (float("nan"), "NaN", "number"),
        (bson.Decimal128("1.10"), "1.10", "number"),
        (bson.Decimal128("1E+6144"), f"1.{'0' * 33}E+6144", "number"),
        (True, "yes", "text"),
        (False, "no", "text"),
        (None, "empty", "nothing"),
        ([], "empty", "nothing"),
        ({}, "empty", "nothing"),
        (datetime(2026, 1, 30, 21, 9, 27, 500_000, tzinfo=UTC), "2026-01-30 21:09:27", "time"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01 00:00:00", "time"),
        (DatetimeMS(253_402_300_800_000), '{"$date":{"$numberLong":"253402300800000"}}', "code"),
        (bson.ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567", "code"),
        (b"abc", "binary data, 3 bytes", "code"),
        (bson.Binary(bytes(16), 4), "00000000-0000-0000-0000-000000000000", "code"),
        (bson.Timestamp(1, 2), '{"$timestamp":{"t":1,"i":2}}', "code"),
        (["travel", "sport"], "travel, sport", "nested"),
        (
            {"plan": "free", "news": False, "tags": [1, {"a": None}]},
            "plan: free, news: no, tags: [1, {a: empty}]",
            "nested",
        ),
        ("x" * 1000, "x" * 160 + "…", "text"),
        (list(range(1000)), ", ".join(map(str, range(1000)))[:160] + "…", "nested"),
    ],
)
def test_values_are_shown_so_that_people_can_read_them(value: Any, text: str, kind: str) -> None:
    found = Reader(page({"c": [piece({"v": value})]}))
    (cell,) = [(attributes, texts) for tag, attributes, texts in found.found if tag == "td" and "class" in attributes]
    assert (cell[0]["class"] or "").split()[0] == kind
    assert "".join(cell[1] or found.texts("time")).rstrip() == text


def test_the_time_comes_first_the_id_last_and_numbers_of_the_time_field_are_dates() -> None:
    found = Reader(page({"users1": [piece({"_id": 1, "a": 2, "ls": FEBRUARY, "ts": FEBRUARY})]}, ABOUT))
    assert found.texts("time") == ["2026-02-02 02:40:00"]
    assert [a.get("datetime") for tag, a, _ in found.found if tag == "time"] == ["2026-02-02T02:40:00.000Z"]
    headers = [a for tag, a, _ in found.found if tag == "th" and a.get("scope") == "col"]
    assert len(headers) == 2 + 5  # of the chart's table, then: number, time, a, ts, _id
    cells = [a.get("data-key") for tag, a, _ in found.found if tag == "td" and "class" in a and a["class"] != "number"]
    assert cells[0] == str(FEBRUARY * 1000)


def test_columns_are_those_that_most_documents_have_and_the_rest_is_not_lost() -> None:
    stored = [{"_id": n, f"only{n}": n, **{f"f{i}": i for i in range(14)}} for n in range(20)]
    found = Reader(page({"c": [piece(*stored)]}))
    names = found.texts("bdi")
    assert "f0" in names
    assert not any(name.startswith("only") for name in names)
    nested = found.texts("td", "nested")
    assert nested[3] == "only3: 3, f11: 11, f12: 12, f13: 13"


def test_a_whole_document_is_there_line_by_line() -> None:
    (whole,) = Reader(page({"c": [piece({"_id": 1, "a": {"b": [1, "x,{}"], "c": {}}})]})).texts("pre")
    assert whole == '{\n  "_id": 1,\n  "a": {\n    "b": [\n      1,\n      "x,{}"\n    ],\n    "c": {}\n  }\n}'


# Hostile data


def test_nothing_in_the_data_becomes_markup() -> None:
    stored: list[dict[str, Any]] = [{"_id": n, "text": text, "in": [[text]]} for n, text in enumerate(HOSTILE)]
    named = [{name: "value"} for name in NAMES]
    about = About(
        *("<r>", "<a>", ("<u>",), "<by>", ABOUT.read_at, ABOUT.read_at),
        {"c": CollectionAbout(*["<x>&\"'"] * 6), "none": CollectionAbout(*["<script>"] * 6)},
    )
    data = page({"c": [piece(*stored), piece(*named)], "<d>": [piece({"a": 1})]}, about)
    found = Reader(data)
    harmless = page({"c": [piece({"text": "a", "in": {"b": 1}})]}, ABOUT)
    assert {tag for tag, _, _ in found.found} <= {tag for tag, _, _ in Reader(harmless).found} | {"small"}
    assert not {name for _, attributes, _ in found.found for name in attributes if name.startswith("on")}
    assert all(
        value.startswith("#")
        for _, a, _ in found.found
        for name, value in a.items()
        if name == "href" and value and not value.startswith("data:image/svg+xml,")
    )
    shown_texts = {text.partition(" (")[0] for text in found.texts("td", "text")}
    for text in HOSTILE:
        if 0 < len(text) < 160:
            assert shown(text) in shown_texts
    assert not set(data.decode()) & set("\0\x1f\x7f\x85\r\u2028\u202e\ufffe\uffff")
    assert HTML.count(io.BytesIO(data)) == Counter({"c": len(stored) + len(named), "<d>": 1})


def test_control_characters_are_shown_as_what_they_are() -> None:
    assert shown("a\0b\r\u202ec\x85\ud800\ufffe é😀\n\t") == "a␀b␍\\u202ec\\x85\\ud800\\ufffe é😀\n\t"


def test_lone_surrogates_that_old_drivers_stored_are_kept() -> None:
    stored = raw_bson.document((2, b"t\xed\xa0\x80", raw_bson.string(b"x\xed\xb0\x80y")))
    data = page({"c": [raw(stored)]})
    assert lines(data) == [("c", b'{"_col":"c","t\\ud800":"x\\udc00y"}')]
    assert Reader(data).texts("td", "text") == ["x\\udc00y"]


def test_a_document_of_16_mb_is_shown_short_and_held_whole() -> None:
    stored = {"_id": 1, "text": "äß" * 4_000_000, "list": ["x" * 100] * 1000}
    data = page({"c": [piece(stored)]})
    assert len(data) < 200_000
    assert "(8,000,000 characters in all)" in Reader(data).text
    assert "This record is large (16.1 MB)" in Reader(data).text
    ((_, line),) = lines(data)
    assert json_util.loads(line.decode())["text"] == stored["text"]


def test_a_hundred_levels_of_nesting() -> None:
    data = page({"c": [raw(raw_bson.nested(100))]})
    assert Reader(data).texts("td", "nested")[0].startswith("a: {a: {a: {a: ")
    assert lines(data)[0][1].count(b'{"a":') == 99
    assert Reader(data).texts("pre")[0].count('"a": {') == 100


def test_names_without_end_make_no_columns() -> None:
    parts = [piece({"_id": n, **{f"key{n}_{i}": i for i in range(1000)}}) for n in range(200)]
    data = page({"c": parts})
    heads = [a for tag, a, _ in Reader(data).found if tag == "th" and a.get("scope") == "col"]
    assert len(heads) <= 14
    assert sum(line.count(b'"key') for _, line in lines(data)) == 200_000


# Nothing is loaded, and nothing runs but the page's own script


def test_the_policy_allows_only_the_pages_own_script_and_style() -> None:
    found = Reader(page({"c": [piece({"_id": 1})]}, ABOUT))
    (policy,) = [a["content"] for tag, a, _ in found.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    (style,) = found.texts("style")
    (script,) = ["".join(text) for tag, a, text in found.found if tag == "script" and not a]
    for content, rule in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not [a for _, a, _ in found.found if "style" in a]
    assert not [a for tag, a, _ in found.found if "src" in a]


# Time


def test_the_chart_tells_documents_by_month() -> None:
    users = [{"_id": n, "ls": FEBRUARY + n * 30 * DAY} for n in range(4)]
    events: list[dict[str, Any]] = [
        {"_id": 1, "at": {"day": datetime(2025, 12, 1, tzinfo=UTC)}},
        {"_id": 2, "at": 5},
        {"_id": 3},
    ]
    found = Reader(page({"users1": [piece(*users)], "events1": [piece(*events)]}, ABOUT))
    assert "Records by month; 2 of 7 carry no time" in found.text
    assert [text for text in found.texts("title") if "2026" in text or "2025" in text] == [
        "December 2025: 1 record",
        "February 2026: 1 record",
        "March 2026: 1 record",
        "April 2026: 1 record",
        "May 2026: 1 record",
    ]
    assert "5 records from December 2025 to May 2026" in found.text
    assert "from 1 December 2025 to 3 May 2026" in found.text


@pytest.mark.parametrize(
    ("value", "unit", "moment"),
    [
        (5, "s", 5000),
        (5.5, "s", 5500),
        (bson.Int64(5), "ms", 5),
        (bson.Decimal128("2"), "s", 2000),
        ([7, 8], "s", 7000),
        ([], "s", None),
        (DatetimeMS(5), "date", 5),
        (DatetimeMS(5), "s", None),
        (5, "date", None),
        (True, "s", None),
        ("5", "s", None),
        (None, "s", None),
        (5, None, None),
        (float("nan"), "s", None),
        (float("inf"), "ms", None),
        (bson.Decimal128("NaN"), "s", None),
        (bson.Decimal128("sNaN"), "s", None),
        (bson.Decimal128("1E+6144"), "s", None),
        (2**62, "s", None),
        (-(2**62), "ms", None),
    ],
)
def test_what_counts_as_a_moment(value: Any, unit: str | None, moment: int | None) -> None:
    assert milliseconds(value, unit) == moment


@pytest.mark.parametrize(
    ("first", "last", "unit", "bars"),
    [
        ((2026, 1), (2026, 1), "month", 1),
        ((2022, 1), (2026, 12), "month", 60),
        ((2022, 1), (2027, 1), "year", 6),
        ((1970, 1), (2026, 1), "year", 57),
        ((1815, 1), (2026, 1), "decade", 22),
        ((1, 1), (2026, 1), "century", 21),
        ((1, 1), (9999, 12), "millennium", 10),
    ],
)
def test_the_bars_are_never_too_many(first: tuple[int, int], last: tuple[int, int], unit: str, bars: int) -> None:
    moments = [int(datetime(*at, 1, tzinfo=UTC).timestamp() * 1000) for at in (first, last)]
    found = spans(Counter(map(month_of, moments)))
    assert (found.unit, len(found.bars), sum(bar.documents for bar in found.bars)) == (unit, bars, 2)


def test_bars_stay_within_the_drawing() -> None:
    drawn = chart({24_300: 7, 24_303: 9_999_999, 24_305: 1})
    assert drawn
    for placed in drawn.bars:
        assert drawn.left <= placed.x <= placed.x + placed.width <= drawn.right
        assert 0 <= placed.y <= placed.y + placed.height <= drawn.bottom + 0.1
    assert [placed.height > 0 for placed in drawn.bars] == [True, False, False, True, False, True]
    assert 2 <= len(drawn.lines) <= 6
    assert chart({}) is None


def test_the_shared_harness_writes_the_same_page() -> None:
    collections = {"c": [piece({"_id": 1})], "nothing": []}
    assert written(HTML, collections) == page(collections)
    assert issubclass(EncodingError, ExportPipelineError)
