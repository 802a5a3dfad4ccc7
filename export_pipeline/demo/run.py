"""The demo: an embedded MongoDB, generated data, Dagster's own daemon, three requests, and a look at their files."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from export_pipeline.demo.data import DemoData, load_demo_data
from export_pipeline.errors import ExportPipelineError
from export_pipeline.exporter import Exporter
from export_pipeline.guardian import Guarded
from export_pipeline.mongo.embedded import embedded_mongo, free_port
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.requests.models import FINISHED, NewRequest, Request
from export_pipeline.settings import ENV_PREFIX, Settings

DAGSTER_FILES = tuple(Path(__file__).parents[1] / "orchestration" / name for name in ("dagster.yaml", "workspace.yaml"))
WAIT_SECONDS = 180
POLL_SECONDS = 0.2
SHOWN_CHARACTERS = 160


class DemoError(ExportPipelineError):
    """The demo cannot go on; the message says why and where to look."""

    code = "demo"


@dataclass(frozen=True, slots=True)
class Wish:
    """A request of the demo, and what it shows."""

    who: str
    uid: str
    format: str


def run_demo(console: Console, folder: Path, *, users: int, scale: float, serve: bool) -> None:
    """Run the demo in a new folder below ``folder``; only the files in it are left afterwards.

    It uses the MongoDB of EXPORT_PIPELINE_MONGO_URI if that is set, and an embedded one otherwise. With ``serve``
    Dagster's UI stays open until Ctrl-C.
    """
    if find_spec("pandas") is None:
        raise DemoError("the demo needs its extra: pip install 'export-pipeline[demo]'")
    home = folder / f"{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005  # a name for people, in their own time
    home.mkdir(parents=True)
    with ExitStack() as stack:
        uri = os.environ.get(f"{ENV_PREFIX}MONGO_URI")
        if uri is None:
            console.print("Starting a MongoDB of its own on 127.0.0.1 …")
            uri = stack.enter_context(embedded_mongo())
        settings = Settings(home=home, mongo_uri=uri)
        exporter = stack.enter_context(Exporter(settings))
        data = _load(console, exporter, users, scale)
        wishes = (
            Wish("a user with few documents", data.small_uid, "json"),
            Wish("the heaviest user", data.heaviest_uid, "parquet"),
            Wish("a user without data", data.empty_uid, "json"),
        )
        console.print("\nThree rows go into the requests table; Dagster's daemon picks them up.")
        rows = [
            exporter.submit(NewRequest(data.app_ids[0], [wish.uid], wish.format, requested_by="demo"))
            for wish in wishes
        ]
        port = free_port() if serve else None
        dagster = stack.enter_context(dagster_processes(settings, port))
        finished = _watch(console, exporter, dagster, wishes, [row.id for row in rows])
        for wish, row in zip(wishes, finished, strict=True):
            _show(console, wish, row)
        if port is not None:
            console.print(f"\nDagster's UI: [bold]http://127.0.0.1:{port}[/]  (Ctrl-C ends the demo)")
            _wait_for_interrupt(dagster)
    console.print(f"\nNothing is left running. The files are in {home}")


@contextmanager
def dagster_processes(settings: Settings, ui_port: int | None) -> Iterator[Guarded]:
    """Run Dagster's daemon, and with ``ui_port`` its web server, on these settings; both end with this process."""
    settings.home.mkdir(parents=True, exist_ok=True)
    for file in DAGSTER_FILES:
        shutil.copyfile(file, settings.home / file.name)
    _initialise(settings.home)
    command = [sys.executable, "-m", *(("dagster._daemon", "run") if ui_port is None else ("dagster", "dev"))]
    if ui_port is not None:
        command += ["-h", "127.0.0.1", "-p", str(ui_port)]
    log = settings.home / "dagster.log"
    with Guarded(command, log=log, environment=environment(settings), folder=settings.home) as dagster:
        yield dagster


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which another process finds the same settings, and no others of ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return inherited | {
        "DAGSTER_HOME": str(settings.home),
        f"{ENV_PREFIX}MONGO_URI": settings.mongo_uri.get_secret_value(),
        f"{ENV_PREFIX}REQUESTS_URL": settings.requests_database,
        f"{ENV_PREFIX}STORAGE": settings.storage_root,
    }


