"""The whole system as it runs for a user: Dagster's web server, daemon and code server, asked over GraphQL."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from export_pipeline.demo.data import DemoData
from export_pipeline.demo.run import dagster_processes
from export_pipeline.exporter import Exporter
from export_pipeline.mongo.embedded import free_port
from export_pipeline.settings import Settings

START_SECONDS = 90
EXPORT_SECONDS = 240
README = Path(__file__).parents[1] / "README.md"

TAGS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status tags { key value } } } }"
LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename } } } } }
"""


class Dagster:
    """The web server, asked as any program would: a POST with a query."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.loads(response.read())
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def is_ready(self) -> bool:
        try:
            entries = self.ask(LOCATIONS)["workspaceOrError"]["locationEntries"]
        except OSError:
            return False
        return [entry["loadStatus"] for entry in entries] == ["LOADED"]

    def tags(self, run_id: str) -> dict[str, str]:
        run = self.ask(TAGS, run=run_id)["runOrError"]
        assert run["status"] != "FAILURE"
        return {tag["key"]: tag["value"] for tag in run["tags"]}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} took longer than {seconds} s"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def installation(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), mongo_uri=mongo_uri)


@pytest.fixture(scope="module")
def dagster(installation: Settings) -> Iterator[Dagster]:
    port = free_port()
    with dagster_processes(installation, port) as processes:
        dagster = Dagster(port)

        def is_ready() -> bool:
            assert processes.ended() is None, processes.log.read_text()
            return dagster.is_ready()

        wait_until(is_ready, START_SECONDS, "starting Dagster")
        yield dagster


def check_export(installation: Settings, dagster: Dagster, run_id: str, demo: DemoData) -> None:
    """Poll the run that asked, as a client would, until its request is completed; then look at the file."""
    wait_until(
        lambda: dagster.tags(run_id).get("export_pipeline/status") in ("completed", "failed"),
        EXPORT_SECONDS,
        "the export",
    )
    tags = dagster.tags(run_id)
    assert tags["export_pipeline/status"] == "completed"
    with Exporter(installation) as exporter:
        row = exporter.requests.get(tags["export_pipeline/export_id"])
    documents = json.loads(Path(str(row.result_uri)).read_bytes())
    assert len(documents) == row.documents_done == 246
    assert {document["_col"] for document in documents} >= {f"app_users{demo.app_ids[0]}", f"push_{demo.app_ids[0]}"}
    (user,) = [document for document in documents if document["_col"] == f"app_users{demo.app_ids[0]}"]
    assert user["uid"] == demo.small_uid


def snippet(name: str, dagster: Dagster) -> str:
    """Return an example of the README as a reader would run it, but on this test's port."""
    (text,) = re.findall(rf"<!-- tried: {name} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert "3000" in text
    return str(text).replace("3000", str(dagster.port))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
def test_the_readmes_curl_example(installation: Settings, dagster: Dagster, demo: DemoData) -> None:
    done = subprocess.run(
        ["bash", "-c", snippet("curl", dagster)], capture_output=True, text=True, timeout=60, check=True
    )
    launched = json.loads(done.stdout)["data"]["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    check_export(installation, dagster, launched["run"]["runId"], demo)


def test_the_readmes_python_example(installation: Settings, dagster: Dagster, demo: DemoData) -> None:
    done = subprocess.run(
        [sys.executable, "-c", snippet("python", dagster)],
        capture_output=True,
        text=True,
        timeout=EXPORT_SECONDS,
        check=True,
    )
    export_id, state = done.stdout.split()
    assert state == "completed"
    with Exporter(installation) as exporter:
        row = exporter.requests.get(export_id)
    assert row.app_id == demo.app_ids[0]
    assert pq.read_table(row.result_uri).num_rows == row.documents_done == 246


def test_a_uid_that_is_not_a_string_is_refused(dagster: Dagster) -> None:
    bad = snippet("curl", dagster).replace('"uids": ["1a2"]', '"uids": [7]')
    done = subprocess.run(["bash", "-c", bad], capture_output=True, text=True, timeout=60, check=True)
    launched = json.loads(done.stdout)["data"]["launchRun"]
    assert launched["__typename"] == "RunConfigValidationInvalid"
    assert "uids" in launched["errors"][0]["message"]
