"""One installation under test: its servers, Dagster's daemon and code server, each supervised, and invented data."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pytest
import yaml
from pydantic import SecretStr

from export_pipeline.demo.run import DAGSTER_FILES
from export_pipeline.encryption.age import new_identity
from export_pipeline.errors import ExportPipelineError
from export_pipeline.exporter import Exporter
from export_pipeline.mongo.connection import connect
from export_pipeline.mongo.embedded import free_port
from export_pipeline.requests.models import FINISHED, NewRequest, Request
from export_pipeline.settings import ENV_PREFIX, Settings, environment_variable
from export_pipeline_tests import postgres, s3_server
from export_pipeline_tests.bench import crowd
from export_pipeline_tests.faults import disks
from export_pipeline_tests.faults.stages import INJECTED, Stop
from export_pipeline_tests.faults.supervised import (
    Supervised,
    command,
    mongo_server,
    postgres_answers,
    postgres_server,
    s3_store,
    wait_until,
)
from export_pipeline_tests.s3_server import CuttingProxy

Database = Literal["sqlite", "postgresql"]
Store = Literal["directory", "s3"]

COLLECTIONS = 8
USERS = 12
DOCUMENTS_EACH = 200
"""Of a user in a collection: more than MongoDB sends at first, so that a read can be cut in its middle."""

SERVERS_AWAY_SECONDS = 3.0
PROCESSES_AWAY_SECONDS = 1.0
START_SECONDS = 120.0
STORAGE_MEGABYTES = 48
HOME_MEGABYTES = 1024
FINISHING_POLL_SECONDS = 0.1
PACKAGE = Path(__file__).parents[2]
RUN = "multiprocessing.spawn"
"""What tells the process of a run from its code server's."""

WORKSPACE = "load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: export_pipeline}}}}]\n"


