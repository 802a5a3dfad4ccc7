"""Fields that never leave, and masks for other people's data, on raw BSON. No I/O.

A document is copied element by element and only what a rule leads to is left out or replaced, so all else keeps its
bytes: order, repeated keys, deprecated types. The paths are those of MongoDB's projections: dotted, through embedded
documents, and through arrays, also arrays in arrays. A part never names an array's position, nor a key that holds a
dot; the scope of a piece of code is no embedded document.
"""

import hmac
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says

from export_pipeline.catalog.model import Mask
from export_pipeline.errors import IncompleteError
from export_pipeline.formats.bson_walk import ARRAY, BINARY, CODE_WITH_SCOPE, DOCUMENT, MAX_DEPTH, STRING

_UNDEFINED, _NULL, _REGULAR_EXPRESSION, _INT32, _INT64 = 0x06, 0x0A, 0x0B, 0x10, 0x12

_FIXED = {
    0x01: 8,  # double
    _UNDEFINED: 0,
    0x07: 12,  # ObjectId
    0x08: 1,  # boolean
    0x09: 8,  # date
    _NULL: 0,
    _INT32: 4,
    0x11: 8,  # timestamp
    _INT64: 8,
    0x13: 16,  # decimal128
    0x7F: 0,  # max key
    0xFF: 0,  # min key
}
"""The sizes of the types that have one."""

_COUNTED = {
    STRING: (4, 1, 0),
    DOCUMENT: (0, 5, 0),
    ARRAY: (0, 5, 0),
    BINARY: (5, 0, 0),
    0x0C: (4, 1, 12),  # DBPointer: a string, then an ObjectId
    0x0D: (4, 1, 0),  # code
    0x0E: (4, 1, 0),  # symbol
    CODE_WITH_SCOPE: (0, 14, 0),
}
"""The types that begin with a length: where the bytes it counts begin, how few they may be, and how many follow them.
They end with a zero byte, unless there may be none of them."""

_int32 = Struct("<i")


class _TooDeepError(ValueError):
    pass


@dataclass(frozen=True, slots=True)
class _Rule:
    """What happens to the values at a path; without a mask, the field is removed."""

    path: str
    mask: Mask | None
    key: bytes

    def spares(self, kind: int, value: bytes, own: Collection[bytes]) -> bool:
        """Tell whether a mask leaves a value alone: the person's own id, or nothing at all."""
        return self.mask is not None and (kind in (_NULL, _UNDEFINED) or (kind == STRING and value[4:-1] in own))

    def masked(self, kind: int, value: bytes) -> bytes | None:
        """Return the text that takes a value's place, None where nothing does."""
        if self.mask == "hash":
            return b"sha256:" + hmac.digest(self.key, bytes([kind]) + value, "sha256").hex()[:32].encode()
        if self.mask == "last4" and kind in (STRING, _INT32, _INT64):
            if kind == STRING:
                text = value[4:-1].decode(errors="replace")
            else:
                text = str(int.from_bytes(value, "little", signed=True))
            return ("…" + text[-4:] if len(text) > 4 else "…").encode()
        return None


_Target = _Rule | dict[bytes, "_Target"]
"""What a path's part leads to: a rule, or the parts that may follow."""


@lru_cache(1024)
def _encoded(own: frozenset[str]) -> frozenset[bytes]:
    """Return ids as they stand in BSON; cached, since a request may be about thousands of people."""
    return frozenset(uid.encode("utf-8", "surrogatepass") for uid in own)


