"""Dagster's code server: it goes on where its database was away, and does not hang on a run that has just died."""

import multiprocessing
import threading
from collections.abc import Iterator
from inspect import unwrap
from multiprocessing.synchronize import Event
from typing import Any

import dagster as dg
import pytest
from dagster._grpc.__generated__ import dagster_api_pb2 as messages
from dagster._grpc.server import DagsterApiServer
from dagster._grpc.types import CancelExecutionRequest
from dagster._serdes import serialize_value

from export_pipeline.orchestration.code_server import mend, mend_code_server

SPAWN = multiprocessing.get_context("spawn")
TIMEOUT = 30.0


class Server(DagsterApiServer):
    """One that looks after runs, and serves nobody: Dagster's own, also where this process has mended that."""

    _check_for_orphaned_runs = unwrap(DagsterApiServer._check_for_orphaned_runs)
    CancelExecution = unwrap(DagsterApiServer.CancelExecution)

    def __init__(self) -> None:
        self._execution_lock = threading.Lock()
        self._executions: dict[str, Any] = {}
        self._termination_events: dict[str, Any] = {}
        self._termination_times: dict[str, float] = {}
        self._shutdown_once_executions_finish_event = threading.Event()


class Mended(Server):
    """The same, mended."""


mend(Mended)


def wait_to_be_ended(begun: Event, told: Event) -> None:
    """As every run's process does."""
    threading.Timer(0.5, begun.set).start()
    told.wait()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def run_id(instance: dg.DagsterInstance) -> str:
    @dg.job
    def nothing() -> None: ...

    return instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED).run_id


def serve_a_run_that_was_killed(server: Server, instance: dg.DagsterInstance, run_id: str) -> None:
    begun, told = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=wait_to_be_ended, args=(begun, told))
    process.start()
    assert begun.wait(TIMEOUT)
    process.kill()
    process.join(TIMEOUT)
    server._executions[run_id] = (process, instance.get_ref())
    server._termination_events[run_id] = told


def is_cancelled_in_time(server: Server, run_id: str, seconds: float) -> bool:
    asked = CancelExecutionRequest(run_id=run_id)
    request = messages.CancelExecutionRequest(serialized_cancel_execution_request=serialize_value(asked))
    cancelling = threading.Thread(target=server.CancelExecution, args=(request, None), daemon=True)
    cancelling.start()
    cancelling.join(seconds)
    return not cancelling.is_alive()


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_ending_a_run_whose_process_has_died_does_not_hang(instance: dg.DagsterInstance, run_id: str) -> None:
    server = Mended()
    serve_a_run_that_was_killed(server, instance, run_id)
    assert is_cancelled_in_time(server, run_id, TIMEOUT)
    assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE


def test_dagsters_own_hangs(instance: dg.DagsterInstance, run_id: str) -> None:
    """Once this fails, ``orchestration/code_server.py`` has become needless."""
    server = Server()
    serve_a_run_that_was_killed(server, instance, run_id)
    assert not is_cancelled_in_time(server, run_id, 3.0)


def test_a_database_that_is_away_ends_nothing(
    instance: dg.DagsterInstance, run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Mended()
    serve_a_run_that_was_killed(server, instance, run_id)

    def away(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as while_it_is_away:
        while_it_is_away.setattr(dg.DagsterInstance, "get_run_by_id", away)
        server._check_for_orphaned_runs()
    assert "OSError" in caplog.text
    assert status(instance, run_id) == dg.DagsterRunStatus.STARTED
    server._check_for_orphaned_runs()
    assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE
    assert not server._executions


def test_the_code_server_is_mended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_check_for_orphaned_runs", "CancelExecution"):
        monkeypatch.setattr(DagsterApiServer, name, unwrap(vars(DagsterApiServer)[name]))
    mend_code_server()
    mended = DagsterApiServer._check_for_orphaned_runs
    assert hasattr(mended, "__wrapped__")
    mend_code_server()
    assert DagsterApiServer._check_for_orphaned_runs is mended
