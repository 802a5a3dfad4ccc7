"""What each form of an export promises to keep of a document, as assertions on what an independent reader found.

What was stored is read by PyMongo; what PyMongo itself changes on the way is left out: see ``is_kept_by_pymongo``.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import bson
from bson import Decimal128, ObjectId, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.json_util import JSONMode, JSONOptions

from export_pipeline_tests.formats.readers import READERS, Read, parquet_rows, respelled

AS_STORED = CodecOptions[dict[str, Any]](
    datetime_conversion=DatetimeConversion.DATETIME_AUTO, tz_aware=True, unicode_decode_error_handler="surrogatepass"
)
_MODES = {
    mode: JSONOptions(json_mode=mode, datetime_conversion=DatetimeConversion.DATETIME_AUTO, tz_aware=True)
    for mode in (JSONMode.CANONICAL, JSONMode.RELAXED)
}


def decoded(raw: bytes) -> dict[str, Any]:
    return bson.decode(raw, AS_STORED)


def is_kept_by_pymongo(raw: bytes) -> bool:
    """Tell whether PyMongo can say all that a document holds: it knows no repeated names nor deprecated types."""
    text = written(decoded(raw), JSONMode.CANONICAL)
    try:
        return bson.encode(json_util.loads(text, json_options=_MODES[JSONMode.CANONICAL])) == raw
    except (BSONError, TypeError, ValueError):  # a lone surrogate, or a name like $date
        return False


def written(value: Any, mode: int) -> str:
    """Return what json_util writes."""
    return json_util.dumps(value, json_options=_MODES[mode])


def relaxed_text(value: Any) -> str:
    """Return a value as relaxed Extended JSON in the readers' spelling."""
    return respelled(written(value, JSONMode.RELAXED))


# Whole documents


def _is_canonical(raw: bytes, read: str) -> None:
    found = json_util.loads(read, json_options=_MODES[JSONMode.CANONICAL])
    assert written(found, JSONMode.CANONICAL) == written(decoded(raw), JSONMode.CANONICAL)
    if is_kept_by_pymongo(raw):
        assert bson.encode(found) == raw


def _is_relaxed(raw: bytes, read: str) -> None:
    if is_kept_by_pymongo(raw):
        assert read == relaxed_text(decoded(raw))
    else:
        found = json_util.loads(read, json_options=_MODES[JSONMode.RELAXED])
        assert relaxed_text(found) == relaxed_text(decoded(raw))


def _is_stored(raw: bytes, read: bytes) -> None:
    assert read == raw


# Rows: of a document that PyMongo does not keep, only the id can be compared.


def _is_csv_row(raw: bytes, read: Mapping[str, str], *, dotted: bool = False) -> None:
    cells = {harmless(column): value for column, value in _columns(raw, read, dotted=dotted).items()}
    for column in read.keys() - {"_col", "_rest"} if is_kept_by_pymongo(raw) else {"_id"}:
        assert is_csv_cell(cells.get(column), read[column]), column


def _is_excel_row(raw: bytes, read: Mapping[str, Any], *, dotted: bool = False) -> None:
    cells = _columns(raw, read, dotted=dotted)
    for column in read.keys() - {"_col", "_rest"} if is_kept_by_pymongo(raw) else {"_id"}:
        assert is_excel_cell(cells.get(column), read[column]), column


def _columns(raw: bytes, read: Mapping[str, Any], *, dotted: bool) -> dict[str, Any]:
    """Return the values that have a cell of their own; check that all others are in the rest."""
    document = decoded(raw)
    columns: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in _dotted(document) if dotted else document.items():
        label = re.sub("^(?=_+col$)", "_", name)  # makes place for the tag
        has_cell = (label in read or harmless(label) in read) and label not in columns and label != "_rest"
        (columns if has_cell else rest)[label] = value
    if is_kept_by_pymongo(raw):
        assert rest == {} or respelled(read["_rest"]) == relaxed_text(rest)
        assert rest or not read.get("_rest")
    return columns


