"""Filters that come from outside: data, never code. A small set of operators; everything else is refused by name.

The operators mean what MongoDB's manual says under "Comparison Query Operators" and ``$exists``.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import bson
from bson import ObjectId, json_util
from bson.decimal128 import Decimal128
from bson.errors import BSONError

from export_pipeline.errors import BadInputError
from export_pipeline.mongo.connection import Document

OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists")
SELECTING_OPERATORS = ("$eq", "$in")
"""Those that name what they select; the others select whatever they do not name."""

_EXTENDED = frozenset({"$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal"})
_LONGEST_PATH = 200
_MOST_CONDITIONS = 50
_MOST_VALUES = 1000
_LONGEST_TEXT = 4096
_MOST_BYTES = 1 << 20  # a query has 16 MB, most of it for uids
_OPERATOR = re.compile(r"\$[A-Za-z]{1,30}")
_PLAIN_PATH = re.compile(r"[\w.-]{1,60}")


def checked_filter(given: object, what: str, operators: tuple[str, ...] = OPERATORS) -> Document:
    """Return ``given`` as a filter: field paths to a value, or to operators with values; all conditions hold at once.

    Values are text, numbers, booleans, null, and in MongoDB Extended JSON ``$oid``, ``$date`` and ``$number…``.
    Raises BadInputError that names ``what``, the field and the operator, and never a value.

    >>> checked_filter({"e": "purchase", "c": {"$gte": 2}}, "where")
    {'e': {'$eq': 'purchase'}, 'c': {'$gte': 2}}
    """
    if not isinstance(given, Mapping):
        raise BadInputError(f'{what}: expected an object such as {{"field": "value"}}, not {type(given).__name__}')
    if len(given) > _MOST_CONDITIONS:
        raise BadInputError(f"{what}: at most {_MOST_CONDITIONS} conditions are allowed, not {len(given)}")
    checked = {
        checked_path(path, what): _checked_condition(condition, f"{what}, field {_shown_path(path)}", operators)
        for path, condition in given.items()
    }
    if len(bson.encode(checked)) > _MOST_BYTES:
        raise BadInputError(f"{what}: all conditions together may have at most {_MOST_BYTES >> 20} MB")
    return checked


def parse_json(text: str, what: str) -> Any:
    """Return the JSON value in ``text``. Raises BadInputError that names ``what``; a field given twice is refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise BadInputError(f"{what}: a field is given twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise BadInputError(f'{what}: this is not JSON; it looks like {{"field": "value"}}') from None


def checked_path(path: object, what: str) -> str:
    """Return ``path`` if it names a field, dots for nested ones; an operator in its place is refused."""
    if not isinstance(path, str):
        raise BadInputError(f"{what}: a field's name is text, not {type(path).__name__}")
    if path.startswith("$"):
        raise BadInputError(f"{what}: the operator {_shown(path)} is not allowed; name a field")
    parts = path.split(".")
    if not all(parts) or any(part.startswith("$") for part in parts) or not path.isprintable():
        raise BadInputError(f"{what}: a field's path is names with dots between them, such as 'custom.plan'")
    if len(path) > _LONGEST_PATH:
        raise BadInputError(f"{what}: a field's path has at most {_LONGEST_PATH} characters")
    return path


def _checked_condition(condition: object, what: str, operators: tuple[str, ...]) -> Document:
    if not isinstance(condition, Mapping) or _is_extended(condition):
        return {"$eq": _checked_value(condition, what)}
    if not condition:
        raise BadInputError(f"{what}: an empty object is not a condition")
    checked: Document = {}
    for operator, value in condition.items():
        if operator not in operators:
            shown = _shown(operator) if isinstance(operator, str) and operator.startswith("$") else "of that name"
            raise BadInputError(f"{what}: the operator {shown} is not allowed; allowed are {', '.join(operators)}")
        if operator in ("$in", "$nin"):
            if not isinstance(value, list) or not 0 < len(value) <= _MOST_VALUES:
                raise BadInputError(f"{what}: {operator} takes a list of 1 to {_MOST_VALUES} values")
            checked[operator] = [_checked_value(item, what) for item in value]
        elif operator == "$exists":
            if not isinstance(value, bool):
                raise BadInputError(f"{what}: $exists takes true or false")
            checked[operator] = value
        else:
            checked[operator] = _checked_value(value, what)
    return checked


def _checked_value(value: object, what: str) -> Any:
    if isinstance(value, Mapping):
        return _extended_value(value, what)
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT or any("\ud800" <= character <= "\udfff" for character in value):
            raise BadInputError(f"{what}: text is valid Unicode of at most {_LONGEST_TEXT} characters")
        return value
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise BadInputError(f"{what}: a whole number has at most 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadInputError(f"{what}: a number must be finite")
        return value
    raise BadInputError(f"{what}: a value is text, a number, true, false or null, not {type(value).__name__}")


def _extended_value(value: Mapping[str, Any], what: str) -> Any:
    if not _is_extended(value):
        raise BadInputError(f"{what}: a value must not be an object, except {', '.join(sorted(_EXTENDED))}")
    ((kind, inner),) = value.items()
    try:
        if kind == "$date" and isinstance(inner, Mapping):
            inner = int(inner["$numberLong"]) if len(inner) == 1 else None
        # The driver takes more: for null, for instance, it makes up an ObjectId.
        if not isinstance(inner, str) and (kind, type(inner)) != ("$date", int):
            raise TypeError
        parsed = json_util.object_hook({kind: inner})
    except (BSONError, ValueError, TypeError, ArithmeticError, AttributeError, KeyError):
        raise BadInputError(f"{what}: {kind} holds no value of its kind") from None
    return parsed if isinstance(parsed, ObjectId | Decimal128 | datetime) else _checked_value(parsed, what)


def _is_extended(value: Mapping[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in _EXTENDED


def _shown(operator: str) -> str:
    """Return an operator as far as it looks like one; what else stands in its place may be data."""
    return operator if _OPERATOR.fullmatch(operator) else "given"


def _shown_path(path: str) -> str:
    """Return a field's path as far as it looks like one."""
    return path if _PLAIN_PATH.fullmatch(path) else "of that name"
