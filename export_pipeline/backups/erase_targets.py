"""Whom and what an erasure removes: the people with all their ids, and the collections in the order of their removal.

The selection is that of an export. What finds other documents goes before what it is found by, and the people's own
records go last, so that an interrupted erasure finds them again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bson import json_util
from pymongo import MongoClient

from export_pipeline.backups.erase_documents import ErasableCollection
from export_pipeline.backups.erase_ownership import Claim
from export_pipeline.catalog.model import APP_ID, Entry, LoadedCatalog
from export_pipeline.catalog.narrowing import EVERYTHING
from export_pipeline.errors import BadInputError, UnknownAppError
from export_pipeline.installation import Installation
from export_pipeline.mongo.connection import Document, driver_errors
from export_pipeline.mongo.snapshot import SnapshotReader, choose_moment
from export_pipeline.slices.identity import People, Person
from export_pipeline.slices.ownership import UIDS_PER_QUERY, values_at
from export_pipeline.slices.queries import SliceQueries
from export_pipeline.slices.stored import Stored

Namespace = tuple[str, str]
"""A database and a collection."""


class ErasedPeople(Stored):
    """Who is erased. What lies under a device that others used too cannot be told apart, and stays."""

    person: Person
    shared_devices: tuple[str, ...] = ()
    hooked: Mapping[str, str] = {}
    """What the hooks selected, by entry, in Extended JSON: once the people's records are gone, a hook may find nothing.
    """

    @property
    def erasable(self) -> Person:
        """The people with the ids under which nobody else has documents."""
        own = tuple(device for device in self.person.device_ids if device not in self.shared_devices)
        return self.person.model_copy(update={"device_ids": own})


@dataclass(frozen=True, slots=True)
class Target:
    """A collection, or a view, which only shows documents of others: those disappear with what it shows."""

    entry: Entry
    name: Namespace
    is_view: bool


def find_people(installation: Installation, app_id: str, uids: Sequence[str]) -> ErasedPeople:
    """Return the people with all ids that belong to them, at one moment. Raises what an export would."""
    catalog, settings = installation.catalog, installation.settings
    alone = Person(requested_uids=tuple(dict.fromkeys(uids)))
    if catalog.identity is None:
        return ErasedPeople(person=alone)
    name = (settings.mongo_database, catalog.identity.collection.replace(APP_ID, app_id))
    moment = choose_moment(installation.client, [name], required=settings.require_point_in_time)
    if name not in moment.collections:
        return ErasedPeople(person=alone)
    reader = SnapshotReader(installation.client, moment.cluster_time, settings.read_timeout)
    closed = People(reader, catalog.identity, moment.collections[name]).close({"erasure": uids})["erasure"]
    if not isinstance(closed, Person):
        raise closed
    if len(closed.uids) + len(closed.device_ids) > UIDS_PER_QUERY:
        raise BadInputError(f"these people have more than {UIDS_PER_QUERY} ids together; erase fewer at a time")
    devices = catalog.identity.device_ids
    if devices is None or not closed.device_ids:
        return ErasedPeople(person=closed)
    others = {devices: {"$in": list(closed.device_ids)}, catalog.identity.uid: {"$nin": list(closed.uids)}}
    used_by_others = {
        device
        for record in reader.find(moment.collections[name], others, {devices: 1})
        for device in values_at(record, devices.split("."))
        if isinstance(device, str)
    }
    shared = tuple(device for device in closed.device_ids if device in used_by_others)
    return ErasedPeople(person=closed, shared_devices=shared)


def find_targets(installation: Installation, app_id: str) -> list[Target]:
    """Return what of the catalogue exists for the app, in the order of removal. Raises for what cannot be erased."""
    database = installation.settings.mongo_database
    claimed = {
        (entry.database or database, entry.collection_of(app_id)): entry
        for entry in in_order(installation.catalog, database)
    }
    existing = _existing(installation.client, claimed)
    if not existing:
        raise UnknownAppError(
            f"no collection of the catalogue exists for app {app_id}; check the app id, "
            "EXPORT_PIPELINE_MONGO_DATABASE and EXPORT_PIPELINE_CATALOG"
        )
    views = {name: info["options"]["viewOn"] for name, info in existing.items() if info["type"] == "view"}
    for name, source in views.items():
        if (name[0], source) not in claimed:
            raise BadInputError(
                f"{name[1]} is a view of {source}, which no entry of the catalogue claims: what it shows cannot be "
                "erased through it; add an entry for that collection"
            )
    _check_time_series({name: info for name, info in existing.items() if info["type"] == "timeseries"}, claimed)
    return [Target(entry, name, name in views) for name, entry in claimed.items() if name in existing]


def in_order(catalog: LoadedCatalog, database: str) -> list[Entry]:
    """Return the entries in the order of removal: by hook, by device, by uid, and the people's own records.

    Where no entry claims the collection of people, one is added: it is about nobody else.
    """
    identity = catalog.identity
    entries = list(catalog.entries)

    def is_of_people(entry: Entry) -> bool:
        return identity is not None and entry.collection == identity.collection and entry.database in (None, database)

    if identity is not None and not any(map(is_of_people, entries)):
        entries.append(Entry(name="people", plugin="people", collection=identity.collection, user_key=identity.uid))

    def turn(entry: Entry) -> int:
        if is_of_people(entry):
            return 3
        return 0 if entry.hook is not None else 1 if entry.key_holds == "device_id" else 2

    return sorted(entries, key=turn)


def with_hooks_called(app_id: str, targets: Sequence[Target], people: ErasedPeople) -> ErasedPeople:
    """Return the people with what the hooks select for them. Raises CatalogError where a hook fails."""
    hooked = {
        target.entry.name: json_util.dumps(
            _selectors(target.entry, app_id, people), json_options=json_util.CANONICAL_JSON_OPTIONS
        )
        for target in targets
        if target.entry.hook is not None
    }
    return people.model_copy(update={"hooked": hooked})


def erasable(installation: Installation, app_id: str, target: Target, people: ErasedPeople) -> ErasableCollection:
    """Return the collection's documents of the people."""
    entry, client = target.entry, installation.client
    # Devices of others too find nothing, but a document that also names one of the person's own is theirs.
    ids = people.person.device_ids if entry.key_holds == "device_id" else people.person.uids
    claim = None if entry.user_key is None else Claim(tuple(entry.user_key.split(".")), frozenset(ids))
    selectors = _selectors(entry, app_id, people)
    return ErasableCollection(client, target.name, selectors, claim, installation.settings.read_timeout)


