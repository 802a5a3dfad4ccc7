"""Thousands of people in one request, over a dozen collections: all of them, and no more memory for it."""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pymongo import MongoClient, monitoring

from export_pipeline.exporter import Exporter
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline.slices.ownership import UIDS_PER_QUERY
from export_pipeline_tests.bench.measure import MB, run_child
from export_pipeline_tests.conftest import MakeDatabase

PEOPLE = 5000
COLLECTIONS = [f"c{number}" for number in range(12)]
UIDS = [f"person-{number}" for number in range(PEOPLE)]


def fill(make_database: MakeDatabase, tmp_path: Path, client: MongoClient[Any]) -> Settings:
    entries = [f"- {{name: {name}, plugin: p, collection: '{name}_{{app_id}}', user_key: uid}}" for name in COLLECTIONS]
    (tmp_path / "catalog.yaml").write_text("\n".join(["version: 1", "collections:", *entries]))
    padding = "x" * 400
    filled = make_database({f"{name}_app": [{"uid": uid, "text": padding} for uid in UIDS] for name in COLLECTIONS})
    for name in COLLECTIONS:
        client[filled.mongo_database][f"{name}_app"].create_index("uid")
    return filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})


def test_five_thousand_people_are_all_there_in_flat_memory(
    make_database: MakeDatabase, mongo_client: MongoClient[Any], tmp_path: Path
) -> None:
    filled = fill(make_database, tmp_path, mongo_client)
    environment = {
        "PATH": os.environ["PATH"],
        "DAGSTER_HOME": str(tmp_path / "home"),
        "EXPORT_PIPELINE_MONGO_URI": filled.mongo_uri.get_secret_value(),
        "EXPORT_PIPELINE_MONGO_DATABASE": filled.mongo_database,
        "EXPORT_PIPELINE_CATALOG": str(filled.catalog),
    }

    def export(people: int) -> tuple[int, Counter[str]]:
        output = tmp_path / f"{people}.jsonl"
        command = [sys.executable, "-m", "export_pipeline", "export", "--app", "app", "--format", "jsonl"]
        command += ["--output", str(output), *(word for uid in UIDS[:people] for word in ("--uid", uid))]
        measured = run_child(command, environment)
        with output.open("rb") as lines:
            return measured.peak_bytes, Counter(json.loads(line)["uid"] for line in lines)

    few_peak, few = export(PEOPLE // 20)
    all_peak, everybody = export(PEOPLE)
    assert few == Counter(dict.fromkeys(UIDS[: PEOPLE // 20], len(COLLECTIONS)))
    assert everybody == Counter(dict.fromkeys(UIDS, len(COLLECTIONS)))
    # Twenty times the people, and twenty times the documents with them: 30 MB of BSON instead of 1.5.
    assert all_peak - few_peak < 40 * MB


class LargestCommand(monitoring.CommandListener):
    """Notes the most uids that one command held."""

    def __init__(self) -> None:
        self.uids = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        found = str(event.command).count("'person-")
        self.uids = max(self.uids, found)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def test_no_command_ever_holds_all_uids(make_database: MakeDatabase, tmp_path: Path) -> None:
    filled = make_database({"c0_app": [{"uid": f"person-{number}"} for number in range(2 * UIDS_PER_QUERY + 1)]})
    (tmp_path / "catalog.yaml").write_text(
        "version: 1\ncollections:\n- {name: c0, plugin: p, collection: 'c0_{app_id}', user_key: uid}\n"
    )
    uids = [f"person-{number}" for number in range(2 * UIDS_PER_QUERY + 1)]
    listener = LargestCommand()
    with Exporter(filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})) as exporter:
        exporter.__dict__["client"] = MongoClient(filled.mongo_uri.get_secret_value(), event_listeners=[listener])
        request = exporter.submit(NewRequest("app", uids), run_here=True)
        manifest = exporter.run_here(request, tmp_path / "all.json")
    assert manifest.totals.documents_written == len(uids)
    assert listener.uids == UIDS_PER_QUERY
