"""What must not leave does not leave, and all else keeps its bytes."""

import hmac
from collections.abc import Callable
from struct import pack
from typing import Any

import bson
import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from export_pipeline.catalog.model import Mask
from export_pipeline.errors import IncompleteError
from export_pipeline.slices.redact import Redactor
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.raw_bson import Element, code_with_scope, document, nested, string

KEY = b"the key of one export"
OWN = ["me", "older me"]

Doc = dict[str, Any]


def hashed(value: Any) -> str:
    encoded = bson.encode({"": value})
    return "sha256:" + hmac.new(KEY, encoded[4:5] + encoded[6:-1], "sha256").hexdigest()[:32]


def redact(stored: Doc, exclude: list[str], masks: dict[str, Mask]) -> tuple[Doc, dict[str, int]]:
    redacted, hits = Redactor(exclude, masks, KEY).apply(bson.encode(stored), OWN)
    return bson.decode(redacted), hits


# Excluded fields


@pytest.mark.parametrize(
    ("path", "stored", "left", "count"),
    [
        ("a", {"a": 1, "b": 2}, {"b": 2}, 1),
        ("a", {"b": {"a": 1}, "c": [{"a": 1}]}, None, 0),
        ("a", {"a": None}, {}, 1),
        ("a", {"a": ["me", {"b": 1}]}, {}, 1),
        ("a.b", {"a": {"b": {"c": 1}, "c": 2}}, {"a": {"c": 2}}, 1),
        ("a.b", {"a": {"b": 1}}, {"a": {}}, 1),
        ("a.b", {"a": 1, "b": 2}, None, 0),
        ("a.b", {"a": [{"b": 1}, {"c": 2}, 3, {"b": 4}]}, {"a": [{}, {"c": 2}, 3, {}]}, 2),
        ("a.b", {"a": [[{"b": 1}], [[{"b": [2], "c": 3}]]]}, {"a": [[{}], [[{"c": 3}]]]}, 2),
        ("a.b.c", {"a": [{"b": [{"c": 1, "d": 2}]}, {"b": {"c": 3}}]}, {"a": [{"b": [{"d": 2}]}, {"b": {}}]}, 2),
        ("a.b", {"a.b": 1, "a": {"a.b": 2, "b.": 3}}, None, 0),
        ("a.0", {"a": ["x", "y"]}, None, 0),
        ("a.0", {"a": {"0": "x"}}, {"a": {}}, 1),
        ("a", {"aa": 1, "A": 2, "": 3, "b": "a", "c": Code("a", {"a": 4})}, None, 0),
        ("ä", {"ä": 1}, {}, 1),
    ],
)
def test_an_excluded_field_is_removed_wherever_its_path_leads(
    path: str, stored: Doc, left: Doc | None, count: int
) -> None:
    assert redact(stored, [path], {}) == (stored if left is None else left, {path: count} if count else {})


# Masks


@pytest.mark.parametrize(
    ("mask", "value", "left"),
    [
        ("drop", ["x", "me", 7, None, {"uid": "me"}, "y", "older me"], ["me", None, "older me"]),
        ("drop", [["x"], ["me", ["x", "me"]], []], [[], ["me", ["me"]], []]),
        ("last4", "anna-4711", "…4711"),
        ("last4", "12345", "…2345"),
        ("last4", "1234", "…"),
        ("last4", "", "…"),
        ("last4", "Zoë-ünïç😀", "…nïç😀"),
        ("last4", 123456, "…3456"),
        ("last4", Int64(2**62), "…7904"),
        ("last4", Int64(-9), "…"),
        ("last4", ["anna-4711", 1.5, ObjectId(), {"uid": "x"}, True, "me", [b"x"]], ["…4711", "me", []]),
        ("last4", "mee", "…"),
        ("hash", "anna", hashed("anna")),
        ("hash", 7, hashed(7)),
        ("hash", {"uid": "me"}, hashed({"uid": "me"})),
        ("hash", ["me", "anna", ["anna"], None], ["me", hashed("anna"), [hashed("anna")], None]),
        ("hash", MinKey(), hashed(MinKey())),
        ("hash", "", hashed("")),
        ("hash", [], []),
    ],
)
def test_a_mask_replaces_what_is_not_the_persons_own(mask: Mask, value: Any, left: Any) -> None:
    stored = {"before": 1, "uid": value, "after": "anna-4711"}
    assert redact(stored, [], {"uid": mask})[0] == {**stored, "uid": left}


