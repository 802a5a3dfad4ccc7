"""A real Redis server for tests, on a port of its own, that forgets all when it ends.

A test module that wants the fixture says ``pytest_plugins = "export_pipeline_tests.redis_server"``.
"""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from export_pipeline.guardian import Guarded
from export_pipeline.mongo.embedded import free_port

START_TIMEOUT = 20.0


@dataclass
class RedisServer:
    """A server that runs; ``kill`` ends it at once, as a power cut would."""

    port: int
    _process: Guarded = field(repr=False)

    def url(self, number: int = 0) -> str:
        """The URL of one of its 16 databases."""
        return f"redis://127.0.0.1:{self.port}/{number}"

    def kill(self) -> None:
        self._process.stop()


@contextmanager
def running_redis_server() -> Iterator[RedisServer]:
    """Run an empty server while the block runs; skip the test where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs Redis: apt-get install redis-server")
    folder = Path(tempfile.mkdtemp(prefix="export_pipeline_redis_"))
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]
    log = folder / "redis.log"
    with Guarded([*command, "--dir", str(folder)], log=log, remove=folder, folder=folder, grace=0) as process:
        _wait_until_it_listens(process, port, log)
        yield RedisServer(port, process)


def _wait_until_it_listens(process: Guarded, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.ended() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    said = log.read_text(errors="replace") if log.exists() else "no log"
    raise RuntimeError(f"Redis did not start: {said}")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server that tests share."""
    with running_redis_server() as server:
        yield server
