"""Asking for exports and following them: what comes back, when to ask again, pages, cursors, estimates."""

import json
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from export_pipeline.access.signing import Signer
from export_pipeline.gateway.polling import Polls, retry_after
from export_pipeline.notifications.outbox import NotificationStore
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.progress import READING, Tally
from export_pipeline_tests.gateway.conftest import APP, OTHER_APP, SECRET_KEY, House, OpenHouse


@pytest.fixture
def client(house: House) -> httpx.Client:
    return house.client(house.token("owner"))


def ask(client: httpx.Client, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    content = json.dumps({"app_id": APP, "uids": [new_id()]} | body)
    return client.post("/v1/exports", content=content, headers=headers)


# Asking


def test_a_new_export(house: House, client: httpx.Client) -> None:
    answer = ask(
        client,
        format="jsonl",
        json_mode="canonical",
        compression="gzip",
        narrowing={"since": "2026-01-01", "collections": ["events"], "limit": 5},
        retention_seconds=3600,
    )
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == made["links"]["self"] == f"/v1/exports/{made['id']}"
    row = house.exporter.requests.get(made["id"])
    assert row.options == {"format": "jsonl", "json_mode": "canonical", "compression": "gzip"}
    assert row.narrowing.stored() == {"since": "2026-01-01T00:00:00", "collections": ["events"], "limit": 5}
    assert (row.keep_seconds, row.status, row.requested_by) == (3600, "pending", made["requested_by"])
    assert row.requested_by.startswith("token:")
    assert row.selection["uids"][0] not in answer.text


def test_an_export_by_a_filter_on_the_person(house: House, client: httpx.Client) -> None:
    answer = client.post("/v1/exports", json={"app_id": APP, "person": {"email": "me@example.org"}, "max_users": 2})
    row = house.exporter.requests.get(answer.json()["id"])
    assert row.selection == {"person": {"email": "me@example.org"}, "max_users": 2}


def test_a_passphrase_is_kept_sealed(house: House, client: httpx.Client) -> None:
    answer = ask(client, passphrase="correct horse")
    assert answer.json()["encrypted"] is True
    kept = house.exporter.requests.secrets.find(answer.json()["id"])
    assert kept is not None
    assert "horse" not in kept
    assert "horse" not in answer.text


def test_who_is_to_be_told_is_noted(open_house: OpenHouse) -> None:
    house = open_house(smtp_host="mail.example.org", mail_from="exports@example.org")
    client = house.client(house.token("maintainer"))
    made = ask(client, mail="me@example.org").json()
    (told,) = NotificationStore(house.exporter.database).of_request(made["id"])
    assert (told.channel, told.status) == ("mail", "waiting")


def test_where_nobody_could_be_told_nothing_is_asked_for(house: House, client: httpx.Client) -> None:
    before = house.exporter.requests.latest()
    for wish in ({"mail": "me@example.org"}, {"webhook": "http://127.0.0.1/x"}):
        answer = ask(client, **wish)
        assert answer.status_code == 422
        assert "example" not in answer.text
    assert house.exporter.requests.latest() == before


def test_sent_again_with_its_key_it_is_the_same_export(client: httpx.Client) -> None:
    body = {"uids": ["one"], "format": "csv"}
    first, again = (ask(client, key="order-7", **body) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    other = ask(client, key="order-7", uids=["two"])
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"uids": []}, "uids"),
        ({"uids": ["a"], "person": {"email": "secret-value"}}, "person"),
        ({"person": {"$where": "secret-value"}, "uids": []}, "$where"),
        ({"format": "xml"}, "known are json"),
        ({"format": "secret value"}, "known are json"),
        ({"compression": "zip"}, "body.compression"),
        ({"split_bytes": 5}, "body.split_bytes"),
        ({"recipients": ["age1secret-value"]}, "recipient"),
        ({"narrowing": {"where": {"events": {"e": {"$function": "secret-value"}}}}}, "$function"),
        ({"narrowing": {"collections": ["secret-value"]}}, "collections"),
        ({"narrowing": {"since": "secret-value"}}, "body.narrowing.since"),
        ({"secret-value": 1}, "Extra inputs"),
        ({"retention_seconds": 0}, "body.retention_seconds"),
        ({"app_id": "../secret-value"}, "body.app_id"),
        ({"uids": ["secret-value\ud800"]}, "body.uids.0"),
        ({"dotted": True, "format": "json"}, "dotted"),
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(
    house: House, client: httpx.Client, wrong: dict[str, Any], said: str
) -> None:
    before = len(house.exporter.requests.latest(1000))
    answer = ask(client, **wrong)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert said in answer.text
    assert "secret" not in answer.text
    assert len(house.exporter.requests.latest(1000)) == before


