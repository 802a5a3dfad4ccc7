"""The table of erasures: a dry run, its confirmation, its end. No row ever holds a plain id of a person."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, insert, select, update

from export_pipeline.errors import BadInputError, StaleRequestError
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.database import database_errors
from export_pipeline.requests.rows import may_be_id, now
from export_pipeline.requests.schema import erasures
from export_pipeline.slices.stored import Stored

Status = Literal["counted", "erasing", "erased"]

_COLUMNS = erasures.c


class CountedCollection(Stored):
    """A collection's documents of the people: theirs alone, and others' too. A view's are its source's."""

    database: str
    collection: str
    is_view: bool
    own: int
    shared: int

    @property
    def documents(self) -> int:
        """All of them."""
        return self.own + self.shared


class Counted(Stored):
    """What an erasure would remove, in the order of removal."""

    uids: int
    merged_uids: int
    device_ids: int
    shared_device_ids: int
    collections: tuple[CountedCollection, ...]


class Erasure(Stored):
    """A row of the table."""

    id: str
    app_id: str
    selection_sha256: str
    status: Status
    requested_by: str
    requested_at: datetime
    finished_at: datetime | None
    counted: Counted
    sealed_people: str | None
    history: tuple[Mapping[str, str], ...]
    receipt: Mapping[str, Any] | None


class ErasureRecords:
    """The table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, app_id: str, selection_sha256: str, counted: Counted, actor: str) -> Erasure:
        """Record a dry run."""
        erasure_id = new_id()
        row = {
            "id": erasure_id,
            "app_id": app_id,
            "selection_sha256": selection_sha256,
            "status": "counted",
            "requested_by": actor,
            "requested_at": now(),
            "counted": counted.model_dump(mode="json"),
            "history": [_event("counted", actor)],
        }
        with database_errors(), self._engine.begin() as connection:
            connection.execute(insert(erasures), row)
            return _the_one(connection, erasure_id)

    def get(self, erasure_id: str) -> Erasure:
        """Return an erasure. Raises BadInputError for an id that is none."""
        with database_errors(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return _the_one(connection, erasure_id)

    def begin(self, erasure_id: str, counted: Counted, sealed_people: str, actor: str) -> Erasure:
        """Record a confirmation. Raises StaleRequestError unless only a dry run was made."""
        values = {"counted": counted.model_dump(mode="json"), "sealed_people": sealed_people}
        return self._move(erasure_id, "counted", "erasing", "confirmed", actor, values)

    def take_up(self, erasure_id: str, actor: str) -> Erasure:
        """Record that an interrupted erasure goes on."""
        return self._move(erasure_id, "erasing", "erasing", "taken up", actor, {})

    def finish(self, erasure_id: str, receipt: Mapping[str, Any], finished_at: datetime, actor: str) -> Erasure:
        """Record the end, and forget who it was."""
        values = {"receipt": dict(receipt), "finished_at": finished_at, "sealed_people": None}
        return self._move(erasure_id, "erasing", "erased", "erased", actor, values)

    def _move(
        self, erasure_id: str, expected: Status, status: Status, event: str, actor: str, values: Mapping[str, Any]
    ) -> Erasure:
        with database_errors(), self._engine.begin() as connection:
            before = _the_one(connection, erasure_id, locked=True)
            if before.status != expected:
                raise StaleRequestError(f"erasure {erasure_id} is not '{expected}' any more")
            history = [*before.history, _event(event, actor)]
            connection.execute(
                update(erasures).where(_COLUMNS.id == erasure_id).values(status=status, history=history, **values)
            )
            return _the_one(connection, erasure_id)


def _event(event: str, actor: str) -> dict[str, str]:
    return {"at": now().isoformat(), "actor": actor, "event": event}


def _the_one(connection: Connection, erasure_id: str, *, locked: bool = False) -> Erasure:
    query = select(erasures).where(_COLUMNS.id == erasure_id)
    row = connection.execute(query.with_for_update() if locked else query).first() if may_be_id(erasure_id) else None
    if row is None:
        raise BadInputError("no erasure has this id; a dry run (without --confirm) prints one")
    return Erasure(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name