@dataclass(eq=False)
class House:
    """What runs, and how to reach it: the harness goes straight to the servers, the processes under test by proxies."""

    database: Database
    store: Store
    folder: Path
    settings: Settings
    environment: dict[str, str]
    exporter: Exporter
    instance: dg.DagsterInstance
    stop: Stop
    servers: dict[str, Supervised]
    ports: dict[str, int]
    proxies: dict[str, CuttingProxy]
    daemon: Supervised
    code_server: Supervised
    _stack: ExitStack = field(repr=False)
    identity: Any = field(default_factory=new_identity, repr=False)
    clock: float = 0.0
    users: int = USERS
    """Of whom each request is for the next."""
    documents_each: int = DOCUMENTS_EACH
    """Of a user in a collection."""
    numbers: Iterator[int] = field(default_factory=count)
    """For what is asked for in turn, or must have a name of its own."""
    kept: set[str] = field(default_factory=set)
    """The keys of the files that the harness itself has put into the storage."""

    def submit(self, count: int) -> list[Request]:
        """Ask for exports of different users: as JSON, as JSON lines, and encrypted, in turn."""
        kinds: Sequence[tuple[str, dict[str, Any]]] = (
            ("json", {}),
            ("jsonl", {}),
            ("json", {"recipients": [str(self.identity.recipient)]}),
        )
        submitted = []
        for number in range(count):
            format_, options = kinds[number % len(kinds)]
            uid = crowd.uid(next(self.numbers) % self.users)
            new = NewRequest(crowd.APP, [uid], format_, requested_by="faults", file_options=options)
            submitted.append(self.exporter.submit(new))
        return submitted

    def rows(self, requests: Sequence[Request]) -> list[Request]:
        """Return the requests as they are now; waits while the database is away."""
        while True:
            try:
                return [self.exporter.requests.get(request.id) for request in requests]
            except ExportPipelineError:
                time.sleep(FINISHING_POLL_SECONDS)

    def wait_until_over(self, requests: Sequence[Request], seconds: float) -> bool:
        """Wait for requests to end by themselves; tell whether all have in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(row.status in FINISHED for row in self.rows(requests)):
                return True
            time.sleep(FINISHING_POLL_SECONDS)
        return False

    def unfinished_runs(self) -> list[str]:
        """Return the ids of the runs that Dagster has not seen the end of."""
        over = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
        unfinished = dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in over])
        return [run.run_id for run in self.instance.get_runs(filters=unfinished)]

    def run_processes(self) -> list[int]:
        """Return the ids of the processes of runs that live."""
        return [process.pid for process in self.code_server.group() if any(RUN in word for word in command(process))]

    def wait_for_servers(self) -> None:
        """Wait until the killed ones are back."""
        for name in self.servers:
            wait_until(lambda name=name: self._is_back(name), START_SECONDS, f"{name} coming back")  # type: ignore[misc]

    def start_second_daemon(self) -> Supervised:
        """Start another daemon, with a code server of its own, on the same DAGSTER_HOME."""
        workspace = str(DAGSTER_FILES[1])
        second = self._start("second daemon", [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace])
        wait_until(lambda: "Instance is configured" in second.log.read_text(), START_SECONDS, "a second daemon")
        return second

    def _start(self, name: str, words: list[str]) -> Supervised:
        folder = self.folder / name.replace(" ", "_")
        return self._stack.enter_context(
            Supervised(words, folder, pause=PROCESSES_AWAY_SECONDS, environment=self.environment)
        )

    def _is_back(self, name: str) -> bool:
        self.servers[name].pid  # noqa: B018  # waits for the process
        if name == "postgresql":
            return postgres_answers(self.ports[name])
        return True


@contextmanager
def running_house(
    database: Database,
    store: Store,
    *,
    users: int = USERS,
    documents_each: int = DOCUMENTS_EACH,
    clock: bool = False,
    small_disks: bool = False,
    real_waits: bool = False,
) -> Iterator[House]:
    """Run an installation while the block runs, for as many ``users`` with as many documents in each collection.

    With ``clock``, its processes' clocks can jump; with ``small_disks``, its disks can be filled; with ``real_waits``,
    its leases and delays are as long as in production.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="export_pipeline_faults_"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)  # PostgreSQL's own user has to get to its data
        home, files, channel = folder / "home", folder / "exports", folder / "stages"
        for path in (home, channel):
            path.mkdir()
        if small_disks:
            stack.enter_context(disks.small_disk(home, HOME_MEGABYTES))
            stack.enter_context(disks.small_disk(files, STORAGE_MEGABYTES))
        servers: dict[str, Supervised] = {}
        ports: dict[str, int] = {}
        wanted = {"mongodb": mongo_server} | ({"s3": s3_store} if store == "s3" else {})
        wanted |= {"postgresql": postgres_server} if database == "postgresql" else {}
        for name, start in wanted.items():
            servers[name], ports[name] = start(folder / name, SERVERS_AWAY_SECONDS)
            stack.callback(servers[name].stop)
        proxies = {name: CuttingProxy(port) for name, port in ports.items()}
        for proxy in proxies.values():
            stack.callback(proxy.close)
        crowd.write_catalog(folder / "catalog.yaml", COLLECTIONS)
        s3_server.set_aws_keys(stack.enter_context(pytest.MonkeyPatch.context()))
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("DAGSTER_HOME", str(home))

        def settings(ports: dict[str, int]) -> Settings:
            return Settings(**_settings(folder, home, files, database, store, ports))

        ours = settings(ports)
        _load(ours, users, documents_each)
        if database == "postgresql":
            _make_databases(ports["postgresql"])
        environment = _environment(settings({name: proxy.port for name, proxy in proxies.items()}), channel)
        environment |= {"FAULTS_CLOCK": "1"} if clock else {}
        environment |= {"FAULTS_REAL_WAITS": "1"} if real_waits else {}
        code_port = free_port()
        _write_dagster_files(home, code_port, ports.get("postgresql"), proxies)
        exporter = stack.enter_context(Exporter(ours))
        exporter.requests.latest(1)
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        # Of two processes that open an empty home at once, one crashes.
        instance.get_runs_count()
        instance.get_dynamic_partitions("batches")
        instance.all_instigator_state()
        code_command = ["dagster", "api", "grpc", "-m", "export_pipeline.definitions", "-h", "127.0.0.1"]
        processes = {
            "code_server": [sys.executable, "-m", *code_command, "-p", str(code_port)],
            "daemon": [sys.executable, "-m", "dagster._daemon", "run", "-w", str(home / "workspace.yaml")],
        }
        started = {
            name: stack.enter_context(
                Supervised(words, folder / name, pause=PROCESSES_AWAY_SECONDS, environment=environment)
            )
            for name, words in processes.items()
        }
        house = House(
            database,
            store,
            folder,
            ours,
            environment,
            exporter,
            instance,
            Stop(channel),
            servers,
            ports,
            proxies,
            started["daemon"],
            started["code_server"],
            stack,
            users=users,
            documents_each=documents_each,
        )
        first = house.submit(1)
        if not house.wait_until_over(first, START_SECONDS):
            raise RuntimeError(f"the installation does not work: see {folder}\n{_last_words(house)}")
        exporter.expire(house.rows(first)[0])
        yield house


