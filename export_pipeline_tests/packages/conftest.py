"""Packages made from a small database: two kinds of documents, many of them odd, and collections without any."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from export_pipeline.exporter import Exporter
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.models import NewRequest
from export_pipeline_tests.conftest import MakeDatabase

CATALOG = """
version: 1
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid, purpose: to know you}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid, time_field: ts, time_unit: ms}
- {name: empty, plugin: events, collection: "empty{app_id}", user_key: uid}
- {name: absent, plugin: events, collection: "absent{app_id}", user_key: uid}
"""


def event(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    text = "".join(rng.choices('abc de\n"\\ü€😀\0', k=rng.choice([3, 30, 300])))
    numbers = [bson.Int64(number), number / 7, bson.Decimal128("1E+3"), None]
    odd: list[Any] = [*numbers, bson.ObjectId(b"%012d" % number), [text, {}]]
    moment = bson.Int64(1_750_000_000_000 + number)
    return {"_id": number, "uid": "a", "ts": moment, "text": text, "odd": rng.choice(odd)}


USERS = [{"_id": 1, "uid": "a", "name": "Ann", "_col": "mine"}]
EVENTS = [event(number) for number in range(12_000)]
HELD = {
    "app_usersx": [bson.encode(document) for document in USERS],
    "eventsx": [bson.encode(document) for document in EVENTS],
}
"""What a package of the user holds, by collection."""


@pytest.fixture
def ann(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    """An installation on a database that holds ``HELD`` on the user a of the app x."""
    raw = {name: [RawBSONDocument(document) for document in documents] for name, documents in HELD.items()}
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG)
    settings = make_database(raw | {"emptyx": []}).model_copy(update={"catalog": catalog})
    with Exporter(settings) as exporter:
        yield exporter


Export = Callable[..., Manifest]


@pytest.fixture
def export(ann: Exporter) -> Export:
    """Return a function that exports the user to a file."""

    def run(output: Path, format_: str, secret: str | None = None, **options: Any) -> Manifest:
        json_mode = options.pop("json_mode", "relaxed")
        new = NewRequest("x", ["a"], format_, json_mode, file_options=options)
        return ann.run_here(ann.submit(new, run_here=True), output, passphrase=secret)

    return run