def _initialise(home: Path) -> None:
    """Make Dagster's databases: of two processes that open an empty home at once, one crashes."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs_count()
        instance.get_dynamic_partitions("batches")
        instance.all_instigator_state()


def _load(console: Console, exporter: Exporter, users: int, scale: float) -> DemoData:
    begun = time.monotonic()
    with Progress(
        TextColumn("Loading demo data"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("load", total=None)
        data = load_demo_data(
            exporter.client,
            exporter.settings.mongo_database,
            users=users,
            scale=scale,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"Loaded {data.documents:,} documents of two apps in {time.monotonic() - begun:.0f} s.")
    return data


def _watch(
    console: Console, exporter: Exporter, dagster: Guarded, wishes: Sequence[Wish], ids: Sequence[str]
) -> list[Request]:
    """Show each request's way through its states until all have finished; return them."""
    begun = time.monotonic()
    states = dict.fromkeys(ids, "")
    columns = (
        TextColumn("  {task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = [bar.add_task(wish.who, total=None, state="pending") for wish in wishes]
        while True:
            rows = [exporter.requests.get(request_id) for request_id in ids]
            for wish, task, row in zip(wishes, tasks, rows, strict=True):
                bar.update(task, completed=row.documents_done, total=row.documents_total, state=row.status)
                if states[row.id] != row.status:
                    states[row.id] = row.status
                    console.print(f"  {time.monotonic() - begun:5.1f} s  {wish.who}: [bold]{row.status}[/]")
            if all(row.status in FINISHED for row in rows):
                return rows
            if dagster.ended() is not None:
                raise DemoError(f"Dagster's daemon ended; its log is {dagster.log}")
            if time.monotonic() - begun > WAIT_SECONDS:
                raise DemoError(
                    f"the requests have not finished after {WAIT_SECONDS} s; Dagster's log is {dagster.log}"
                )
            time.sleep(POLL_SECONDS)


def _show(console: Console, wish: Wish, row: Request) -> None:
    console.rule(f"{wish.who} ({wish.format})", align="left")
    if row.status != "completed" or row.result_uri is None:
        console.print(f"{row.status}: {row.error_code} {row.error_message}")
        return
    file = Path(row.result_uri)
    manifest = Manifest.model_validate_json((file.parent / MANIFEST).read_bytes())
    console.print(f"[bold]{file}[/]", soft_wrap=True)
    if wish.format == "parquet":
        _show_parquet(console, file)
    else:
        _show_first_lines(console, file)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(manifest.totals.collections.items()))
    console.print(
        f"manifest: {manifest.totals.documents_written:,} documents written of {manifest.totals.documents_expected:,} "
        f"that the server counted at cluster time {manifest.moment.cluster_time}; collections: {outcomes}; "
        f"{manifest.file.bytes:,} bytes, sha256 {manifest.file.sha256[:16]}…",
        highlight=False,
    )


def _show_first_lines(console: Console, file: Path) -> None:
    with file.open(encoding="utf-8") as lines:
        for _, line in zip(range(4), lines, strict=False):
            text = line.rstrip("\n")
            shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
            console.print(f"  {shown}", markup=False, highlight=False, soft_wrap=True)


def _show_parquet(console: Console, file: Path) -> None:
    import pandas as pd

    counts = pd.read_parquet(file, columns=["_col"])["_col"].value_counts()
    table = Table("_col", "documents", title="pandas.read_parquet(file)['_col'].value_counts()", title_justify="left")
    for collection, documents in counts.items():
        table.add_row(str(collection), f"{documents:,}")
    console.print(table)


def _wait_for_interrupt(dagster: Guarded) -> None:
    try:
        while dagster.ended() is None:
            time.sleep(1)
    except KeyboardInterrupt:
        return
    raise DemoError(f"Dagster ended; its log is {dagster.log}")
