"""Queries as people write them for mongoexport, parsed and never evaluated.

Beside JSON this takes what mongoexport took over the years: keys without quotes, single quotes, a comma before a
closing bracket, and the shell's constructors. ``ObjectId("…")`` becomes what it is in extended JSON, ``{"$oid": "…"}``.
"""

import re
from typing import NoReturn

from export_pipeline.errors import BadInputError

MAX_DEPTH = 32

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"|\'((?:[^\'\\\n]|\\.)*)\'')
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![\w.])")
_NAME = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
_REGEX = re.compile(r"/((?:[^/\\\n]|\\.)+)/[a-z]*")

_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"} | {c: c for c in "\"'\\/$"}
_LITERALS: dict[str, object] = {
    "true": True,
    "false": False,
    "null": None,
    "undefined": {"$undefined": True},
    "NaN": {"$numberDouble": "NaN"},
    "Infinity": {"$numberDouble": "Infinity"},
    "MinKey": {"$minKey": 1},
    "MaxKey": {"$maxKey": 1},
}
_CONSTRUCTORS = {
    "ObjectId": "$oid",
    "ObjectID": "$oid",
    "NumberInt": "$numberInt",
    "NumberLong": "$numberLong",
    "NumberDecimal": "$numberDecimal",
    "UUID": "$uuid",
    "BinData": "$binary",
    "HexData": "$binary",
    "ISODate": "$date",
    "Date": "$date",
    "Timestamp": "$timestamp",
    "RegExp": "$regex",
    "DBRef": "$ref",
    "Code": "$code",
}


def parse_query(text: str) -> dict[str, object]:
    """Parse the query in ``text``, which holds nothing else.

    >>> parse_query("{uid: {$in: ['1a', ObjectId('63ef551128bad91a3c11d3e7')]}}")
    {'uid': {'$in': ['1a', {'$oid': '63ef551128bad91a3c11d3e7'}]}}
    """
    value, end = parse_prefix(text)
    if isinstance(value, str) and not text[end:].strip():
        text = value  # a whole query in quotes of its own: an argv element that kept the quotes meant for a shell
        value, end = parse_prefix(text)
    if text[end:].strip():
        _fail("something follows its end")
    if not isinstance(value, dict):
        _fail("it is not an object")
    return value


def parse_prefix(text: str) -> tuple[object, int]:
    """Parse the value that ``text`` begins with, and say where it ends."""
    reader = _Reader(text)
    value = reader.value(depth=0)
    return value, reader.position


def _fail(why: str) -> NoReturn:
    raise BadInputError(f"the query does not parse: {why}")


class _Reader:
    """A recursive descent over one text; each method reads one kind of thing and moves ``position`` behind it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0

    def value(self, depth: int) -> object:
        if depth > MAX_DEPTH:
            _fail("it is nested too deeply")
        self._match(_SPACE)
        match self._text[self.position : self.position + 1]:
            case "{":
                return self._object(depth)
            case "[":
                return self._list("[", "]", depth)
            case '"' | "'":
                return self._string()
            case "/":
                if regex := self._match(_REGEX):
                    return {"$regex": regex[1]}
            case "-" | "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9":
                if number := self._match(_NUMBER):
                    whole = not number[2] and len(number[1]) < 20
                    return int(number[1]) if whole else {"$numberDouble": number[0]}
            case _:
                if name := self._match(_NAME):
                    return self._named(name[0], depth)
        _fail("a value is missing or not closed")

    def _object(self, depth: int) -> dict[str, object]:
        self._expect("{")
        found: dict[str, object] = {}
        while not self._take("}"):
            key = self._key()
            if key in found:
                _fail("a key occurs twice in one object")
            self._expect(":")
            found[key] = self.value(depth + 1)
            if not self._take(","):
                self._expect("}")
                break
        return found

    def _list(self, opening: str, closing: str, depth: int) -> list[object]:
        self._expect(opening)
        found: list[object] = []
        while not self._take(closing):
            found.append(self.value(depth + 1))
            if not self._take(","):
                self._expect(closing)
                break
        return found

    def _key(self) -> str:
        self._match(_SPACE)
        if self._text[self.position : self.position + 1] in ('"', "'"):
            return self._string()
        name = self._match(_NAME)
        return name[0] if name else _fail("a key is missing")

    def _string(self) -> str:
        string = self._match(_STRING)
        if string is None:
            _fail("a string is not closed")
        return _ESCAPE.sub(_unescape, string[1] if string[1] is not None else string[2])

    def _named(self, name: str, depth: int) -> object:
        if name == "function":
            raise BadInputError("operator not allowed: a JavaScript function")
        if name == "new":
            self._match(_SPACE)
            constructor = self._match(_NAME)
            name = constructor[0] if constructor else ""
        self._match(_SPACE)
        if name in _CONSTRUCTORS and self._text[self.position : self.position + 1] == "(":
            arguments = self._list("(", ")", depth)
            # BinData(3, "…") and HexData(3, "…") give the subtype first, the others begin with what counts
            return {
                _CONSTRUCTORS[name]: arguments[-1 if _CONSTRUCTORS[name] == "$binary" else 0] if arguments else None
            }
        if name in _LITERALS:
            return _LITERALS[name]
        _fail("a word without quotes stands where a value should")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self.position)
        if found:
            self.position = found.end()
        return found

    def _take(self, character: str) -> bool:
        self._match(_SPACE)
        taken = self._text.startswith(character, self.position)
        self.position += taken
        return taken

    def _expect(self, character: str) -> None:
        if not self._take(character):
            _fail(f'"{character}" is missing')


def _unescape(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    if code:
        return chr(int(code, 16))
    return _ESCAPED[escape[3]] if escape[3] in _ESCAPED else _fail("a string holds an unknown escape")
