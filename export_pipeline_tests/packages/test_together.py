"""Packages made in company are those that each would be alone, and one that fails fails alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export_pipeline.errors import StorageError
from export_pipeline.exporter import Exporter, Outcome
from export_pipeline.packages import together
from export_pipeline.packages.together import Package, groups, publish_all
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.slices.slice_file import data_key
from export_pipeline_tests.conftest import MakeDatabase

CATALOG = """
version: 1
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid}
"""
UIDS = [f"u{number}" for number in range(7)]


def document(number: int) -> dict[str, Any]:
    uid = UIDS[number % len(UIDS)]
    tag = {"_col": "mine"} if uid == "u6" else {}  # which the text must make place for
    return {"_id": number, "uid": uid, **tag, "n": number / 7, "text": "€" * (number % 5)}


@pytest.fixture
def crowd(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    """An installation on a database with some documents of each of UIDS."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG)
    users = [{"_id": number, "uid": uid} for number, uid in enumerate(UIDS)]
    settings = make_database({"app_usersx": users, "eventsx": [document(number) for number in range(600)]})
    with Exporter(settings.model_copy(update={"catalog": catalog})) as exporter:
        yield exporter


def claimed(exporter: Exporter, *requests: NewRequest) -> tuple[str, list[str]]:
    ids = [exporter.submit(new).id for new in requests]
    batch = Batch(new_id(), tuple(ids))
    exporter.requests.claim(batch)
    return batch.id, ids


def read(exporter: Exporter, batch_id: str) -> Any:
    plan = exporter.plan(batch_id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    return plan


def in_one_batch(exporter: Exporter, *requests: NewRequest) -> list[Outcome]:
    batch_id, ids = claimed(exporter, *requests)
    outcomes = list(exporter.package(read(exporter, batch_id)))
    assert [outcome.request_id for outcome in outcomes] == ids
    return outcomes


def file_of(exporter: Exporter, request_id: str) -> Path:
    return Path(str(exporter.requests.get(request_id).result_uri))


@pytest.mark.parametrize(("format_", "mode"), [("json", "relaxed"), ("jsonl", "canonical"), ("csv", "relaxed")])
def test_a_package_made_in_company_is_the_one_made_alone(
    crowd: Exporter, tmp_path: Path, format_: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST_TOGETHER", 3)
    other = NewRequest("x", ["u1"], "jsonl" if format_ == "json" else "json", requested_by="another format")
    outcomes = in_one_batch(crowd, *(NewRequest("x", [uid], format_, mode) for uid in UIDS), other)
    for uid, outcome in zip(UIDS, outcomes, strict=False):
        alone = tmp_path / f"{uid}.{format_}"
        crowd.run_here(crowd.submit(NewRequest("x", [uid], format_, mode), run_here=True), alone)
        together_, by_itself = file_of(crowd, outcome.request_id), verify_package(alone)
        if format_ != "csv":  # a zip tells when it was made
            assert together_.read_bytes() == alone.read_bytes()
        assert verify_package(together_).collections == by_itself.collections or format_ == "csv"
        assert outcome.manifest is not None
        assert outcome.manifest.totals == by_itself.totals
    renamed = [
        report.renamed_col_fields for report in verify_package(file_of(crowd, outcomes[6].request_id)).collections
    ]
    assert renamed == [0, 600 // 7]


def test_where_one_cannot_be_written_its_neighbours_are(crowd: Exporter) -> None:
    batch_id, ids = claimed(crowd, *(NewRequest("x", [uid]) for uid in UIDS[:3]))
    plan = read(crowd, batch_id)
    in_the_way = Path(crowd.settings.storage_root, "exports", "x", ids[1], "export.json", "file")
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    first, second, third = crowd.package(plan)
    assert (first.error, third.error) == (None, None)
    assert isinstance(second.error, StorageError)
    assert [crowd.requests.get(request_id).error_code for request_id in ids] == [None, "storage", None]
    assert file_of(crowd, ids[0]).exists()


def test_one_that_was_cancelled_meanwhile_leaves_nothing(crowd: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id, ids = claimed(crowd, *(NewRequest("x", [uid]) for uid in UIDS[:3]))
    plan = read(crowd, batch_id)
    publish: Any = together.publish_all

    def cancel_in_between(packages: Any) -> Any:
        crowd.cancel(ids[1], "me")
        return publish(packages)

    monkeypatch.setattr("export_pipeline.steps.packaging.publish_all", cancel_in_between)
    assert [outcome.request_id for outcome in crowd.package(plan)] == [ids[0], ids[2]]
    assert crowd.requests.get(ids[1]).status == "cancelled"
    assert not Path(crowd.settings.storage_root, "exports", "x", ids[1]).exists()


def test_a_slice_that_is_gone_fails_each_request_that_needs_it(crowd: Exporter) -> None:
    batch_id, ids = claimed(crowd, *(NewRequest("x", [uid]) for uid in UIDS[:2]))
    plan = read(crowd, batch_id)
    crowd.storage.delete(data_key(batch_id, "events"))
    outcomes = list(crowd.package(plan))
    assert [type(outcome.error) for outcome in outcomes] == [StorageError, StorageError]
    assert len(ids) == 2


# Decisions


def request(number: int) -> Request:
    (fields,) = [Request.__dataclass_fields__]
    values: dict[str, Any] = dict.fromkeys(fields)
    return Request(**{**values, "id": str(number), "options": {}})


def test_a_large_package_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "MOST_TOGETHER", 3)
    monkeypatch.setattr(together, "MOST_DOCUMENTS", 100)
    documents = dict(enumerate([10, 10, 10, 10, 500, 90, 10, 10]))
    found = [
        [int(of.id) for of in group]
        for group in groups([request(number) for number in documents], lambda of: documents[int(of)])
    ]
    assert found == [[0, 1, 2], [3], [4], [5, 6], [7]]
    assert list(groups([], lambda _: 0)) == []


def test_each_package_tells_what_went_wrong_with_it() -> None:
    published: list[int] = []

    def package(number: int) -> Package:
        def publish() -> None:
            if number == 2:
                raise StorageError("no space")
            published.append(number)

        return Package(replace(request(number)), "", None, publish)  # type: ignore[arg-type]

    errors = publish_all([package(number) for number in range(5)])
    assert [str(error) if error else None for error in errors] == [None, None, "no space", None, None]
    assert sorted(published) == [0, 1, 3, 4]
    assert publish_all([]) == []
