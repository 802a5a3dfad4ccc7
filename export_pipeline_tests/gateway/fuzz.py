"""schemathesis over the whole OpenAPI document, with a token and without: no 5xx, and every answer as documented.

``python -m export_pipeline_tests.gateway.fuzz --requests 5000`` starts all that it needs, and ends with a line of JSON.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from pymongo import MongoClient
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from export_pipeline.access.roles import Role
from export_pipeline.access.tokens import TokenStore
from export_pipeline.backups.schedules import NewSchedule, ScheduleStore
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline_tests.gateway.conftest import APP, DATABASE, House, fill_source, house_settings, opened

Operation = APIOperation[Any, Any, Any, Any]

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass
class Tally:
    """How many requests were made, and what came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        return self.statuses.total()


def fuzz(house: House, examples: int) -> Tally:
    """Try every operation so many times in each of four ways: valid or not, with a token or without.

    Raises what schemathesis has to say of the first answer that is not as documented.
    """
    schema = schemathesis.openapi.from_url(f"{house.url}/v1/openapi.json")
    tally = Tally()
    headers = {"Authorization": f"Bearer {house.token('owner', '*')}"}
    with requests.Session() as session:
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            paths = list(_about(house, operation))
            for mode in GenerationMode:
                for sent in (headers, {}):
                    _try(operation, paths, mode, sent, examples, session, tally)
    return tally


def _try(
    operation: Operation,
    paths: Sequence[dict[str, str] | None],
    mode: GenerationMode,
    headers: dict[str, str],
    examples: int,
    session: requests.Session,
    tally: Tally,
) -> None:
    cases = st.sampled_from(paths).flatmap(lambda path: operation.as_strategy(mode, path_parameters=path))

    # No shrinking: which answer was wrong, and to what, is said by the first one.
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: Case[Any]) -> None:
        case.headers.pop("Authorization", None)
        answer = case.call(headers=headers, session=session, timeout=60, allow_redirects=False)
        tally.statuses[answer.status_code] += 1
        tally.operations[operation.label] += 1
        case.validate_response(answer, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing about this operation can be wrong


def _about(house: House, operation: Operation) -> Iterator[dict[str, str] | None]:
    """Return path parameters of things that there are; None stands for any made up ones."""
    yield None
    if "{export_id}" in operation.path:
        for request in (house.completed(), house.pending(), house.failed(), house.completed(format="csv")):
            yield {"export_id": request.id}
    elif "{link_id}" in operation.path or "{link}" in operation.path:
        for one_time in (False, True):
            made = house.client(house.token("owner")).post(
                f"/v1/exports/{house.completed().id}/links", json={"one_time": one_time}
            )
            text = made.json()["url"].removeprefix("/d/")
            yield {"link_id": made.json()["id"]} if "{link_id}" in operation.path else {"link": text}
    elif "{schedule_id}" in operation.path:
        schedule = ScheduleStore(house.exporter.database).create(NewSchedule(APP, "30 3 * * *", "UTC", {}), "test")
        yield {"app_id": APP, "schedule_id": schedule.id}
    elif "{app_id}" in operation.path:
        yield {"app_id": APP}
    elif "{token_id}" in operation.path:
        token = TokenStore(house.exporter.database).create(APP, Role.REPORTER, lives=None, created_by="test")[0]
        yield {"token_id": token.id}


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a MongoDB and a house, and fuzz until enough requests were made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    wanted = parser.parse_args(arguments).requests
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, embedded_mongo() as uri, MongoClient[dict[str, Any]](uri) as client:
        fill_source(client[DATABASE])
        with opened(house_settings(Path(folder) / "home", uri)) as house:
            tally = Tally()
            examples = 1 + wanted // 60
            while tally.requests < wanted:
                more = fuzz(house, examples)
                tally.statuses += more.statuses
                tally.operations += more.operations
    for operation, count in sorted(tally.operations.items()):
        print(f"{count:6,} {operation}")
    figures = {"requests": tally.requests, "statuses": dict(sorted(tally.statuses.items()))}
    print(json.dumps({"fuzz": figures, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
