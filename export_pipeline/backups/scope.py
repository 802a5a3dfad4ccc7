"""Which collections a backup of an app takes. No I/O.

The catalogue's; those whose names hold the app's id; and of shared ones, the documents that name the app. Another app's
are never taken: a name that may be either's is left out, and the manifest says so.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from bson import ObjectId

from export_pipeline.catalog.model import APP_ID, Entry, LoadedCatalog, Shared
from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import ALL_APPS

Names = Mapping[str, Collection[str]]
"""The names of collections and views, by database."""

_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_ANY_ID = "([A-Za-z0-9_-]{1,64})"
_SEPARATORS = ("_", ".", "-")


@dataclass(frozen=True, slots=True)
class Scoped:
    """A collection that a backup takes."""

    database: str
    name: str
    entry: Entry | None = None
    """What the catalogue says of it."""
    shared: Shared | None = None
    """Set for one of which the app has only some documents."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a backup takes, and what it does not dare to."""

    collections: tuple[Scoped, ...]
    left_out: tuple[str, ...]
    """As ``database.name``: those whose names hold the app's id as a part of what may be another's."""


def databases_of(catalog: LoadedCatalog, database: str) -> list[str]:
    """Return the databases that a backup looks into; ``database`` is that of whatever names none."""
    named = (*(entry.database for entry in catalog.entries), *(each.database for each in catalog.shared))
    return list(dict.fromkeys([database, *filter(None, named)]))


def app_value(shared: Shared, app_id: str) -> str | ObjectId:
    """Return an app's id as a shared collection has it. Raises BadInputError where it cannot be that."""
    if shared.key_type == "string":
        return app_id
    if not _OBJECT_ID.fullmatch(app_id):
        raise BadInputError(
            f"the catalogue says that {shared.collection} has app ids as objectId, and this app's id is none; "
            "correct its key_type, or the app id"
        )
    return ObjectId(app_id)


def scope_of(names: Names, catalog: LoadedCatalog, database: str, app_id: str) -> Scope:
    """Return what a backup of ``app_id`` takes of what there is; ``*`` takes every app's, and all that they share."""
    patterns = _Patterns(catalog, database)
    known = patterns.apps(names) | {app_id}
    shared = {(each.database or database, each.collection): each for each in catalog.shared}
    taken, left_out = [], []
    for of, listed in names.items():
        for name in sorted(listed):
            if name.startswith("system."):
                continue
            if (of, name) in shared:
                of_app = None if app_id == ALL_APPS else shared[of, name]
                taken.append(Scoped(of, name, shared=of_app))
            elif app_id == ALL_APPS:
                if patterns.owners(of, name) or _owners_by_name(name, known) or re.search("[0-9a-f]{24}", name):
                    taken.append(Scoped(of, name, patterns.entry(of, name, None)))
            else:
                owned = _is_owned(patterns, known, of, name, app_id)
                if owned:
                    taken.append(Scoped(of, name, patterns.entry(of, name, app_id)))
                elif owned is None:
                    left_out.append(f"{of}.{name}")
    return Scope(tuple(taken), tuple(left_out))


def _is_owned(patterns: "_Patterns", known: Collection[str], database: str, name: str, app_id: str) -> bool | None:
    """Tell whether a collection is the app's; None where it may be."""
    if app_id not in name:
        return False
    by_pattern = patterns.owners(database, name)
    # The longest pattern says the most: in app_users5 it sees the app 5, where app_{app_id} would see users5.
    surest = next((owner for owner in by_pattern if owner in known), None)
    if surest is not None:
        return surest == app_id
    if any(app_id in owner for owner in by_pattern):
        return None  # an app that nothing else tells of may have a longer id
    owners = _owners_by_name(name, known)
    if app_id in owners:
        return True if owners == {app_id} else None
    return None if name.endswith(app_id) and not owners else False


def _owners_by_name(name: str, known: Collection[str]) -> set[str]:
    """Return the known apps whose ids the name holds, but for those within another's id.

    An ObjectId may stand anywhere. Another id may be as short as a word's end: it has to be the name's last part.
    """
    found = {
        app_id for app_id in known if app_id in name and (_OBJECT_ID.fullmatch(app_id) or _is_last_part(name, app_id))
    }
    return {app_id for app_id in found if not any(app_id in other for other in found - {app_id})}


def _is_last_part(name: str, app_id: str) -> bool:
    return name.endswith(app_id) and name.removesuffix(app_id).endswith(_SEPARATORS)


class _Patterns:
    """The names that the catalogue's collections have, as patterns around an app's id; the longest ones first."""

    def __init__(self, catalog: LoadedCatalog, database: str) -> None:
        self._people = catalog.identity.collection if catalog.identity else None
        self._entries = {(entry.database or database, entry.collection): entry for entry in catalog.entries}
        templates = set(self._entries) | ({(database, self._people)} if self._people else set())
        self._templates = [
            (of, template, _shape(template))
            for of, template in sorted(templates, key=lambda each: (-len(each[1]), each))
        ]

    def owners(self, database: str, name: str) -> list[str]:
        """Return the ids that the patterns see in a name."""
        return [owner for _, owner in self._seen(database, name)]

    def entry(self, database: str, name: str, app_id: str | None) -> Entry | None:
        """Return the catalogue's entry of a collection, of this app where one is given."""
        for template, owner in self._seen(database, name):
            if app_id in (None, owner):
                return self._entries.get((database, template))
        return None

    def apps(self, names: Names) -> set[str]:
        """Return the ids of all apps, as far as names tell: an ObjectId, one that has people, or that two patterns see.

        One pattern alone is not enough: nps{app_id} sees an app in npsettings.
        """
        votes: Counter[str] = Counter()
        for database, listed in names.items():
            for name in listed:
                for template, owner in self._seen(database, name):
                    votes[owner] += 2 if template == self._people or _OBJECT_ID.fullmatch(owner) else 1
        return {owner for owner, seen in votes.items() if seen > 1}

    def _seen(self, database: str, name: str) -> Iterator[tuple[str, str]]:
        for of, template, shape in self._templates:
            if of == database and (match := shape.fullmatch(name)):
                yield template, match[1]


def _shape(template: str) -> re.Pattern[str]:
    before, _, after = template.partition(APP_ID)
    return re.compile(f"{re.escape(before)}{_ANY_ID}{re.escape(after)}")
