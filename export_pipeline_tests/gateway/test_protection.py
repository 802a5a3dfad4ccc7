"""Hostile callers: injection, floods, large bodies; and what becomes of answers when something of ours is broken."""

import http.client
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import APIRouter
from sqlalchemy import text

from export_pipeline.access.audit import accesses
from export_pipeline.errors import StorageError
from export_pipeline.gateway import app as gateway_app
from export_pipeline.gateway.app import ROUTERS, create_app
from export_pipeline.gateway.authorization import OPEN, Guarded
from export_pipeline.gateway.protection import HEADERS
from export_pipeline_tests.gateway.conftest import APP, House, OpenHouse, serving


@pytest.fixture
def client(house: House) -> httpx.Client:
    return house.client(house.token("owner"))


def raw(house: House, request: bytes) -> bytes:
    """Send bytes as they are; return the head of the answer."""
    address = urlsplit(house.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    connection.connect()
    connection.sock.sendall(request)
    answer = connection.sock.recv(1 << 16)
    connection.close()
    return answer


# Injection


@pytest.mark.parametrize(
    "path",
    [
        "/v1/exports/..%2f..%2f..%2fetc%2fpasswd/download",
        "/v1/exports/%2e%2e/download",
        "/v1/exports/%00/manifest",
        "/v1/exports/%0d%0aSet-Cookie:%20a=b",
        "/v1/exports/%ff%fe",
        "/v1/exports/%ed%a0%80",
        f"/v1/exports/{'a' * 5000}",
        "//v1//exports",
        "/v1/exports/",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/d/..%2f..%2fetc%2fpasswd",
    ],
)
def test_a_path_names_nothing_but_ids(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "set-cookie" not in answer.headers
    assert "passwd" not in answer.text


def test_no_header_is_made_of_what_a_caller_sends(house: House) -> None:
    answer = raw(
        house,
        b"GET /v1/exports%0d%0aX-Evil:1 HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\n"
        b"Connection: close\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"evil" not in answer.lower()


def test_a_download_has_a_name_of_ours(house: House, client: httpx.Client) -> None:
    request = house.completed()
    answer = client.get(f"/v1/exports/{request.id}/download", params={"filename": 'a"\r\nX-Evil: 1'})
    assert answer.headers["content-disposition"] == f'attachment; filename="export-{request.id}.json"'
    assert "x-evil" not in answer.headers


def test_nothing_a_caller_sends_gets_into_the_log(
    house: House, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="export_pipeline")
    forged = "2026-11-01 ERROR forged entry"
    client.get(f"/v1/exports/%0a{forged}")
    client.get(f"/d/%0a{forged}")
    client.get("/v1/exports", params={"app_id": f"\n{forged}"})
    client.post("/v1/exports", json={"app_id": APP, "uids": [f"\n{forged}"]})
    client.post("/v1/tokens", json={"app_id": APP, "role": "owner", "label": f"\n{forged}"})
    client.get("/healthz", headers={"Authorization": f"Bearer {forged}", "User-Agent": forged})
    assert "forged" not in caplog.text
    assert not any("forged" in str(row) for row in accesses(house.exporter.database, limit=50))


def test_uids_are_neither_in_answers_nor_in_the_history_of_accesses(house: House, client: httpx.Client) -> None:
    made = client.post("/v1/exports", json={"app_id": APP, "uids": ["a-person-of-mine"]}).json()
    said = [json.dumps(made), client.get(made["links"]["self"]).text, client.get("/v1/exports").text]
    said.append(str(accesses(house.exporter.database, limit=1000)))
    assert not any("a-person-of-mine" in text for text in said)


# Headers, bodies, methods


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/v1/exports", 200),
        ("GET", "/v1/exports/x", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/exports", 405),
        ("POST", "/v1/exports", 422),
        ("GET", "/d/x", 404),
    ],
)
def test_every_answer_is_protected(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers or answer.headers["server"] == "uvicorn"
    if status >= 400:
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert (problem["status"], problem["type"]) == (status, f"urn:export-pipeline:problem:{problem['code']}")


def test_a_body_that_is_too_large(open_house: OpenHouse) -> None:
    house = open_house(max_body_bytes=2000)
    client = house.client(house.token("owner"))
    body = {"app_id": APP, "uids": ["a" * 500] * 5}

    def pieces() -> Iterator[bytes]:
        yield from (json.dumps(body).encode(), b" " * 5000)

    announced = client.post("/v1/exports", json=body)
    streamed = client.post("/v1/exports", content=pieces(), headers={"Content-Type": "application/json"})
    for answer in (announced, streamed):
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert client.post("/v1/exports", json={"app_id": APP, "uids": ["a"]}).status_code == 202


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 422),
        (b"[" * 50_000, 400),
        (b'{"app_id": "\xff"}', 400),
        (b"null", 422),
        (b"[]", 422),
        (b'{"app_id": "mine", "uids": ["a"], "max_users": 1e999}', 422),
        (b'{"app_id": "mine", "uids": ["a"], "max_users": ' + b"9" * 5000 + b"}", 400),
        (b'{"app_id": "mine", "uids": ["a"], "max_users": NaN}', 422),
    ],
)
def test_a_body_that_is_none(client: httpx.Client, content: bytes, status: int) -> None:
    answer = client.post("/v1/exports", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_cross_origin_calls_are_for_whom_the_settings_name(house: House, open_house: OpenHouse) -> None:
    origin = {"Origin": "https://admin.example.org"}
    preflight = {**origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Authorization"}
    closed = house.client()
    assert "access-control-allow-origin" not in closed.get("/healthz", headers=origin).headers
    assert closed.options("/v1/exports", headers=preflight).status_code == 405
    opened = open_house(cors_origins="https://admin.example.org, https://two.example.org/").client()
    assert opened.get("/v1/exports", headers=origin).headers["access-control-allow-origin"] == origin["Origin"]
    assert opened.options("/v1/exports", headers=preflight).status_code == 200
    other = opened.get("/healthz", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


# Floods


def test_a_token_an_app_and_an_address_have_a_limit_each(open_house: OpenHouse) -> None:
    house = open_house(token_rate_limit=3, app_rate_limit=5, anonymous_rate_limit=2)
    first, second = (house.client(house.token("owner")) for _ in range(2))
    stranger = house.client()
    assert [first.get("/v1/exports").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [second.get("/v1/exports").status_code for _ in range(3)] == [200, 200, 429]  # the app's fifth
    assert [stranger.get("/v1/exports").status_code for _ in range(3)] == [401, 401, 429]
    refused = first.get("/v1/exports")
    assert refused.json()["code"] == "too_many_calls"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert house.client(house.token("owner", "theirs")).get("/v1/exports").status_code == 200
    assert stranger.get("/healthz").status_code == 200


def test_guessing_links_is_slow(open_house: OpenHouse) -> None:
    client = open_house(anonymous_rate_limit=2).client()
    assert [client.get("/d/guess").status_code for _ in range(3)] == [404, 404, 429]


# The history


def test_every_access_is_recorded_whether_allowed_or_not(house: House) -> None:
    request = house.pending()
    path = f"/v1/exports/{request.id}"
    house.client(house.token("reporter")).get(path)
    house.client(house.token("reporter")).post(f"{path}/cancel")
    house.client(house.token("owner", "theirs")).get(path)
    house.client().get(path)
    house.client("ep_wrong").get(path)
    found = [
        (row["actor"].partition(":")[0], row["action"], row["status"], row["app_id"], row["target"] == request.id)
        for row in accesses(house.exporter.database, limit=5)
    ][::-1]
    assert found == [
        ("token", "show_export", 200, APP, True),
        ("token", "cancel_export", 403, APP, True),
        ("token", "show_export", 404, None, True),
        ("anonymous", "show_export", 401, None, True),
        ("anonymous", "show_export", 401, None, True),
    ]


def test_what_cannot_be_recorded_is_not_answered(open_house: OpenHouse) -> None:
    house = open_house()
    client = house.client(house.token("owner"))
    request = house.completed()
    with house.exporter.database.begin() as connection:
        connection.execute(text("ALTER TABLE access_events RENAME TO hidden"))
    answer = client.get(f"/v1/exports/{request.id}/download")
    assert (answer.status_code, answer.json()["code"]) == (503, "requests_database")
    assert "_col" not in answer.text


# What nobody foresaw


def test_an_unforeseen_error_quotes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = APIRouter(route_class=Guarded)

    @broken.get("/broken", dependencies=[OPEN])
    def fail() -> None:
        raise ValueError("uid a-person-of-mine")

    monkeypatch.setattr(gateway_app, "ROUTERS", (*ROUTERS, broken))
    with serving(create_app(house.exporter)) as url:
        answer = httpx.get(f"{url}/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "a-person" not in answer.text + caplog.text
    assert re.search(r"unforeseen ValueError in fail:\d+", caplog.text)


def test_readyz_tells_what_does_not_answer(open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(key: str) -> bool:
        raise StorageError(f"/srv/exports/{key}: no such file")

    house = open_house()
    client = house.client()
    assert client.get("/readyz").json() == {"status": "ok", "checks": {"requests": "ok", "storage": "ok"}}
    monkeypatch.setattr(house.exporter.storage, "exists", away)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        503,
        {"status": "failed", "checks": {"requests": "ok", "storage": "failed"}},
    )
    assert client.get("/healthz").status_code == 200


def test_readyz_waits_for_nobody(open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = threading.Event()
    house = open_house()
    monkeypatch.setattr("export_pipeline.gateway.health.LONGEST_CHECK_SECONDS", 0.2)
    monkeypatch.setattr(house.exporter.storage, "exists", lambda _: asleep.wait(30))
    began = time.monotonic()
    assert house.client().get("/readyz").status_code == 503
    assert time.monotonic() - began < 10
    asleep.set()
