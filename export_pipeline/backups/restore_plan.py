"""What a restore is to do: which collection goes where, and whether the target takes it. Decisions, no I/O.

Each refusal names the collection, and comes before anything is written.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from export_pipeline.backups.erase_targets import in_order
from export_pipeline.backups.manifest import BackedUpCollection, BackupManifest, PartFile
from export_pipeline.backups.rename import AppValue, renamed, structure_for
from export_pipeline.backups.restore_source import BackupRefusedError
from export_pipeline.backups.scope import app_value
from export_pipeline.backups.structure import Structure
from export_pipeline.catalog.model import APP_ID, Entry, LoadedCatalog, Shared
from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import ALL_APPS, check_app_id

Namespace = tuple[str, str]
"""A database and a collection."""


class TargetRefusedError(BadInputError):
    """The target cannot take the backup; nothing was written. The message names the collection."""

    code = "target_refused"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    databases: Sequence[str]
    """``D``, or ``OLD=NEW`` for each of a backup of several databases."""
    app_id: str | None = None
    """The new app id; None: as it was."""
    without: Sequence[str] = ()
    """Collections to be left out, by their names in the backup."""
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Target:
    """One collection of the backup, and what becomes of it."""

    source: BackedUpCollection
    name: Namespace
    structure: Structure
    app_value: AppValue | None = field(default=None, repr=False)
    """For a shared collection of which the app's id changes."""
    claims: tuple[tuple[Entry, str], ...] = ()
    """What the catalogue says of it, and of which app of the backup it may be."""

    @property
    def is_one_piece(self) -> bool:
        """Whether it is loaded in one go: what is loaded twice would be in it twice."""
        return self.structure.kind in ("capped", "timeseries")


def plan_targets(manifest: BackupManifest, catalog: LoadedCatalog, database: str, wish: Wish) -> list[Target]:
    """Return what is to be restored; views come last, after what they show. Raises BadInputError for a wrong wish.

    ``database`` is the one that the catalogue's entries mean which name none.
    """
    databases = target_databases(_databases_with_collections(manifest), wish.databases)
    known = {collection.name for collection in manifest.collections}
    if unknown := [name for name in wish.without if name not in known]:
        raise BadInputError(f"--without {unknown[0]}: the backup holds no such collection")
    chosen = [collection for collection in manifest.collections if collection.name not in wish.without]
    names = {(each.database, each.name): _new_name(each, manifest, catalog, wish.app_id) for each in chosen}
    targets = [
        Target(
            source=each,
            name=(databases[each.database], names[each.database, each.name]),
            structure=structure_for(each.structure, _in_database(names, each.database)),
            app_value=_app_value(each, manifest, wish.app_id),
            claims=tuple(_claims(each, manifest.app_id, catalog, database)),
        )
        for each in chosen
    ]
    _refuse_views_of_what_is_left_out(targets, wish)
    taken: dict[Namespace, str] = {}
    for target in targets:
        if target.name in taken:
            raise BadInputError(
                f"{target.source.name} and {taken[target.name]} would both become {'.'.join(target.name)}; "
                "restore one of them with --without the other"
            )
        taken[target.name] = target.source.name
    return _sorted_by_source(targets)


def _databases_with_collections(manifest: BackupManifest) -> list[str]:
    """Return the databases of which the backup holds something, and the first in any case: it lends its name."""
    return [
        database
        for place, database in enumerate(manifest.databases)
        if place == 0 or any(collection.database == database for collection in manifest.collections)
    ]


def _in_database(names: Mapping[Namespace, str], database: str) -> dict[str, str]:
    return {old: new for (of, old), new in names.items() if of == database}


