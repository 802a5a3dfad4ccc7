"""The servers of an installation, each supervised: a killed one comes back on its port and its data by itself."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from export_pipeline.guardian import Guarded
from export_pipeline.mongo.embedded import find_server, free_port
from export_pipeline_tests import postgres, s3_server

SUPERVISOR = Path(__file__).with_name("supervisor.py")
START_SECONDS = 60.0


class Supervised:
    """A command that is started again whenever it ends; a context manager that ends it, and all that it started."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        pause: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``pause`` is how many seconds it is away after it was killed; ``folder`` is for its log."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        self._pid_file = folder / "supervised.pid"
        supervisor = [sys.executable, "-I", str(SUPERVISOR), str(self._pid_file), str(pause), *command]
        self._process = Guarded(supervisor, log=self.log, folder=folder, environment=environment, grace=0)

    @property
    def pid(self) -> int:
        """The process that runs now; waits for it where it is just away."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError, ValueError):
                return int(self._pid_file.read_text())
            time.sleep(0.02)
        raise RuntimeError(f"it does not start again; see {self.log}")

    def kill(self) -> None:
        """End it as a power cut would; what it started lives on."""
        os.kill(self.pid, signal.SIGKILL)

    def group(self) -> list[psutil.Process]:
        """Return the process that runs now and all that it, and those before it, have started and that live."""
        found = []
        group = os.getpgid(self.pid)
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return [process for process in found if str(SUPERVISOR) not in command(process)]

    def stop(self) -> None:
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something that has to come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} took longer than {seconds:.0f} s")
        time.sleep(0.05)


def mongo_server(folder: Path, pause: float) -> tuple[Supervised, int]:
    """Start a MongoDB that is a replica set of one; return it and its port."""
    data, port = folder / "data", free_port()
    data.mkdir(parents=True)
    command = [
        *(str(find_server()), "--dbpath", str(data), "--bind_ip", "127.0.0.1", "--port", str(port)),
        *("--unixSocketPrefix", str(folder), "--wiredTigerCacheSizeGB", "1", "--replSet", "rs0", "--quiet"),
    ]
    server = Supervised(command, folder, pause=pause)
    with MongoClient[dict[str, object]](
        f"mongodb://127.0.0.1:{port}/?directConnection=true", serverSelectionTimeoutMS=500
    ) as client:

        def is_writable() -> bool:
            try:
                with suppress(OperationFailure):
                    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
                return bool(client.admin.command("hello")["isWritablePrimary"])
            except PyMongoError:
                return False

        wait_until(is_writable, START_SECONDS, "starting MongoDB")
    return server, port


def s3_store(folder: Path, pause: float) -> tuple[Supervised, int]:
    """Start an S3 server with one bucket; return it and its port."""
    data, port = folder / "data", free_port()
    (data / s3_server.BUCKET).mkdir(parents=True)
    keys = f"{s3_server.ACCESS_KEY},{s3_server.SECRET_KEY}"
    command = [
        *(str(s3_server.find_rclone()), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys),
        *("--config", "", "--cache-dir", str(folder / "cache"), "--vfs-cache-mode", "writes"),
        *("--vfs-write-back", "0", str(data)),
    ]
    server = Supervised(command, folder, pause=pause)
    wait_until(lambda: _listens(port), START_SECONDS, "starting the S3 server")
    return server, port


def postgres_server(folder: Path, pause: float) -> tuple[Supervised, int]:
    """Start a PostgreSQL; return it and its port."""
    programs, as_user = postgres.find_programs(), postgres._as_its_user()
    data, port = folder / "data", free_port()
    data.mkdir(parents=True, mode=0o700)
    if as_user:
        for path in (folder, data):
            os.chown(path, *_ids(postgres.USER))
    initialise = [str(programs / "initdb"), "-D", str(data), "-U", postgres.USER, "-A", "trust", "-E", "UTF8", "-N"]
    subprocess.run(
        [*as_user, *initialise, "--locale", "C.UTF-8"], check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=60
    )
    command = [*as_user, str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    command += ["-c", "max_connections=200"]
    server = Supervised(command, folder, pause=pause)
    wait_until(lambda: postgres_answers(port), START_SECONDS, "starting PostgreSQL")
    return server, port


def postgres_answers(port: int) -> bool:
    """Tell whether a PostgreSQL takes connections."""
    import psycopg

    try:
        psycopg.connect(host="127.0.0.1", port=port, user=postgres.USER, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _ids(user: str) -> tuple[int, int]:
    import pwd

    known = pwd.getpwnam(user)
    return known.pw_uid, known.pw_gid


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
