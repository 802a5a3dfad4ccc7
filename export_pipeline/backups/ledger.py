"""The ledger of the erased: hashes of the ids that a restore must not bring back. Plain ids are never kept.

It lies in the requests table's database and, in copies, in each storage that has backups, so that another installation
with the same EXPORT_PIPELINE_SECRET_KEY that restores from there leaves out the same people.
"""

import hmac
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, insert, select

from export_pipeline.errors import BadInputError
from export_pipeline.requests.database import database_errors
from export_pipeline.requests.rows import chunks
from export_pipeline.requests.schema import erased_users
from export_pipeline.settings import Settings
from export_pipeline.slices.identity import Person
from export_pipeline.slices.stored import Stored, store_json
from export_pipeline.storage import Storage

CLOCKS_DIFFER = timedelta(minutes=5)
"""By how much the clocks of MongoDB and of whoever erases may differ: what is left out in doubt, a restore reports."""

_FOLDER = "ledger"


class LedgerKey:
    """Makes an app's hashes: of the same id, they are the same in every installation with the same secret key."""

    def __init__(self, secret_key: str, app_id: str) -> None:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"export_pipeline erased users of " + app_id.encode()
        self._key = HKDF(SHA256(), 32, salt=None, info=info).derive(secret_key.encode())
        self.check = self._hash("check", "")
        """The same for the same key: hashes made under another would match nobody, and bring everybody back."""

    @classmethod
    def of(cls, settings: Settings, app_id: str) -> "LedgerKey":
        """Return the key of an app. Raises BadInputError where the installation has no secret key."""
        if settings.secret_key is None:
            raise BadInputError(
                "who was erased is kept as hashes under EXPORT_PIPELINE_SECRET_KEY, and restores leave them out by it: "
                "set that first, to the same in every installation"
            )
        return cls(settings.secret_key.get_secret_value(), app_id)

    def of_uid(self, uid: str) -> str:
        """Return the hash of a uid, in hex."""
        return self._hash("uid", uid)

    def of_device(self, device_id: str) -> str:
        """Return the hash of a device id, in hex."""
        return self._hash("device", device_id)

    def of_people(self, person: Person) -> list[str]:
        """Return the hashes of all ids of the people."""
        return [*map(self.of_uid, person.uids), *map(self.of_device, person.device_ids)]

    def of_selection(self, app_id: str, person: Person) -> str:
        """Return what two selections of the same people have in common, in hex."""
        return self._hash("selection", "\n".join([app_id, *sorted(self.of_people(person))]))

    def _hash(self, kind: str, value: str) -> str:
        return hmac.digest(self._key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), "sha256").hex()


class LedgerEntry(Stored):
    """One erasure: whom it removes. ``erased_at`` is None while it is under way."""

    erasure_id: str
    app_id: str
    key_check: str
    hashes: tuple[str, ...]
    erased_at: datetime | None = None

    def concerns(self, backup_of: datetime) -> bool:
        """Tell whether a backup of that moment may still hold the people."""
        return self.erased_at is None or self.erased_at + CLOCKS_DIFFER >= backup_of


class Ledger:
    """The ledger of one installation and of storages."""

    def __init__(self, engine: Engine, storages: Sequence[Storage]) -> None:
        self._engine = engine
        self._storages = storages

    def write(self, entry: LedgerEntry) -> None:
        """Add an erasure, or its end. Who is erased a second time is in the ledger once, with the later erasure."""
        for storage in self._storages:
            store_json(storage, _key(entry.app_id, entry.erasure_id), entry)
        rows = [
            {
                "app_id": entry.app_id,
                "uid_hash": uid_hash,
                "erasure_id": entry.erasure_id,
                "key_check": entry.key_check,
                "erased_at": entry.erased_at,
            }
            for uid_hash in dict.fromkeys(entry.hashes)
        ]
        table = erased_users.c
        with database_errors(), self._engine.begin() as connection:
            for hashes in chunks(entry.hashes):
                connection.execute(delete(erased_users).where(table.app_id == entry.app_id, table.uid_hash.in_(hashes)))
            connection.execute(insert(erased_users), rows)

    def erased_since(self, app_id: str, moment: datetime, settings: Settings) -> frozenset[str]:
        """Return the hashes of an app's people whom a backup of that ``moment`` must not bring back.

        Raises BadInputError where some were made under another secret key than the present one.
        """
        entries = [entry for entry in self._entries(app_id) if entry.concerns(moment)]
        if not entries:
            return frozenset()
        check = LedgerKey.of(settings, app_id).check
        if any(entry.key_check != check for entry in entries):
            raise BadInputError(
                f"the ledger of the erased users of app {app_id} was written under another EXPORT_PIPELINE_SECRET_KEY "
                "than the present one: with this one, they would be brought back; set the other"
            )
        return frozenset(uid_hash for entry in entries for uid_hash in entry.hashes)

    def _entries(self, app_id: str) -> Iterable[LedgerEntry]:
        query = select(erased_users).where(erased_users.c.app_id == app_id)
        with database_errors(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            rows: Sequence[LedgerEntry] = [
                LedgerEntry(
                    erasure_id=row.erasure_id,
                    app_id=row.app_id,
                    key_check=row.key_check,
                    hashes=(row.uid_hash,),
                    erased_at=row.erased_at,
                )
                for row in connection.execute(query)
            ]
        yield from rows
        for storage in self._storages:
            for erasure_id in storage.folders(f"{_FOLDER}/{app_id}"):
                key = _key(app_id, erasure_id)
                if storage.exists(key):  # a folder is made before its file
                    with storage.open(key) as file:
                        yield LedgerEntry.model_validate_json(file.read())


def _key(app_id: str, erasure_id: str) -> str:
    return f"{_FOLDER}/{app_id}/{erasure_id}/entry.json"
