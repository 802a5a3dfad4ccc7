"""Fixtures: the API as a real server, on an installation whose database holds one small user in each of two apps."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pymongo import MongoClient
from pymongo.database import Database

from export_pipeline.access.roles import Role
from export_pipeline.access.tokens import TokenStore
from export_pipeline.exporter import Exporter
from export_pipeline.gateway.app import create_app
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.settings import Settings

SECRET_KEY = "a secret key of tests, long enough"
DATABASE = "gateway"
APP, OTHER_APP = "mine", "theirs"
CATALOG = """
version: 1
identity: {collection: "app_users{app_id}", uid: uid, search: [email]}
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- name: events
  plugin: events
  collection: "events{app_id}"
  user_key: uid
  time_field: ts
  time_unit: ms
  events: true
"""


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an app on a port of this machine; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass
class House:
    """An installation, its API, and how to get in."""

    exporter: Exporter
    url: str
    closing: ExitStack

    def token(self, role: str, app_id: str = APP, lives: timedelta | None = None) -> str:
        """Make a token; return its text."""
        return TokenStore(self.exporter.database).create(app_id, Role(role), lives=lives, created_by="test")[1]

    def client(self, token: str | None = None, **more: Any) -> httpx.Client:
        """Return a client, with a token or without; it is closed with the house."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.closing.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=30, **more))

    def pending(self, app_id: str = APP, **more: Any) -> Request:
        """Ask for an export that nobody joins."""
        return self.exporter.submit(NewRequest(app_id, [new_id()], **more))

    def completed(self, app_id: str = APP, uid: str = "a", **more: Any) -> Request:
        """Make an export of the user; ``big`` is one with some megabytes."""
        request = self.exporter.submit(NewRequest(app_id, [uid], **more))
        batch = Batch(new_id(), (request.id,))
        assert self.exporter.requests.claim(batch) == [request.id]
        plan = self.exporter.plan(batch.id)
        for entry in self.exporter.catalog.entries:
            self.exporter.read_slice(plan, entry.name)
        list(self.exporter.package(plan))
        return self.exporter.requests.get(request.id)

    def failed(self, app_id: str = APP) -> Request:
        """Make a request that has failed for good."""
        request = self.pending(app_id)
        batch = Batch(new_id(), (request.id,))
        self.exporter.requests.claim(batch)
        self.exporter.requests.fail(request.id, batch.id, code="incomplete", message="a test")
        return self.exporter.requests.get(request.id)


OpenHouse = Callable[..., House]


@pytest.fixture(scope="module")
def source(mongo_client: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """The database of the two apps."""
    fill_source(mongo_client[DATABASE])
    yield DATABASE
    mongo_client.drop_database(DATABASE)


def fill_source(database: Database[dict[str, Any]]) -> None:
    """Put the user and their events into both apps."""
    for app_id in (APP, OTHER_APP):
        database[f"app_users{app_id}"].insert_one({"uid": "a", "email": "me@example.org"})
        database[f"events{app_id}"].insert_many(
            [{"uid": "a", "ts": 1_790_000_000_000 + n, "note": "x" * 100} for n in range(300)]
        )
        database[f"events{app_id}"].insert_many([{"uid": "big", "ts": n, "note": "x" * 100_000} for n in range(30)])


def house_settings(home: Path, mongo_uri: Any, **changed: Any) -> Settings:
    """Return the settings of an installation on those apps, without a limit that a test would notice."""
    home.mkdir(parents=True)
    catalog = home / "catalog.yaml"
    catalog.write_text(CATALOG)
    limits = {"token_rate_limit": 10**6, "app_rate_limit": 10**6, "anonymous_rate_limit": 10**6}
    wanted: dict[str, Any] = {
        "home": home,
        "mongo_uri": mongo_uri,
        "mongo_database": DATABASE,
        "catalog": catalog,
        **limits,
    }
    return Settings(**wanted | {"secret_key": SECRET_KEY} | changed)


@contextmanager
def opened(settings: Settings, **more: Any) -> Iterator[House]:
    """Open an installation and serve it."""
    with Exporter(settings, **more) as exporter, serving(create_app(exporter)) as url, ExitStack() as closing:
        yield House(exporter, url, closing)


@pytest.fixture(scope="module")
def house(source: str, mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One house for a module's tests."""
    with opened(house_settings(tmp_path_factory.mktemp("house") / "home", mongo_uri)) as house:
        yield house


@pytest.fixture
def open_house(source: str, mongo_uri: str, tmp_path: Path) -> Iterator[OpenHouse]:
    """Return a function that opens a house of the test's own with other settings."""
    with ExitStack() as houses:
        yield lambda **changed: houses.enter_context(
            opened(house_settings(tmp_path / new_id(), **{"mongo_uri": mongo_uri} | changed))
        )
