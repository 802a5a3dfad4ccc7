"""Backups and their schedules by HTTP: the given shapes, one at a time; where they go is not for a caller to say."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from export_pipeline.backups.schedules import NewSchedule, ScheduleStore
from export_pipeline.gateway import schedules
from export_pipeline.requests.backups import BackupRequests
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline_tests.gateway.conftest import APP, OTHER_APP, House

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


@pytest.fixture
def app_id() -> str:
    """An app of the test's own."""
    return f"app{new_id()[-12:]}"


@pytest.fixture
def maintainer(house: House, app_id: str) -> httpx.Client:
    return house.client(house.token("maintainer", app_id))


@pytest.fixture
def owner(house: House, app_id: str) -> httpx.Client:
    return house.client(house.token("owner", app_id))


def finish(house: House, job_id: str) -> None:
    """Do as a worker does whose backup has failed."""
    batch = Batch(new_id(), (job_id,))
    assert house.exporter.requests.claim(batch) == [job_id]
    house.exporter.requests.fail(job_id, batch.id, code="incomplete", message="a test")


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# Asking for one


def test_a_backup_is_asked_for_and_listed(house: House, maintainer: httpx.Client, app_id: str) -> None:
    before = datetime.now(UTC)
    answer = maintainer.post("/backup/schedule", json={"app_id": app_id, "format": "jsonl", "compression": "zstd"})
    assert answer.status_code == 202
    assert list(answer.json()) == ["jobId"]
    (job,) = maintainer.get("/backup/jobs").json()
    assert list(job) == ["jobId", "status", "createdAt", "lastUpdatedAt"]
    assert (job["jobId"], job["status"]) == (answer.json()["jobId"], "pending")
    for name in ("createdAt", "lastUpdatedAt"):
        assert before <= datetime.fromisoformat(job[name]) <= datetime.now(UTC)
    row = house.exporter.requests.get(job["jobId"])
    assert (row.kind, row.app_id) == ("app_backup", app_id)
    assert row.options == {"format": "jsonl", "compression": "zstd"}
    assert row.requested_by.startswith("token:")


def test_without_a_body_it_is_the_app_of_the_token(house: House, maintainer: httpx.Client, app_id: str) -> None:
    made = maintainer.post("/backup/schedule").json()
    assert house.exporter.requests.get(made["jobId"]).app_id == app_id


def test_there_is_one_at_a_time(house: House, maintainer: httpx.Client) -> None:
    first = maintainer.post("/backup/schedule").json()["jobId"]
    assert problem(maintainer.post("/backup/schedule")) == (409, "backup_under_way")
    batch = Batch(new_id(), (first,))
    assert house.exporter.requests.claim(batch) == [first]
    assert problem(maintainer.post("/backup/schedule")) == (409, "backup_under_way")
    house.exporter.requests.fail(first, batch.id, code="incomplete", message="a test")
    assert maintainer.post("/backup/schedule").status_code == 202


def test_a_repetition_makes_no_second_one(maintainer: httpx.Client) -> None:
    key = {"Idempotency-Key": new_id()}
    first, second = (maintainer.post("/backup/schedule", headers=key) for _ in range(2))
    assert first.json() == second.json()
    other = maintainer.post("/backup/schedule", headers=key, json={"format": "csv"})
    assert problem(other) == (409, "idempotency_conflict")


def test_all_apps_are_for_a_token_for_all(house: House, maintainer: httpx.Client) -> None:
    assert problem(maintainer.post("/backup/schedule", json={"app_id": "*"})) == (404, "not_found")
    everybody = house.client(house.token("maintainer", "*"))
    made = everybody.post("/backup/schedule", json={"app_id": "*"}).json()["jobId"]
    assert house.exporter.requests.get(made).app_id == "*"
    finish(house, made)


@pytest.mark.parametrize(
    "wrong",
    [
        {"app_id": "../etc"},
        {"format": "xml"},
        {"format": "parquet", "compression": "zstd"},
        {"part_bytes": 1},
        {"recipients": ["age1nobody"]},
        {"storage": "/tmp"},
        {"base": "x"},
    ],
)
def test_what_a_backup_cannot_be_is_refused(maintainer: httpx.Client, wrong: dict[str, Any]) -> None:
    assert maintainer.post("/backup/schedule", json=wrong).status_code == 422
    assert maintainer.get("/backup/jobs").json() == []


# The list


def test_pages_of_jobs_follow_the_link(house: House, maintainer: httpx.Client) -> None:
    made = []
    for _ in range(5):
        made.append(maintainer.post("/backup/schedule").json()["jobId"])
        finish(house, made[-1])
    house.pending()  # an export is no backup
    listed: list[str] = []
    following: str | None = "/backup/jobs?limit=2"
    while following is not None:
        answer = maintainer.get(following)
        page = answer.json()
        assert len(page) <= 2
        listed += [job["jobId"] for job in page]
        link = answer.headers.get("link")
        following = None if link is None else re.fullmatch('<(.*)>; rel="next"', link)[1]  # type: ignore[index]
    assert listed == made[::-1]


def test_a_cursor_serves_for_the_same_list_alone(house: House, maintainer: httpx.Client) -> None:
    for _ in range(2):
        finish(house, maintainer.post("/backup/schedule").json()["jobId"])
    link = maintainer.get("/backup/jobs?limit=1").headers["link"]
    cursor = httpx.URL(link.partition(">")[0][1:]).params["cursor"]
    everybody = house.client(house.token("maintainer", "*"))
    assert everybody.get("/backup/jobs", params={"cursor": cursor}).status_code in (400, 422)
    assert maintainer.get("/backup/jobs", params={"cursor": f"{cursor}x"}).status_code in (400, 422)


