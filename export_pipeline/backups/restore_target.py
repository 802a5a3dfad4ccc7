"""The database that a restore writes to: its structures, and the record of how far a restore has come.

While documents are loaded, a collection has neither validators nor indexes: those come after, what lets documents
expire last.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from export_pipeline.backups.restore_plan import Namespace, Target, TargetRefusedError, refuse_target
from export_pipeline.backups.structure import Structure, as_stored, read_structures
from export_pipeline.errors import ExportPipelineError, MongoUnreachableError
from export_pipeline.mongo.bson_stream import ANYTHING
from export_pipeline.mongo.connection import Document

PROGRESS = "export_pipeline_restore"
"""The collection in which a restore keeps how far it has come; it is gone when the restore is done."""

_AFTER = ("validator", "validationLevel", "validationAction", "expireAfterSeconds")
"""Options that are set once all documents are there."""

_MAJORITY = WriteConcern("majority")
_UNAUTHORIZED, _NAMESPACE_EXISTS = 13, 48
_HEADER = "restore"


class RestoreFailedError(ExportPipelineError):
    """The target could not be written; the message names the collection. Restore again to continue."""

    code = "restore_failed"


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise the driver's errors as ours, without its words, which may quote documents."""
    try:
        yield
    except OperationFailure as error:
        name = (error.details or {}).get("codeName", f"code {error.code}")
        if error.code == _UNAUTHORIZED:
            raise RestoreFailedError(f"{what}: not authorized; restoring needs 'readWrite' and 'dbAdmin'") from None
        raise RestoreFailedError(f"{what}: MongoDB refused to write ({name})") from None
    except ConnectionFailure as error:
        raise MongoUnreachableError(
            f"{what}: the target's MongoDB cannot be reached ({type(error).__name__}); restore again to continue"
        ) from None
    except PyMongoError as error:
        reason = type(error).__name__
        raise RestoreFailedError(f"{what}: writing failed ({reason}); restore again to continue") from None


class RestoreTarget:
    """A MongoDB, as the target of a restore."""

    def __init__(self, client: MongoClient[Document]) -> None:
        self._client = client

    @property
    def server(self) -> str:
        """The addresses of the server's members."""
        with writing("the target's server"):
            self._client.server_info()  # they are known only then
            return ",".join(sorted(f"{host}:{port}" for host, port in self._client.nodes))

    @property
    def process(self) -> Any:
        """What tells the process that is written to from another one, such as the same server's after a restart."""
        with writing("the target's server"):
            return self._client.admin.command("hello").get("topologyVersion", {}).get("processId")

    def database(self, name: str) -> Database[Any]:
        """Return a database whose collections are read and written at the primary."""
        return self._client.get_database(name, read_preference=ReadPreference.PRIMARY, write_concern=_MAJORITY)

    def collection(self, name: Namespace) -> Collection[Any]:
        """Return a collection whose documents are raw."""
        return self.database(name[0]).get_collection(name[1], ANYTHING)

    def check(self, targets: Sequence[Target], backup_of: str) -> None:
        """Raise TargetRefusedError unless each collection is absent, or empty and as it was."""
        with writing("the target's server"):
            server = str(self._client.server_info()["version"])
        for database in {target.name[0] for target in targets}:
            existing = read_structures(self._client, database)
            for target in (target for target in targets if target.name[0] == database):
                structure = existing.get(target.name[1])
                refuse_target(target, structure, self._has_documents(target.name, structure), server, backup_of)

    def _has_documents(self, name: Namespace, structure: Structure | None) -> bool:
        if structure is None or structure.kind == "view":
            return False
        with writing(name[1]):
            return self.collection(name).find_one({}, {"_id": 1}) is not None

    def prepare(self, target: Target) -> None:
        """Make a collection ready to be loaded: without validators and indexes. Can run twice."""
        database, name = target.name
        options = _for_creation(target.structure)
        with writing(name):
            try:
                self.database(database).command("create", name, **_without_later(target.structure, options))
            except OperationFailure as error:
                if error.code != _NAMESPACE_EXISTS:
                    raise
                if target.structure.kind != "view":
                    self._strip(target)

    def _strip(self, target: Target) -> None:
        database, name = target.name
        if target.structure.kind != "timeseries":
            self.collection(target.name).drop_indexes()
        if "validator" in target.structure.options:
            self.database(database).command("collMod", name, validator={}, validationLevel="off")
        if "expireAfterSeconds" in target.structure.options:
            self.database(database).command("collMod", name, expireAfterSeconds="off")

    def start_over(self, target: Target) -> None:
        """Empty a collection that this restore made and that cannot be continued."""
        with writing(target.name[1]):
            self.database(target.name[0]).drop_collection(target.name[1])
        self.prepare(target)

    def build_indexes(self, target: Target) -> None:
        """Build the indexes but for those by which documents expire."""
        self._create_indexes(target, [index for index in _indexes(target.structure) if not _expires(index)])

    def finish(self, target: Target) -> None:
        """Set the validator, and what lets documents expire; then compare the whole structure.

        Raises RestoreFailedError where the server made something else of it.
        """
        database, name = target.name
        if target.structure.kind != "view":
            self._create_indexes(target, [index for index in _indexes(target.structure) if _expires(index)])
            later = {key: value for key, value in _for_creation(target.structure).items() if key in _AFTER}
            if "validator" in later:
                later = {"validationLevel": "strict", "validationAction": "error", **later}
            if later:
                with writing(name):
                    self.database(database).command("collMod", name, **later)
        made = read_structures(self._client, database, [name]).get(name)
        if made is None or made.fingerprint != target.structure.fingerprint:
            raise RestoreFailedError(f"{database}.{name}: the server made other options or indexes than the backup's")

    def _create_indexes(self, target: Target, indexes: Sequence[Document]) -> None:
        if indexes:
            with writing(f"the indexes of {target.name[1]}"):
                command = {"createIndexes": target.name[1], "indexes": list(indexes)}
                self.database(target.name[0]).command(command, codec_options=ANYTHING)  # a refusal quotes a document