@pytest.mark.parametrize("value", ["anna", 7, {"uid": "me"}, 1.5, b"me", Regex("me"), Code("me")])
def test_what_a_mask_drops_is_removed(value: Any) -> None:
    assert redact({"uid": value, "b": 1}, [], {"uid": "drop"}) == ({"b": 1}, {"uid": 1})
    if not isinstance(value, str | int):
        assert redact({"uid": value, "b": 1}, [], {"uid": "last4"}) == ({"b": 1}, {"uid": 1})


@pytest.mark.parametrize("mask", ["hash", "last4", "drop"])
@pytest.mark.parametrize("value", ["me", "older me", None, ["me", [None, "me"]], [], [[]]])
def test_a_mask_spares_the_persons_own_ids_and_nulls(mask: Mask, value: Any) -> None:
    assert redact({"to": [{"uid": value}]}, [], {"to.uid": mask}) == ({"to": [{"uid": value}]}, {})


def test_undefined_is_spared_and_other_types_with_the_text_of_an_own_id_are_not() -> None:
    stored = document((0x06, b"uid", b""), (0x0E, b"uid", string(b"me")), (0x0D, b"uid", string(b"me")))
    assert Redactor([], {"uid": "last4"}, KEY).apply(stored, OWN) == (document((0x06, b"uid", b"")), {"uid": 2})


def test_the_items_of_an_array_are_numbered_anew_where_some_are_gone() -> None:
    uids = [str(number) for number in range(30)]
    redacted, hits = Redactor([], {"uid": "drop"}, KEY).apply(bson.encode({"uid": uids}), uids[20:])
    assert (redacted, hits) == (bson.encode({"uid": uids[20:]}), {"uid": 20})
    odd = document((0x04, b"uid", document((0x02, b"7", string(b"me")), (0x02, b"", string(b"me")))))
    assert Redactor([], {"uid": "drop"}, KEY).apply(odd, OWN) == (odd, {})


def test_hashes_are_equal_for_equal_values_of_one_type_and_one_export() -> None:
    stored = bson.encode({"uid": ["7", "7", 7, Int64(7)]})
    first, second, number, long = bson.decode(Redactor([], {"uid": "hash"}, KEY).apply(stored, OWN)[0])["uid"]
    assert first == second
    assert len({first, number, long}) == 3
    assert first not in bson.decode(Redactor([], {"uid": "hash"}, b"another").apply(stored, OWN)[0])["uid"]


def test_hits_are_counted_by_path() -> None:
    stored = {"uid": ["me", "x", ["y"]], "to": [{"uid": "z", "secret": [1, 2]}, {"uid": "me", "secret": 3}], "b": 1}
    left, hits = redact(stored, ["to.secret", "c"], {"uid": "drop", "to.uid": "last4", "b.c": "drop"})
    assert left == {"uid": ["me", []], "to": [{"uid": "…"}, {"uid": "me"}], "b": 1}
    assert hits == {"uid": 2, "to.secret": 2, "to.uid": 1}


@pytest.mark.parametrize(
    ("exclude", "masks", "left"),
    [
        (["a", "a.b"], {}, {"c": 1}),
        (["a.b", "a"], {}, {"c": 1}),
        (["a"], {"a": "hash", "a.b": "hash"}, {"c": 1}),
        (["a.b"], {"a": "drop"}, {"c": 1}),
        (["a.b", "a.b.c"], {"a.b": "last4"}, {"a": {"d": "me"}, "c": 1}),
    ],
)
def test_of_two_rules_one_inside_the_other_the_outer_is_applied(
    exclude: list[str], masks: dict[str, Mask], left: Doc
) -> None:
    assert redact({"a": {"b": {"c": "me"}, "d": "me"}, "c": 1}, exclude, masks)[0] == left


def test_every_occurrence_of_a_repeated_key_is_redacted() -> None:
    def stored(name: bytes) -> Element:
        return 0x03, b"a", document((0x02, name, string(b"x")), (0x10, b"c", pack("<i", 1)), (0x02, name, string(b"y")))

    bare = (0x03, b"a", document((0x10, b"c", pack("<i", 1))))
    assert Redactor(["a.b"], {}, KEY).apply(document(stored(b"b"), stored(b"b")), OWN) == (
        document(bare, bare),
        {"a.b": 4},
    )


def test_damaged_text_is_masked_too() -> None:
    stored = document((0x02, b"uid", string(b"anna\xff\xed\xa0\x80")))
    assert bson.decode(Redactor([], {"uid": "last4"}, KEY).apply(stored, OWN)[0]) == {"uid": "…" + "\ufffd" * 4}


# Properties

