"""Documents that break exports elsewhere, and what they are to look like where PyMongo cannot say it.

``_id`` and ``uid`` stand first in each, so that a server takes it and an export finds it.
"""

from dataclasses import dataclass, field
from struct import pack
from typing import Any

import bson
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, Regex, Timestamp

from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.raw_bson import Element, document, nested, string

OID = bytes(range(12))
OID_HEX = OID.hex()


@dataclass(frozen=True)
class Case:
    """A document's fields after ``_id`` and ``uid`` as raw BSON; for the rest see ``odd``."""

    fields: bytes
    canonical: str = ""
    relaxed: str = ""
    row: dict[str, str] = field(default_factory=dict)
    dotted: dict[str, str] = field(default_factory=dict)

    def document(self, number: int) -> bytes:
        """Return the whole document, with a number for its id."""
        head = document((0x10, b"_id", pack("<i", number)), (0x02, b"uid", string(b"a")))[4:-1]
        content = head + self.fields
        return pack("<i", len(content) + 5) + content + b"\0"


def usual(**fields: Any) -> Case:
    """Return what PyMongo can say, so that nothing else need be said of it."""
    return named(fields)


def named(fields: dict[str, Any]) -> Case:
    """Return fields of any names."""
    return Case(bson.encode(fields)[4:-1])


def odd(
    *elements: Element,
    canonical: str,
    relaxed: str = "",
    row: dict[str, str],
    dotted: dict[str, str] | None = None,
) -> Case:
    r"""Return what PyMongo cannot say, with what is to be read.

    >>> case = odd((0x06, b"v", b""), canonical='"v": {"$undefined": true}', row={"v": '{"$undefined":true}'})
    >>> case.relaxed
    '"v": {"$undefined": true}'

    That is the fields as they stand in canonical and, if they differ there, in relaxed Extended JSON; the cells of a
    spreadsheet's row, and those with dotted columns if they differ.
    """
    fields = document(*elements)[4:-1]
    return Case(fields, canonical, relaxed or canonical, row, row if dotted is None else dotted)


def _at(milliseconds: int) -> bson.DatetimeMS:
    return bson.DatetimeMS(milliseconds)


