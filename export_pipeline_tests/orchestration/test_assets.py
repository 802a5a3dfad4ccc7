"""One batch through Dagster, in this process: what is published, what an operator sees, and how failures show."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from export_pipeline.catalog.load import load_catalog
from export_pipeline.definitions import build_defs
from export_pipeline.demo.data import DemoData
from export_pipeline.errors import MongoUnreachableError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_PARTITIONS, STATUS_TAG
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline.slices.queries import SliceQueries
from export_pipeline_tests.orchestration.conftest import RunBatch, metadata_of


def submit(exporter: Exporter, demo: DemoData, uid: str, format_: str = "json") -> str:
    return exporter.submit(NewRequest(demo.app_ids[0], [uid], format_)).id


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {"/".join(check.asset_key.path): check.passed for check in result.get_asset_check_evaluations()}


def test_a_batch_publishes_one_package_per_request(exporter: Exporter, demo: DemoData, run_batch: RunBatch) -> None:
    small, heavy = submit(exporter, demo, demo.small_uid), submit(exporter, demo, demo.heaviest_uid, "parquet")
    assert run_batch(small, heavy).success
    for request_id in (small, heavy):
        row = exporter.requests.get(request_id)
        assert row.status == "completed"
        assert row.documents_done == row.documents_total
        assert row.result_uri is not None
        manifest = json.loads((Path(row.result_uri).parent / MANIFEST).read_bytes())
        assert manifest["file"]["bytes"] == row.result_bytes == Path(row.result_uri).stat().st_size
        assert manifest["file"]["sha256"] == row.result_sha256
        assert manifest["totals"]["documents_written"] == row.documents_done > 0


def test_slices_do_not_outlive_their_batch(
    exporter: Exporter, settings: Settings, demo: DemoData, run_batch: RunBatch
) -> None:
    run_batch(submit(exporter, demo, demo.small_uid))
    assert not list(Path(settings.storage_root, "slices").iterdir())


def test_operators_see_what_was_read_and_what_became_of_each_collection(
    exporter: Exporter, demo: DemoData, run_batch: RunBatch
) -> None:
    result = run_batch(submit(exporter, demo, demo.heaviest_uid))
    drill = metadata_of(result, "slices", "drill", "drill_events")
    assert drill["outcome"] == "exported"
    assert drill["documents"] > 100
    assert drill["bytes"] > 100 * drill["documents"]
    assert {"seconds", "documents_per_second"} <= drill.keys()
    packages = metadata_of(result, "packages")
    rows = {row.data["collection"]: row.data for row in packages["collections"].records}
    assert len(rows) == len(exporter.catalog.entries)
    assert rows[f"drill_events{demo.app_ids[0]}"]["documents"] == drill["documents"]
    assert packages["documents"] == sum(row["documents"] for row in rows.values())


def test_the_completeness_checks_pass(exporter: Exporter, demo: DemoData, run_batch: RunBatch) -> None:
    checks = checks_of(run_batch(submit(exporter, demo, demo.small_uid)))
    assert len(checks) == len(exporter.catalog.entries) + 1
    assert all(checks.values())


def test_no_uid_reaches_dagsters_event_log(
    exporter: Exporter, demo: DemoData, run_batch: RunBatch, instance: dg.DagsterInstance
) -> None:
    uid = "a-person-whose-uid-nobody-may-see"
    result = run_batch(submit(exporter, demo, uid))
    events = instance.all_logs(result.run_id)
    assert len(events) > 50
    assert not [event for event in events if uid in dg.serialize_value(event)]
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert uid not in repr(run)


def test_an_unreadable_collection_fails_every_request_and_publishes_nothing(
    exporter: Exporter, settings: Settings, demo: DemoData, run_batch: RunBatch, tmp_path: Path
) -> None:
    # A view over a pipeline that fails on reading stands for a collection that cannot be read.
    view = f"app_crashes{demo.app_ids[1]}broken"
    database = exporter.client["countly"]
    database.create_collection(
        view, viewOn=f"app_users{demo.app_ids[1]}", pipeline=[{"$match": {"$expr": {"$divide": [1, 0]}}}]
    )
    try:
        catalog = tmp_path / "catalog.yaml"
        catalog.write_text(
            "version: 1\ncollections:\n"
            "- {name: users, plugin: users, collection: 'app_users{app_id}', user_key: uid}\n"
            "- {name: broken, plugin: crashes, collection: 'app_crashes{app_id}broken', user_key: uid}\n"
        )
        broken = settings.model_copy(update={"catalog": catalog})
        request_id = exporter.submit(NewRequest(demo.app_ids[1], [demo.small_uid])).id
        result = run_batch(request_id, settings=broken)
    finally:
        database.drop_collection(view)
    row = exporter.requests.get(request_id)
    assert not result.success
    assert (row.status, row.error_code) == ("failed", "collection_unreadable")
    assert row.error_message is not None
    assert row.error_message.startswith("broken: ")
    assert checks_of(result) == {"slices/users/users": True, "slices/crashes/broken": False, "packages": False}
    assert not list(Path(settings.storage_root).rglob("export.*"))

    exporter.requests.retry(request_id, "test")
    assert run_batch(request_id).success
    assert exporter.requests.get(request_id).status == "completed"


def test_an_unknown_app_fails_the_request_before_anything_is_read(exporter: Exporter, run_batch: RunBatch) -> None:
    request_id = exporter.submit(NewRequest("nosuchapp", ["1a2"])).id
    assert not run_batch(request_id).success
    row = exporter.requests.get(request_id)
    assert (row.status, row.error_code) == ("failed", "unknown_app")
    assert row.error_message is not None
    assert "nosuchapp" in row.error_message


def test_an_unreachable_mongodb_sends_the_request_back_with_that_reason(
    exporter: Exporter, settings: Settings, demo: DemoData, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export_pipeline.mongo.connection.FIND_SERVER_MS", 1000)  # test_cli.py waits for it in full
    unreachable = Settings(home=settings.home, mongo_uri="mongodb://127.0.0.1:9")
    request_id = submit(exporter, demo, demo.small_uid)
    assert not run_batch(request_id, settings=unreachable).success
    row = exporter.requests.get(request_id)
    assert (row.status, row.error_code, row.retries) == ("pending", "mongo_unreachable", 1)
    assert row.not_before is not None
    assert row.started_at is not None
    assert (row.updated_at - row.started_at).total_seconds() < 10


def test_a_folder_that_cannot_be_written_sends_the_request_back_with_that_reason(
    exporter: Exporter, settings: Settings, demo: DemoData, run_batch: RunBatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    unwritable = settings.model_copy(update={"storage": str(tmp_path / "file" / "below")})
    request_id = submit(exporter, demo, demo.small_uid)
    assert not run_batch(request_id, settings=unwritable).success
    row = exporter.requests.get(request_id)
    assert (row.status, row.error_code) == ("pending", "storage")
    assert row.error_message is not None
    assert str(tmp_path / "file") in row.error_message


def test_a_server_that_goes_away_sends_the_requests_back_at_once_and_leaves_no_slices(
    exporter: Exporter,
    settings: Settings,
    demo: DemoData,
    run_batch: RunBatch,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = SliceQueries.read

    def cut_off(*given: Any) -> Iterator[Any]:
        if "crash" in given[2].name:
            raise MongoUnreachableError(f"{given[2].name}: MongoDB cannot be reached")
        yield from read(*given)

    monkeypatch.setattr(SliceQueries, "read", cut_off)

    @dg.job
    def asking() -> None:
        pass

    asked_by = instance.create_run_for_job(asking).run_id
    new = NewRequest(demo.app_ids[0], [demo.small_uid], requested_by=f"dagster:{asked_by}")
    request_id = exporter.submit(new).id
    assert not run_batch(request_id).success
    row = exporter.requests.get(request_id)
    assert (row.status, row.error_code) == ("pending", "mongo_unreachable")
    assert not [file for file in Path(settings.storage_root, "slices").rglob("*") if file.is_file()]
    asking_run = instance.get_run_by_id(asked_by)
    assert asking_run is not None
    assert asking_run.tags[STATUS_TAG] == "pending"


def test_a_batch_that_is_over_is_not_run_again(exporter: Exporter, demo: DemoData, run_batch: RunBatch) -> None:
    request_id = submit(exporter, demo, demo.small_uid)
    run_batch(request_id)
    first = exporter.requests.get(request_id)
    again = run_batch.again(first.batch_id)  # type: ignore[attr-defined]
    assert not again.success
    assert exporter.requests.get(request_id) == first


def test_a_batch_that_another_run_serves_is_left_to_it(
    exporter: Exporter, demo: DemoData, run_batch: RunBatch, instance: dg.DagsterInstance
) -> None:
    @dg.job
    def serving() -> None:
        pass

    request_id = submit(exporter, demo, demo.small_uid)
    exporter.requests.claim(batch := Batch(new_id(), (request_id,)))
    exporter.requests.attach_run(
        batch.id, instance.create_run_for_job(serving, status=dg.DagsterRunStatus.STARTED).run_id
    )
    assert not run_batch.again(batch.id).success  # type: ignore[attr-defined]
    assert exporter.requests.get(request_id).status == "running"


def test_there_is_an_asset_per_catalogue_entry_in_its_plugins_group() -> None:
    graph = build_defs().resolve_asset_graph()
    for entry in load_catalog().entries:
        node = graph.get(dg.AssetKey(["slices", entry.plugin, entry.name]))
        assert node.group_name == entry.plugin
        assert node.partitions_def == BATCH_PARTITIONS
        assert node.parent_keys == {dg.AssetKey("batches")}
        assert "mongodb" in node.kinds
        assert node.description is not None
        assert entry.collection in node.description
    assert len(graph.get(dg.AssetKey("packages")).parent_keys) == len(load_catalog().entries) + 1


def test_every_slice_is_read_in_the_pool_that_caps_concurrent_reads() -> None:
    graph = build_defs().resolve_asset_graph()
    slices = [key for key in graph.get_all_asset_keys() if key.path[0] == "slices"]
    assert len(slices) == len(load_catalog().entries)
    assert {key: graph.get(key).pools for key in slices} == {key: {"mongodb"} for key in slices}


def test_definitions_are_loadable() -> None:
    dg.Definitions.validate_loadable(build_defs())


@pytest.mark.parametrize("variable", ["EXPORT_PIPELINE_CATALOG"])
def test_a_broken_catalogue_is_an_error_on_loading(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "catalog.yaml").write_text("version: 1\ncollections:\n- name: x\n")
    monkeypatch.setenv(variable, str(tmp_path / "catalog.yaml"))
    with pytest.raises(Exception, match='line 3: "plugin" is missing'):
        build_defs()
