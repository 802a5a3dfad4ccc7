"""Where the catalogue and the live database have drifted apart: what an export would miss, or no longer finds.

The database is sampled, within a budget. The findings name collections and fields, never a uid or another value.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import shuffle
from time import monotonic
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pymongo import MongoClient

from export_pipeline.catalog.model import APP_ID, Entry, LoadedCatalog
from export_pipeline.catalog.sampled_fields import ANY, Field, fields_with_uids, strings_at, without_keys
from export_pipeline.catalog.sampling import MOST_DOCUMENTS, BoundedReader, KnownUids, NotInBudgetError, Source
from export_pipeline.errors import ExportPipelineError, MongoUnreachableError
from export_pipeline.mongo.connection import Document, driver_errors
from export_pipeline.settings import Settings

NOBODYS_DATA = frozenset({"apps", "auth_tokens", "long_tasks", "members", "systemlogs"})
"""Countly's collections about those who run it. They may name a user, as the log of a member's deeds does, but what
they hold is the member's or the server's, and all apps share them."""

MOST_LEVELS = 3
MOST_FIELDS = 300
"""How deep, and how many, the fields of an entry are remembered from check to check."""

_ENOUGH_DOCUMENTS = 20
_ENOUGH_VALUES = 5
_APPS_FOR_SHARED = 20
_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_OBJECT_ID_AT_END = re.compile(r"(?:^|[^0-9a-f])([0-9a-f]{24})$")  # and not the end of a longer hash

Kind = Literal[
    "unclaimed_collection", "collection_matches_nothing", "user_key_matches_nothing", "new_field", "unreadable"
]
Listing = Mapping[str, Mapping[str, Source]]
"""The collections and views by database and name; a database that cannot be listed is missing."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a check may cost at most: its time, and the documents that it samples.

    Only listing the collections' names is not cut short by it, so that the report can say what was not looked at.
    """

    seconds: float = 120
    documents: int = 50_000


class Finding(BaseModel):
    """One difference between the catalogue and the database, and what to do about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    app_id: str | None = None
    """The app where it was found; None where it concerns all of them."""
    database: str
    collection: str
    """With {app_id} in the place of the app's id; ``*`` for all of a database that cannot be listed."""
    field: str | None = None
    """A dotted path; ``*`` stands for names that are data, such as uids and dates."""
    detail: str


class DriftReport(BaseModel):
    """What a check found, what it looked at, and what the budget left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    findings: tuple[Finding, ...]
    apps: int
    collections: int
    """Looked at."""
    skipped: int
    """Collections that were not looked at, for want of time or documents."""
    views: int
    """Views that no entry claims; the collections that they show are looked at instead."""
    documents: int
    """Sampled."""
    seconds: float
    budget: Budget
    complete: bool
    """Whether no collection was skipped."""


@dataclass(frozen=True, slots=True)
class Place:
    """A collection that is to be looked at: an app's own or, without an app, one that all apps share."""

    source: Source
    app_id: str | None = None
    entry: Entry | None = None

    @property
    def template(self) -> str:
        """The collection's name as a catalogue has it."""
        return self.source.name.replace(self.app_id, APP_ID, 1) if self.app_id else self.source.name


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """Whether the user key of an entry led to anybody in a sample of an app's collection."""

    app_id: str
    documents: int
    whole: bool  # the sample was the collection
    problem: str | None


@dataclass(slots=True)
class _Sample:
    place: Place
    document: Field = field(default_factory=Field)
    documents: int = 0
    at_key: set[str] = field(default_factory=set, repr=False)


def known_apps(client: MongoClient[Document], settings: Settings, catalog: LoadedCatalog) -> list[str]:
    """Return the ids of the apps that have collections, from the collections' names. See ``apps_among``."""
    databases = _databases(catalog, settings.mongo_database)
    listing = {database: _list(client, settings, database) for database in databases}
    return sorted(apps_among(listing, catalog, settings.mongo_database))


