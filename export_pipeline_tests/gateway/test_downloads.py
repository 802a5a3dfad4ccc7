"""Handing over packages: whole, in part, by token, by link, from a directory and from S3."""

import json
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import update

from export_pipeline.access.audit import accesses
from export_pipeline.access.usage import DOWNLOADED_BYTES, DOWNLOADS, usage
from export_pipeline.packages.publish import package_folder
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.models import Request
from export_pipeline.requests.schema import export_requests
from export_pipeline_tests.gateway.conftest import APP, House, OpenHouse, house_settings, opened

pytest_plugins = "export_pipeline_tests.s3_server"


@pytest.fixture(scope="module")
def client(house: House) -> httpx.Client:
    return house.client(house.token("maintainer"))


@pytest.fixture(scope="module")
def export(house: House) -> Request:
    return house.completed()


def stored(house: House, request: Request, name: str = "export.json") -> bytes:
    with house.exporter.storage.open(f"{package_folder(request)}/{name}") as file:
        return file.read()


def download(client: httpx.Client, request: Request, method: str = "GET", **more: Any) -> httpx.Response:
    params = more.pop("params", {})
    return client.request(method, f"/v1/exports/{request.id}/download", headers=more, params=params)


def change(house: House, request: Request, **values: Any) -> None:
    with house.exporter.database.begin() as connection:
        connection.execute(update(export_requests).where(export_requests.c.id == request.id).values(**values))