def _selectors(entry: Entry, app_id: str, people: ErasedPeople) -> list[Document]:
    if entry.name in people.hooked:
        return list(json_util.loads(people.hooked[entry.name]))
    queries = SliceQueries(entry, EVERYTHING, app_id, {"erasure": people.erasable}).queries
    return [query.selector for query in queries]


def _existing(client: MongoClient[Document], names: Iterable[Namespace]) -> dict[Namespace, Document]:
    found: dict[Namespace, Document] = {}
    wanted = list(names)
    for database in {database for database, _ in wanted}:
        of = [name for in_, name in wanted if in_ == database]
        with driver_errors(f"the list of collections of {database}"):
            for info in client[database].list_collections(filter={"name": {"$in": of}}):
                found[database, info["name"]] = dict(info)
    return found


def _check_time_series(series: Mapping[Namespace, Document], claimed: Mapping[Namespace, Entry]) -> None:
    """Raise BadInputError for a time series whose metadata do not hold the key: the server deletes by nothing else.

    MongoDB's manual, "Time Series Collection Limitations"; the rule that holds for all versions.
    """
    for name, info in series.items():
        meta = info["options"]["timeseries"].get("metaField")
        user_key = claimed[name].user_key
        if user_key is None or user_key.split(".")[0] != meta:
            raise BadInputError(
                f"{name[1]} is a time series whose metadata do not hold the user key, by which alone the server "
                "removes its documents; keep the uid in its metaField"
            )
