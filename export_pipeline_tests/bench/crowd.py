"""Many users over many collections: the documents, the catalogue that names them, and the plain loop as yardstick."""

import random
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import bson
import orjson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection

from export_pipeline_tests.bench.measure import databases, event, insert

APP = "crowd"
DATABASE = "bench"


def names(collections: int) -> list[str]:
    """Return the names of so many entries of the catalogue."""
    return [f"events_{number:02}" for number in range(collections)]


def write_catalog(path: Path, collections: int) -> None:
    """Write the catalogue that names the crowd's collections."""
    entries = [
        f"- {{name: {name}, plugin: bench, collection: '{name}_{{app_id}}', user_key: uid}}"
        for name in names(collections)
    ]
    path.write_text("\n".join(["version: 1", "collections:", *entries]))


def uid(number: int) -> str:
    """Return the uid of user number ``number``."""
    return f"user-{number:06}"


def load(client: MongoClient[Any], collections: int, documents: int, each: int) -> list[Collection[Any]]:
    """Fill the collections with ``documents`` events, ``each`` of a user, as they arrive: one of everybody in turn."""
    loaded = []
    for collection in databases(client, DATABASE, [f"{name}_{APP}" for name in names(collections)]):
        insert(collection, islice(_events(documents // each), documents))
        loaded.append(collection)
    return loaded


def _events(users: int) -> Iterator[RawBSONDocument]:
    rng = random.Random(1)
    number = 0
    while True:
        yield RawBSONDocument(bson.encode(event(number, rng, uid(number % users))))
        number += 1


def plain_loop(collections: Sequence[Collection[Any]], uids: Sequence[str], folder: Path) -> float:
    """Export the users as a few lines of code would: find, encode, append to the user's file. Returns seconds."""
    folder.mkdir()
    begun = time.perf_counter()
    for number in uids:
        with (folder / f"{number}.json").open("ab") as file:
            for collection in collections:
                for document in collection.find({"uid": number}):
                    file.write(orjson.dumps(document, default=_plain) + b"\n")
    return time.perf_counter() - begun


def _plain(value: Any) -> Any:
    return str(value)