def check_drift(
    client: MongoClient[Document],
    settings: Settings,
    catalog: LoadedCatalog,
    seen: Mapping[str, Sequence[str]],
    budget: Budget | None = None,
    apps: Sequence[str] | None = None,
) -> tuple[DriftReport, dict[str, list[str]]]:
    """Compare the catalogue with samples of the database; return the report, and ``seen`` for the next check.

    ``seen`` has the fields that earlier checks saw, by an entry's name; the first check of an entry reports none as
    new. ``apps`` limits the check to these apps. Raises MongoUnreachableError, as without a server nothing is known;
    a collection that cannot be read is a finding.

    App after app is looked at, in another order each time, and what all apps share at the end. Within an app the
    catalogue's collections come first, as they tell who its users are, and smaller ones before larger ones. Each
    collection gets the same share of the documents that are left when its turn comes.
    """
    started = monotonic()
    budget = budget or Budget()
    reader = BoundedReader(client, settings.read_timeout, budget.seconds, budget.documents)
    check = _Check(reader, catalog, settings.mongo_database)
    listing = {}
    for database in _databases(catalog, settings.mongo_database):
        with check.reporting_unreadable(database, "*", None):
            listing[database] = _list(client, settings, database)
    every_app = apps_among(listing, catalog, settings.mongo_database) | set(apps or ())
    chosen = sorted(every_app) if apps is None else list(dict.fromkeys(apps))
    places, views = sort_out(listing, catalog, settings.mongo_database, every_app)
    check.look_at(places, chosen)
    unmatched = collections_that_match_nothing(listing, catalog, settings.mongo_database, places)
    new, seen_now = fields_seen_first(seen, check.fields, catalog, settings.mongo_database)
    findings = [*check.findings, *unmatched, *check.key_findings(), *new]
    report = DriftReport(
        findings=tuple(sorted(findings, key=lambda one: (one.kind, one.database, one.collection, one.app_id or ""))),
        apps=len(chosen),
        collections=len(check.looked_at - check.skipped),
        skipped=len(check.skipped),
        views=views,
        documents=reader.sampled,
        seconds=round(monotonic() - started, 3),
        budget=budget,
        complete=not check.skipped,
    )
    return report, seen_now


# What there is


def apps_among(listing: Listing, catalog: LoadedCatalog, default: str) -> set[str]:
    """Derive the apps' ids from the names of collections.

    An id is an ObjectId (24 hexadecimal digits) at the end of any name, or where a pattern of the catalogue has it.
    Other ids, of letters, digits and ``-``, count where the collection of people, or two patterns, agree on them:
    ``nps{app_id}`` matches ``npsettings`` as well.
    """
    names = [name for sources in listing.values() for name in sources]
    ids = {match[1] for name in names if (match := _OBJECT_ID_AT_END.search(name))}
    registry = _registry(catalog)
    patterns = {(entry.database or default, entry.collection) for entry in catalog.entries}
    if registry:
        patterns.add((default, registry[0]))
    agreeing: Counter[str] = Counter()
    for database, pattern in patterns:
        start, _, end = pattern.partition(APP_ID)
        shape = re.compile(f"{re.escape(start)}([A-Za-z0-9-]+){re.escape(end)}")
        for name in listing.get(database, ()):
            if match := shape.fullmatch(name):
                sure = _OBJECT_ID.fullmatch(match[1]) or (registry and pattern == registry[0])
                agreeing[match[1]] += 2 if sure else 1
    return ids | {app_id for app_id, patterns_agreeing in agreeing.items() if patterns_agreeing > 1}