def test_a_token_for_all_sees_all(house: House, maintainer: httpx.Client, app_id: str) -> None:
    made = maintainer.post("/backup/schedule").json()["jobId"]
    everybody = house.client(house.token("maintainer", "*"))
    assert made in {job["jobId"] for job in everybody.get("/backup/jobs").json()}
    assert [job["jobId"] for job in everybody.get("/backup/jobs", params={"app_id": app_id}).json()] == [made]
    stranger = house.client(house.token("maintainer", OTHER_APP))
    assert stranger.get("/backup/jobs", params={"app_id": app_id}).status_code == 404


# Schedules

DAILY = {"cron": "30 3 * * *", "time_zone": "Europe/Berlin"}


@pytest.fixture
def path(app_id: str) -> str:
    return f"/v1/apps/{app_id}/schedules"


def test_a_schedule_is_made_changed_and_removed(owner: httpx.Client, path: str, app_id: str) -> None:
    wanted = {**DAILY, "format": "bson", "recipients": [RECIPIENT], "retention": {"daily": 14}, "full_every": 7}
    answer = owner.post(path, json=wanted)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"{path}/{made['id']}"
    assert made["app_id"] == app_id
    assert {name: made[name] for name in wanted} == wanted | {"retention": made["retention"]}
    assert made["retention"]["daily"] == 14
    assert made["enabled"]
    assert datetime.fromisoformat(made["next_at"]) - datetime.now(UTC) < timedelta(days=1, hours=1)
    assert owner.get(path).json() == [made]

    changed = owner.patch(f"{path}/{made['id']}", json={"compression": "zstd", "enabled": False, "full_every": 1})
    assert changed.status_code == 200, changed.text
    expected = made | {"compression": "zstd", "enabled": False, "full_every": 1, "next_at": None}
    assert changed.json() | {"updated_at": None} == expected | {"updated_at": None}
    assert owner.patch(f"{path}/{made['id']}", json={"enabled": True}).json()["next_at"] is not None

    assert owner.delete(f"{path}/{made['id']}").status_code == 204
    assert owner.get(path).json() == []
    assert problem(owner.delete(f"{path}/{made['id']}")) == (404, "not_found")


def test_a_schedule_can_begin_at_rest(owner: httpx.Client, path: str) -> None:
    made = owner.post(path, json={**DAILY, "enabled": False}).json()
    assert (made["enabled"], made["next_at"]) == (False, None)


def test_where_backups_go_is_neither_said_nor_chosen(house: House, owner: httpx.Client, path: str, app_id: str) -> None:
    assert owner.post(path, json={**DAILY, "storage": "/somewhere"}).status_code == 422
    store = ScheduleStore(house.exporter.database)
    of_the_operator = store.create(NewSchedule(app_id, "0 0 * * *", storage="s3://elsewhere/x"), "operator")
    assert owner.patch(f"{path}/{of_the_operator.id}", json={"storage": "/somewhere"}).status_code == 422
    changed = owner.patch(f"{path}/{of_the_operator.id}", json={"cron": "0 1 * * *"})
    assert "elsewhere" not in changed.text
    assert store.get(of_the_operator.id).storage == "s3://elsewhere/x"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"cron": "never"},
        {"cron": "0 0 31 2 *"},
        {**DAILY, "time_zone": "Mars/Base"},
        {**DAILY, "time_zone": "../../etc/passwd"},
        {**DAILY, "retention": {"hourly": 1}},
        {**DAILY, "retention": {"daily": -1}},
        {**DAILY, "format": "parquet", "compression": "gzip"},
        {**DAILY, "full_every": 0},
    ],
)
def test_what_a_schedule_cannot_be_is_refused(owner: httpx.Client, path: str, wrong: dict[str, Any]) -> None:
    assert owner.post(path, json=wrong).status_code == 422
    assert owner.get(path).json() == []


def test_an_app_has_so_many_schedules(owner: httpx.Client, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "MOST_SCHEDULES", 2)
    assert [owner.post(path, json=DAILY).status_code for _ in range(3)] == [201, 201, 409]


def test_a_schedule_is_its_apps_alone(house: House, owner: httpx.Client, path: str) -> None:
    made = owner.post(path, json=DAILY).json()["id"]
    stranger = house.client(house.token("owner", APP))
    for schedule_path in (f"{path}/{made}", f"/v1/apps/{APP}/schedules/{made}"):
        assert problem(stranger.patch(schedule_path, json={"full_every": 2})) == (404, "not_found")
        assert problem(stranger.delete(schedule_path)) == (404, "not_found")
    assert len(owner.get(path).json()) == 1


def test_schedules_of_all_apps_are_for_a_token_for_all(house: House, owner: httpx.Client) -> None:
    assert owner.get("/v1/apps/*/schedules").status_code == 404
    everybody = house.client(house.token("owner", "*"))
    made = everybody.post("/v1/apps/*/schedules", json=DAILY).json()
    assert made["app_id"] == "*"
    assert everybody.delete(f"/v1/apps/*/schedules/{made['id']}").status_code == 204


@pytest.fixture(autouse=True)
def no_backup_stays(house: House) -> Iterator[None]:
    """Leave no backup behind that is under way."""
    yield
    for request in BackupRequests.beside(house.exporter.requests).waiting(100):
        house.exporter.requests.cancel(request.id, "test")