class RestoreRecord:
    """How far a restore has come, kept in the target."""

    def __init__(self, target: RestoreTarget, database: str) -> None:
        self._collection: Collection[Any] = target.database(database)[PROGRESS]

    def begun(self, plan_sha256: str) -> bool:
        """Tell whether this restore has begun before. Raises TargetRefusedError where another one has."""
        with writing(PROGRESS):
            header = self._collection.find_one({"_id": _HEADER})
        if header is not None and header["plan_sha256"] != plan_sha256:
            raise TargetRefusedError(
                f"{self._collection.full_name}: another restore into this database was interrupted, or users were "
                "erased since it began; drop the collections that it made, and this one"
            )
        return header is not None

    def begin(self, plan_sha256: str) -> None:
        """Record that it begins, before anything else is written."""
        with writing(PROGRESS):
            self._collection.update_one({"_id": _HEADER}, {"$set": {"plan_sha256": plan_sha256}}, upsert=True)

    def done(self) -> dict[str, Document]:
        """Return what is recorded, by what it is recorded of."""
        with writing(PROGRESS):
            return {found["_id"]: found for found in self._collection.find({"_id": {"$ne": _HEADER}})}

    def add(self, what: str, figures: Mapping[str, Any]) -> None:
        """Record what is done; all that was written before is on the disks of a majority then too."""
        with writing(PROGRESS):
            self._collection.replace_one({"_id": what}, {"_id": what, **figures}, upsert=True)

    def withdraw(self, what: Sequence[str]) -> None:
        """Take back what is not so any more."""
        with writing(PROGRESS):
            self._collection.delete_many({"_id": {"$in": list(what)}})

    def remove(self, plan_sha256: str) -> None:
        """Remove the record of a restore that is done; another one's stays."""
        with writing(PROGRESS):
            if self._collection.find_one({"_id": _HEADER, "plan_sha256": plan_sha256}) is not None:
                self._collection.drop()


def _for_creation(structure: Structure) -> Document:
    """Return the options as ``create`` takes them."""
    options = as_stored(structure.options)
    if "collation" in options:
        options["collation"] = _of_any_version(options["collation"])
    return options


def _without_later(structure: Structure, options: Document) -> Document:
    return options if structure.kind == "view" else {key: options[key] for key in options if key not in _AFTER}


def _indexes(structure: Structure) -> list[Document]:
    """Return the indexes that are to be built: the one on _id comes with the collection."""
    indexes = [as_stored(index) for index in structure.indexes]
    wanted = [index for index in indexes if index["name"] != "_id_" and not index.get("clustered")]
    for index in wanted:
        index.pop("ns", None)
        if "collation" in index:
            index["collation"] = _of_any_version(index["collation"])
    return wanted


def _of_any_version(collation: Mapping[str, Any]) -> Document:
    """Return a collation without the version of the server's Unicode library, which takes no other than its own."""
    return {key: value for key, value in collation.items() if key != "version"}


def _expires(index: Mapping[str, Any]) -> bool:
    return "expireAfterSeconds" in index
