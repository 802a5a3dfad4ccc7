"""What part of a person's data a request asks for: dates, collections, fields, conditions, order, profile.

Checked against the catalogue before anything is read. No I/O: what comes out are entries, filters and projections.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.errors import BadInputError
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.filters import checked_filter, checked_path

Profile = Literal["access", "portability"]
"""GDPR articles 15 (everything, with a notice) and 20 (what the person provided or was observed in)."""

MOST_LIMIT = 10_000_000


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


Names = Annotated[tuple[str, ...], Field(strict=False)]


class Narrowing(BaseModel):
    """Which part of what is held. Empty, the default, is all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    since: Annotated[datetime, Field(strict=False)] | None = None
    """From this moment on; without a time zone it is UTC."""
    until: Annotated[datetime, Field(strict=False)] | None = None
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
            f"{'.'.join(map(str, item['loc'][:2])) or 'selection'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        ]
        raise BadInputError("; ".join(reasons)) from None


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
    if not paths:
        raise BadInputError(f"fields, {entry.name}: name at least one field")
    needed = [*paths, *(path for path in (entry.user_key,) if path)]
    # MongoDB refuses a projection of a field and of a part of it; the outer one holds both.
    outer = [path for path in dict.fromkeys(needed) if not any(path.startswith(f"{other}.") for other in needed)]
    return dict.fromkeys(outer, 1)


def sort_order(entry: Entry, narrowing: Narrowing) -> Sequence[tuple[str, int]]:
    """Return the order to read in: (path, 1 or -1); empty where none is asked for."""
    if entry.name not in narrowing.sort:
        return []
    keys = narrowing.sort[entry.name]
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

    A document whose time is missing or of another type is handed over: nobody can say that it lies outside.
    """
    if entry.time_field is None or not narrowing.is_dated:
        return None
    bounds = {
        operator: _in_unit(moment, entry.time_unit)
        for operator, moment in (("$gte", _utc(narrowing.since)), ("$lt", _utc(narrowing.until)))
        if moment is not None
    }
    kind = "date" if entry.time_unit == "date" else "number"
    return {"$or": [{entry.time_field: bounds}, {entry.time_field: {"$not": {"$type": kind}}}]}


def _in_unit(moment: datetime, unit: str | None) -> Any:
    if unit == "date":
        return moment
    # As doubles: MongoDB compares numbers by value whatever their type.
    return moment.timestamp() * (1000 if unit == "ms" else 1)
