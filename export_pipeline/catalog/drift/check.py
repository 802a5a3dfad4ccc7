"""Where the catalogue and the live database have drifted apart: what an export would miss, or no longer finds.

The database is sampled, within a budget. The findings name collections and fields, never a uid or another value.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from random import shuffle
from time import monotonic

from pydantic import BaseModel, ConfigDict
from pymongo import MongoClient

from export_pipeline.catalog.drift.findings import (
    ENOUGH_DOCUMENTS,
    Finding,
    KeyCheck,
    Kind,
    SeenField,
    absent_collections,
    fields_seen,
    key_findings,
    key_problem,
    new_fields,
    unclaimed,
)
from export_pipeline.catalog.drift.live_collections import (
    Claims,
    Listing,
    Place,
    apps_among,
    list_collections,
    sort_out,
)
from export_pipeline.catalog.drift.sampled_fields import (
    ANY,
    MOST_STRINGS,
    Field,
    fields_with_uids,
    strings_at,
    without_keys,
)
from export_pipeline.catalog.drift.sampling import UNKNOWN_SIZE, BoundedReader, KnownUids, NotInBudgetError, Source
from export_pipeline.catalog.model import APP_ID, LoadedCatalog
from export_pipeline.errors import ExportPipelineError, MongoUnreachableError
from export_pipeline.mongo.connection import Document
from export_pipeline.settings import Settings

__all__ = ["DEFAULT_BUDGET", "Budget", "DriftReport", "Finding", "Kind", "check_drift", "known_apps"]

_APPS_FOR_SHARED = 20
"""With the uids of how many apps a collection is compared that all apps share."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a check may cost: its time, and the documents that it samples.

    Only listing the collections' names is not cut short by it, so that the report can say what was not looked at.
    """

    seconds: float = 120
    documents: int = 50_000


DEFAULT_BUDGET = Budget()


class DriftReport(BaseModel):
    """What a check found, what it looked at, and what it left out for its budget."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    findings: tuple[Finding, ...]
    apps: int
    collections: int
    """How many were looked at."""
    skipped: int
    """How many were not, for want of time or documents."""
    views: int
    """How many views no entry claims; the collections that they show are looked at instead."""
    documents: int
    """How many were sampled."""
    seconds: float
    budget: Budget
    complete: bool
    """Whether none was skipped."""


def known_apps(client: MongoClient[Document], settings: Settings, catalog: LoadedCatalog) -> list[str]:
    """Return the ids of the apps that have collections; ``apps_among`` says how they are told from the names."""
    claims = Claims(catalog, settings.mongo_database)
    listing = {database: list_collections(client, settings, database) for database in claims.databases}
    return sorted(apps_among(listing, claims))


