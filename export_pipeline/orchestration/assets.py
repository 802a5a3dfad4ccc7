"""The assets of a user's export, partitioned by batch: the plan, one slice per catalogue entry, the packages."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.errors import StaleRequestError
from export_pipeline.exporter import Exporter, Outcome
from export_pipeline.orchestration.launching_runs import report_to_launching_run
from export_pipeline.orchestration.names import (
    BATCH_PARTITIONS,
    BATCHES,
    COMPLETE,
    GROUP,
    PACKAGES,
    slice_key,
)
from export_pipeline.orchestration.resources import lasting_failures
from export_pipeline.packages.manifest import CollectionReport


@dg.asset(
    key=BATCHES,
    partitions_def=BATCH_PARTITIONS,
    group_name=GROUP,
    kinds={"mongodb"},
    description="The plan of a batch: which requests, which collections exist, the moment at which all are read, and "
    "how many documents the server counts there.",
)
def batches(context: dg.AssetExecutionContext, exporter: dg.ResourceParam[Exporter]) -> dg.MaterializeResult:
    """Plan one batch."""
    with _reported_failures(context, exporter):
        _refuse_two_at_once(context, exporter)
        exporter.requests.attach_run(context.partition_key, context.run.run_id)
        plan = exporter.plan(context.partition_key)
    expected = sum(sum(collection.expected.values()) for collection in plan.collections)
    moment = plan.cluster_time
    return dg.MaterializeResult(
        metadata={
            "requests": len(plan.requests),
            "documents_expected": expected,
            "cluster_time": f"{moment.seconds}.{moment.increment}" if moment else "none: not one point in time",
            "collections": len(plan.collections),
            "collections_absent": sum(collection.source is None for collection in plan.collections),
        }
    )


def _refuse_two_at_once(context: dg.AssetExecutionContext, exporter: Exporter) -> None:
    """Raise StaleRequestError while another run serves the batch: both would publish the same files."""
    for run_id in {request.run_id for request in exporter.requests.of_batch(context.partition_key)}:
        other = context.instance.get_run_by_id(run_id) if run_id and run_id != context.run.run_id else None
        if other is not None and not other.is_finished:
            raise StaleRequestError(f"run {run_id} serves this batch at the moment; wait for it, or end it first")


def slice_asset(entry: Entry) -> dg.AssetsDefinition:
    """Return the asset that reads one plugin collection, once, for all requests of a batch."""
    key = slice_key(entry)

    @dg.asset(
        key=key,
        deps=[BATCHES],
        partitions_def=BATCH_PARTITIONS,
        group_name=entry.plugin,
        kinds={"mongodb", "bson"},
        pool="mongodb",  # dagster.yaml says how many runs may read at once
        description=f"What `{entry.collection}` holds on the users of a batch, by `{entry.user_key or entry.hook}`.",
        metadata={
            "collection": entry.collection,
            "user_key": entry.user_key or f"computed by {entry.hook}",
            "category": entry.category or "not stated",
            "purpose": entry.purpose or "not stated",
        },
        check_specs=[
            dg.AssetCheckSpec(
                COMPLETE, asset=key, description="The collection was read to its end, and its count is the server's."
            )
        ],
    )
    def read(context: dg.AssetExecutionContext, exporter: dg.ResourceParam[Exporter]) -> dg.MaterializeResult:
        with _reported_failures(context, exporter):
            plan = exporter.load_plan(context.partition_key)
            begun = time.monotonic()
            index = exporter.read_slice(plan, entry.name)
            seconds = time.monotonic() - begun
        planned = plan.collection(entry.name)
        expected = planned.expected if planned else {}
        owned = {request_id: owned.documents for request_id, owned in index.owned.items()}
        failure = index.failure
        if failure is not None:
            context.log.error("%s could not be read: %s", entry.name, failure.message)
        return dg.MaterializeResult(
            metadata={
                "outcome": index.outcome,
                "documents": index.documents,
                "bytes": index.bytes,
                "seconds": round(seconds, 3),
                "documents_per_second": round(index.documents / seconds) if seconds else 0,
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=COMPLETE,
                    passed=failure is None and owned == expected,
                    metadata={"reason": failure.message} if failure else {"requests_with_documents": len(owned)},
                )
            ],
        )

    return read


def packages_asset(catalog: LoadedCatalog) -> dg.AssetsDefinition:
    """Return the asset whose op fans every slice in and writes one tagged file per request."""

    @dg.asset(
        key=PACKAGES,
        deps=[BATCHES, *(slice_key(entry) for entry in catalog.entries)],
        partitions_def=BATCH_PARTITIONS,
        group_name=GROUP,
        kinds={"file"},
        description="One tagged file and its manifest for each request of a batch: assembled from all slices, read "
        "back and counted, then published.",
        check_specs=[
            dg.AssetCheckSpec(
                COMPLETE,
                asset=PACKAGES,
                description="Each request's file holds what the server counted, and is published.",
            )
        ],
    )
    def packages(
        context: dg.AssetExecutionContext, exporter: dg.ResourceParam[Exporter]
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        begun = time.monotonic()
        with _reported_failures(context, exporter):
            plan = exporter.load_plan(context.partition_key)
            outcomes = list(exporter.package(plan))
            exporter.discard_slices(plan.batch_id)
        _report(context, exporter)
        metadata = _packages_metadata(outcomes, time.monotonic() - begun)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        check = dg.AssetCheckResult(check_name=COMPLETE, asset_key=PACKAGES, passed=not failed, metadata=metadata)
        if failed:
            yield check
            reasons = "; ".join(f"{outcome.request_id}: {outcome.error}" for outcome in failed[:10])
            raise dg.Failure(
                f"{len(failed)} of {len(outcomes)} requests failed: {reasons}", metadata=metadata, allow_retries=False
            )
        yield dg.MaterializeResult(metadata=metadata, check_results=[check])

    return packages


@contextmanager
def _reported_failures(context: dg.AssetExecutionContext, exporter: Exporter) -> Iterator[None]:
    """Show failures as ``lasting_failures`` does, and tell the runs that asked: whoever polls them waits for it."""
    with lasting_failures():
        try:
            yield
        except BaseException:
            _report(context, exporter)
            raise


def _report(context: dg.AssetExecutionContext, exporter: Exporter) -> None:
    for request in exporter.requests.of_batch(context.partition_key):
        report_to_launching_run(context.instance, request)


def _packages_metadata(outcomes: Sequence[Outcome], seconds: float) -> dict[str, dg.MetadataValue]:
    manifests = [outcome.manifest for outcome in outcomes if outcome.manifest is not None]
    documents = sum(manifest.totals.documents_written for manifest in manifests)
    return {
        "requests_completed": dg.MetadataValue.int(len(manifests)),
        "requests_failed": dg.MetadataValue.int(len(outcomes) - len(manifests)),
        "documents": dg.MetadataValue.int(documents),
        "bytes": dg.MetadataValue.int(sum(manifest.file.bytes for manifest in manifests)),
        "seconds": dg.MetadataValue.float(round(seconds, 3)),
        "documents_per_second": dg.MetadataValue.int(round(documents / seconds) if seconds else 0),
        "collections": _collections_table([report for manifest in manifests for report in manifest.collections]),
    }


def _collections_table(reports: Sequence[CollectionReport]) -> dg.MetadataValue:
    """Return a row per collection: how many requests had which outcome, and documents and bytes over all of them."""
    rows: dict[str, Counter[str]] = {}
    for report in reports:
        row = rows.setdefault(report.collection, Counter())
        row[report.outcome] += 1
        row["documents"] += report.documents_written
        row["bytes"] += report.bytes
    columns = ("exported", "empty", "absent", "documents", "bytes")
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"collection": collection, **{column: row[column] for column in columns}})
            for collection, row in rows.items()
        ],
        schema=dg.TableSchema(
            columns=[dg.TableColumn("collection", "string"), *(dg.TableColumn(column, "int") for column in columns)]
        ),
    )