def sort_out(
    listing: Listing, catalog: LoadedCatalog, default: str, apps: Iterable[str]
) -> tuple[list[Place], int]:
    """Return the collections to look at, and how many views are left out because they only show others.

    A collection that a claimed view shows is claimed with it.
    """
    longest_first = sorted(apps, key=lambda app_id: (-len(app_id), app_id))
    claims = {
        (entry.database or default, entry.collection_of(app_id)): Place(Source("", ""), app_id, entry)
        for entry in catalog.entries
        for app_id in longest_first
    }
    shown = {
        (database, name)
        for database, sources in listing.items()
        for source in sources.values()
        if (database, source.name) in claims
        for name in _shown_by(source, sources)
    }
    places, views = [], 0
    for source in (source for sources in listing.values() for source in sources.values()):
        at = (source.database, source.name)
        if at in claims:
            places.append(Place(source, claims[at].app_id, claims[at].entry))
        elif source.view_on is not None:
            views += 1
        elif not (at in shown or source.name.startswith("system.") or source.name in NOBODYS_DATA):
            places.append(Place(source, next((app_id for app_id in longest_first if _names(source, app_id)), None)))
    return places, views


def collections_that_match_nothing(
    listing: Listing, catalog: LoadedCatalog, default: str, places: Iterable[Place]
) -> Iterator[Finding]:
    """Yield the entries whose collection exists for no app."""
    found = {place.entry.name for place in places if place.entry}
    for entry in catalog.entries:
        database = entry.database or default
        if entry.name not in found and database in listing:
            yield Finding(
                kind="collection_matches_nothing",
                database=database,
                collection=entry.collection,
                detail=f"no app has the collection of entry '{entry.name}'; mend its name or its database, "
                "or remove the entry if the plugin is gone",
            )


def _list(client: MongoClient[Document], settings: Settings, database: str) -> dict[str, Source]:
    limit = max(1, int(settings.read_timeout.total_seconds() * 1000))
    with driver_errors(f"the list of collections of {database}"):
        return {
            item["name"]: Source(database, item["name"], item.get("options", {}).get("viewOn"))
            for item in client[database].list_collections(maxTimeMS=limit)
        }


def _databases(catalog: LoadedCatalog, default: str) -> list[str]:
    return list(dict.fromkeys([default, *(entry.database or default for entry in catalog.entries)]))


def _registry(catalog: LoadedCatalog) -> tuple[str, str] | None:
    """Return the collection of people and its field with the uid: what the catalogue says, or Countly's."""
    if catalog.identity is not None:
        return catalog.identity.collection, catalog.identity.uid
    return next(
        (
            (entry.collection, entry.user_key)
            for entry in catalog.entries
            if entry.user_key and entry.database is None and entry.collection.startswith("app_users")
        ),
        None,
    )


def _shown_by(source: Source, sources: Mapping[str, Source]) -> Iterator[str]:
    while source.view_on is not None:
        yield source.view_on
        if source.view_on not in sources:
            return
        source = sources[source.view_on]


def _names(source: Source, app_id: str) -> bool:
    # An id that is not an ObjectId may be short, and short ones are in many names.
    return app_id in source.name if _OBJECT_ID.fullmatch(app_id) else source.name.endswith(app_id)


# What it holds


class _Check:
    """One check under way."""

    def __init__(self, reader: BoundedReader, catalog: LoadedCatalog, default: str) -> None:
        self.findings: list[Finding] = []
        self.looked_at: set[Source] = set()
        self.skipped: set[Source] = set()
        self.fields: dict[str, dict[str, str | None]] = {}  # by entry and path, the app
        self._keys: dict[str, list[KeyCheck]] = {}
        self._reader = reader
        self._catalog = catalog
        self._default = default
        self._left = 0

    def look_at(self, places: Sequence[Place], apps: Sequence[str]) -> None:
        """Look at the places of these apps and at those that all apps share."""
        by_app: dict[str | None, list[Place]] = {None: [], **{app_id: [] for app_id in apps}}
        for place in places:
            if place.app_id in by_app:
                by_app[place.app_id].append(place)
        self._left = sum(map(len, by_app.values()))
        shared = by_app.pop(None)
        order = list(by_app)
        shuffle(order)
        everyone = KnownUids(self._reader)
        for number, app_id in enumerate(order):
            uids = KnownUids(self._reader)
            ...