def target_databases(held: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Return the target of each of a backup's databases.

    >>> target_databases(["countly", "countly_drill"], ["copy"])
    {'countly': 'copy', 'countly_drill': 'copy_drill'}
    """
    named = dict(pair.split("=", 1) for pair in wanted if "=" in pair)
    plain = [name for name in wanted if "=" not in name]
    if unknown := [name for name in named if name not in held]:
        raise BadInputError(f"--to-database {unknown[0]}=…: the backup is of {', '.join(held)}")
    if len(plain) > 1 or (not plain and not named):
        raise BadInputError("--to-database: name one database, or OLD=NEW for each that the backup holds")
    found: dict[str, str] = {}
    for database in held:
        if database in named:
            found[database] = named[database]
        elif plain and database.startswith(held[0]):
            found[database] = plain[0] + database.removeprefix(held[0])
        else:
            raise BadInputError(f"--to-database: say where {database} goes: --to-database {database}=NEW")
    if len(set(found.values())) < len(found):
        raise BadInputError("--to-database: two of the backup's databases would become one")
    for name in found.values():
        if not re.fullmatch(r"[^/\\. \"$\0]{1,63}", name) or name in ("admin", "config", "local"):
            raise BadInputError("--to-database: this is not a name that MongoDB allows for a database of yours")
    return found


def refuse_target(target: Target, existing: Structure | None, documents: bool, server: str, backup_of: str) -> None:
    """Raise TargetRefusedError unless the collection is absent, or empty and the same in structure.

    ``server`` and ``backup_of`` are the versions of the target's server and of the one that was backed up.
    """
    if _major(server) < _major(backup_of):
        raise TargetRefusedError(
            f"the target's server is MongoDB {server}, older than that of the backup ({backup_of}): it may not know "
            "what its collections need; use one of that version or later"
        )
    if existing is None:
        return
    name = ".".join(target.name)
    if documents:
        raise TargetRefusedError(f"{name}: the target has documents already; restore into an empty database")
    if existing.fingerprint != target.structure.fingerprint:
        raise TargetRefusedError(
            f"{name}: the target has this collection, empty, with other options, indexes or validator than the "
            "backup's; drop it"
        )


def plan_sha256(manifest_sha256: str, targets: Sequence[Target], erased: Mapping[str, Any]) -> str:
    """Return what an interrupted restore and the one that continues it have in common, in hex."""
    said = [
        manifest_sha256,
        [[target.source.database, target.source.name, *target.name] for target in targets],
        erased,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def parts_of(targets: Sequence[Target]) -> list[tuple[Target, PartFile]]:
    """Return all parts, the largest first, so that no thread is left with a large one at the end."""
    parts = [(target, part) for target in targets for part in target.source.parts]
    return sorted(parts, key=lambda each: -each[1].documents_bytes)


def _new_name(collection: BackedUpCollection, manifest: BackupManifest, catalog: LoadedCatalog, new: str | None) -> str:
    if new is None or collection.app_filter is not None:
        return collection.name
    if manifest.app_id == ALL_APPS:
        raise BadInputError("--app-id: the backup is of all apps; only the id of a single one can be changed")
    check_app_id(new)
    templates = [entry.collection for entry in catalog.entries]
    templates += [catalog.identity.collection] if catalog.identity else []
    return renamed(collection.name, manifest.app_id, new, templates)


def _app_value(collection: BackedUpCollection, manifest: BackupManifest, new: str | None) -> AppValue | None:
    of = collection.app_filter
    if new is None or of is None:
        return None
    shared = Shared(collection=collection.name, database=None, app_key=of.app_key, key_type=of.key_type)
    return AppValue(of.app_key, app_value(shared, manifest.app_id), app_value(shared, new))


def _claims(
    collection: BackedUpCollection, app_id: str, catalog: LoadedCatalog, database: str
) -> list[tuple[Entry, str]]:
    """Return the entries that claim a collection, with the app whose it is by each."""
    found = []
    for entry in in_order(catalog, database):
        if (entry.database or database) != collection.database:
            continue
        before, _, after = entry.collection.partition(APP_ID)
        name = collection.name
        if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
            owner = name[len(before) : len(name) - len(after)]
            if app_id in (ALL_APPS, owner):
                found.append((entry, owner))
    return found


def _refuse_views_of_what_is_left_out(targets: Sequence[Target], wish: Wish) -> None:
    for target in targets:
        if target.structure.kind == "view" and target.source.structure.options["viewOn"] in wish.without:
            raise BadInputError(f"--without: {target.source.name} is a view of what is left out; leave it out too")


def _sorted_by_source(targets: Sequence[Target]) -> list[Target]:
    """Return the collections first, then each view after what it shows."""
    done = [target for target in targets if target.structure.kind != "view"]
    views = [target for target in targets if target.structure.kind == "view"]
    while views:
        waiting = {view.name for view in views}
        ready = [view for view in views if (view.name[0], view.structure.options["viewOn"]) not in waiting]
        if not ready:
            raise BackupRefusedError(f"{views[0].source.name}: this view shows itself")
        done += ready
        views = [view for view in views if view not in ready]
    return done


def _major(version: str) -> int:
    return int(version.partition(".")[0])