NAMES = ["a", "b", "c", "0"]
PATHS = ["a", "b", "a.b", "a.a.b", "b.c", "c.0", "c.a"]
RULES = st.dictionaries(
    st.sampled_from(PATHS), st.sampled_from(["exclude", "hash", "last4", "drop"]), min_size=1, max_size=3
).filter(lambda rules: not any(path.startswith(f"{outer}.") for path in rules for outer in rules))
FOREIGN = ["<somebody else>", "<a third person>", "<4711>"]
VALUES = st.recursive(
    st.sampled_from([*OWN, *FOREIGN, "", None, True, 7, 123456, Int64(-(2**40)), 1.5, b"me", ObjectId(b"0123456789ab")])
    | st.sampled_from(
        [Decimal128("1.10"), Regex("^me", "i"), Code("me"), Code("me", {"a": 1}), Timestamp(1, 2), MaxKey()]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
GONE = object()


def redactor_of(rules: dict[str, str]) -> Redactor:
    masks: Any = {path: rule for path, rule in rules.items() if rule != "exclude"}
    return Redactor([path for path in rules if path not in masks], masks, KEY)


def expected(value: Any, path: list[str], rule: str) -> Any:
    """What a rule makes of a decoded value."""
    if not path and rule == "exclude":
        return GONE
    if isinstance(value, list):
        return [new for item in value if (new := expected(item, path, rule)) is not GONE]
    if path:
        if not isinstance(value, dict):
            return value
        fields = {name: expected(v, path[1:], rule) if name == path[0] else v for name, v in value.items()}
        return {name: v for name, v in fields.items() if v is not GONE}
    if value is None or (isinstance(value, str) and not isinstance(value, Code) and value in OWN):
        return value
    if rule == "hash":
        return hashed(value)
    if rule == "last4" and isinstance(value, str | int) and not isinstance(value, bool | Code):
        return "…" + str(value)[-4:] if len(str(value)) > 4 else "…"
    return GONE


@given(DOCUMENTS, RULES)
def test_the_result_is_that_of_redacting_the_decoded_document(stored: Doc, rules: dict[str, str]) -> None:
    want = stored
    for path, rule in rules.items():
        want = expected(want, path.split("."), rule)
    redacted, hits = redactor_of(rules).apply(bson.encode(stored), OWN)
    assert redacted == bson.encode(want)
    assert bson.decode(redacted) == bson.decode(bson.encode(want))
    assert set(hits) <= set(rules)
    assert bool(hits) == (redacted != bson.encode(stored))


@given(raw_bson.documents())
def test_rules_that_hit_nothing_change_nothing(stored: bytes) -> None:
    # The last key makes sure that the document is read at all.
    stored = stored[4:-1] + b"\x10path\0" + pack("<i", 1)
    stored = pack("<i", len(stored) + 5) + stored + b"\0"
    redacted, hits = Redactor(["nothing", "path.to", "d.e"], {"path.a": "drop", "x": "hash"}, KEY).apply(stored, OWN)
    assert (redacted, hits) == (stored, {})


def test_a_document_without_a_trace_of_any_path_is_not_even_read() -> None:
    for stored in (bson.encode({"a": {"c": 1}}), b"no BSON at all"):
        assert Redactor(["x", "y.a"], {"z.c": "hash"}, KEY).apply(stored, OWN)[0] is stored
        assert Redactor([], {}, KEY).apply(stored, OWN)[0] is stored


Place = Callable[..., bytes]
"""A document around fields at ``to``, of which some may have several such, in arrays or not."""


@st.composite
def places(draw: st.DrawFn) -> Place:
    """Any neighbours: repeated keys, deprecated types, keys that look like paths."""
    neighbours = st.lists(
        st.tuples(st.just(0x03), st.sampled_from([b"x", b"to.uid", b""]), raw_bson.documents())
        | st.sampled_from(
            [
                (0x06, b"x", b""),
                (0x0C, b"x", string(b"ns") + b"0123456789ab"),
                (0x0E, b"x", string(b"uid\0")),
                (0x0F, b"x", code_with_scope(b"to", document((0x02, b"uid", string(b"x"))))),
                (0x0B, b"x", b"to\0i\0"),
            ]
        ),
        max_size=3,
    )
    before, after, outer_before, between, outer_after = (draw(neighbours) for _ in range(5))
    arrays, times = draw(st.integers(0, 3)), draw(st.integers(1, 2))

    def around(*fields: Element) -> bytes:
        kind, value = 0x03, document(*before, *fields, *after)
        for _ in range(arrays):
            kind, value = 0x04, document((kind, b"0", value), (0x06, b"1", b""))
        return document(*outer_before, *[(kind, b"to", value), *between] * times, *outer_after)

    return around


def text(value: str) -> Element:
    return 0x02, b"uid", string(value.encode())


@given(places(), st.text(st.characters(exclude_categories=["Cs"]), min_size=12).map("<{}>".format))
@example(lambda *fields: document((0x03, b"to", document(*fields))), "<somebody else>")
def test_only_the_redacted_value_changes_and_it_is_gone(place: Place, foreign: str) -> None:
    stored = place(text("me"), text(foreign))
    alternatives: list[tuple[str, list[Element]]] = [
        ("exclude", []),
        ("drop", [text("me")]),
        ("last4", [text("me"), text("…" + foreign[-4:])]),
        ("hash", [text("me"), text(hashed(foreign))]),
    ]
    for rule, fields in alternatives:
        redacted, hits = redactor_of({"to.uid": rule}).apply(stored, OWN)
        assert redacted == place(*fields)
        assert foreign.encode() not in redacted
        assert hits["to.uid"] in ((2, 4) if rule == "exclude" else (1, 2))


@given(DOCUMENTS, st.sampled_from(["a", "b", "c"]), st.sampled_from(["exclude", "hash", "last4", "drop"]))
def test_no_foreign_string_is_left_under_a_redacted_field(stored: Doc, name: str, rule: str) -> None:
    redacted, _ = redactor_of({name: rule}).apply(bson.encode({name: stored.get(name, FOREIGN)}), OWN)
    assert not any(foreign.encode() in redacted for foreign in FOREIGN)


# Depth


def arrays(levels: int, kind: int, value: bytes) -> bytes:
    """A document whose field ``a`` holds an array in an array …, so many levels deep, around one value."""
    size = 8 + len(value)  # of the innermost
    heads = [pack("<i", size + 8 * level) + b"\x04" + b"0\0" for level in range(levels - 1, 0, -1)]
    array = b"".join(heads) + document((kind, b"0", value)) + b"\0" * (levels - 1)
    return document((0x04, b"a", array))


def test_deep_nesting_is_followed() -> None:
    assert Redactor([".".join("a" * 200)], {}, KEY).apply(nested(200), OWN)[0] == nested(199)
    redacted, _ = Redactor([], {"a": "last4"}, KEY).apply(arrays(200, 0x02, string(b"somebody")), OWN)
    assert redacted == arrays(200, 0x02, string("…body".encode()))


def test_absurd_nesting_is_refused_where_it_would_have_to_be_followed() -> None:
    deep = arrays(10_000, 0x02, string(b"somebody"))
    for redactor in (Redactor([], {"a": "drop"}, KEY), Redactor(["a.b"], {}, KEY)):
        with pytest.raises(IncompleteError, match="nested deeper than 256 levels"):
            redactor.apply(deep, OWN)
    assert Redactor(["a"], {}, KEY).apply(deep, OWN) == (document(), {"a": 1})
    assert Redactor(["0"], {}, KEY).apply(deep, OWN) == (deep, {})


# Damage

UID = (0x02, b"uid", string(b"somebody"))


@pytest.mark.parametrize(
    "damaged",
    [
        b"uid\0",
        document(UID) + b"\0",
        document(UID)[:-1],
        document(UID)[:-1] + b"\1",
        pack("<i", -1) + document(UID)[4:],
        document((0x02, b"uid", pack("<i", 0) + b"somebody\0")),
        document((0x02, b"uid", pack("<i", -9) + b"somebody\0")),
        document((0x02, b"uid", pack("<i", 100) + b"somebody\0")),
        document((0x02, b"uid", pack("<i", 8) + b"somebody\0")),
        document(UID, (0x02, b"b", b"\1")),
        document(UID, (0x14, b"b", b"")),
        document(UID, (0x00, b"b", b"")),
        document(UID, (0x05, b"b", pack("<iB", -1, 0))),
        document(UID, (0x07, b"b", b"short")),
        document(UID, (0x0B, b"b", b"no end")),
        document((0x03, b"uid", pack("<i", 6) + b"\0\0"), (0x03, b"b", pack("<i", 4))),
        document((0x04, b"uid", pack("<i", 8) + b"\x0a0\0\1")),
        document(UID, (0x0A, b"b", b""))[:-2] + b"b\0",
    ],
)
def test_what_is_not_bson_is_refused_without_naming_values(damaged: bytes) -> None:
    with pytest.raises(IncompleteError, match="not valid BSON") as raised:
        Redactor([], {"uid": "hash"}, KEY).apply(damaged, OWN)
    assert "somebody" not in str(raised.value)
    assert raised.value.__context__ is None


@given(DOCUMENTS, RULES, st.data())
def test_damage_raises_nothing_else(stored: Doc, rules: dict[str, str], data: st.DataObject) -> None:
    damaged = bytearray(bson.encode(stored))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        redacted, _ = redactor_of(rules).apply(bytes(damaged), OWN)
    except IncompleteError:
        return
    assert len(redacted) == int.from_bytes(redacted[:4], "little") or redacted == damaged