# Following


def test_when_to_ask_again_grows_with_each_time(house: House, client: httpx.Client) -> None:
    path = f"/v1/exports/{house.pending().id}"
    answers = [client.get(path) for _ in range(3)]
    expected = [5 + math.log(2**n) for n in (1, 2, 3)]
    assert [answer.json()["retry_after"] for answer in answers] == pytest.approx(expected, abs=0.001)
    assert [answer.headers["retry-after"] for answer in answers] == ["6", "7", "8"]
    assert house.client(house.token("reporter")).get(path).headers["retry-after"] == "6"  # each caller's own count


def test_its_base_is_a_setting(open_house: OpenHouse) -> None:
    house = open_house(poll_after=timedelta(seconds=30))
    answer = house.client(house.token("reporter")).get(f"/v1/exports/{house.pending().id}")
    assert answer.json()["retry_after"] == pytest.approx(30 + math.log(2), abs=0.001)


def test_polls_are_forgotten_when_there_are_too_many() -> None:
    polls = Polls(most=2)
    assert [polls.count("ann", name) for name in ("a", "a", "b", "c", "a")] == [1, 2, 1, 1, 1]
    polls.forget("ann", "a")
    assert polls.count("ann", "a") == 1
    assert retry_after(5, 10**6) > 5


def test_a_running_export_tells_how_far_it_is(house: House, client: httpx.Client) -> None:
    requests, request = house.exporter.requests, house.pending()
    batch = Batch(new_id(), (request.id,))
    requests.claim(batch)
    requests.set_totals(batch.id, {request.id: 300})
    tally = Tally(READING, {"events": 300})
    tally.add("events", 100)
    requests.batch_progress(batch.id, tally.stored())
    shown = client.get(f"/v1/exports/{request.id}").json()
    assert (shown["status"], shown["documents_total"], shown["attempt"]) == ("running", 300, 1)
    assert shown["progress"]["phase"] == "reading"
    assert shown["progress"]["seconds_left"] > 0
    assert shown["progress"]["collections"] == [
        {"name": "events", "documents_expected": 300, "documents_done": 100, "bytes_done": 0}
    ]


def test_a_completed_export_has_its_links_and_is_not_asked_for_again(house: House, client: httpx.Client) -> None:
    request = house.completed()
    answer = client.get(f"/v1/exports/{request.id}")
    shown = answer.json()
    assert (shown["status"], shown["documents_done"], shown["retry_after"]) == ("completed", 301, None)
    assert "retry-after" not in answer.headers
    assert client.get(shown["links"]["download"]).status_code == 200
    assert client.get(shown["links"]["manifest"]).status_code == 200


def test_a_failed_export_says_why_but_not_where_we_run(house: House, client: httpx.Client) -> None:
    request = house.failed()
    assert client.get(f"/v1/exports/{request.id}").json()["error"] == {"code": "incomplete", "message": "a test"}
    assert client.post(f"/v1/exports/{request.id}/retry").json()["status"] == "pending"
    requests = house.exporter.requests
    batch = Batch(new_id(), (request.id,))
    requests.claim(batch)
    requests.fail(request.id, batch.id, code="storage", message="/srv/exports: no space left")
    shown = client.get(f"/v1/exports/{request.id}").text
    assert '"code":"storage"' in shown
    assert "/srv" not in shown


def test_cancelling_twice_is_a_conflict(house: House, client: httpx.Client) -> None:
    path = f"/v1/exports/{house.pending().id}/cancel"
    assert client.post(path).json()["status"] == "cancelled"
    again = client.post(path)
    assert (again.status_code, again.json()["code"]) == (409, "stale_request")


