"""One request on a quiet system, from insertion to completed, beside a job that does nothing on the same daemon.

That job has as many assets, and a sensor starts it when a file appears. Both take turns, at moments that have nothing
to do with the daemon's own rhythm.
"""

import argparse
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
from pymongo import MongoClient

from export_pipeline.exporter import Exporter
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline_tests.bench import crowd, trivial
from export_pipeline_tests.bench.daemon import dagster_daemon, export_one, wait_until
from export_pipeline_tests.bench.measure import report

OVER_TRIVIAL_LIMIT_S = 1.0
LOOK_EVERY_SECONDS = 5.0
"""How often the daemon looks at sensors; a request comes at any moment of it."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench latency", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts")
    parser.add_argument("--collections", type=int, default=20)
    parser.add_argument("--documents", type=int, default=2_000, help="in each collection")
    parser.add_argument("--each", type=int, default=20, help="documents of one user in each collection")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        uri = stack.enter_context(embedded_mongo())
        client = stack.enter_context(MongoClient[Any](uri))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        crowd.load(client, options.collections, options.documents, options.each)
        catalog = home / "catalog.yaml"
        crowd.write_catalog(catalog, options.collections)
        settings = Settings(home=home, mongo_uri=uri, mongo_database=crowd.DATABASE, catalog=catalog)
        exporter = stack.enter_context(Exporter(settings))
        instance = stack.enter_context(dagster_daemon(settings, [trivial.__name__]))
        export_one(exporter, NewRequest(crowd.APP, [crowd.uid(0)]))  # now the daemon has started
        run_trivial(instance, home, "first")
        moments = random.Random(1)
        exports, trivials = [], []
        for number in range(options.rounds):
            time.sleep(moments.uniform(0, LOOK_EVERY_SECONDS))
            exports.append(export_one(exporter, NewRequest(crowd.APP, [crowd.uid(number)])))
            time.sleep(moments.uniform(0, LOOK_EVERY_SECONDS))
            trivials.append(run_trivial(instance, home, f"round-{number}"))
    export = median(exports)
    whole, from_run = (median(values) for values in zip(*trivials, strict=True))
    rows = [
        {"what": "one request, from insertion to completed", "seconds": export, "fastest": min(exports)},
        {
            "what": f"a trivial job of {options.collections + 2} assets, from its file to its end",
            "seconds": whole,
            "fastest": min(seconds for seconds, _ in trivials),
        },
        {
            "what": "  of which from its run's creation, as if launched by hand",
            "seconds": from_run,
            "fastest": min(seconds for _, seconds in trivials),
        },
    ]
    over = export - whole
    verdict = "within" if over <= OVER_TRIVIAL_LIMIT_S else "OVER"
    report(
        "latency",
        rows,
        {
            "rounds": options.rounds,
            "seconds": round(export, 3),
            "trivial_seconds": round(whole, 3),
            "over_trivial_s": round(over, 3),
            "over_launched_trivial_s": round(export - from_run, 3),
        },
        [f"over the trivial job: {over:.2f} s, {verdict} the limit of {OVER_TRIVIAL_LIMIT_S} s"],
    )


def run_trivial(instance: dg.DagsterInstance, home: Path, name: str) -> tuple[float, float]:
    """Ask for a trivial run and wait for its end; return seconds, from asking and from the run's creation."""
    trivial.folder(home).mkdir(exist_ok=True)
    asked = time.time()
    (trivial.folder(home) / name).touch()
    tagged = dg.RunsFilter(job_name=trivial.JOB, tags={"dagster/partition": name})

    def finished() -> bool:
        return any(record.dagster_run.is_finished for record in instance.get_run_records(tagged, limit=1))

    wait_until(finished, "a trivial run")
    (record,) = instance.get_run_records(tagged)
    if not record.dagster_run.is_success:
        raise SystemExit("a trivial run failed")
    end = record.end_time or 0.0
    return end - asked, end - record.create_timestamp.timestamp()