def new_link(client: httpx.Client, request: Request, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/exports/{request.id}/links", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


# By token


def test_the_whole_file(house: House, client: httpx.Client, export: Request) -> None:
    answer = download(client, export)
    assert answer.content == stored(house, export)
    assert {document["_col"] for document in answer.json()} == {f"app_users{APP}", f"events{APP}"}
    wanted = {
        "content-type": "application/json",
        "content-length": str(export.result_bytes),
        "content-disposition": f'attachment; filename="export-{export.id}.json"',
        "etag": f'"{export.result_sha256}"',
        "accept-ranges": "bytes",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    assert {name: answer.headers[name] for name in wanted} == wanted


def test_a_broken_download_is_taken_up_where_it_broke_off(house: House, client: httpx.Client, export: Request) -> None:
    whole = stored(house, export)
    etag = download(client, export, method="HEAD").headers["etag"]
    first = download(client, export, Range="bytes=0-999")
    rest = download(client, export, Range="bytes=1000-", **{"If-Range": etag})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.headers["content-range"] == f"bytes 0-999/{len(whole)}"
    assert rest.headers["content-range"] == f"bytes 1000-{len(whole) - 1}/{len(whole)}"
    assert first.content + rest.content == whole
    changed = download(client, export, Range="bytes=1000-", **{"If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, whole)


def test_what_a_caller_has_is_not_sent_again(client: httpx.Client, export: Request) -> None:
    answer = download(client, export, **{"If-None-Match": f'"{export.result_sha256}"'})
    assert (answer.status_code, answer.content) == (304, b"")


def test_a_range_that_is_not_there(client: httpx.Client, export: Request) -> None:
    answer = download(client, export, Range=f"bytes={export.result_bytes}-")
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{export.result_bytes}"
    assert answer.headers["content-type"] == "application/problem+json"


def test_head_tells_all_but_the_file(client: httpx.Client, export: Request) -> None:
    ignored = {"date"}
    head, get = (download(client, export, method) for method in ("HEAD", "GET"))
    assert head.content == b""
    assert {k: v for k, v in head.headers.items() if k not in ignored} == {
        k: v for k, v in get.headers.items() if k not in ignored
    }


def test_the_manifest(client: httpx.Client, export: Request) -> None:
    manifest = client.get(f"/v1/exports/{export.id}/manifest").json()
    assert manifest["request_id"] == export.id
    assert manifest["file"]["sha256"] == export.result_sha256


@pytest.mark.parametrize(
    ("format_", "options", "media_type", "extension"),
    [
        ("csv", {}, "application/zip", "csv.zip"),
        ("html", {}, "text/html; charset=utf-8", "html"),
        ("json", {"compression": "gzip"}, "application/gzip", "json.gz"),
        (
            "jsonl",
            {"recipients": ["age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"]},
            "application/octet-stream",
            "jsonl.age",
        ),
    ],
)
def test_each_kind_of_file_has_its_type_and_name(
    house: House, client: httpx.Client, format_: str, options: dict[str, Any], media_type: str, extension: str
) -> None:
    request = house.completed(format=format_, file_options=options)
    answer = download(client, request)
    assert answer.headers["content-type"] == media_type
    name = answer.headers["content-disposition"].partition('filename="')[2].strip('"')
    assert name.startswith(f"export-{request.id}.")
    assert answer.content == stored(house, request, f"export{name.removeprefix(f'export-{request.id}')}")
    assert "sandbox" in answer.headers["content-security-policy"]  # a page never runs as one of ours
    if format_ == "csv":
        assert zipfile.ZipFile(BytesIO(answer.content)).testzip() is None
    else:
        assert name.endswith(extension)


def test_the_parts_of_a_split_package(house: House, client: httpx.Client) -> None:
    request = house.completed(uid="big", format="jsonl", file_options={"split_bytes": 1_000_000})
    parts = client.get(f"/v1/exports/{request.id}/manifest").json()["parts"]
    assert len(parts) > 2
    fetched = [download(client, request, params={"part": number}) for number in range(len(parts))]
    assert [len(answer.content) for answer in fetched] == [part["bytes"] for part in parts]
    assert f"export-{request.id}.part-00001.jsonl" in fetched[1].headers["content-disposition"]
    assert len({answer.headers["etag"] for answer in fetched}) == len(parts)
    assert download(client, request, params={"part": len(parts)}).status_code == 404
    refused = client.post(f"/v1/exports/{request.id}/links", json={"one_time": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "split")


def test_what_is_not_split_has_one_part(client: httpx.Client, export: Request) -> None:
    assert download(client, export, params={"part": 0}).status_code == 200
    assert download(client, export, params={"part": 1}).status_code == 404


def test_what_is_not_ready(house: House, client: httpx.Client) -> None:
    answer = download(client, house.pending())
    assert (answer.status_code, answer.json()["code"]) == (409, "not_ready")


def test_what_is_past_its_time_is_not_handed_over_though_it_is_still_there(house: House, client: httpx.Client) -> None:
    request = house.completed()
    link = new_link(client, request)["url"]
    change(house, request, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert stored(house, request)
    for path in (f"/v1/exports/{request.id}/download", f"/v1/exports/{request.id}/manifest", link):
        assert client.get(path).status_code == 410
    assert client.get(f"/v1/exports/{request.id}").json()["links"]["download"] is None


def test_what_is_not_what_was_published_is_not_handed_over(house: House, client: httpx.Client) -> None:
    request = house.completed()
    path = Path(str(request.result_uri))
    path.write_bytes(path.read_bytes()[:-1])
    answer = download(client, request)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage")
    assert str(path.parent) not in answer.text
    path.unlink()
    assert download(client, request).status_code == 404


def test_downloads_are_counted_and_in_the_history(house: House, client: httpx.Client, export: Request) -> None:
    day = datetime.now(UTC).date()

    def counted() -> dict[str, int]:
        rows = usage(house.exporter.database, since=day - timedelta(days=1), until=day, app_id=APP)
        return {row["what"]: row["count"] for row in rows}

    before = counted()
    download(client, export)
    deadline = time.monotonic() + 10
    while counted()[DOWNLOADED_BYTES] == before.get(DOWNLOADED_BYTES, 0) and time.monotonic() < deadline:
        time.sleep(0.02)  # the bytes are counted once they have left
    after = counted()
    assert after[DOWNLOADS] - before.get(DOWNLOADS, 0) == 1
    assert after[DOWNLOADED_BYTES] - before.get(DOWNLOADED_BYTES, 0) == export.result_bytes
    found = accesses(house.exporter.database, app_id=APP, limit=3)
    assert ("download_export", 200, export.id) in {(row["action"], row["status"], row["target"]) for row in found}


# By link


def test_a_link_needs_no_token(house: House, client: httpx.Client, export: Request) -> None:
    made = new_link(client, export)
    assert made["url"].startswith("/d/")
    assert datetime.fromisoformat(made["expires_at"]) == export.expires_at
    stranger = house.client()
    for headers, status in (({}, 200), ({"Range": "bytes=0-9"}, 206)):
        answer = stranger.get(made["url"], headers=headers)
        assert answer.status_code == status
        assert answer.content == stored(house, export)[: len(answer.content)]
    found = accesses(house.exporter.database, app_id=APP, limit=1)[0]
    assert (found["actor"], found["action"], found["target"]) == (f"link:{made['id']}", "open_link", export.id)


def test_a_one_time_link_serves_once_and_a_look_does_not_count(
    house: House, client: httpx.Client, export: Request
) -> None:
    url = new_link(client, export, one_time=True)["url"]
    stranger = house.client()
    assert [stranger.head(url).status_code for _ in range(2)] == [200, 200]
    assert stranger.get(url).content == stored(house, export)
    again = stranger.get(url)
    assert (again.status_code, again.json()["code"]) == (410, "link_over")
    url = new_link(client, export, one_time=True)["url"]
    with ThreadPoolExecutor(4) as threads:
        statuses = list(threads.map(lambda _: httpx.get(f"{house.url}{url}", timeout=30).status_code, range(8)))
    assert sorted(statuses) == [200] + [410] * 7


def test_a_failed_download_does_not_use_up_a_one_time_link(house: House, client: httpx.Client) -> None:
    request = house.completed()
    url = new_link(client, request, one_time=True)["url"]
    path = Path(str(request.result_uri))
    path.rename(path.with_name("away"))
    assert client.get(url).status_code == 404
    path.with_name("away").rename(path)
    assert client.get(url, headers={"Range": "bytes=999999999-"}).status_code == 416
    assert client.get(url).status_code == 200


def test_a_revoked_link_and_one_whose_export_was_deleted(house: House, client: httpx.Client) -> None:
    request = house.completed()
    revoked, other = new_link(client, request), new_link(client, request)
    assert client.delete(f"/v1/links/{revoked['id']}").status_code == 204
    assert client.get(revoked["url"]).json()["detail"] == "this link has been revoked; ask for a new one"
    assert client.get(other["url"]).status_code == 200
    owner = house.client(house.token("owner"))
    assert owner.delete(f"/v1/exports/{request.id}").status_code == 204
    assert client.get(other["url"]).status_code == 410
    assert not Path(str(request.result_uri)).exists()
    row = house.exporter.requests.get(request.id)
    assert (row.status, house.exporter.requests.events(request.id)[-1]["event"]) == ("expired", "deleted")


def test_a_tampered_link(house: House, client: httpx.Client, export: Request) -> None:
    url = new_link(client, export)["url"]
    for wrong in (url[:-4] + "AAAA", f"/d/A{url[3:]}", url.split(".")[0], "/d/%00", "/d/%0d%0aX-A:1", "/d/é"):
        answer = client.get(wrong)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_link"), wrong


def test_a_link_never_outlives_its_package(client: httpx.Client, export: Request) -> None:
    made = new_link(client, export, expires_in_seconds=300 * 86_400)
    assert datetime.fromisoformat(made["expires_at"]) == export.expires_at
    soon = datetime.fromisoformat(new_link(client, export, expires_in_seconds=60)["expires_at"])
    assert soon < datetime.now(UTC) + timedelta(seconds=61)


def test_links_begin_with_what_the_settings_say_and_never_with_what_a_caller_says(open_house: OpenHouse) -> None:
    house = open_house(public_url="https://exports.example.org/api/")
    client = house.client(house.token("maintainer"))
    request = house.completed()
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    answer = client.post(f"/v1/exports/{request.id}/links", json={}, headers=evil)
    assert answer.json()["url"].startswith("https://exports.example.org/api/d/")
    shown = client.get(f"/v1/exports/{request.id}", headers=evil).json()
    assert shown["links"]["download"] == f"https://exports.example.org/api/v1/exports/{request.id}/download"


# From S3


@pytest.fixture(scope="module")
def s3_house(
    source: str, mongo_uri: str, tmp_path_factory: pytest.TempPathFactory, shared_s3_client: Any
) -> Iterator[House]:
    home = tmp_path_factory.mktemp("s3") / "home"
    settings = house_settings(home, mongo_uri, storage=f"s3://exports/{new_id()}")
    with opened(settings, s3_client=shared_s3_client) as house:
        yield house


def test_s3_hands_over_itself(s3_house: House) -> None:
    request = s3_house.completed()
    client = s3_house.client(s3_house.token("maintainer"))
    answer = download(client, request)
    assert (answer.status_code, answer.content) == (307, b"")
    fetched = httpx.get(answer.headers["location"], timeout=30)
    assert fetched.content == stored(s3_house, request)
    assert json.loads(fetched.content)
    assert f"export-{request.id}.json" in answer.headers["location"]
    head = download(client, request, "HEAD")
    assert (head.status_code, head.headers["content-length"]) == (200, str(request.result_bytes))
    link = new_link(client, request, one_time=True)["url"]
    assert [client.get(link).status_code for _ in range(2)] == [307, 410]
    s3_house.exporter.storage.delete(package_folder(request))
    assert download(client, request).status_code == 404


# Many at once


def test_many_downloads_at_once_take_little_memory(house: House, client: httpx.Client) -> None:
    request = house.completed()
    size = 64 << 20
    with Path(str(request.result_uri)).open("wb") as file:
        file.truncate(size)
    change(house, request, result_bytes=size)
    process = psutil.Process()
    before = process.memory_info().rss
    highest = before

    def fetch(_: int) -> int:
        nonlocal highest
        got = 0
        with client.stream("GET", f"/v1/exports/{request.id}/download") as answer:
            for number, piece in enumerate(answer.iter_raw(1 << 20)):
                got += len(piece)
                if number % 16 == 0:
                    highest = max(highest, process.memory_info().rss)
        return got

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(fetch, range(16))) == {size}
    # Callers are in this process too: each holds a piece of a megabyte.
    assert highest - before < 96 << 20, f"{(highest - before) >> 20} MiB for 1 GiB"
