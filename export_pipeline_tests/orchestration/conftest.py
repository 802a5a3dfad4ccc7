"""Fixtures for Dagster's shell: an instance of its own for each test, and a way to run one batch in this process."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from export_pipeline.definitions import build_defs
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_PARTITIONS
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.settings import Settings


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that forgets all when the test ends."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def exporter(settings: Settings) -> Iterator[Exporter]:
    """The library beside Dagster, to make requests with and to look at them."""
    with Exporter(settings) as exporter:
        yield exporter


RunBatch = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run_batch(exporter: Exporter, instance: dg.DagsterInstance) -> RunBatch:
    """Return a function that claims requests as one batch and runs ``export_users`` on it."""

    def run(*request_ids: str, settings: Settings | None = None) -> dg.ExecuteInProcessResult:
        batch = Batch(new_id(), request_ids)
        assert len(exporter.requests.claim(batch)) == len(request_ids)
        return run_again(batch.id, settings)

    def run_again(batch_id: str, settings: Settings | None = None) -> dg.ExecuteInProcessResult:
        instance.add_dynamic_partitions(str(BATCH_PARTITIONS.name), [batch_id])
        job = build_defs(settings or exporter.settings).resolve_job_def("export_users")
        return job.execute_in_process(instance=instance, partition_key=batch_id, raise_on_error=False)

    run.again = run_again  # type: ignore[attr-defined]
    return run


def metadata_of(result: dg.ExecuteInProcessResult, *key: str) -> dict[str, Any]:
    """Return the metadata of the one materialization of an asset in a run."""
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None and event.asset_key.path == list(key)
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}
