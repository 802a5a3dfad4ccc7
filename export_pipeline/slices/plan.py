"""The plan of a batch: who, which collections, at which moment, and how many documents the server counts there.

It is stored before anything is read, so that a retried run reads the same moment and takes up finished slices.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from pymongo import MongoClient

from export_pipeline.catalog.model import APP_ID, Entry, LoadedCatalog
from export_pipeline.catalog.narrowing import Narrowing, chosen_entries
from export_pipeline.errors import BadInputError, ExportPipelineError, MongoUnreachableError, UnknownAppError
from export_pipeline.mongo.connection import Document, driver_errors
from export_pipeline.mongo.pressure import Pace, SourceUnderPressureError
from export_pipeline.mongo.snapshot import ClusterTime, CollectionId, SnapshotReader, choose_moment
from export_pipeline.settings import Settings
from export_pipeline.slices.identity import People, Person
from export_pipeline.slices.queries import SliceQueries
from export_pipeline.slices.stored import Stored, batch_folder, store_json
from export_pipeline.storage import Storage


class PlannedRequest(Stored):
    """One request of the batch, and the people it is about."""

    id: str
    person: Person = Field(repr=False)


class Failure(Stored):
    """Why a collection could not be read."""

    code: str
    message: str

    @classmethod
    def of(cls, error: ExportPipelineError) -> "Failure":
        """Return the failure that ``error`` tells of."""
        return cls(code=error.code, message=str(error))


class PlannedCollection(Stored):
    """One entry of the catalogue, as it stands in the database; ``source`` is None where it is absent."""

    name: str
    source: CollectionId | None
    expected: Mapping[str, int] = {}
    """Documents by request id, counted by the server at the plan's moment; none where there are none."""
    failure: Failure | None = None


class BatchPlan(Stored):
    """All that the readers of one batch need to know."""

    batch_id: str
    app_id: str
    narrowing: Narrowing
    cluster_time: ClusterTime | None
    planned_at: datetime
    catalog_sha256: str
    redaction_key: str = Field(repr=False)
    """Hex; makes the hashes that stand in for other people's data. Nobody keeps it once the slices are gone."""
    requests: tuple[PlannedRequest, ...]
    collections: tuple[PlannedCollection, ...]
    """Of the entries that the requests ask for, in the catalogue's order."""
    restarts: int = 0
    """How often the batch has started over at a newer moment."""

    @property
    def people(self) -> dict[str, Person]:
        """The people of each request."""
        return {request.id: request.person for request in self.requests}

    def collection(self, name: str) -> PlannedCollection | None:
        """Return the planned collection of the catalogue's entry ``name``; None where no request asks for it."""
        return next((collection for collection in self.collections if collection.name == name), None)

    def expected_of(self, request_id: str) -> int:
        """Return how many documents a request expects over all collections."""
        return sum(collection.expected.get(request_id, 0) for collection in self.collections)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one request of the batch asks for: uids, or a filter on the person with the most people it may find."""

    request_id: str
    uids: Sequence[str]
    person: Mapping[str, Any] | None
    max_users: int


def make_plan(
    client: MongoClient[Document],
    settings: Settings,
    catalog: LoadedCatalog,
    batch_id: str,
    app_id: str,
    narrowing: Narrowing,
    wanted: Sequence[Wanted],
) -> tuple[BatchPlan, dict[str, ExportPipelineError]]:
    """Choose the moment, find out who the people are, and count.

    Returns the plan, and the requests that cannot be planned with the reason. Raises what makes the whole batch
    impossible. A collection that cannot be counted is planned with its failure: it concerns those who need it.
    """
    entries = chosen_entries(narrowing, catalog)
    names = {entry.name: (entry.database or settings.mongo_database, entry.collection_of(app_id)) for entry in entries}
    wanted_names = set(names.values())
    identity = catalog.identity
    if identity is not None:
        people_name = (settings.mongo_database, identity.collection.replace(APP_ID, app_id))
        wanted_names.add(people_name)
    pace = Pace(client, settings)
    with driver_errors("the state of the source"):
        pace.wait()  # before the moment is chosen: it is in the server's history for some minutes only
    moment = choose_moment(client, wanted_names, required=settings.require_point_in_time)
    if not moment.collections:
        raise UnknownAppError(
            f"no collection of the catalogue exists for app {app_id}; check the app id, "
            "EXPORT_PIPELINE_MONGO_DATABASE and EXPORT_PIPELINE_CATALOG"
        )
    reader = SnapshotReader(client, moment.cluster_time, settings.read_timeout, pace)
    people = None
    if identity is not None and people_name in moment.collections:
        people = People(reader, identity, moment.collections[people_name])
    known, unplanned = _who(people, wanted)
    plan = BatchPlan(
        batch_id=batch_id,
        app_id=app_id,
        narrowing=narrowing,
        cluster_time=moment.cluster_time,
        planned_at=datetime.now(UTC),
        catalog_sha256=catalog.sha256,
        redaction_key=secrets.token_hex(32),
        requests=tuple(PlannedRequest(id=request_id, person=person) for request_id, person in known.items()),
        collections=tuple(
            _plan_collection(reader, entry, moment.collections.get(names[entry.name]), narrowing, app_id, known)
            for entry in entries
        ),
    )
    return plan, unplanned


def _who(people: People | None, wanted: Sequence[Wanted]) -> tuple[dict[str, Person], dict[str, ExportPipelineError]]:
    """Return the people of each request, and why there are none for some."""
    requested: dict[str, Sequence[str]] = {}
    unplanned: dict[str, ExportPipelineError] = {}
    for want in wanted:
        try:
            if want.person is None:
                requested[want.request_id] = want.uids
            elif people is None:
                raise BadInputError("person: this app has no collection of people to search; name the uids")
            else:
                requested[want.request_id] = people.find(want.person, want.max_users)
        except BadInputError as error:
            unplanned[want.request_id] = error
    known: dict[str, Person] = {}
    closed = people.close(requested) if people is not None else {}
    for request_id, uids in requested.items():
        person = closed.get(request_id, Person(requested_uids=tuple(dict.fromkeys(uids))))
        if isinstance(person, Person):
            known[request_id] = person
        else:
            unplanned[request_id] = person
    return known, unplanned


def _plan_collection(
    reader: SnapshotReader,
    entry: Entry,
    source: CollectionId | None,
    narrowing: Narrowing,
    app_id: str,
    people: Mapping[str, Person],
) -> PlannedCollection:
    if source is None:
        return PlannedCollection(name=entry.name, source=None)
    try:
        expected = SliceQueries(entry, narrowing, app_id, people).count(reader, source)
    except (MongoUnreachableError, SourceUnderPressureError):
        raise  # no collection can be read now; there is nothing to be planned
    except ExportPipelineError as error:
        return PlannedCollection(name=entry.name, source=source, failure=Failure.of(error))
    return PlannedCollection(name=entry.name, source=source, expected=expected)


def plan_key(batch_id: str) -> str:
    """Return where a batch's plan is stored."""
    return f"{batch_folder(batch_id)}/plan.json"


def store_plan(storage: Storage, plan: BatchPlan) -> None:
    """Keep the plan beside the slices to come."""
    store_json(storage, plan_key(plan.batch_id), plan)


def load_plan(storage: Storage, batch_id: str) -> BatchPlan:
    """Return the stored plan of a batch."""
    with storage.open(plan_key(batch_id)) as file:
        return BatchPlan.model_validate_json(file.read())
