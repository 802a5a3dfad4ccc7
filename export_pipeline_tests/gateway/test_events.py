"""An app's events by HTTP: pages and the whole, each event once, whatever its _id; nothing that must not leave."""

import base64
import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bson
import httpx
import pytest
from bson import ObjectId, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from pymongo import MongoClient

from export_pipeline.access.usage import usage
from export_pipeline.gateway import events, events_reading
from export_pipeline.gateway.events import LINES, wants_lines
from export_pipeline.gateway.events_reading import literal_id
from export_pipeline.gateway.problems import ProblemError
from export_pipeline.mongo.embedded import free_port
from export_pipeline_tests.gateway.conftest import SECRET_KEY, House, house_settings, opened
from export_pipeline_tests.mongo.faults import fail_point

Client = MongoClient[dict[str, Any]]

DATABASE = "gateway_events"
SHOP, OTHER = "shop", "other"
SECOND = 1_790_000_000
CATALOG = """
version: 1
collections:
- {name: people, plugin: p, collection: "people{app_id}", user_key: uid}
- name: clicks
  plugin: p
  collection: "clicks{app_id}"
  user_key: uid
  time_field: at
  time_unit: s
  events: true
  exclude: [secret]
  mask: {friend: hash}
- {name: views, plugin: p, collection: "views{app_id}", user_key: uid, time_field: ts, time_unit: date, events: true}
- {name: taps, plugin: p, collection: "taps{app_id}", user_key: uid, events: true}
"""
ODD_IDS: list[Any] = [
    None,
    7,
    Int64(8),
    9.5,
    "a text",
    "",
    {"a": 1, "b": [1, 2]},
    b"bytes",
    ObjectId("652f1a7e9c3b4d0012ab34c1"),
    True,
    DatetimeMS(10**15),
    bson.Timestamp(1, 2),
    bson.Decimal128("9.75"),
    bson.MinKey(),
    bson.MaxKey(),
    bson.Code("function () {}"),
]
ODD_DATES = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_MS)
CLICKS = 250  # more than the server's first batch holds


@pytest.fixture(scope="module")
def shop(mongo_client: Client) -> Iterator[str]:
    """The database of an app with events of three kinds, and of another app."""
    database = mongo_client[DATABASE]
    database[f"people{SHOP}"].insert_one({"uid": "a", "email": "me@example.org"})
    database[f"clicks{SHOP}"].insert_many(
        [
            {"_id": n, "uid": "a", "at": SECOND + n, "friend": f"f{n % 2}", "secret": "s3cret", "_col": "own"}
            for n in range(CLICKS)
        ]
    )
    database[f"views{SHOP}"].insert_many(
        [{"_id": _id, "uid": "b", "ts": datetime(2026, 1, 1 + n, tzinfo=UTC)} for n, _id in enumerate(ODD_IDS)]
    )
    database[f"clicks{OTHER}"].insert_one({"_id": 1, "uid": "x", "at": SECOND})
    yield DATABASE
    mongo_client.drop_database(DATABASE)


OpenShop = Callable[..., House]


@pytest.fixture(scope="module")
def open_shop(shop: str, mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenShop]:
    """Return a function that opens a house on the events, with other settings."""

    def open_one(**changed: Any) -> House:
        home = tmp_path_factory.mktemp("events")
        (home / "catalog.yaml").write_text(CATALOG)
        wanted: dict[str, Any] = {
            "mongo_uri": mongo_uri,
            "mongo_database": shop,
            "catalog": home / "catalog.yaml",
        } | changed
        return houses.enter_context(opened(house_settings(home / "home", **wanted)))

    with ExitStack() as houses:
        yield open_one


@pytest.fixture(scope="module")
def house(open_shop: OpenShop) -> House:
    return open_shop()


@pytest.fixture(scope="module")
def reader(house: House) -> httpx.Client:
    """Somebody who may read the events."""
    return house.client(house.token("developer", SHOP))


PATH = f"/v1/apps/{SHOP}/events"


def pages(reader: httpx.Client, **params: Any) -> Iterator[list[dict[str, Any]]]:
    """Follow the cursors; yield the events of each page."""
    following: str | None = ""
    while following is not None:
        answer = reader.get(PATH, params=params | ({"cursor": following} if following else {}))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        yield answer.json()["events"]
        following = answer.json()["next"]


