"""What drift there is between the catalogue and samples of the database, and what to do about it. No I/O.

Findings name collections and fields, never a uid or another value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from export_pipeline.catalog.drift.live_collections import Claims, Listing, Place
from export_pipeline.catalog.drift.sampled_fields import ANY, Field
from export_pipeline.catalog.model import APP_ID, Entry

MOST_FIELDS = 300
MOST_LEVELS = 3
"""How many fields of an entry, and how deep, are remembered from check to check."""

ENOUGH_DOCUMENTS = 20
"""How many documents say something about a collection that has more."""

ENOUGH_TIMES = 5
"""How often a sample has to have a field: another sample as large misses it once in 150 times."""

_ENOUGH_STRINGS = 5

Kind = Literal[
    "unclaimed_collection", "collection_matches_nothing", "user_key_matches_nothing", "new_field", "unreadable"
]


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


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """Whether an entry's user key led to somebody in a sample of an app's collection; if not, what is wrong."""

    app_id: str | None
    documents: int
    problem: str | None


def absent_collections(listing: Listing, claims: Claims, places: Iterable[Place]) -> Iterator[Finding]:
    """Yield the entries whose collection exists for no app."""
    found = {place.entry.name for place in places if place.entry}
    for entry in claims.catalog.entries:
        database = claims.database_of(entry)
        if entry.name not in found and database in listing:
            yield Finding(
                kind="collection_matches_nothing",
                database=database,
                collection=entry.collection,
                detail=f"entry '{entry.name}': no app has this collection; mend its name or its database, or remove "
                "the entry if the plugin is gone",
            )


def key_findings(entry: Entry, database: str, checks: Sequence[KeyCheck]) -> Iterator[Finding]:
    """Yield where an entry's user key leads to nobody.

    One finding if that is so in every app. If only in some, one for each of them with at least 20 sampled documents:
    a few may well be of people who are gone, or who never were known.
    """
    everywhere = all(check.problem for check in checks)
    wrong = [check for check in checks if check.problem and (everywhere or check.documents >= ENOUGH_DOCUMENTS)]
    for check in wrong[:1] if everywhere else wrong:
        yield Finding(
            kind="user_key_matches_nothing",
            app_id=None if everywhere else check.app_id,
            database=database,
            collection=entry.collection,
            field=entry.user_key,
            detail=f"entry '{entry.name}': {check.problem}; mend its user_key, as exports miss this collection",
        )


def key_problem(at_key: int, of_people: int) -> str | None:
    """Say what is wrong with a user key under which a sample has so many strings, so many of them people's uids."""
    if at_key == 0:
        return "no sampled document has a string at its user key"
    if of_people == 0 and at_key >= _ENOUGH_STRINGS:
        return "the strings at its user key are no uids that the app knows"
    return None


@dataclass(frozen=True, slots=True)
class SeenField:
    """A field in a sample of an app's collection; ``often`` if a sample without it would have been a wonder."""

    app_id: str | None
    often: bool


def fields_seen(document: Field, app_id: str | None, *, whole: bool) -> Iterator[tuple[str, SeenField]]:
    """Yield the fields of sampled documents, without their keys, by path. ``whole``: the sample is the collection."""
    rare: set[str] = set()
    for path, inner in document.paths():
        outer = path.rpartition(".")[0]
        if not whole and (outer in rare or inner.times < ENOUGH_TIMES):
            rare.add(path)
        if path.count(".") < MOST_LEVELS:
            yield path, SeenField(app_id, often=path not in rare)


def new_fields(
    entry: Entry, database: str, known: Sequence[str] | None, found: Mapping[str, SeenField]
) -> tuple[list[Finding], list[str]]:
    """Return the fields that no earlier check saw, the outermost only, and all that are to be remembered.

    At an entry's first check all fields are remembered, and none is new. Later only one that is seen often is new:
    a rare one may have been there all the time, as samples differ. Once 300 are remembered, others are ignored.
    """
    before = set(known or ())
    added = [path for path in found.keys() - before if known is None or found[path].often]
    added = sorted(added, key=lambda path: (path.count("."), path))[: max(0, MOST_FIELDS - len(before))]
    findings = [
        Finding(
            kind="new_field",
            app_id=found[path].app_id,
            database=database,
            collection=entry.collection,
            field=path,
            detail=f"entry '{entry.name}': seen for the first time; exports hold it, exclude it if it must not leave",
        )
        for path in added
        if known is not None and path.rpartition(".")[0] not in added
    ]
    return findings, sorted(before.union(added))


def unclaimed(place: Place, paths: Sequence[str], default_database: str) -> Finding:
    """Return the finding of a collection that no entry claims and that holds uids at ``paths``, the best first."""
    best, *others = paths
    database = place.source.database
    if place.app_id is None:
        advice = "no app's id is in its name, so no entry can claim it; have it kept per app, or hand it over otherwise"
    elif ANY in best:
        advice = "no user_key can name what is in a map; claim it by an entry with a hook"
    else:
        name = _entry_name(place.template)
        elsewhere = f'database: "{database}", ' if database != default_database else ""
        advice = (
            "if it is the users' data, add to the catalogue: "
            f'- {{name: {name}, plugin: {name}, collection: "{place.template}", {elsewhere}user_key: "{best}"}}'
        )
    also = f" (and at {', '.join(others)})" if others else ""
    return Finding(
        kind="unclaimed_collection",
        app_id=place.app_id,
        database=database,
        collection=place.template,
        field=best,
        detail=f"it holds uids{also}; {advice}",
    )


def _entry_name(template: str) -> str:
    """Make a name for an entry: ``eventTimeline{app_id}`` gives event_timeline."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", template.replace(APP_ID, ""))
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_0123456789")[:100] or "unclaimed"