def check_drift(
    client: MongoClient[Document],
    settings: Settings,
    catalog: LoadedCatalog,
    seen: Mapping[str, Sequence[str]],
    budget: Budget = DEFAULT_BUDGET,
    apps: Sequence[str] | None = None,
) -> tuple[DriftReport, dict[str, list[str]]]:
    """Compare the catalogue with samples of the database; return the report, and ``seen`` for the next check.

    ``seen`` has the fields that earlier checks saw, by an entry's name; the first check of an entry reports none as
    new. ``apps`` limits the check to these apps. A collection that cannot be read is a finding; where no server
    answers, MongoUnreachableError is raised, since nothing is known then.

    App after app is looked at, in another order each time, and what all apps share at the end. Within an app the
    entries' collections come first, as they tell who its users are, and smaller ones before larger ones. Each
    collection gets the same share of the documents that are left when its turn comes.
    """
    started = monotonic()
    claims = Claims(catalog, settings.mongo_database)
    reader = BoundedReader(client, settings.read_timeout, budget.seconds, budget.documents)
    check = _Check(reader, claims)
    listing: dict[str, dict[str, Source]] = {}
    for database in claims.databases:
        with check.reporting(Finding(kind="unreadable", database=database, collection=ANY, detail="")):
            listing[database] = list_collections(client, settings, database)
    every_app = apps_among(listing, claims) | set(apps or ())
    chosen = every_app if apps is None else set(apps)
    places, views = sort_out(listing, claims, every_app)
    check.look_at([place for place in places if place.app_id is None or place.app_id in chosen], listing)
    findings = [*check.findings, *absent_collections(listing, claims, places)]
    seen_now = {name: list(paths) for name, paths in seen.items()}
    for entry in catalog.entries:
        database = claims.database_of(entry)
        findings += key_findings(entry, database, check.keys.get(entry.name, ()))
        if found := check.fields.get(entry.name):
            new, seen_now[entry.name] = new_fields(entry, database, seen.get(entry.name), found)
            findings += new
    report = DriftReport(
        findings=tuple(sorted(dict.fromkeys(findings), key=lambda one: (one.kind, one.collection, one.app_id or ""))),
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


@dataclass(slots=True)
class _Sample:
    place: Place
    size: int  # of the collection, about
    document: Field = field(default_factory=Field)
    documents: int = 0
    at_key: set[str] = field(default_factory=set, repr=False)


class _Check:
    """One check under way."""

    def __init__(self, reader: BoundedReader, claims: Claims) -> None:
        self.findings: list[Finding] = []
        self.looked_at: set[Source] = set()
        self.skipped: set[Source] = set()
        self.keys: dict[str, list[KeyCheck]] = {}  # by entry
        self.fields: dict[str, dict[str, SeenField]] = {}  # by entry and path
        self._reader = reader
        self._claims = claims
        self._left = 0

    def look_at(self, places: Sequence[Place], listing: Listing) -> None:
        """Look at the places, app by app."""
        self._left = len(places)
        by_app: dict[str | None, list[Place]] = {}
        for place in places:
            by_app.setdefault(place.app_id, []).append(place)
        shared = by_app.pop(None, [])
        in_turn = list(by_app.items())
        shuffle(in_turn)
        everyone = KnownUids(self._reader)
        for number, (app_id, own) in enumerate(in_turn):
            uids = KnownUids(self._reader, self._people(app_id, listing))
            self._look_at_one_app(own, uids)
            if number < _APPS_FOR_SHARED:
                everyone.join(uids)
        self._look_at_one_app(shared, everyone)

    @contextmanager
    def reporting(self, unreadable: Finding) -> Iterator[None]:
        """Turn a failed read into this finding, unless there is no server."""
        try:
            yield
        except MongoUnreachableError:
            raise
        except ExportPipelineError as error:
            self.findings.append(unreadable.model_copy(update={"detail": f"nothing is known of it: {error}"}))

    def _look_at_one_app(self, places: Sequence[Place], uids: KnownUids) -> None:
        sizes = {place.source: self._size(place.source) for place in places}
        in_turn = sorted(places, key=lambda place: (sizes[place.source], place.source.name))
        samples = []
        for place in in_turn:
            if place.entry is not None:
                with self._looking_at(place):
                    samples.append(self._sample(place, sizes[place.source]))
        for sample in samples:
            with self._looking_at(sample.place):
                self._check_key(sample, uids)
        for sample in samples:
            with self._looking_at(sample.place):
                self._note_fields(sample, uids)
        for place in in_turn:
            if place.entry is None:
                with self._looking_at(place):
                    self._check_unclaimed(self._sample(place, sizes[place.source]), uids)

    @contextmanager
    def _looking_at(self, place: Place) -> Iterator[None]:
        try:
            with self.reporting(
                Finding(
                    kind="unreadable",
                    app_id=place.app_id,
                    database=place.source.database,
                    collection=place.template,
                    detail="",
                )
            ):
                yield
                self.looked_at.add(place.source)
        except NotInBudgetError:
            self.skipped.add(place.source)

    def _size(self, source: Source) -> int:
        try:
            return self._reader.size(source)
        except (NotInBudgetError, ExportPipelineError):
            return UNKNOWN_SIZE  # sampling it tells what is wrong

    def _sample(self, place: Place, size: int) -> _Sample:
        sample = _Sample(place, size)
        key = place.entry.user_key if place.entry else None
        share = self._reader.share(self._left)
        self._left -= 1
        for document in self._reader.sample(place.source, share):
            sample.documents += 1
            sample.document.look_at(document)
            if key is not None and len(sample.at_key) < MOST_STRINGS:
                sample.at_key.update(islice(strings_at(document, key.split(".")), MOST_STRINGS))
        return sample

    def _check_key(self, sample: _Sample, uids: KnownUids) -> None:
        entry = sample.place.entry
        if entry is None or entry.user_key is None or not sample.documents:
            return
        of_people = sample.at_key
        if entry.key_holds == "uid":
            of_people = uids.of_people(sample.at_key)
            uids.meet(of_people)
        problem = key_problem(len(sample.at_key), len(of_people))
        if problem is None or sample.documents >= min(sample.size, ENOUGH_DOCUMENTS):
            self.keys.setdefault(entry.name, []).append(KeyCheck(sample.place.app_id, sample.documents, problem))

    def _note_fields(self, sample: _Sample, uids: KnownUids) -> None:
        if sample.place.entry is None:
            return
        document = without_keys(sample.document, uids.among(sample.document.names()))
        fields = self.fields.setdefault(sample.place.entry.name, {})
        for path, found in fields_seen(document, sample.place.app_id, whole=sample.documents >= sample.size):
            if found.often or path not in fields:
                fields[path] = found

    def _check_unclaimed(self, sample: _Sample, uids: KnownUids) -> None:
        known = uids.among(sample.document.words())
        if paths := fields_with_uids(without_keys(sample.document, known), known):
            self.findings.append(unclaimed(sample.place, paths, self._claims.database))

    def _people(self, app_id: str | None, listing: Listing) -> tuple[Source, str] | None:
        """Return the collection of an app's people, if there is one, and its field with the uid."""
        if app_id is None or self._claims.people is None:
            return None
        collection, path = self._claims.people
        source = listing.get(self._claims.database, {}).get(collection.replace(APP_ID, app_id))
        return (source, path) if source else None
