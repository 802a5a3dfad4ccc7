"""Loading the demo: a database to export from, the same for the same arguments on any machine.

It decides how many documents each person has in each collection and writes them. Who the people are belongs in
``people``, what their documents look like in ``shapes``.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from random import Random
from typing import Any, Final

from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database

from export_pipeline.demo import bystanders
from export_pipeline.demo.people import (
    APPS,
    DEMO_APP_ID,
    DEMO_EMPTY_UID,
    DEMO_HEAVIEST_UID,
    DEMO_MERGED_UID,
    DEMO_SECOND_APP_ID,
    DEMO_UID,
    App,
    Person,
    people_of,
    random_for,
)
from export_pipeline.demo.shapes import PLUGINS, Document, Plugin
from export_pipeline.demo.specimens import SPECIMENS
from export_pipeline.errors import BadInputError

__all__ = [
    "DEMO_APP_ID",
    "DEMO_EMPTY_UID",
    "DEMO_HEAVIEST_UID",
    "DEMO_MERGED_UID",
    "DEMO_SECOND_APP_ID",
    "DEMO_UID",
    "DemoData",
    "load_demo_data",
]

_FEWEST_USERS: Final = 20
_BATCH_DOCUMENTS: Final = 2_000
_TASKS_UNDER_WAY: Final = 3

Progress = Callable[[int, int], None]
"""Told how many documents are written, and of how many."""


@dataclass(frozen=True, slots=True)
class DemoData:
    """What was loaded, and whom to try it on; the uids are of the first app."""

    app_ids: tuple[str, str]
    small_uid: str
    heaviest_uid: str
    empty_uid: str
    merged_uid: str
    documents: int


@dataclass(frozen=True, slots=True)
class _Load:
    """The documents of one collection, still to be made and written."""

    collection: Collection[Any]
    documents: Iterable[Document]
    count: int
    index: str | None = None


def load_demo_data(
    client: MongoClient[Any],
    database: str = "countly",
    drill_database: str = "countly_drill",
    *,
    users: int = 300,
    scale: float = 1.0,
    seed: int = 2026,
    progress: Progress | None = None,
) -> DemoData:
    """Replace the demo's collections by new ones: about 200,000 documents at scale 1.

    ``users`` is the number of people in the first app; ``scale`` multiplies how many documents each of them
    has, except for DEMO_UID, whose documents are always the same. All other collections are left alone, and a
    database whose apps are not the demo's is refused.
    """
    if users < _FEWEST_USERS:
        raise BadInputError(f"users is {users}; the demo needs at least {_FEWEST_USERS}")
    if not (scale > 0 and math.isfinite(scale)):
        raise BadInputError(f"scale is {scale}; it must be a number above 0, for instance 0.1")
    main = client.get_database(database, write_concern=WriteConcern(w=1))
    drill = client.get_database(drill_database, write_concern=WriteConcern(w=1))
    # The common collections come last, and wait for a majority to have them and so all before them.
    safe = client.get_database(database, write_concern=WriteConcern(w="majority"))
    common = [_load(safe[name], list(make(APPS))) for name, make in bystanders.COMMON.items()]
    for load in common:
        _refuse_real_data(load.collection)
    loads = [*chain.from_iterable(_app_loads(main, drill, app, users, scale, seed) for app in APPS), *common]
    for load in loads:
        load.collection.drop()
    _write(loads, progress)
    return DemoData(
        app_ids=(DEMO_APP_ID, DEMO_SECOND_APP_ID),
        small_uid=DEMO_UID,
        heaviest_uid=DEMO_HEAVIEST_UID,
        empty_uid=DEMO_EMPTY_UID,
        merged_uid=DEMO_MERGED_UID,
        documents=sum(load.count for load in loads),
    )


def _refuse_real_data(collection: Collection[Any]) -> None:
    if collection.find_one({field: {"$ne": value} for field, value in bystanders.DEMO_MARK.items()}, {"_id": 1}):
        raise BadInputError(
            f"{collection.full_name} holds documents that the demo did not make; "
            "nothing was changed: name an empty database to load the demo into"
        )


def _load(collection: Collection[Any], documents: list[dict[str, Any]], index: str | None = None) -> _Load:
    return _Load(collection, documents, len(documents), index)


def _app_loads(
    main: Database[Any], drill: Database[Any], app: App, users: int, scale: float, seed: int
) -> Iterator[_Load]:
    """Yield every collection of one app."""
    people = people_of(app, users, scale, seed)
    counts = [_counts(person, seed) for person in people]
    for plugin in PLUGINS:
        strangers = list(bystanders.strangers(plugin, app, seed))
        documents = {person: count[plugin.name] for person, count in zip(people, counts, strict=True)}
        yield _Load(
            (drill if plugin.drill else main)[plugin.collection(app.app_id)],
            chain(_interleaved(plugin, documents, seed), strangers),
            sum(documents.values()) + len(strangers),
            plugin.user_key if plugin.indexed and plugin.user_key != "_id" else None,
        )
    yield _load(main[f"campaigns{app.app_id}"], list(bystanders.campaigns(app, people, seed)), "uids")
    yield _load(main[f"app_crashgroups{app.app_id}"], list(bystanders.crash_groups(app)))
    yield _load(main[f"app_viewdata{app.app_id}"], list(bystanders.view_totals(app)))


def _counts(person: Person, seed: int) -> dict[str, int]:
    """Share a person's documents out among the plugins; the events take what the others leave."""
    random = random_for(seed, person.app.app_id, person.uid, "counts")
    counts = {plugin.name: _count(plugin, person, random) for plugin in PLUGINS}
    if person.specimens:
        counts["remote_config_history"] += len(SPECIMENS)
    counts["drill_events"] += max(0, person.documents - sum(counts.values()))
    return counts