def _settings(
    folder: Path, home: Path, files: Path, database: Database, store: Store, ports: dict[str, int]
) -> dict[str, Any]:
    known: dict[str, Any] = {
        "home": home,
        "mongo_uri": f"mongodb://127.0.0.1:{ports['mongodb']}/?directConnection=true",
        "mongo_database": crowd.DATABASE,
        "catalog": folder / "catalog.yaml",
        "storage": str(files),
    }
    if database == "postgresql":
        known["requests_url"] = _database_url(ports["postgresql"], "requests", "psycopg")
    if store == "s3":
        known["storage"] = f"s3://{s3_server.BUCKET}/installation"
        known["s3_endpoint_url"] = f"http://127.0.0.1:{ports['s3']}"
        known["s3_region"] = s3_server.REGION
    return known


def _database_url(port: int, name: str, driver: str) -> str:
    return f"postgresql+{driver}://{postgres.USER}@127.0.0.1:{port}/{name}"


def _make_databases(port: int) -> None:
    import psycopg

    with psycopg.connect(host="127.0.0.1", port=port, user=postgres.USER, autocommit=True) as connection:
        connection.execute("CREATE DATABASE requests")
        connection.execute("CREATE DATABASE dagster")


def _environment(settings: Settings, channel: Path) -> dict[str, str]:
    """Return the environment of the processes under test."""

    def plain(value: Any) -> str:
        return str(value.get_secret_value() if isinstance(value, SecretStr) else value)

    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return (
        inherited
        | {environment_variable(name): plain(getattr(settings, name)) for name in settings.model_fields_set}
        | {
            "PYTHONPATH": os.pathsep.join([str(INJECTED), str(PACKAGE)]),
            "FAULTS_FOLDER": str(channel),
            "FAULTS_HALF": crowd.names(COLLECTIONS)[COLLECTIONS // 2],
        }
    )


def _write_dagster_files(
    home: Path, code_port: int, postgres_port: int | None, proxies: dict[str, CuttingProxy]
) -> None:
    """Write the settings that the project ships, but for where the code server is, and for shorter waits."""
    known = yaml.safe_load(DAGSTER_FILES[0].read_text())
    known["run_monitoring"] |= {"poll_interval_seconds": 2, "cancel_timeout_seconds": 5}
    if postgres_port is not None:
        url = _database_url(proxies["postgresql"].port, "dagster", "psycopg2")
        known["storage"] = {"postgres": {"postgres_url": url}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(known))
    (home / "workspace.yaml").write_text(WORKSPACE.format(port=code_port))


def _load(settings: Settings, users: int, each: int) -> None:
    with connect(settings.mongo_uri.get_secret_value()) as client:
        crowd.load(client, COLLECTIONS, users * each, each)


def _last_words(house: House) -> str:
    return "\n".join(
        subprocess.run(["tail", "-20", str(server.log)], capture_output=True, text=True, check=False).stdout
        for server in (house.daemon, house.code_server)
    )