def lines(reader: httpx.Client, path: str = PATH, **params: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the whole: its events, and what its last line says."""
    answer = reader.get(path, params=params, headers={"Accept": LINES})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == LINES
    *found, end = [json.loads(line) for line in answer.text.splitlines()]
    return found, end["_end"]


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


# Pages


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_pages_hold_each_event_once_in_the_order_of_mixed_ids(
    reader: httpx.Client, mongo_client: Client, limit: int
) -> None:
    found = list(pages(reader, limit=limit, json_mode="canonical", until="2026-02-01", since="2025-01-01"))
    assert all(len(page) == limit for page in found[:-1])
    views = [event for page in found for event in page if event["_col"] == f"views{SHOP}"]
    stored = mongo_client[DATABASE].get_collection(f"views{SHOP}", ODD_DATES).find(sort={"_id": 1})
    assert [view["_id"] for view in views] == [
        json.loads(json_util.dumps(view["_id"], json_options=json_util.CANONICAL_JSON_OPTIONS)) for view in stored
    ]


def test_pages_go_through_all_collections_of_events_and_no_other(reader: httpx.Client) -> None:
    found = [event for page in pages(reader, limit=90) for event in page]
    assert [event["_col"] for event in found] == [f"clicks{SHOP}"] * CLICKS + [f"views{SHOP}"] * len(ODD_IDS)
    assert [event["_id"] for event in found[:CLICKS]] == list(range(CLICKS))
    assert found[0]["__col"] == "own"


def test_the_last_page_says_that_it_is_the_last_though_it_is_full(reader: httpx.Client) -> None:
    assert [len(page) for page in pages(reader, limit=CLICKS + len(ODD_IDS))] == [CLICKS + len(ODD_IDS)]


def test_a_page_ends_where_its_events_are_large(reader: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_reading, "PAGE_BYTES", 5 * 90)  # bytes
    found = list(pages(reader, limit=200))
    assert max(map(len, found)) < 15
    assert sum(map(len, found)) == CLICKS + len(ODD_IDS)


def test_events_that_come_and_go_meanwhile_move_no_other(
    reader: httpx.Client, mongo_client: Client, request: pytest.FixtureRequest
) -> None:
    clicks = mongo_client[DATABASE][f"clicks{SHOP}"]
    request.addfinalizer(lambda: clicks.delete_many({"_id": {"$lt": 0}}))
    clicks.insert_one({"_id": -1, "at": SECOND})
    following = pages(reader, limit=2)
    assert [event["_id"] for event in next(following)] == [-1, 0]
    clicks.delete_one({"_id": -1})
    clicks.insert_one({"_id": -2, "at": SECOND})
    assert [event["_id"] for event in next(following)] == [1, 2]


def test_a_page_is_found_by_the_index(reader: httpx.Client, mongo_client: Client, house: House) -> None:
    after = literal_id(bson.encode({"_id": CLICKS - 10}))
    selector = {"$and": [{"$expr": {"$gt": ["$_id", bson.decode(after)]}}]}
    explained = mongo_client[DATABASE].command(
        {"explain": {"find": f"clicks{SHOP}", "filter": selector, "hint": {"_id": 1}, "sort": {"_id": 1}, "limit": 5}}
    )
    assert explained["executionStats"]["totalKeysExamined"] <= 6


# Dates


def test_dates_go_by_the_unit_of_each_collection(reader: httpx.Client) -> None:
    since, until = (datetime.fromtimestamp(SECOND + n, UTC).isoformat() for n in (10, 13))
    found, end = lines(reader, since=since, until=until)
    assert [event["_id"] for event in found] == [10, 11, 12]
    assert end["documents"] == 3
    found, _ = lines(reader, since="2026-01-03", until="2026-01-05")
    assert [event["_col"] for event in found] == [f"views{SHOP}"] * 2
    assert [len(page) for page in pages(reader, since="2026-01-03", until="2026-01-05")] == [2]


@pytest.mark.parametrize(
    "params",
    [
        {"since": "yesterday"},
        {"since": "20260131"},
        {"since": "2026-02-01", "until": "2026-01-01"},
        {"limit": 0},
        {"limit": 100_000},
        {"json_mode": "loose"},
    ],
)
def test_what_cannot_be_meant_is_refused(reader: httpx.Client, params: dict[str, Any]) -> None:
    assert problem(reader.get(PATH, params=params))[0] == 422


# What never leaves


@pytest.mark.parametrize("accept", [LINES, "application/json"])
def test_excluded_and_masked_fields_never_leave(reader: httpx.Client, accept: str) -> None:
    text = reader.get(PATH, headers={"Accept": accept}).text
    assert "s3cret" not in text
    assert '"f0"' not in text
    assert "sha256:" in text


def test_masks_are_alike_within_one_walk_and_in_no_two(reader: httpx.Client) -> None:
    walks = []
    for _ in range(2):
        found = [event for page in pages(reader, limit=50) for event in page if "friend" in event]
        assert len(found) == CLICKS
        walks.append({event["friend"] for event in found})
    assert [len(walk) for walk in walks] == [2, 2]
    assert not walks[0] & walks[1]


# Cursors


def a_cursor(reader: httpx.Client, **params: Any) -> str:
    return str(reader.get(PATH, params={"limit": 1, **params}).json()["next"])


def test_a_cursor_shows_no_id(reader: httpx.Client, mongo_client: Client, request: pytest.FixtureRequest) -> None:
    clicks = mongo_client[DATABASE][f"clicks{SHOP}"]
    request.addfinalizer(lambda: clicks.delete_one({"_id": -1}))
    clicks.insert_one({"_id": -1, "at": SECOND})
    payload = a_cursor(reader).lstrip(".").split(".")[0]
    raw = base64.urlsafe_b64decode(payload + "===")
    with suppress(zlib.error):
        raw = zlib.decompress(raw)
    assert b"events" in raw
    assert base64.b64encode(literal_id(bson.encode({"_id": -1}))) not in raw
    assert b"clicks" not in raw


def test_a_cursor_that_was_changed_or_is_for_something_else_is_refused(
    house: House, reader: httpx.Client, open_shop: OpenShop
) -> None:
    cursor = a_cursor(reader)
    assert reader.get(PATH, params={"cursor": cursor}).status_code == 200
    changed = cursor[:-2] + ("A" if cursor[-2] != "A" else "B") + cursor[-1]
    for wrong in (changed, cursor[1:], "x", "", f"{cursor}é", house.exporter.settings.home.name):
        assert problem(reader.get(PATH, params={"cursor": wrong})) == (400, "signature"), wrong
    for other in ({"since": "2020-01-01"}, {"json_mode": "canonical"}):
        assert problem(reader.get(PATH, params={"cursor": cursor, **other})) == (400, "signature")
    everybody = house.client(house.token("developer", "*"))
    answer = everybody.get(f"/v1/apps/{OTHER}/events", params={"cursor": cursor})
    assert problem(answer) == (400, "signature")
    tokens = house.client(house.token("owner", SHOP))
    assert tokens.get("/v1/tokens", params={"cursor": cursor}).status_code in (400, 422)
    elsewhere = open_shop(secret_key=f"another {SECRET_KEY}")
    stranger = elsewhere.client(elsewhere.token("developer", SHOP))
    assert problem(stranger.get(PATH, params={"cursor": cursor})) == (400, "signature")


def test_a_collection_that_was_replaced_between_two_pages_ends_the_walk(
    house: House, mongo_client: Client, request: pytest.FixtureRequest
) -> None:
    app = "brief"
    clicks = mongo_client[DATABASE][f"clicks{app}"]
    request.addfinalizer(clicks.drop)
    clicks.insert_many([{"_id": n} for n in range(3)])
    reader = house.client(house.token("developer", app))
    path = f"/v1/apps/{app}/events"
    cursor = reader.get(path, params={"limit": 1}).json()["next"]
    clicks.drop()
    clicks.insert_many([{"_id": n} for n in range(3)])
    assert problem(reader.get(path, params={"cursor": cursor})) == (409, "replaced")
    clicks.drop()
    mongo_client[DATABASE][f"taps{app}"].insert_one({})
    request.addfinalizer(mongo_client[DATABASE][f"taps{app}"].drop)
    assert problem(reader.get(path, params={"cursor": cursor})) == (409, "replaced")


def test_an_id_too_large_for_a_cursor_is_an_error_and_the_whole_has_it(
    house: House, mongo_client: Client, request: pytest.FixtureRequest
) -> None:
    app = "large"
    request.addfinalizer(mongo_client[DATABASE][f"clicks{app}"].drop)
    mongo_client[DATABASE][f"clicks{app}"].insert_many([{"_id": "x" * 10_000}, {"_id": "y"}])
    reader = house.client(house.token("developer", app))
    path = f"/v1/apps/{app}/events"
    assert problem(reader.get(path, params={"limit": 1})) == (409, "large_id")
    assert lines(reader, path)[1]["documents"] == 2


@pytest.mark.parametrize(
    "made",
    [
        {"viewOn": f"clicks{SHOP}", "pipeline": [{"$project": {"uid": 1}}]},
        {"timeseries": {"timeField": "at"}},
    ],
    ids=["view", "time series"],
)
def test_what_has_no_index_on_its_ids_has_no_pages_and_comes_whole(
    house: House, mongo_client: Client, request: pytest.FixtureRequest, made: dict[str, Any]
) -> None:
    database, app = mongo_client[DATABASE], f"odd{len(made)}"
    database.create_collection(f"clicks{app}", **made)
    request.addfinalizer(database[f"clicks{app}"].drop)
    if "timeseries" in made:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        database[f"clicks{app}"].insert_many([{"_id": n % 2, "at": at, "n": n} for n in range(CLICKS)])
    reader = house.client(house.token("developer", app))
    path = f"/v1/apps/{app}/events"
    assert problem(reader.get(path)) == (409, "no_pages")
    assert lines(reader, path)[1]["documents"] == CLICKS


# The whole


def test_the_whole_ends_with_its_count_and_its_moment(reader: httpx.Client, house: House) -> None:
    before = counted(house)
    found, end = lines(reader)
    collections = {f"clicks{SHOP}": CLICKS, f"views{SHOP}": len(ODD_IDS)}
    (moment,) = end.pop("cluster_times")
    assert end == {"documents": len(found), "collections": collections}
    assert abs(float(moment) - time.time()) < 60
    while counted(house) < before + len(found):  # it is counted once the answer has left
        time.sleep(0.01)


def counted(house: House) -> int:
    today = datetime.now(UTC).date()
    rows = usage(house.exporter.database, since=today, until=today, app_id=SHOP)
    return sum(row["count"] for row in rows if row["what"] == "events_read")


def test_the_whole_is_of_one_moment(reader: httpx.Client, mongo_client: Client, request: pytest.FixtureRequest) -> None:
    views = mongo_client[DATABASE][f"views{SHOP}"]
    request.addfinalizer(lambda: views.delete_one({"_id": "late"}))
    with reader.stream("GET", PATH, headers={"Accept": LINES}) as answer:
        views.insert_one({"_id": "late"})
        found = [json.loads(line) for line in answer.iter_lines()]
    assert found[-1]["_end"]["collections"][f"views{SHOP}"] == len(ODD_IDS)


def test_the_whole_comes_zipped_if_asked(reader: httpx.Client) -> None:
    with reader.stream("GET", PATH, headers={"Accept": LINES, "Accept-Encoding": "gzip;q=0.5"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        zipped = b"".join(answer.iter_raw())
    last = gzip.decompress(zipped).splitlines()[-1]
    assert json.loads(last)["_end"]["documents"] == CLICKS + len(ODD_IDS)
    for accept_encoding in ("identity", "gzip;q=0", "br"):
        plain = reader.get(PATH, headers={"Accept": LINES, "Accept-Encoding": accept_encoding})
        assert "content-encoding" not in plain.headers


def test_the_whole_takes_neither_limit_nor_cursor(reader: httpx.Client) -> None:
    for params in ({"limit": 5}, {"cursor": a_cursor(reader)}):
        assert problem(reader.get(PATH, params=params, headers={"Accept": LINES})) == (400, "bad_input")


@pytest.mark.parametrize("zipped", [False, True])
def test_an_error_on_the_way_never_looks_like_the_whole(
    reader: httpx.Client, mongo_client: Client, house: House, zipped: bool
) -> None:
    headers = {"Accept": LINES, "Accept-Encoding": "gzip" if zipped else "identity"}
    with fail_point(
        mongo_client,
        "failCommand",
        data={
            "failCommands": ["getMore"],
            "errorCode": 8,
            "namespace": f"{DATABASE}.clicks{SHOP}",
            "appName": "export_pipeline",
        },
    ):
        received: list[bytes] = []
        with reader.stream("GET", PATH, headers=headers) as answer, pytest.raises(httpx.RemoteProtocolError):
            received.extend(answer.iter_raw())
    text = zlib.decompressobj(wbits=31).decompress(b"".join(received)) if zipped else b"".join(received)
    assert b"_end" not in text
    assert zipped or text.count(b"\n") == 101
    assert lines(reader)[1]["documents"] == CLICKS + len(ODD_IDS)


def test_where_the_history_ends_too_soon_it_goes_on_at_a_later_moment_if_that_is_allowed(
    open_shop: OpenShop, reader: httpx.Client, mongo_client: Client
) -> None:
    too_old = {"failCommands": ["getMore"], "errorCode": 239, "appName": "export_pipeline"}
    lenient = open_shop(require_point_in_time=False)
    with fail_point(mongo_client, "failCommand", mode={"times": 1}, data=too_old):
        found, end = lines(lenient.client(lenient.token("developer", SHOP)))
    assert [event["_id"] for event in found[:CLICKS]] == list(range(CLICKS))
    assert end["documents"] == CLICKS + len(ODD_IDS)
    assert len(end["cluster_times"]) == 2
    with (
        fail_point(mongo_client, "failCommand", mode={"times": 1}, data=too_old),
        pytest.raises(httpx.RemoteProtocolError),
    ):
        lines(reader)


def test_whoever_leaves_gives_their_turn_back(
    open_shop: OpenShop, mongo_client: Client, request: pytest.FixtureRequest
) -> None:
    app = "long"
    clicks = mongo_client[DATABASE][f"clicks{app}"]
    request.addfinalizer(clicks.drop)
    clicks.insert_many([{"_id": n, "text": "x" * 100_000} for n in range(600)])  # more than sockets hold
    house = open_shop(concurrent_reads=1)
    token = house.token("developer", app)
    reader, path = house.client(token), f"/v1/apps/{app}/events"
    leaving = socket.create_connection((str(urlsplit(house.url).hostname), int(urlsplit(house.url).port or 0)))
    leaving.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: {LINES}\r\n\r\n".encode()
    )
    assert leaving.recv(12) == b"HTTP/1.1 200"
    busy = reader.get(path, headers={"Accept": LINES})
    assert problem(busy) == (503, "busy")
    assert int(busy.headers["retry-after"]) > 0
    assert reader.get(path, params={"limit": 1}).status_code == 200  # pages do not wait for a slow reader
    leaving.close()
    deadline = time.monotonic() + 20
    while (answer := reader.get(path, headers={"Accept": LINES})).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads(answer.text.splitlines()[-1])["_end"]["documents"] == 600


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        (LINES, True),
        ("Application/X-NDJSON ; q=0.3", True),
        (f"application/json, {LINES}", False),
        (f"application/json;q=0.5, {LINES}", True),
        (f"text/html, {LINES};q=0.9, */*;q=0.1", True),
        (f"{LINES};q=0, application/*", False),
    ],
)
def test_the_header_accept_chooses(accept: str, expected: bool) -> None:
    assert wants_lines(accept) is expected


@pytest.mark.parametrize("accept", ["text/html", f"{LINES};q=0", "application/json;q=0, image/*", f"{LINES};q=x"])
def test_what_is_not_to_be_had_is_told(accept: str, reader: httpx.Client) -> None:
    with pytest.raises(ProblemError):
        wants_lines(accept)
    assert problem(reader.get(PATH, headers={"Accept": accept})) == (406, "not_acceptable")


# Where there are no events


def test_an_app_without_events_is_no_empty_success(house: House) -> None:
    everybody = house.client(house.token("developer", "*"))
    for accept in (LINES, "application/json"):
        answer = everybody.get("/v1/apps/nosuchapp/events", headers={"Accept": accept})
        assert problem(answer) == (404, "no_events")


def test_a_catalogue_without_events_says_so(open_shop: OpenShop, tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(CATALOG.replace("events: true", "events: false"))
    house = open_shop(catalog=tmp_path / "plain.yaml")
    answer = house.client(house.token("developer", SHOP)).get(PATH)
    assert problem(answer) == (404, "no_events")
    assert "events: true" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("uri", "code"),
    [("mongodb://127.0.0.1:{port}", "mongo_unreachable"), ("http://wrong", "mongo_not_configured")],
)
@pytest.mark.parametrize("accept", [LINES, "application/json"])
def test_without_a_mongodb_the_answer_is_503_and_comes_soon(
    open_shop: OpenShop, uri: str, code: str, accept: str
) -> None:
    house = open_shop(mongo_uri=uri.format(port=free_port()))
    reader = house.client(house.token("developer", SHOP))
    began = time.monotonic()
    answer = reader.get(PATH, headers={"Accept": accept})
    assert problem(answer) == (503, code)
    assert "MongoDB" in answer.json()["detail"]
    assert "127.0.0.1" not in answer.text
    assert time.monotonic() - began < events_reading.FIND_SERVER_SECONDS + 2


def test_a_server_that_does_not_speak_is_given_up_soon(open_shop: OpenShop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        house = open_shop(mongo_uri=f"mongodb://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert problem(house.client(house.token("developer", SHOP)).get(PATH)) == (503, "mongo_unreachable")
        assert time.monotonic() - began < events_reading.FIND_SERVER_SECONDS + 2


# Ids, bit for bit


@pytest.mark.parametrize("stored", ODD_IDS)
def test_an_id_is_kept_bit_for_bit(stored: Any) -> None:
    document: Mapping[str, Any] = {"before": 1, "_id": stored, "after": 2}
    assert literal_id(bson.encode(document)) == bson.encode({"$literal": stored})


def test_the_usual_page_is_bounded() -> None:
    assert events.USUAL_EVENTS <= events.MOST_EVENTS <= 1000