def _count(plugin: Plugin, person: Person, random: Random) -> int:
    everywhere = len(person.identities) if person.everywhere else 0
    if plugin.one_for is None:
        # A share below one document is a chance to have one: many people have none.
        return max(int(person.documents * plugin.share + random.random()), everywhere)
    if random.random() < plugin.share or everywhere:
        return len(person.identities) if plugin.one_for == "uid" else 1
    return 0


def _interleaved(plugin: Plugin, counts: dict[Person, int], seed: int) -> Iterator[Document]:
    """Yield the documents of all people mixed, as they come in on a server that everybody uses at once."""
    streams = []
    for person, count in counts.items():
        random = random_for(seed, person.app.app_id, plugin.name, person.uid)
        stream = plugin.shape(person, _moments(plugin, person, count, random), random)
        streams += [stream] * count
    random_for(seed, plugin.name, "order").shuffle(streams)
    return map(next, streams)


def _moments(plugin: Plugin, person: Person, count: int, random: Random) -> Iterator[tuple[str, int]]:
    """Yield when things happened, in order, and under which uid: a merged person's old ones come first."""
    if plugin.one_for == "person":
        yield person.uid, person.last_seen * 1000
        return
    uids = person.identities
    start = person.first_seen * 1000
    step = (person.last_seen * 1000 - start) // max(count, 1)
    for number in range(count):
        yield uids[number * len(uids) // count], start + number * step + int(random.random() * step)


def _write(loads: Sequence[_Load], progress: Progress | None) -> None:
    """Write one batch while the next is being made."""
    total, done = sum(load.count for load in loads), 0
    under_way: deque[tuple[int, Future[object]]] = deque()

    def finish_down_to(tasks: int) -> None:
        nonlocal done
        while len(under_way) > tasks:
            documents, future = under_way.popleft()
            future.result()
            done += documents
            if progress and documents:
                progress(done, total)

    with ThreadPoolExecutor(max_workers=1) as writer:
        for documents, task in chain.from_iterable(map(_tasks, loads)):
            under_way.append((documents, writer.submit(task)))
            finish_down_to(_TASKS_UNDER_WAY)
        finish_down_to(0)


def _tasks(load: _Load) -> Iterator[tuple[int, Callable[[], object]]]:
    """Yield what there is to do for one collection, and how many documents that writes."""
    if load.index:  # while the collection is empty: building an index later takes 0.1 s, however few documents
        yield 0, partial(load.collection.create_index, load.index)
    documents = iter(load.documents)
    while batch := list(islice(documents, _BATCH_DOCUMENTS)):
        yield len(batch), partial(load.collection.insert_many, batch, ordered=False)