def test_deleting_one_that_is_under_way_calls_it_off(house: House, client: httpx.Client) -> None:
    request = house.pending()
    assert [client.delete(f"/v1/exports/{request.id}").status_code for _ in range(2)] == [204, 204]
    assert house.exporter.requests.get(request.id).status == "cancelled"


# The history


def test_pages_hold_everything_once(open_house: OpenHouse) -> None:
    house = open_house()
    made = [house.pending().id for _ in range(7)]
    house.pending(OTHER_APP)
    client = house.client(house.token("reporter"))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/v1/exports", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [export["id"] for export in page["exports"]]
        cursor = page["next"]
        if cursor is None:
            break
        house.pending()  # what is new does not move the pages that follow
    assert seen == made[::-1]


def test_filters(open_house: OpenHouse) -> None:
    house = open_house()
    failed, pending = house.failed(), house.pending()
    client = house.client(house.token("reporter"))

    def listed(**params: Any) -> list[str]:
        return [export["id"] for export in client.get("/v1/exports", params=params).json()["exports"]]

    assert listed(status="failed") == [failed.id]
    assert listed(since=pending.requested_at.isoformat()) == [pending.id]
    assert listed(since=(datetime.now(UTC) + timedelta(hours=1)).isoformat()) == []
    assert listed(app_id=APP, status="completed") == []
    assert client.get("/v1/exports", params={"status": "gone"}).status_code == 422


def test_a_cursor_serves_the_list_it_is_of(house: House) -> None:
    for _ in range(2):
        house.pending()
        house.pending(OTHER_APP)
    client = house.client(house.token("owner"))
    cursor = client.get("/v1/exports", params={"limit": 1}).json()["next"]
    assert client.get("/v1/exports", params={"limit": 1, "cursor": cursor}).status_code == 200
    assert house.client(house.token("reporter")).get("/v1/exports", params={"cursor": cursor}).status_code == 200
    others = house.client(house.token("owner", OTHER_APP)).get("/v1/exports", params={"cursor": cursor})
    forged = Signer(SECRET_KEY, "link").sign([["exports", APP, None, None], "f"])
    refused = [
        others,
        client.get("/v1/exports", params={"cursor": cursor, "status": "failed"}),
        client.get("/v1/tokens", params={"cursor": cursor}),
        client.get("/v1/exports", params={"cursor": cursor[:-3] + "AAA"}),
        client.get("/v1/exports", params={"cursor": forged}),
        client.get("/v1/exports", params={"cursor": ""}),
        client.get("/v1/exports", params={"cursor": "é\n"}),
    ]
    assert Counter((answer.status_code, answer.json()["code"]) for answer in refused) == {(422, "signature"): 7}


def test_an_old_cursor_has_had_its_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.pending()
    house.pending()
    client = house.client(house.token("owner"))
    cursor = client.get("/v1/exports", params={"limit": 1}).json()["next"]
    monkeypatch.setattr("export_pipeline.gateway.paging.CURSOR_SERVES", timedelta(seconds=-1))
    answer = client.get("/v1/exports", params={"cursor": cursor})
    assert (answer.status_code, "too old" in answer.json()["detail"]) == (422, True)


# Estimates


def test_an_estimate(client: httpx.Client) -> None:
    answer = client.post("/v1/exports/estimate", json={"app_id": APP, "uids": ["a"]})
    found = {collection["name"]: collection["documents"] for collection in answer.json()["collections"]}
    assert found == {"users": 1, "events": 300}


def test_without_a_mongodb_all_but_estimates_work(open_house: OpenHouse) -> None:
    house = open_house(mongo_uri="mongodb://hidden-host.invalid:1/?serverSelectionTimeoutMS=100")
    client = house.client(house.token("owner"))
    answer = client.post("/v1/exports/estimate", json={"app_id": APP, "uids": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (503, "mongo_unreachable")
    assert "retry-after" in answer.headers
    assert "hidden-host" not in answer.text
    assert ask(client).status_code == 202
    assert client.get("/readyz").json()["status"] == "ok"
