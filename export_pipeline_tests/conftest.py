"""Fixtures: one real MongoDB for the whole session, the demo's data in it, and an installation per test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pymongo import MongoClient

from export_pipeline.demo.data import DemoData, load_demo_data
from export_pipeline.exporter import Exporter
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.settings import ENV_PREFIX, Settings

DEMO_DATABASE = "countly"


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
"""Data for tests that stands beside some checkouts; what needs it skips elsewhere."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where NO_SKIPS is set, as in CI, a skipped test is a failed one: all that tests need has to be there."""
    report = yield
    if report.skipped and os.environ.get("NO_SKIPS") and SHARED_DATA.exists():
        report.outcome = "failed"
        report.longrepr = f"skipped although NO_SKIPS is set: {report.longrepr}"
    return report


# The machines are shared: an example that takes long says nothing about the code.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in os.environ:
        if name.startswith(ENV_PREFIX) or name == "DAGSTER_HOME":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """A MongoDB that is a replica set of one."""
    with embedded_mongo(parameters={"enableTestCommands": "1"}) as uri:
        yield uri


@pytest.fixture(scope="session")
def mongo_client(mongo_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of that server."""
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        yield client


@pytest.fixture(scope="session")
def demo(mongo_client: MongoClient[dict[str, Any]]) -> DemoData:
    """The demo's data, small; tests only read it."""
    return load_demo_data(mongo_client, DEMO_DATABASE, users=40, scale=0.02)


@pytest.fixture
def settings(mongo_uri: str, tmp_path: Path) -> Settings:
    """An installation of its own on the shared server."""
    return Settings(home=tmp_path / "home", mongo_uri=mongo_uri)


@pytest.fixture
def exporter(settings: Settings) -> Iterator[Exporter]:
    """The library, opened on those settings."""
    with Exporter(settings) as exporter:
        yield exporter


MakeDatabase = Callable[[dict[str, list[Any]]], Settings]


@pytest.fixture
def make_database(
    mongo_client: MongoClient[dict[str, Any]], settings: Settings, request: pytest.FixtureRequest
) -> Iterator[MakeDatabase]:
    """Return a function that fills a database of the test's own and gives settings for it."""
    name = f"test_{abs(hash(request.node.nodeid)):x}"

    def make(collections: dict[str, list[Any]]) -> Settings:
        for collection, documents in collections.items():
            mongo_client[name].create_collection(collection)
            if documents:
                mongo_client[name][collection].insert_many(documents)
        return settings.model_copy(update={"mongo_database": name})

    yield make
    mongo_client.drop_database(name)
