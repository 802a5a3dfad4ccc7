"""Which collections a database has, whose they are, and which entries of the catalogue claim them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pymongo import MongoClient

from export_pipeline.catalog.drift.sampling import Source
from export_pipeline.catalog.model import APP_ID, Entry, LoadedCatalog
from export_pipeline.mongo.connection import Document, Right, driver_errors
from export_pipeline.settings import Settings

NOBODYS_DATA = frozenset({"apps", "auth_tokens", "long_tasks", "members", "systemlogs"})
"""Countly's collections about those who run it. They may name a user, as the log of what members did does, but all
apps share them, and what they hold is the member's or the server's."""

Listing = Mapping[str, Mapping[str, Source]]
"""The collections and views by database and name; a database that cannot be listed is missing."""

_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_OBJECT_ID_AT_END = re.compile(r"(?:^|[^0-9a-f])([0-9a-f]{24})$")  # and not the end of a longer hash


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
class Claims:
    """What the catalogue claims; ``database`` is that of the entries that name none."""

    catalog: LoadedCatalog
    database: str

    def database_of(self, entry: Entry) -> str:
        """Return where an entry's collections are."""
        return entry.database or self.database

    @property
    def databases(self) -> list[str]:
        """All databases that hold users' data."""
        return list(dict.fromkeys([self.database, *map(self.database_of, self.catalog.entries)]))

    @property
    def people(self) -> tuple[str, str] | None:
        """The collection of an app's people and its field with the uid: what the catalogue says, or Countly's."""
        if self.catalog.identity is not None:
            return self.catalog.identity.collection, self.catalog.identity.uid
        for entry in self.catalog.entries:
            if entry.user_key and entry.database is None and entry.collection.startswith("app_users"):
                return entry.collection, entry.user_key
        return None


def list_collections(client: MongoClient[Document], settings: Settings, database: str) -> dict[str, Source]:
    """Return the collections and views of a database by name."""
    limit = max(1, int(settings.read_timeout.total_seconds() * 1000))
    with driver_errors(f"the list of collections of {database}", Right("listCollections", database)):
        return {
            item["name"]: Source(database, item["name"], item.get("options", {}).get("viewOn"))
            for item in client[database].list_collections(maxTimeMS=limit)
        }


def apps_among(listing: Listing, claims: Claims) -> set[str]:
    """Derive the apps' ids from the names of collections.

    An id is an ObjectId (24 hexadecimal digits) at the end of any name, or where a pattern of the catalogue has it.
    Another id, of letters, digits and ``-``, counts where the collection of people has it, or two patterns agree on
    it: ``nps{app_id}`` matches ``npsettings`` as well.
    """
    ids = {match[1] for sources in listing.values() for name in sources if (match := _OBJECT_ID_AT_END.search(name))}
    patterns = {(claims.database_of(entry), entry.collection) for entry in claims.catalog.entries}
    people = (claims.database, claims.people[0]) if claims.people else None
    agreeing: Counter[str] = Counter()
    for database, pattern in patterns | ({people} if people else set()):
        start, _, end = pattern.partition(APP_ID)
        shape = re.compile(f"{re.escape(start)}([A-Za-z0-9-]+){re.escape(end)}")
        for name in listing.get(database, ()):
            if match := shape.fullmatch(name):
                sure = _OBJECT_ID.fullmatch(match[1]) or (database, pattern) == people
                agreeing[match[1]] += 2 if sure else 1
    return ids | {app_id for app_id, patterns_agreeing in agreeing.items() if patterns_agreeing > 1}


def sort_out(listing: Listing, claims: Claims, apps: Iterable[str]) -> tuple[list[Place], int]:
    """Return the collections that users' data may be in, and how many views are left out, as they only show others.

    A collection that a claimed view shows is claimed with it.
    """
    longest_first = sorted(apps, key=lambda app_id: (-len(app_id), app_id))
    claimed = {
        (claims.database_of(entry), entry.collection_of(app_id)): (app_id, entry)
        for entry in claims.catalog.entries
        for app_id in longest_first
    }
    everything = [source for sources in listing.values() for source in sources.values()]
    shown = {
        (source.database, name)
        for source in everything
        if (source.database, source.name) in claimed
        for name in _shown_by(source, listing[source.database])
    }
    places, views = [], 0
    for source in everything:
        at = (source.database, source.name)
        if at in claimed:
            places.append(Place(source, *claimed[at]))
        elif source.view_on is not None:
            views += 1
        elif not (at in shown or source.name.startswith("system.") or source.name in NOBODYS_DATA):
            places.append(Place(source, next((app_id for app_id in longest_first if _names(source, app_id)), None)))
    return places, views


def _shown_by(source: Source, sources: Mapping[str, Source]) -> Iterator[str]:
    shown = source.view_on
    while shown is not None:
        yield shown
        shown = sources[shown].view_on if shown in sources else None


def _names(source: Source, app_id: str) -> bool:
    # An id that is not an ObjectId may be short, and short ones are in many names.
    return app_id in source.name if _OBJECT_ID.fullmatch(app_id) else source.name.endswith(app_id)