def _dotted(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields with those of embedded documents taken out, one level deep."""
    for name, value in document.items():
        inner = value.as_doc() if isinstance(value, bson.DBRef) else value
        if inner and isinstance(inner, dict) and name != "_id":
            yield from ((f"{re.sub('^(?=_+col$)', '_', name)}.{key}", inside) for key, inside in inner.items())
        else:
            yield name, value


def harmless(text: str) -> str:
    """Return text as a spreadsheet will not run it."""
    return f"'{text}" if text[:1] in set("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") else text


def is_csv_cell(value: Any, cell: str) -> bool:
    """Tell whether a cell says a value: nothing for null, what people would type, or relaxed Extended JSON."""
    match value:
        case None:
            return cell == ""
        case bool():
            return cell == str(value).lower()
        case float():
            return repr(float(cell)) == repr(value)
        case bson.Code():
            return respelled(cell) == relaxed_text(value)
        case str():
            return cell == harmless(value)
        case int() | ObjectId() | Decimal128():
            return cell == str(value)
        case datetime():
            return cell == _iso(value)
    return respelled(cell) == relaxed_text(value)


def is_excel_cell(value: Any, cell: Any) -> bool:
    """Tell whether a cell says a value: a number, a date or a truth where Excel can hold it, else as in CSV."""
    match value:
        case None | "":
            return cell is None
        case bool():
            return cell is value
        case int() if abs(value) <= 2**53:
            return type(cell) is int and cell == value
        case float() if value == 0 or 2.3e-308 < abs(value) < 9.9e307:
            return isinstance(cell, int | float) and cell == value
        case Decimal128() if isinstance(cell, int | float):
            return Decimal(f"{cell:.15g}") == value.to_decimal()
        case datetime() if value >= datetime(1900, 3, 1, tzinfo=UTC):
            return isinstance(cell, datetime) and abs(cell.replace(tzinfo=UTC) - value) < timedelta(milliseconds=1)
        case bson.Code():
            return respelled(cell) == relaxed_text(value)
        case str():
            return bool(cell == value)
    return is_csv_cell(value, cell)


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(len("0001-01-01T00:00:00.000Z"), "0")


def _is_parquet_row(raw: bytes, read: Mapping[str, Any]) -> None:
    rest = json_util.loads(read["_rest"] or "{}", json_options=_MODES[JSONMode.RELAXED])
    for name, value in decoded(raw).items() if is_kept_by_pymongo(raw) else ():
        label = re.sub("(?i)^(?=_+(col|doc|rest)$)", "_", name)  # makes place for the file's own columns
        if name in rest:
            assert relaxed_text(rest.pop(name)) == relaxed_text(value)
        else:
            assert is_parquet_cell(value, read[label]), label
    assert not rest or not is_kept_by_pymongo(raw)


def is_parquet_cell(value: Any, cell: Any) -> bool:
    """Tell whether a cell says a value: as its type, widened, or as relaxed Extended JSON where types do not agree."""
    match value, cell:
        case None, None:
            return True
        case str(), str():
            return cell == value or respelled(cell) == relaxed_text(value)
        case ObjectId(), str():
            return cell == str(value) or respelled(cell) == relaxed_text(value)
        case bool() | datetime() | bytes(), bool() | datetime() | bytes():
            return bool(cell == value)
        case int() | float(), int() | float():
            return repr(float(value)) == repr(float(cell)) and (cell == value or cell != cell)
    return isinstance(cell, str) and respelled(cell) == relaxed_text(value)


class Kind(NamedTuple):
    """A form of an export: its format, the options, its reader, and what of a document that is to find."""

    format: str
    options: dict[str, Any]
    promise: Callable[[bytes, Any], None]
    other_reader: Callable[[bytes], Read] | None = None

    def read(self, data: bytes) -> Read:
        """Return what the reader finds in a file."""
        return (self.other_reader or READERS[self.format])(data)


KINDS = {
    "json": Kind("json", {}, _is_relaxed),
    "json canonical": Kind("json", {"json_mode": "canonical"}, _is_canonical),
    "jsonl": Kind("jsonl", {}, _is_relaxed),
    "jsonl canonical": Kind("jsonl", {"json_mode": "canonical"}, _is_canonical),
    "parquet": Kind("parquet", {}, _is_canonical),
    "parquet without _doc": Kind("parquet", {"lossless": False}, _is_parquet_row, parquet_rows),
    "csv": Kind("csv", {}, _is_csv_row),
    "csv dotted": Kind("csv", {"dotted": True}, partial(_is_csv_row, dotted=True)),
    "excel": Kind("excel", {}, _is_excel_row),
    "excel dotted": Kind("excel", {"dotted": True}, partial(_is_excel_row, dotted=True)),
    "html": Kind("html", {}, _is_canonical),
    "bson": Kind("bson", {}, _is_stored),
}
