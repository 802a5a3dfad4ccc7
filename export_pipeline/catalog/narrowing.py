"""What part of a person's data a request asks for: dates, collections, fields, conditions, order, profile.

Checked against the catalogue before anything is read. No I/O: what comes out are entries, filters and projections.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from bson.datetime_ms import DatetimeMS
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.errors import BadInputError
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.filters import checked_filter, checked_path

Profile = Literal["access", "portability"]
"""GDPR articles 15 (everything, with a notice) and 20 (what the person provided or was observed in)."""

MOST_LIMIT = 10_000_000
MOST_FIELDS = 500
MOST_SORT_KEYS = 31
"""MongoDB sorts by at most 32, and ``_id`` joins them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


def _checked_moment(given: object) -> object:
    """Refuse numbers: 20260131 would be taken for seconds, a day in 1970."""
    if isinstance(given, date) or (isinstance(given, str) and re.match(r"\d{4}-\d\d-\d\d", given)):
        return given
    raise ValueError("expected a moment such as 2026-01-31 or 2026-01-31T12:00:00Z")


Moment = Annotated[datetime, BeforeValidator(_checked_moment), Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class Narrowing(BaseModel):
    """Which part of what is held. Empty, the default, is all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    since: Moment | None = None
    """From this moment on; without a time zone it is UTC."""
    until: Moment | None = None
    """Before this moment."""
    collections: Names = ()
    exclude_collections: Names = ()
    plugins: Names = ()
    exclude_plugins: Names = ()
    categories: Names = ()
    exclude_categories: Names = ()
    fields: Mapping[str, Names] = {}
    """By collection, the fields to hand over; ``_id`` always is."""
    where: Mapping[str, Mapping[str, Any]] = {}
    """By collection, conditions as ``mongo.filters`` takes them."""
    sort: Mapping[str, Names] = {}
    """By collection, the fields to order by; ``-`` in front turns the order round."""
    limit: Annotated[int, Field(ge=1, le=MOST_LIMIT)] | None = None
    """The most documents of each collection."""
    profile: Profile | None = None

    @model_validator(mode="after")
    def _check_range(self) -> "Narrowing":
        since, until = _utc(self.since), _utc(self.until)
        if since and until and since >= until:
            raise ValueError("since must be before until")
        return self

    @property
    def is_dated(self) -> bool:
        """Whether a date range is asked for."""
        return self.since is not None or self.until is not None

    def stored(self) -> dict[str, Any]:
        """Return what differs from the default, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)


EVERYTHING = Narrowing()


