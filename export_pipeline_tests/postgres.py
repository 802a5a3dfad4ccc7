"""A real PostgreSQL server for tests, private and on a port of its own, with a database for each test.

A test module that wants the fixtures says ``pytest_plugins = "export_pipeline_tests.postgres"``.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from export_pipeline.guardian import Guarded
from export_pipeline.mongo.embedded import free_port

START_TIMEOUT = 30.0
USER = "postgres"
HOW_TO_GET_IT = "apt-get install postgresql, and pip install 'export-pipeline[postgres]'"


@dataclass
class PostgresServer:
    """A server that runs; ``kill`` ends it at once, as a power cut would."""

    port: int
    data: Path
    _process: Guarded = field(repr=False)
    _names: Iterator[int] = field(default_factory=count, repr=False)

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        import psycopg

        name = f"test_{next(self._names)}"
        with psycopg.connect(host="127.0.0.1", port=self.port, user=USER, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def kill(self) -> None:
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 9)


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip the test where there are none, or no driver."""
    pytest.importorskip("psycopg", reason=f"needs a PostgreSQL driver: {HOW_TO_GET_IT}")
    # Debian keeps the server's programs out of PATH, by version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    found = [folder for folder in ([Path(on_path).parent] if on_path else []) + folders if (folder / "initdb").exists()]
    if not found:
        pytest.skip(f"needs PostgreSQL: {HOW_TO_GET_IT}")
    return found[0]


@contextmanager
def running_postgres_server() -> Iterator[PostgresServer]:
    """Run an empty server while the block runs. It trusts everybody on 127.0.0.1 and does not wait for the disk."""
    programs = find_programs()
    as_user = _as_its_user()
    folder = Path(tempfile.mkdtemp(prefix="export_pipeline_postgres_"))
    data = folder / "data"
    data.mkdir(mode=0o700)
    if as_user:
        shutil.chown(folder, USER)
        shutil.chown(data, USER)
    initialise = [*as_user, str(programs / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "-N"]
    subprocess.run([*initialise, "--locale", "C.UTF-8"], check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=60)
    port = free_port()
    command = [*as_user, str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    for setting in ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=200"):
        command += ["-c", setting]
    log = folder / "postgres.log"
    with Guarded(command, log=log, remove=folder, folder=folder, grace=5) as process:
        _wait_until_it_answers(process, port, log)
        yield PostgresServer(port, data, process)


def _as_its_user() -> list[str]:
    """Return how to become the server's user: root may not run it."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        user = None
    if setpriv is None or user is None:
        pytest.skip(f"needs the user {USER} and setpriv, since root may not run PostgreSQL: {HOW_TO_GET_IT}")
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _wait_until_it_answers(process: Guarded, port: int, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.ended() is None:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user=USER, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    said = log.read_text(errors="replace") if log.exists() else "no log"
    raise RuntimeError(f"PostgreSQL did not start: {said}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    with running_postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """An empty database of the test's own, as a SQLAlchemy URL."""
    return postgres_server.new_database()
