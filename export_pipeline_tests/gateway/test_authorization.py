"""The authorization matrix: what every endpoint answers to every kind of caller. An endpoint without a row fails."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from export_pipeline.access.roles import Permission, Role
from export_pipeline.access.tokens import TokenStore
from export_pipeline.backups.schedules import NewSchedule, ScheduleStore
from export_pipeline.errors import BadInputError
from export_pipeline.gateway import app as gateway_app
from export_pipeline.gateway.app import ROUTERS, create_app
from export_pipeline.gateway.authorization import OPEN, Guarded, Open, needs, requirement_of
from export_pipeline_tests.gateway.conftest import APP, OTHER_APP, House, OpenHouse, serving

Ids = Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """What one endpoint answers to the roles in their own app, and how it is called."""

    reporter: int
    developer: int
    maintainer: int
    owner: int
    call: Callable[[House], dict[str, Any]] = lambda house: {}
    """Makes what the call is about, anew for each cell; returns path parameters and the arguments for httpx."""
    needs: Permission | None = None
    of_all_apps: bool = False
    """Whether it is about all apps at once, and so for tokens of all apps alone."""


def _export(house: House) -> dict[str, Any]:
    return {"path": {"export_id": house.pending().id}}


def _failed(house: House) -> dict[str, Any]:
    return {"path": {"export_id": house.failed().id}}


def _body(**body: Any) -> Callable[[House], dict[str, Any]]:
    return lambda house: {"json": body}


_completed: dict[int, str] = {}


def _package(**more: Any) -> Callable[[House], dict[str, Any]]:
    def call(house: House) -> dict[str, Any]:
        if id(house) not in _completed:
            _completed[id(house)] = house.completed().id
        return {"path": {"export_id": _completed[id(house)]}, **more}

    return call


def _link(house: House) -> dict[str, Any]:
    made = house.client(house.token("maintainer")).post(
        f"/v1/exports/{_package()(house)['path']['export_id']}/links", json={}
    )
    return {"path": {"link_id": made.json()["id"], "link": made.json()["url"].removeprefix("/d/")}}


def _backup(house: House) -> dict[str, Any]:
    for live in house.exporter.requests.page(kind="app_backup", app_id=APP, status="pending", limit=10):
        house.exporter.requests.cancel(live.id, "test")  # there is one at a time
    return {"json": {"app_id": APP}}


def _in_the_app(**more: Any) -> Callable[[House], dict[str, Any]]:
    return lambda house: {"path": {"app_id": APP}, **more}


def _schedule(**more: Any) -> Callable[[House], dict[str, Any]]:
    def call(house: House) -> dict[str, Any]:
        made = ScheduleStore(house.exporter.database).create(NewSchedule(APP, "30 3 * * *", "UTC", {}), "test")
        return {"path": {"app_id": APP, "schedule_id": made.id}, **more}

    return call


def _token(house: House) -> dict[str, Any]:
    token = TokenStore(house.exporter.database).create(APP, Role.REPORTER, lives=None, created_by="test")[0]
    return {"path": {"token_id": token.id}}


def _typed(call: Callable[[House], dict[str, Any]], **fields: str) -> Callable[[House], dict[str, Any]]:
    """Make what a form of the pages sends, about the same thing."""
    return lambda house: {name: value for name, value in call(house).items() if name == "path"} | {"data": fields}


_ASKED = {"app_id": APP, "uids": ["a"]}
_MINE = {"params": {"app_id": APP}}

# What the endpoint answers to: reporter, developer, maintainer, owner of the app.
MATRIX: Mapping[str, Row] = {
    "POST /v1/exports": Row(403, 403, 202, 202, _body(**_ASKED), Permission.REQUEST),
    "GET /v1/exports": Row(200, 200, 200, 200, lambda house: _MINE, Permission.STATUS),
    "POST /v1/exports/estimate": Row(403, 200, 200, 200, _body(**_ASKED), Permission.ESTIMATE),
    "GET /v1/exports/{export_id}": Row(200, 200, 200, 200, _export, Permission.STATUS),
    "POST /v1/exports/{export_id}/cancel": Row(403, 403, 200, 200, _export, Permission.CANCEL),
    "POST /v1/exports/{export_id}/retry": Row(403, 403, 200, 200, _failed, Permission.RETRY),
    "DELETE /v1/exports/{export_id}": Row(403, 403, 403, 204, _export, Permission.DELETE),
    "GET /v1/exports/{export_id}/download": Row(403, 403, 200, 200, _package(), Permission.DOWNLOAD),
    "HEAD /v1/exports/{export_id}/download": Row(403, 403, 200, 200, _package(), Permission.DOWNLOAD),
    "GET /v1/exports/{export_id}/manifest": Row(403, 403, 200, 200, _package(), Permission.DOWNLOAD),
    "POST /v1/exports/{export_id}/links": Row(403, 403, 201, 201, _package(json={}), Permission.DOWNLOAD),
    "DELETE /v1/links/{link_id}": Row(403, 403, 204, 204, _link, Permission.DOWNLOAD),
    "POST /v1/tokens": Row(403, 403, 403, 201, _body(app_id=APP, role="reporter"), Permission.TOKENS),
    "GET /v1/tokens": Row(403, 403, 403, 200, lambda house: _MINE, Permission.TOKENS),
    "DELETE /v1/tokens/{token_id}": Row(403, 403, 403, 204, _token, Permission.TOKENS),
    "GET /v1/apps/{app_id}/events": Row(403, 200, 200, 200, _in_the_app(), Permission.EVENTS),
    "POST /backup/schedule": Row(403, 403, 202, 202, _backup, Permission.BACKUP),
    "GET /backup/jobs": Row(403, 403, 200, 200, lambda house: _MINE, Permission.BACKUP),
    "GET /v1/apps/{app_id}/schedules": Row(403, 403, 403, 200, _in_the_app(), Permission.SCHEDULE),
    "POST /v1/apps/{app_id}/schedules": Row(
        403, 403, 403, 201, _in_the_app(json={"cron": "30 3 * * *"}), Permission.SCHEDULE
    ),
    "PATCH /v1/apps/{app_id}/schedules/{schedule_id}": Row(
        403, 403, 403, 200, _schedule(json={"enabled": False}), Permission.SCHEDULE
    ),
    "DELETE /v1/apps/{app_id}/schedules/{schedule_id}": Row(403, 403, 403, 204, _schedule(), Permission.SCHEDULE),
    "GET /v1/usage": Row(200, 200, 200, 200, lambda house: _MINE, Permission.STATUS),
    "GET /metrics": Row(200, 200, 200, 200, needs=Permission.STATUS, of_all_apps=True),
    # The pages.
    "GET /": Row(200, 200, 200, 200, lambda house: _MINE, Permission.STATUS),
    "GET /exports/{export_id}": Row(200, 200, 200, 200, _export, Permission.STATUS),
    "GET /exports/{export_id}/download": Row(403, 403, 200, 200, _package(), Permission.DOWNLOAD),
    "GET /exports/{export_id}/manifest": Row(403, 403, 200, 200, _package(), Permission.DOWNLOAD),
    "POST /exports/{export_id}/links": Row(403, 403, 201, 201, _typed(_package()), Permission.DOWNLOAD),
    "POST /links/{link_id}/revoke": Row(403, 403, 303, 303, _typed(_link), Permission.DOWNLOAD),
    "POST /exports/{export_id}/cancel": Row(403, 403, 303, 303, _typed(_export), Permission.CANCEL),
    "POST /exports/{export_id}/retry": Row(403, 403, 303, 303, _typed(_failed), Permission.RETRY),
    "POST /exports/{export_id}/delete": Row(403, 403, 403, 303, _typed(_export), Permission.DELETE),
    "GET /new": Row(403, 403, 200, 200, lambda house: _MINE, Permission.REQUEST),
    "POST /new": Row(403, 403, 303, 303, _typed(_body(), app_id=APP, uids="a"), Permission.REQUEST),
    "POST /new/estimate": Row(403, 200, 200, 200, _typed(_body(), app_id=APP, uids="a"), Permission.ESTIMATE),
    "GET /backups": Row(403, 403, 200, 200, lambda house: _MINE, Permission.BACKUP),
    "POST /backups": Row(403, 403, 303, 303, _typed(_backup, app_id=APP), Permission.BACKUP),
    "GET /schedules/new": Row(403, 403, 403, 200, lambda house: _MINE, Permission.SCHEDULE),
    "POST /schedules": Row(
        403, 403, 403, 303, _typed(_in_the_app(), app_id=APP, cron="30 3 * * *"), Permission.SCHEDULE
    ),
    "GET /schedules/{schedule_id}": Row(403, 403, 403, 200, _schedule(), Permission.SCHEDULE),
    "POST /schedules/{schedule_id}": Row(
        403, 403, 403, 303, _typed(_schedule(), cron="0 4 * * *"), Permission.SCHEDULE
    ),
    "POST /schedules/{schedule_id}/enable": Row(403, 403, 403, 303, _typed(_schedule()), Permission.SCHEDULE),
    "POST /schedules/{schedule_id}/disable": Row(403, 403, 403, 303, _typed(_schedule()), Permission.SCHEDULE),
    "POST /schedules/{schedule_id}/remove": Row(403, 403, 403, 303, _typed(_schedule()), Permission.SCHEDULE),
    "GET /usage": Row(200, 200, 200, 200, lambda house: _MINE, Permission.STATUS),
}

# What these answer to anybody.
OPEN_TO_ALL: Mapping[str, Row] = {
    "GET /healthz": Row(200, 200, 200, 200),
    "GET /readyz": Row(200, 200, 200, 200),
    "GET /v1/openapi.json": Row(200, 200, 200, 200),
    "GET /d/{link}": Row(200, 200, 200, 200, _link),
    "HEAD /d/{link}": Row(200, 200, 200, 200, _link),
    "GET /login": Row(200, 200, 200, 200),
    # Without a form of the login page, nobody; see test_pages.py.
    "POST /login": Row(403, 403, 403, 403),
    "POST /logout": Row(403, 403, 403, 403),
    "GET /static/{name}": Row(200, 200, 200, 200, lambda house: {"path": {"name": "page.css"}}),
}


def endpoints() -> Iterator[tuple[str, Guarded]]:
    """Return every endpoint of the app, by method and path."""
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, Guarded), route
            for method in route.methods or ():
                yield f"{method} {route.path}", route


def statuses(row: Row, app: str) -> dict[str, int]:
    """Return what is expected of each role whose token is for ``app``."""
    reached = ("*",) if row.of_all_apps else (APP, "*")
    return {f"{role} of {app}": getattr(row, role) if app in reached else 404 for role in Role}


@pytest.fixture(scope="module")
def callers(house: House) -> dict[str, httpx.Client]:
    """A client for each kind of caller."""
    tokens = TokenStore(house.exporter.database)
    revoked, revoked_text = tokens.create("*", Role.OWNER, lives=None, created_by="test")
    tokens.revoke(revoked.id)
    expired = tokens.create("*", Role.OWNER, lives=timedelta(seconds=1), created_by="test")[1]
    time.sleep(1.1)
    texts = {"no token": None, "bad token": f"{revoked_text}x", "expired": expired, "revoked": revoked_text}
    for app in (APP, OTHER_APP, "*"):
        texts |= {f"{role} of {app}": house.token(role, app) for role in Role}
    return {name: house.client(text) for name, text in texts.items()}


def answers(house: House, callers: Mapping[str, httpx.Client], endpoint: str, row: Row) -> dict[str, int]:
    """Call an endpoint as everybody; return their statuses."""
    method, path = endpoint.split(" ")
    found = {}
    for name, client in callers.items():
        about = dict(row.call(house))
        url = path.format(**about.pop("path", {}))
        found[name] = client.request(method, url, **about).status_code
    return found


@pytest.mark.parametrize("endpoint", MATRIX)
def test_a_guarded_endpoint(house: House, callers: Mapping[str, httpx.Client], endpoint: str) -> None:
    row = MATRIX[endpoint]
    expected = dict.fromkeys(("no token", "bad token", "expired", "revoked"), 401)
    for app in (APP, OTHER_APP, "*"):
        expected |= statuses(row, app)
    assert answers(house, callers, endpoint, row) == expected


@pytest.mark.parametrize("endpoint", OPEN_TO_ALL)
def test_an_open_endpoint(house: House, callers: Mapping[str, httpx.Client], endpoint: str) -> None:
    row = OPEN_TO_ALL[endpoint]
    assert set(answers(house, callers, endpoint, row).values()) == {row.owner}


def test_every_endpoint_has_a_row() -> None:
    declared = {name: getattr(requirement_of(route), "permission", None) for name, route in endpoints()}
    assert declared == {name: row.needs for name, row in (*MATRIX.items(), *OPEN_TO_ALL.items())}


def test_the_app_has_no_other_routes_than_those_of_its_routers(house: House) -> None:
    app = create_app(house.exporter)
    own = {name for name, route in endpoints() if route.include_in_schema}
    described = {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}
    assert described == own
    assert len(app.routes) == len(ROUTERS)


def _app_with(house: House, monkeypatch: pytest.MonkeyPatch, *routers: APIRouter) -> FastAPI:
    monkeypatch.setattr(gateway_app, "ROUTERS", (*ROUTERS, *routers))
    return create_app(house.exporter)


def test_an_endpoint_that_does_not_say_who_may_call_it_keeps_the_app_from_starting(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgotten() -> None: ...

    forgetful = APIRouter()
    forgetful.get("/forgotten")(forgotten)
    with pytest.raises(TypeError, match="Guarded"):
        _app_with(house, monkeypatch, forgetful)
    with pytest.raises(TypeError, match="/forgotten: an endpoint needs one permission"):
        APIRouter(route_class=Guarded).get("/forgotten")(forgotten)
    with pytest.raises(TypeError, match="this one says 2"):
        APIRouter(route_class=Guarded).get("/both", dependencies=[OPEN, needs(Permission.STATUS)])(forgotten)
    assert isinstance(requirement_of(ROUTERS[0].routes[0]), Open)


def test_the_answer_of_an_endpoint_that_checks_no_app_is_withheld(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    careless = APIRouter(route_class=Guarded)
    careless.get("/careless", dependencies=[needs(Permission.STATUS)])(lambda: {"secret": 1})
    with serving(_app_with(house, monkeypatch, careless)) as url:
        answer = httpx.get(f"{url}/careless", headers={"Authorization": f"Bearer {house.token('owner', '*')}"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["code"] == "internal"


@pytest.mark.parametrize("endpoint", [name for name, row in MATRIX.items() if "{" in name])
def test_somebody_elses_is_answered_as_what_does_not_exist(house: House, endpoint: str) -> None:
    method, path = endpoint.split(" ")
    about = dict(MATRIX[endpoint].call(house))
    ids = about.pop("path")
    theirs = path.format(**ids)
    unknown = path.format(**dict.fromkeys(ids, "0" * 36))
    client = house.client(house.token("owner", OTHER_APP))
    first, second = (client.request(method, url, **about) for url in (theirs, unknown))
    ignored = {"date"}
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert {k: v for k, v in first.headers.items() if k not in ignored} == {
        k: v for k, v in second.headers.items() if k not in ignored
    }


def test_a_list_holds_what_is_of_ones_own_app(house: House) -> None:
    mine, theirs = house.pending(), house.pending(OTHER_APP)
    seen = {}
    for app in (APP, OTHER_APP, "*"):
        client = house.client(house.token("reporter", app))
        listed = client.get("/v1/exports", params={"limit": 200}).json()["exports"]
        seen[app] = {export["id"] for export in listed} & {mine.id, theirs.id}
    assert seen == {APP: {mine.id}, OTHER_APP: {theirs.id}, "*": {mine.id, theirs.id}}


def test_an_owner_makes_no_token_for_other_apps_or_for_all(house: House) -> None:
    client = house.client(house.token("owner"))
    found = [
        client.post("/v1/tokens", json={"app_id": app, "role": "reporter"}).status_code for app in (APP, OTHER_APP, "*")
    ]
    assert found == [201, 404, 404]


def test_nobodys_body_is_read_before_they_are_known(house: House) -> None:
    client = house.client()
    answer = client.post("/v1/exports", content=b"{broken", headers={"Content-Type": "application/json"})
    assert answer.status_code == 401


def test_without_a_secret_key_there_is_no_api(open_house: OpenHouse) -> None:
    with pytest.raises(BadInputError, match="EXPORT_PIPELINE_SECRET_KEY"):
        open_house(secret_key=None)