def parse_narrowing(given: Mapping[str, Any]) -> Narrowing:
    """Return ``given`` as a narrowing. Raises BadInputError that names the field, and no value."""
    try:
        return Narrowing.model_validate(given)
    except ValidationError as error:
        reasons = [
            f"{_field_of(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        ]
        raise BadInputError("; ".join(dict.fromkeys(reasons))) from None


def chosen_entries(narrowing: Narrowing, catalog: LoadedCatalog) -> list[Entry]:
    """Return the entries that a request reads, in the catalogue's order.

    Raises BadInputError for a name that the catalogue does not know, a condition that is not allowed, or nothing left.
    """
    entries = catalog.entries
    _check_names("collections", (*narrowing.collections, *narrowing.exclude_collections), {e.name for e in entries})
    _check_names("plugins", (*narrowing.plugins, *narrowing.exclude_plugins), {e.plugin for e in entries})
    categories = {entry.category for entry in entries if entry.category}
    _check_names("categories", (*narrowing.categories, *narrowing.exclude_categories), categories)
    chosen = [entry for entry in entries if _is_chosen(entry, narrowing)]
    if not chosen:
        raise BadInputError("this selection leaves no collection to read")
    for what in ("fields", "where", "sort"):
        _check_names(what, getattr(narrowing, what), {entry.name for entry in chosen})
    for entry in chosen:
        extra_conditions(entry, narrowing)
        projection(entry, narrowing)
        sort_order(entry, narrowing)
    return chosen


def extra_conditions(entry: Entry, narrowing: Narrowing) -> list[Document]:
    """Return the conditions that join the one on the user: the date range and ``where``."""
    conditions = []
    if entry.name in narrowing.where:
        conditions.append(checked_filter(narrowing.where[entry.name], f"where, {entry.name}"))
    in_range = _date_range(entry, narrowing)
    if in_range is not None:
        conditions.append(in_range)
    return conditions


def projection(entry: Entry, narrowing: Narrowing) -> Mapping[str, int] | None:
    """Return the fields to read, or None for all: those asked for, and those that say whose the document is."""
    if entry.name not in narrowing.fields:
        return None
    paths = [checked_path(path, f"fields, {entry.name}") for path in narrowing.fields[entry.name]]
    if not 0 < len(paths) <= MOST_FIELDS:
        raise BadInputError(f"fields, {entry.name}: name 1 to {MOST_FIELDS} fields")
    needed = [*paths, "_id", *(path for path in (entry.user_key,) if path)]
    # MongoDB refuses a projection of a field and of a part of it; the outer one holds both.
    outer = [path for path in dict.fromkeys(needed) if not any(path.startswith(f"{other}.") for other in needed)]
    return dict.fromkeys(outer, 1)


def sort_order(entry: Entry, narrowing: Narrowing) -> Sequence[tuple[str, int]]:
    """Return the order to read in: (path, 1 or -1); empty where none is asked for."""
    if entry.name not in narrowing.sort:
        return []
    keys = narrowing.sort[entry.name]
    if len(keys) > MOST_SORT_KEYS:
        raise BadInputError(f"sort, {entry.name}: name at most {MOST_SORT_KEYS} fields")
    order = [
        (checked_path(key.removeprefix("-"), f"sort, {entry.name}"), -1 if key.startswith("-") else 1) for key in keys
    ]
    # Documents that compare equal would otherwise come in any order, and with a limit be any of them.
    return [*order, ("_id", 1)] if all(path != "_id" for path, _ in order) else order


def is_dated(entry: Entry, narrowing: Narrowing) -> bool:
    """Tell whether the request's date range applies to this entry; without a time field all of it is handed over."""
    return _date_range(entry, narrowing) is not None


def _is_chosen(entry: Entry, narrowing: Narrowing) -> bool:
    return (
        (not narrowing.collections or entry.name in narrowing.collections)
        and (not narrowing.plugins or entry.plugin in narrowing.plugins)
        and (not narrowing.categories or entry.category in narrowing.categories)
        and entry.name not in narrowing.exclude_collections
        and entry.plugin not in narrowing.exclude_plugins
        and entry.category not in narrowing.exclude_categories
        and (narrowing.profile != "portability" or entry.portable)
    )


def _check_names(what: str, given: Sequence[str] | Mapping[str, Any], known: set[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise BadInputError(f"{what}: {len(unknown)} of the names are not among: {', '.join(sorted(known))}")


def _date_range(entry: Entry, narrowing: Narrowing) -> Document | None:
    """Return the condition on the entry's time field.

    A document whose time is missing, of another type, or not a number is handed over: nobody can say that it lies
    outside.
    """
    if entry.time_field is None or not narrowing.is_dated:
        return None
    bounds = {
        operator: _in_unit(moment, entry.time_unit)
        for operator, moment in (("$gte", _utc(narrowing.since)), ("$lt", _utc(narrowing.until)))
        if moment is not None
    }
    kind = "date" if entry.time_unit == "date" else "number"
    no_time = [{"$not": {"$type": kind}}, *([{"$eq": math.nan}] if kind == "number" else [])]
    return {"$or": [{entry.time_field: condition} for condition in (bounds, *no_time)]}


def _in_unit(moment: datetime, unit: str | None) -> Any:
    # Not by way of a datetime in UTC, which the first and the last of the days have not in every time zone.
    since_epoch = moment - _EPOCH
    if unit == "date":
        # A date counts whole milliseconds; before or from a moment between two is before or from the later one.
        return DatetimeMS(-(-since_epoch // timedelta(milliseconds=1)))
    # As doubles: MongoDB compares numbers by value whatever their type.
    return since_epoch / (timedelta(milliseconds=1) if unit == "ms" else timedelta(seconds=1))


def _field_of(location: tuple[int | str, ...]) -> str:
    """Return the field that a mistake is in; the names further down may be data."""
    return str(location[0]) if location and location[0] in Narrowing.model_fields else "selection"
