"""What ``bench http`` measures: ``export-pipeline serve`` on exports made for it, and what that process takes."""

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import psutil

from export_pipeline.access.roles import Role
from export_pipeline.access.tokens import TokenStore
from export_pipeline.installation import Installation
from export_pipeline.packages.publish import result_uri, storage_target
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.progress import READING, Tally
from export_pipeline.settings import ENV_PREFIX, environment_variable
from export_pipeline_tests.bench.http_clients import Caller
from export_pipeline_tests.bench.measure import MB

SETTINGS: Mapping[str, str] = {
    "secret_key": "a secret key of benchmarks, long enough",
    **dict.fromkeys(("token_rate_limit", "app_rate_limit", "anonymous_rate_limit"), "1000000"),
}
COLLECTIONS = 12
"""That a running export shows its progress in."""
DOWNLOADS_APP = "downloads"
SAMPLE_SECONDS = 0.02
START_SECONDS = 60.0


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def live_exports(installation: Installation, port: int, exports: int, apps: int) -> list[Caller]:
    """Make so many exports over the apps, half of them running; return, for each app, who asks for its own."""
    tokens = TokenStore(installation.database)
    callers = []
    for number in range(apps):
        app = f"app-{number:02}"
        mine = range(number, exports, apps)
        ids = [installation.requests.submit(NewRequest(app, [f"user-{user:06}"])).id for user in mine]
        running = Batch(new_id(), tuple(ids[::2]))
        installation.requests.claim(running)
        reading = Tally(READING, {f"events_{name:02}": 1000 for name in range(COLLECTIONS)})
        installation.requests.batch_progress(running.id, reading.stored())
        _, token = tokens.create(app, Role.REPORTER, lives=None, created_by="bench")
        callers.append(Caller(port, token, tuple(f"/v1/exports/{id_}" for id_ in ids)))
    return callers


def package(installation: Installation, port: int, size: int) -> tuple[Caller, Path]:
    """Publish a package of so many bytes; return who may download it, and its file."""
    requests = installation.requests
    request = requests.submit(NewRequest(DOWNLOADS_APP, ["heavy"], format="jsonl"))
    batch = Batch(new_id(), (request.id,))
    requests.claim(batch)
    target = storage_target(installation.storage, request)
    hashed, left = sha256(), size
    block = random.Random(1).randbytes(MB)
    with target.create(target.name) as pending:
        while left:
            piece = block[:left]
            pending.write(piece)
            hashed.update(piece)
            left -= len(piece)
        pending.commit()
    uri = result_uri(target, request)
    requests.complete(
        request.id,
        batch.id,
        documents=1,
        result_uri=uri,
        result_bytes=size,
        result_sha256=hashed.hexdigest(),
        expires_at=datetime.now(UTC) + timedelta(days=1),
    )
    tokens = TokenStore(installation.database)
    _, token = tokens.create(DOWNLOADS_APP, Role.MAINTAINER, lives=None, created_by="bench")
    return Caller(port, token, (f"/v1/exports/{request.id}/download",)), Path(uri)


@contextmanager
def serving(home: Path, port: int) -> Iterator[psutil.Process]:
    """Run ``export-pipeline serve`` on an installation, without limits of the rate; yields its process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    given = {environment_variable(field): value for field, value in SETTINGS.items()}
    environment = inherited | given | {environment_variable("home"): str(home)}
    command = [sys.executable, "-m", "export_pipeline", "serve", "--port", str(port)]
    log = home / "serve.log"
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stderr=output) as process:
        try:
            _wait_until_it_listens(port, process, log)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def _wait_until_it_listens(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"export-pipeline serve does not listen:\n{log.read_text()[-3000:]}")


class Watched:
    """The peak of a process's resident memory in bytes, and the processor's seconds that it takes, while entered."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._left = threading.Event()
        self._sampling = threading.Thread(target=self._sample, daemon=True)
        self.peak_bytes = process.memory_info().rss
        self.cpu_seconds = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._cpu, self._begun = self._cpu_so_far(), time.perf_counter()
        self._sampling.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begun
        self.cpu_seconds = self._cpu_so_far() - self._cpu
        self._left.set()
        self._sampling.join()

    def _sample(self) -> None:
        while not self._left.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)

    def _cpu_so_far(self) -> float:
        times: Any = self._process.cpu_times()
        return float(times.user + times.system)
