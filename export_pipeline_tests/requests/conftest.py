"""Fixtures: the requests table on each database it can be in.

A test module that uses them says ``pytest_plugins = "export_pipeline_tests.postgres"``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from export_pipeline.requests.store import RequestStore


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database's SQLAlchemy URL, on each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/requests.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def store(url: str) -> Iterator[RequestStore]:
    """The requests table in that database."""
    store = RequestStore.open(url)
    yield store
    store.close()