SCRIPTS = [
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "</script><script>window.pwned = 1</script>",
    "]]> --> <!-- </style></title></textarea>",
    "<![CDATA[x]]>]]&gt;",
    "javascript:window.pwned=1",
    "&lt;b&gt; &amp; &#0; &#x41;",
    "<c r='A1'><f>1+1</f></c></t></is></c></row>",
    "_x0041_ _x005F_",
]
FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\uff1d1+1",
    "\uff0b1",
    "\uff0d1",
    "\uff20x",
    '=cmd|"/C calc"!A1',
    '=HYPERLINK("http://x","y")',
    "'=1",
    ' "=1+1"',
]
NAMES = [
    *("__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "__class__", "null", "undefined"),
    *("_rest", "_doc", "___doc", "__col", "_col", "x_col", "_id_", "column 0"),
    *("$", "$price", "a$b", "a.b", ".", "..", ".a", "a.", "a..b", "0", "-1", "1e5"),
    *(
        "",
        " ",
        "  ",
        "Name",
        "name",
        "NAME",
        "_Doc",
        "_DOC",
        "ÑAME",
        "ñame",
        "quo'te",
        'quo"te',
        "com,ma",
        "tab\t",
        "line\r\nbreak",
    ),
    *("<b>", "]]>", "</script>", "{{7*7}}", "%s", "\\", "\\u0000", "\u202e", "😀", "\ufeffbom", "é", "e\u0301"),
    *("x" * 200, "y" * 201, "z" * 2_000),
]

CASES: dict[str, Case] = {
    "formulas": usual(**{f"f{number}": text for number, text in enumerate(FORMULAS)}, list=FORMULAS),
    "formulas for names": named(dict.fromkeys(FORMULAS, 1) | {"inner": dict.fromkeys(FORMULAS, 1)}),
    "scripts": usual(**{f"s{number}": text for number, text in enumerate(SCRIPTS)}, list=SCRIPTS),
    "scripts for names": named(dict.fromkeys(SCRIPTS, 1) | {"inner": dict.fromkeys(SCRIPTS, 1)}),
    "names": named({name: number for number, name in enumerate(NAMES)}),
    "names inside": usual(v={name: number for number, name in enumerate(NAMES)}),
    "names in an array": usual(v=[{name: {name: [name]}} for name in NAMES]),
    "an empty name alone": named({"": "x", "v": {"": {"": ""}}}),
    "names that differ by case": named({"Name": 1, "name": "x", "NAME": None, "v": {"Name": 1, "name": "x"}}),
    "nulls in text": usual(v="a\0b", w="\0", x=["\0", "\0\0"], y={"z": "=\0"}),
    "controls in text": usual(v="".join(map(chr, range(32))) + "\x7f\x85\x9f\u2028\u2029", w="\r\n", x="\r", y="\n"),
    "text beyond the basics": usual(v="\ufeff\ufffe\uffff\U0010ffff", w="\u202eabc", x="e\u0301é😀", y=" ", z=""),
    "text that looks like something": usual(
        **{f"t{number}": text for number, text in enumerate(["NaN", "null", "true", "00123", "1e5", '{"a":1}', "1/2"])}
    ),
    "a hundred levels": Case(document((0x03, b"v", nested(100)))[4:-1]),
    "a hundred levels of arrays": Case(document((0x04, b"v", nested(100).replace(b"\x03a", b"\x040")))[4:-1]),
    "no numbers": usual(nan=float("nan"), up=float("inf"), down=float("-inf"), list=[float("nan"), float("inf")]),
    "edges of doubles": usual(z=-0.0, small=5e-324, large=1.7976931348623157e308, odd=0.1, whole=1e16, list=[-0.0]),
    "edges of integers": usual(a=2**31 - 1, b=-(2**31), c=Int64(1), d=2**53 + 1, e=-(2**63), f=2**63 - 1),
    "dates of any year": usual(
        a=_at(-(2**63)),
        b=_at(2**63 - 1),
        c=_at(-62_135_596_800_001),
        d=_at(-62_135_596_800_000),
        e=_at(253_402_300_799_999),
        f=_at(253_402_300_800_000),
        g=_at(-1),
        h=_at(-2_203_891_200_001),
        list=[_at(-(2**63)), _at(0)],
    ),
    "extreme decimals": usual(
        a=Decimal128("9.999999999999999999999999999999999E+6144"),
        b=Decimal128("-1E-6176"),
        c=Decimal128("-0E-6"),
        d=Decimal128("NaN"),
        e=Decimal128("-Infinity"),
        f=Decimal128("1.10"),
        g=Decimal128("0.1000000000000000000000000000000001"),
        h=Decimal128("0E+6111"),
    ),
    "code and binary": usual(
        a=Code("f()"),
        b=Code("f()", {"x": 1}),
        c=Binary(b"=1", 2),
        d=Binary(bytes(16), 3),
        e=Binary(bytes(16), 4),
        f=Binary(b"", 0x80),
        g=b"\0<script>",
        h=Regex("^=", "im"),
        i=Timestamp(2**32 - 1, 2**32 - 1),
        j=MinKey(),
        k=MaxKey(),
    ),
    "undefined": odd((0x06, b"v", b""), canonical='"v": {"$undefined": true}', row={"v": '{"$undefined":true}'}),
    "a symbol": odd((0x0E, b"v", string(b"=1")), canonical='"v": {"$symbol": "=1"}', row={"v": '{"$symbol":"=1"}'}),
    "a pointer": odd(
        (0x0C, b"v", string(b"db.c") + OID),
        canonical=f'"v": {{"$dbPointer": {{"$ref": "db.c", "$id": {{"$oid": "{OID_HEX}"}}}}}}',
        row={"v": f'{{"$dbPointer":{{"$ref":"db.c","$id":{{"$oid":"{OID_HEX}"}}}}}}'},
    ),
    # No text file holds half a surrogate pair, so it is shown as its escape; that of JSON says the same.
    "a lone surrogate": odd((0x02, b"v", string(b"x\xed\xa0\x80")), canonical=r'"v": "x\ud800"', row={"v": r"x\ud800"}),
    "a lone surrogate inside": odd(
        (0x03, b"v", document((0x02, b"w", string(b"\xed\xb0\x80")))),
        canonical=r'"v": {"w": "\udc00"}',
        row={"v": r'{"w":"\udc00"}'},
        dotted={"v.w": r"\udc00"},
    ),
    "a lone surrogate for a name": odd(
        (0x02, b"\xed\xa0\x80", string(b"x")), canonical=r'"\ud800": "x"', row={r"\ud800": "x"}
    ),
    # Two halves that were stored apart are one character to who reads JSON.
    "a pair of surrogates": odd(
        (0x02, b"v", string(b"\xed\xa0\xbd\xed\xb8\x80")), canonical='"v": "😀"', row={"v": r"\ud83d\ude00"}
    ),
    "the same name twice": odd(
        (0x10, b"v", pack("<i", 1)),
        (0x02, b"v", string(b"x")),
        canonical='"v": {"$numberInt": "1"}, "v": "x"',
        relaxed='"v": 1, "v": "x"',
        row={"v": "1", "_rest": '{"v":"x"}'},
    ),
    "the same name three times inside": odd(
        (0x03, b"v", document((0x02, b"w", string(b"x")), (0x0A, b"w", b""), (0x02, b"w", string(b"y")))),
        canonical='"v": {"w": "x", "w": null, "w": "y"}',
        row={"v": '{"w":"x","w":null,"w":"y"}'},
        dotted={"v.w": "x", "_rest": '{"v.w":null,"v.w":"y"}'},
    ),
    # Extended JSON has no way to say that these are no wrappers; the members stand there as they are stored.
    "names of wrappers": odd(
        (0x02, b"$oid", string(b"no id")),
        (0x10, b"$date", pack("<i", 5)),
        canonical='"$oid": "no id", "$date": {"$numberInt": "5"}',
        relaxed='"$oid": "no id", "$date": 5',
        row={"$oid": "no id", "$date": "5"},
    ),
    "what looks like a wrapper": odd(
        (0x03, b"v", bson.encode({"$oid": OID_HEX})),
        (0x03, b"w", bson.encode({"$date": "no date", "x": True})),
        canonical=f'"v": {{"$oid": "{OID_HEX}"}}, "w": {{"$date": "no date", "x": true}}',
        row={"v": f'{{"$oid":"{OID_HEX}"}}', "w": '{"$date":"no date","x":true}'},
        dotted={"v.$oid": OID_HEX, "w.$date": "no date", "w.x": "true"},
    ),
    "what looks like an odd wrapper": odd(
        (0x03, b"v", bson.encode({"$numberInt": {"$numberInt": "no number"}})),
        canonical='"v": {"$numberInt": {"$numberInt": "no number"}}',
        row={"v": '{"$numberInt":{"$numberInt":"no number"}}'},
        dotted={"v.$numberInt": '{"$numberInt":"no number"}'},
    ),
    # An array's names are its order, whatever they were.
    "an array with odd names": odd(
        (0x04, b"v", document((0x08, b"7", b"\1"), (0x08, b"", b"\0"), (0x08, b"7", b"\0"))),
        canonical='"v": [true, false, false]',
        row={"v": "[true,false,false]"},
    ),
    "options out of order": odd(
        (0x0B, b"v", b"a\0xmi\0"),
        canonical='"v": {"$regularExpression": {"pattern": "a", "options": "imx"}}',
        row={"v": '{"$regularExpression":{"pattern":"a","options":"imx"}}'},
    ),
    "a number that is none, with a message": odd(
        (0x01, b"v", pack("<Q", 0xFFF0_0000_0000_0012)), canonical='"v": {"$numberDouble": "NaN"}', row={"v": "NaN"}
    ),
    "a decimal with too many digits": odd(
        (0x13, b"v", pack("<QQ", 2**64 - 1, 0x3041_FFFF_FFFF_FFFF)),
        canonical='"v": {"$numberDecimal": "0"}',
        row={"v": "0"},
    ),
}

IDS: list[Any] = [
    *(float("nan"), -0.0, Int64(2**63 - 1), Decimal128("1.10"), True, None, MinKey(), MaxKey(), Timestamp(0, 0)),
    *("", "\0", "=1+1", "<b>", "x" * 900, "'", "\ufeff", Code("f()"), Code("f()", {"x": 1}), Binary(b"x", 2)),
    *({}, {"_col": 1}, {"": {"": ""}}, {"a.b": {"c": 1}}, _at(0), _at(253_402_300_799_999), _at(-(2**63))),
]
"""A person's documents may have any."""

INVALID: dict[str, Element] = {
    "a text": (0x02, b"v", string(b"secret\xff")),
    "a text inside": (0x03, b"v", document((0x04, b"w", document((0x02, b"0", string(b"secret\xc3")))))),
    "an overlong text": (0x02, b"v", string(b"secret\xc0\x80")),
    "a text beyond unicode": (0x02, b"v", string(b"secret\xf4\x90\x80\x80")),
    "a name inside": (0x03, b"v", document((0x02, b"secret\xff", string(b"x")))),
    "a symbol": (0x0E, b"v", string(b"secret\xff")),
    "code": (0x0D, b"v", string(b"secret\xff")),
    "code with a scope": (0x0F, b"v", raw_bson.code_with_scope(b"f", document((0x02, b"w", string(b"secret\xff"))))),
    "a pattern": (0x0B, b"v", b"secret\xff\0\0"),
    "a pointer": (0x0C, b"v", string(b"secret\xff") + OID),
}
"""Elements called v whose text is not valid UTF-8: what other programs store when they do not look."""
