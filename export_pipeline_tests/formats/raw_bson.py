"""BSON made by hand, because PyMongo cannot make all that a server may hold: repeated keys, deprecated types."""

from struct import pack

from hypothesis import strategies as st

Element = tuple[int, bytes, bytes]
"""A BSON type, a name and the bytes of the value."""


def document(*elements: Element) -> bytes:
    content = b"".join(bytes([kind]) + name + b"\0" + value for kind, name, value in elements)
    return pack("<i", len(content) + 5) + content + b"\0"


def string(text: bytes) -> bytes:
    return pack("<i", len(text) + 1) + text + b"\0"


def binary(subtype: int, payload: bytes) -> bytes:
    if subtype == 2:
        payload = pack("<i", len(payload)) + payload
    return pack("<iB", len(payload), subtype) + payload


def code_with_scope(code: bytes, scope: bytes) -> bytes:
    return pack("<i", 8 + len(code) + 1 + len(scope)) + string(code) + scope


def double(value: float) -> Element:
    return 0x01, b"d", pack("<d", value)


def date(milliseconds: int) -> Element:
    return 0x09, b"at", pack("<q", milliseconds)


def nested(levels: int) -> bytes:
    """A document that holds a document that holds …, so many levels deep."""
    head = b"".join(pack("<ic", 5 + 8 * (levels - level), b"\x03") + b"a\0" for level in range(levels))
    return head + document() + b"\0" * levels


def _of(kind: int, value: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[int, bytes]]:
    return value.map(lambda payload: (kind, payload))


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(str.encode) | st.sampled_from(
    [b"", b'"', b"\\", b"\\u0000", b"\n\t\x7f", b"a\0b", "ö€😀".encode(), b"%s", b"\1,", b"},"]
)
_surrogates = st.sampled_from([b"\xed\xa0\x80", b"x\xed\xb0\x80y"])
_names = st.sampled_from([b"a", b"b", b"c", b"", b"d.e", b"f%", b'"', b"_col", b"__col", b"x_col", "é".encode()])
_int32s = st.integers(-(2**31), 2**31 - 1).map(lambda n: pack("<i", n))
_int64s = st.integers(-(2**63), 2**63 - 1).map(lambda n: pack("<q", n))
_dates = st.integers(-(10**14), 4 * 10**14).map(lambda n: pack("<q", n))
_doubles = (st.floats(allow_nan=False) | st.sampled_from([1.0, -0.0, 1e16, 1e-7, 5e-324])).map(lambda x: pack("<d", x))
_cstrings = st.sampled_from([b"", b"a.*b", "ü".encode()])


def _regular_expression(pattern: bytes, options: bytes) -> bytes:
    return pattern + b"\0" + options + b"\0"


# Types that PyMongo reads and json_util writes, exactly.
_simple = (
    _of(0x01, _doubles)
    | _of(0x02, _texts.map(string))
    | _of(0x05, st.builds(binary, st.sampled_from([0, 2, 3, 4, 0x80]), st.binary(max_size=20)))
    | _of(0x07, st.binary(min_size=12, max_size=12))
    | _of(0x08, st.sampled_from([b"\0", b"\1"]))
    | _of(0x09, _dates)
    | _of(0x0A, st.just(b""))
    | _of(0x0B, st.builds(_regular_expression, _cstrings, st.sampled_from([b"", b"i", b"ms"])))
    | _of(0x10, _int32s)
    | _of(0x11, st.binary(min_size=8, max_size=8))
    | _of(0x12, _int64s)
    | _of(0x7F, st.just(b""))
    | _of(0xFF, st.just(b""))
)
_unusual = (
    _of(0x01, st.sampled_from([pack("<d", float("nan")), pack("<Q", 0xFFF0_0000_0000_0012)]))
    | _of(0x02, _surrogates.map(string))
    | _of(0x06, st.just(b""))
    | _of(0x0C, st.builds(lambda ns, oid: string(ns) + oid, _texts, st.binary(min_size=12, max_size=12)))
    | _of(0x0D, _texts.map(string))
    | _of(0x0E, _texts.map(string))
    | _of(0x13, st.binary(min_size=16, max_size=16))
)


def _documents(values: st.SearchStrategy[tuple[int, bytes]]) -> st.SearchStrategy[bytes]:
    return st.lists(st.tuples(_names, values), max_size=6).map(
        lambda members: document(*((kind, name, value) for name, (kind, value) in members))
    )


def _arrays(values: st.SearchStrategy[tuple[int, bytes]]) -> st.SearchStrategy[bytes]:
    return st.lists(values, max_size=4).map(
        lambda items: document(*((kind, b"%d" % i, value) for i, (kind, value) in enumerate(items)))
    )


def _nesting(values: st.SearchStrategy[tuple[int, bytes]]) -> st.SearchStrategy[tuple[int, bytes]]:
    return (
        _of(0x03, _documents(values))
        | _of(0x04, _arrays(values))
        | _of(0x0F, st.builds(code_with_scope, _texts, _documents(values)))
    )


def documents(*, unusual: bool = True) -> st.SearchStrategy[bytes]:
    """Any document; with ``unusual``, also of what PyMongo turns into something else."""
    return _documents(st.recursive(_simple | _unusual if unusual else _simple, _nesting, max_leaves=8))