class Redactor:
    """Fields that never leave, and masks for other people's data.

    ``key`` is secret and belongs to one export: within it, equal values of one type get equal hashes.

    >>> import bson
    >>> redactor = Redactor(["secret"], {"to.uid": "last4"}, b"key")
    >>> stored = bson.encode({"secret": 1, "to": [{"uid": "me"}, {"uid": "somebody"}]})
    >>> document, hits = redactor.apply(stored, ["me"])
    >>> bson.decode(document), hits
    ({'to': [{'uid': 'me'}, {'uid': '…body'}]}, {'secret': 1, 'to.uid': 1})
    """

    def __init__(self, exclude: Sequence[str], masks: Mapping[str, Mask], key: bytes) -> None:
        rules: dict[str, Mask | None] = {**masks, **dict.fromkeys(exclude)}
        self._targets: dict[bytes, _Target] = {}
        # Of two rules, one inside the other, the outer is applied: it takes the place of what leads to the inner one.
        for path, mask in rules.items():
            targets = self._targets
            *outer, last = (part.encode() for part in path.split("."))
            for part in outer:
                inner = targets.setdefault(part, {})
                if isinstance(inner, _Rule):
                    break
                targets = inner
            else:
                targets[last] = _Rule(path, mask, key)
        self._traces = [part + b"\0" for part in self._targets]

    def apply(self, document: bytes, own: Collection[str]) -> tuple[bytes, dict[str, int]]:
        """Return the redacted document and, by path, how many values were taken out or masked.

        Strings equal to one of ``own``, the person's own ids, are not masked, nor is null. Paths that hit nothing
        are absent; a document without a trace of any path is returned as it is, unread. Raises IncompleteError for
        one that is not valid BSON where it is read, or nested too deeply to be followed.
        """
        if not any(trace in document for trace in self._traces):
            return document, {}
        copy = _Copy(document, _encoded(frozenset(own)))
        try:
            if _value_end(document, DOCUMENT, 0) != len(document):
                raise ValueError
            copy.container(False, 0, len(document), self._targets)
            return bytes(copy.out), dict(copy.hits)
        except _TooDeepError:
            problem = f"is nested deeper than {MAX_DEPTH} levels"
        except (IndexError, KeyError, ValueError, StructError):
            problem = "is not valid BSON: a length or a type is wrong, or it is cut short"
        # Raised out here so that no exception that carries stored values hangs on it.
        raise IncompleteError(f"a document whose fields have to be excluded or masked {problem}; mend or remove it")


class _Copy:
    """One document on its way out: what has been let through, and how often each rule was applied."""

    def __init__(self, data: bytes, own: frozenset[bytes]) -> None:
        self.out = bytearray()
        self.hits = Counter[str]()
        self._data = data
        self._own = own

    def container(self, in_array: bool, start: int, end: int, target: _Target, depth: int = 0) -> None:
        """Copy a document or an array; the items of an array share its target."""
        if depth > MAX_DEPTH:
            raise _TooDeepError
        data, out = self._data, self.out
        begin = len(out)
        out += bytes(4)
        kept, renumber = 0, False
        for kind, element, value, stop in _elements(data, start, end):
            goal = target if in_array or isinstance(target, _Rule) else target.get(data[element + 1 : value - 1])
            if goal is None:
                out += data[element:stop]
                continue
            head = b"%c%d\0" % (kind, kept) if renumber else data[element:value]
            if isinstance(goal, _Rule) and (kind != ARRAY or goal.mask is None):
                content = data[value:stop]
                if goal.spares(kind, content, self._own):
                    out += head + content
                else:
                    self.hits[goal.path] += 1
                    text = goal.masked(kind, content)
                    if text is None:
                        renumber = in_array
                        continue
                    out += b"%c%b%b%b\0" % (STRING, head[1:], _int32.pack(len(text) + 1), text)
            elif kind in (DOCUMENT, ARRAY):
                out += head
                self.container(kind == ARRAY, value, stop, goal, depth + 1)
            else:
                out += head
                out += data[value:stop]
            kept += 1
        out += b"\0"
        _int32.pack_into(out, begin, len(out) - begin)


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the type of each element of a document or array, and where it, its value, and the next element begin."""
    last = end - 1
    position = start + 4
    while position < last:
        kind = data[position]
        value = data.index(0, position) + 1
        stop = _value_end(data, kind, value)
        if stop > last:
            raise ValueError
        yield kind, position, value, stop
        position = stop


def _value_end(data: bytes, kind: int, start: int) -> int:
    """Return where a value ends. Running past the end of what holds it is the caller's to notice."""
    if (size := _FIXED.get(kind)) is not None:
        return start + size
    if kind == _REGULAR_EXPRESSION:
        return data.index(0, data.index(0, start) + 1) + 1
    before, least, after = _COUNTED[kind]
    length: int = _int32.unpack_from(data, start)[0]
    end = start + before + length
    if length < least or (least and data[end - 1]):
        raise ValueError
    return end + after
