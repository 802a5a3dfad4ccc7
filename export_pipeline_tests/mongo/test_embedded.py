"""The embedded server: a primary on 127.0.0.1 while it is wanted, and nothing of it afterwards."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient

from export_pipeline.mongo.embedded import EmbeddedMongoError, embedded_mongo, find_server

SOON = 20.0
"""Seconds; generous, since the machine may be busy."""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def server_of(uri: str) -> tuple[psutil.Process, Path]:
    """The process behind ``uri``, and the folder that is its own."""
    with MongoClient[dict[str, Any]](uri) as client:
        pid = client.admin.command("serverStatus")["pid"]
        data = client.admin.command("getCmdLineOpts")["parsed"]["storage"]["dbPath"]
    return psutil.Process(pid), Path(data).parent


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with embedded_mongo() as uri:
        yield uri


def test_it_is_the_writable_primary_of_a_replica_set(uri: str) -> None:
    with MongoClient[dict[str, Any]](uri) as client:
        hello = client.admin.command("hello")
        assert hello["isWritablePrimary"]
        assert hello["setName"] == "rs0"
        client["d"]["c"].insert_one({"_id": 1})
        with client.start_session(snapshot=True) as session:
            assert client["d"]["c"].count_documents({}, session=session) == 1


def test_it_listens_on_the_loopback_address_only(uri: str) -> None:
    process, _ = server_of(uri)
    listening = {at.laddr.ip for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_process_and_folder_are_gone_after_the_block(uri: str) -> None:
    with embedded_mongo() as another:
        process, folder = server_of(another)
        assert another != uri
        assert process.is_running()
        assert folder.is_dir()
    assert not process.is_running()
    assert not folder.exists()


def test_process_and_folder_are_gone_after_an_error_in_the_block() -> None:
    seen = []

    def fail() -> None:
        with embedded_mongo(replica_set=False) as uri:
            seen.append(server_of(uri))
            raise RuntimeError("of mine")

    with pytest.raises(RuntimeError, match="of mine"):
        fail()
    [(process, folder)] = seen
    assert not process.is_running()
    assert not folder.exists()


def test_process_and_folder_are_gone_after_sigkill_of_the_owner() -> None:
    owner_program = """
import time
from export_pipeline.mongo.embedded import embedded_mongo
with embedded_mongo() as uri:
    print(uri, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", owner_program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        process, folder = server_of(owner.stdout.readline().strip())
        owner.kill()
    wait_until(lambda: not process.is_running())
    wait_until(lambda: not folder.exists())


def test_a_standalone_server_is_no_replica_set() -> None:
    with embedded_mongo(replica_set=False) as uri, MongoClient[dict[str, Any]](uri) as client:
        hello = client.admin.command("hello")
        assert hello["isWritablePrimary"]
        assert "setName" not in hello


def test_parameters_reach_the_server() -> None:
    with (
        embedded_mongo(
            replica_set=False, parameters={"cursorTimeoutMillis": "1234", "ttlMonitorEnabled": "false"}
        ) as uri,
        MongoClient[dict[str, Any]](uri) as client,
    ):
        found = client.admin.command({"getParameter": 1, "cursorTimeoutMillis": 1, "ttlMonitorEnabled": 1})
    assert found["cursorTimeoutMillis"] == 1234
    assert found["ttlMonitorEnabled"] is False


def test_a_server_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(EmbeddedMongoError, match=r"did not start .*noSuchThing.*EXPORT_PIPELINE_MONGO_URI"),
        embedded_mongo(parameters={"noSuchThing": "1"}),
    ):
        pass


@pytest.mark.parametrize("installed", ["nothing", "another package of that name"])
def test_where_there_is_no_wheel_the_error_names_the_setting(
    installed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = importlib.util.spec_from_loader("fiftyone", loader=None, is_package=True)
    assert other is not None
    assert other.submodule_search_locations is not None
    other.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if installed == "nothing" else other)
    with pytest.raises(EmbeddedMongoError, match=r"only for Linux on x86-64.*EXPORT_PIPELINE_MONGO_URI"):
        find_server()
