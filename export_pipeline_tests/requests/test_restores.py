from dataclasses import replace

import pytest

from export_pipeline.errors import BadInputError
from export_pipeline.requests.restores import NewRestore, RestoreRequests, RestoreUnderWayError
from export_pipeline.requests.store import HERE, RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

NEW = NewRestore(
    backup_id="0190d2f0",
    app_id="652f1a7e9c3b4d0012ab34c1",
    named="0190d2f0",
    databases=["copy"],
    new_app_id=None,
    without=["noise"],
    threads=2,
    targets=["copy", "copy_drill"],
    server="127.0.0.1:27017",
)


@pytest.fixture
def restores(store: RequestStore) -> RestoreRequests:
    return RestoreRequests.beside(store)


def test_a_row_tells_whoever_takes_it_up_what_is_wanted(restores: RestoreRequests) -> None:
    row = restores.submit(NEW)
    assert [waiting.id for waiting in restores.waiting(10)] == [row.id]
    assert (row.kind, row.app_id) == ("restore", NEW.app_id)
    assert row.options == {
        "backup_id": "0190d2f0",
        "backup": "0190d2f0",
        "to_database": ["copy"],
        "app_id": None,
        "without": ["noise"],
        "threads": 2,
        "targets": ["copy", "copy_drill"],
        "attended": False,
    }


def test_a_database_is_restored_by_one_at_a_time(store: RequestStore, restores: RestoreRequests) -> None:
    first = restores.submit(NEW, run_here=True)
    assert (first.status, first.run_id) == ("running", HERE)
    with pytest.raises(RestoreUnderWayError, match=f"restore {first.id} into this database is running"):
        restores.submit(replace(NEW, backup_id="another", named="another", targets=["copy_drill", "copy"]))
    restores.submit(replace(NEW, targets=["elsewhere"]))
    restores.submit(replace(NEW, server="127.0.0.1:27018"))
    store.cancel(first.id, "test")
    assert restores.submit(NEW).status == "pending"


def test_one_that_needs_its_callers_key_is_tried_again_by_nobody_else(
    store: RequestStore, restores: RestoreRequests
) -> None:
    for attended in (True, False):
        row = restores.submit(replace(NEW, attended=attended), run_here=True)
        store.fail_batch(str(row.batch_id), code="mongo_unreachable", message="away")
        assert store.get(row.id).status == "failed"
        if attended:
            with pytest.raises(BadInputError, match="give the same command again"):
                store.retry(row.id, "test")
        else:
            store.retry(row.id, "test")
            assert [waiting.id for waiting in restores.waiting(10)] == [row.id]
