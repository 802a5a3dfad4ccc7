"""Opening the requests table's database: up to date, by several at once, or an error that says what to do."""

import sqlite3
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from export_pipeline.errors import BadInputError
from export_pipeline.requests.database import RequestsDatabaseError, open_database
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.schema import metadata
from export_pipeline.requests.store import RequestStore

PASSWORD = "hunter2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "requests.db"


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def test_the_migrations_make_exactly_the_schema(file: Path) -> None:
    engine = open_database(url_of(file))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_opening_again_keeps_what_is_there(file: Path) -> None:
    store = RequestStore.open(url_of(file))
    submitted = store.submit(NewRequest("app", ["u"]))
    store.close()
    store = RequestStore.open(url_of(file))
    assert store.get(submitted.id) == submitted
    store.close()


def test_processes_that_open_a_new_database_at_once_all_succeed(file: Path, tmp_path: Path) -> None:
    program = """
import pathlib, sys, time
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.store import RequestStore
url, ready, go = sys.argv[1:]
pathlib.Path(ready).touch()
while not pathlib.Path(go).exists():
    time.sleep(0.001)
store = RequestStore.open(url)
store.submit(NewRequest("app", [ready]))
store.close()
"""
    ready, go = [tmp_path / f"ready{number}" for number in range(4)], tmp_path / "go"
    processes = [subprocess.Popen([sys.executable, "-c", program, url_of(file), str(mark), str(go)]) for mark in ready]
    deadline = time.monotonic() + 60
    while not all(mark.exists() for mark in ready):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    go.touch()
    assert [process.wait(60) for process in processes] == [0] * len(processes)
    store = RequestStore.open(url_of(file))
    assert len(store.latest()) == len(processes)
    store.close()


def test_readers_do_not_wait_for_a_writer(file: Path) -> None:
    store = RequestStore.open(url_of(file))
    submitted = store.submit(NewRequest("app", ["u"]))
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    assert store.get(submitted.id) == submitted
    assert store.pending(10) == [submitted]
    assert len(store.events(submitted.id)) == 1
    assert time.monotonic() - begun < 10, "a writer is waited for for 30 seconds"
    writer.execute("ROLLBACK")
    writer.close()
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "requests.db",
        f"user:{PASSWORD}@db/requests",
        f"nosuchdatabase://user:{PASSWORD}@db/requests",
        f"postgresql+nosuchdriver://user:{PASSWORD}@db/requests",
        f"postgresql://user:{PASSWORD}@db:port/requests",
        f"postgresql://user:{PASSWORD}@[::1/requests",
        f"oracle://user:{PASSWORD}@db/requests",
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadInputError, match="EXPORT_PIPELINE_REQUESTS_URL is not a SQLAlchemy URL") as raised:
        open_database(url)
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


def test_a_folder_that_cannot_be_made_says_which_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestsDatabaseError, match=f"^{tmp_path}/file/home: not a directory"):
        open_database(url_of(tmp_path / "file" / "home" / "requests.db"))


def test_a_database_that_cannot_be_opened_says_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "requests.db").mkdir()
    with pytest.raises(RequestsDatabaseError, match=r"OperationalError.*EXPORT_PIPELINE_REQUESTS_URL.*DAGSTER_HOME"):
        open_database(url_of(tmp_path / "requests.db"))


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "requests.db").write_text("my diary " * 100)
    with pytest.raises(RequestsDatabaseError, match="DatabaseError"):
        open_database(url_of(tmp_path / "requests.db"))
    assert (tmp_path / "requests.db").read_text() == "my diary " * 100


def test_a_table_of_a_newer_version_is_left_alone(file: Path) -> None:
    open_database(url_of(file)).dispose()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(RequestsDatabaseError, match="made by a newer version"):
        open_database(url_of(file))


def test_others_cannot_look_into_the_folder(file: Path) -> None:
    open_database(url_of(file)).dispose()
    assert file.parent.stat().st_mode & 0o777 == 0o700
