"""Which field of a query selects the user.

A catalogue entry reads all documents of a user by one field, so a query becomes an entry only if it does just that:
an id, or a list of ids, on one user key. Everything else is refused, because the entry would read other documents than
the query did.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from export_pipeline.errors import BadInputError

USER_KEYS = ("uid", "_id", "uids", "user_id", "userId")
"""Fields known to hold the uid, alone or at the end of a dotted path. Any other field may hold it as well, but a
command cannot tell: such an entry is written by hand."""

_USER_KEY = re.compile(rf"(?:[A-Za-z_]+\.)*(?:{'|'.join(USER_KEYS)})", re.ASCII)
_SPEAKABLE = re.compile(r"\$?[A-Za-z_.]{1,40}", re.ASCII)  # a name with digits may itself be a uid

_LOGIC = {"$and", "$or"}
_COMPARISONS = {"$eq", "$in"}
_VALUES = {  # extended JSON: not operators, but how a value of a type is written
    "$oid": re.compile(r"[0-9A-Fa-f]{24}"),
    "$numberInt": re.compile(r"-?[0-9]{1,10}"),
    "$numberLong": re.compile(r"-?[0-9]{1,19}"),
    "$uuid": re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    "$binary": re.compile(r"[0-9A-Za-z+/=]+"),
    "$date": None,
    "$numberDouble": None,
    "$numberDecimal": None,
    "$timestamp": None,
    "$undefined": None,
    "$minKey": None,
    "$maxKey": None,
}


def _no_selector(detail: str) -> NoReturn:
    raise BadInputError(f"no selector on a user{detail}")


def _not_allowed(operator: str) -> NoReturn:
    raise BadInputError(f"operator not allowed: {speakable(operator)}")


def user_key(query: Mapping[str, object], app_id: str) -> str:
    """Return the field by which ``query`` selects users, and nothing but users.

    >>> user_key({"uid": {"$in": ["1a", "1b"]}}, "63ef551128bad91a3c11d3e7")
    'uid'
    """
    for operator in _operators(query):
        if operator not in _LOGIC | _COMPARISONS:
            _not_allowed(operator)
    keys, others = _fields(query, app_id)
    if not keys:
        names = f": the query asks for {_listed(others)}" if others else ""
        _no_selector(f"{names}; known user keys are {', '.join(USER_KEYS)}, another one is entered by hand")
    if others:
        _no_selector(
            f" alone: the query also asks for {_listed(others)}, so it takes only part of the user's documents; "
            "enter the collection by hand if all of them are meant"
        )
    if len(keys) > 1:
        _no_selector(f" by one field: the query asks for {_listed(keys)}")
    return keys.pop()


def speakable(name: str) -> str:
    """Return a name for use in a message, unless it may be somebody's id or password."""
    return name if _SPEAKABLE.fullmatch(name) else "a name not shown here"


def _operators(value: object) -> Iterator[str]:
    """Yield every operator in a query, however deep; what only marks the type of a value is none."""
    if isinstance(value, Mapping):
        if _type_of(value) is not None:
            return
        for key, inner in value.items():
            if key.startswith("$"):
                yield key
            yield from _operators(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _operators(inner)


def _type_of(value: Mapping[str, object]) -> str | None:
    """Name the extended JSON type that an object stands for, if it does."""
    if set(value) == {"$binary", "$type"}:  # as it was written before extended JSON version 2
        return "$binary"
    return next((name for name in value if name in _VALUES), None) if len(value) == 1 else None


def _fields(query: Mapping[str, object], app_id: str) -> tuple[set[str], set[str]]:
    """Collect the user keys and the other fields that all have to match."""
    keys: set[str] = set()
    others: set[str] = set()
    for name, condition in query.items():
        if name in _LOGIC:
            branches = [_fields(branch, app_id) for branch in _branches(name, condition)]
            fields = set().union(*(found | rest for found, rest in branches))
            if name == "$or" and len(fields) != 1:
                raise BadInputError("operator not allowed: $or over more than one field")
            keys = keys.union(*(found for found, _ in branches))
            others = others.union(*(rest for _, rest in branches))
        elif name.startswith("$"):
            _not_allowed(name)
        elif _USER_KEY.fullmatch(name):
            _check_ids(name, condition, app_id)
            keys.add(name)
        else:
            others.add(name)
    return keys, others


def _branches(operator: str, branches: object) -> list[Mapping[str, object]]:
    if isinstance(branches, list) and branches and all(isinstance(branch, Mapping) and branch for branch in branches):
        return branches
    _no_selector(f": {operator} needs a list of conditions, none of them empty")


def _check_ids(field: str, condition: object, app_id: str) -> None:
    """Refuse a condition unless it asks for an id or for one of a list of ids."""
    if isinstance(condition, Mapping) and _type_of(condition) is None:
        if not condition or not _COMPARISONS.issuperset(condition):
            _no_selector(f": {speakable(field)} is compared with a document")
        for operator, operand in condition.items():
            if operator == "$in" and not (isinstance(operand, list) and operand):
                _no_selector(f": $in on {speakable(field)} needs a list of uids")
            ids = operand if operator == "$in" and isinstance(operand, list) else [operand]
            _check_each(field, ids, app_id)
    else:
        _check_each(field, [condition], app_id)


def _check_each(field: str, ids: Sequence[object], app_id: str) -> None:
    for value in ids:
        text = _id_text(value)
        if text is None:
            _no_selector(f": {speakable(field)} is compared with something that is no id")
        # the app's own id, or ids composed of it: a search for the bare uid would find nothing
        if app_id == text or app_id in re.split(r"[^0-9A-Za-z]+", text):
            _no_selector(f": {speakable(field)} is compared with the app's id, or with ids made from it")


def _id_text(value: object) -> str | None:
    """Return the text of a value that can identify somebody; None for null, dates, fractions, lists and the like."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, Mapping):
        return None
    name = _type_of(value)
    form = _VALUES.get(name) if name is not None else None
    payload = value[name] if name is not None else None
    if name == "$binary" and isinstance(payload, Mapping):
        payload = payload.get("base64")
    if form is None or isinstance(payload, bool) or not isinstance(payload, str | int):
        return None
    return str(payload) if form.fullmatch(str(payload)) else None


def _listed(names: set[str]) -> str:
    return ", ".join(sorted({speakable(name) for name in names}))
