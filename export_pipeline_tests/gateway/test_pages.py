"""The pages without a browser: sessions, forms from elsewhere, what is escaped, and that the rules are the API's."""

import html
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from export_pipeline.access.audit import accesses
from export_pipeline.access.tokens import TokenStore
from export_pipeline.backups.schedules import NewSchedule, ScheduleStore
from export_pipeline.encryption.age import new_identity
from export_pipeline.gateway import pages
from export_pipeline.gateway.pages import session
from export_pipeline.gateway.pages.shown import about, size
from export_pipeline.gateway.pages.usage import HEIGHT, chart
from export_pipeline.notifications.outbox import NotificationStore
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline_tests.gateway.conftest import APP, OTHER_APP, House, OpenHouse

HOSTILE = "<script>alert(1)</script>\"'><img src=x>"
FOLDER = Path(pages.__file__).parent


def token_in(page: str) -> str:
    """Return what a page's forms have to send back."""
    (found,) = set(re.findall(r'name="csrf" value="([^"]+)"', page))
    return str(found)


class Person:
    """Somebody with a browser: its cookies, and forms that carry what the page gave them."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.client = house.client()
        self.csrf = ""

    def log_in(self, token: str, then: str = "/") -> httpx.Response:
        self.see("/login")
        answer = self.send("/login", token=token, then=then)
        if answer.status_code == 303:
            self.see(answer.headers["location"])
        return answer

    def see(self, path: str) -> httpx.Response:
        answer = self.client.get(path)
        if "csrf" in answer.text:
            self.csrf = token_in(answer.text)
        return answer

    def send(self, path: str, headers: Any = None, **fields: Any) -> httpx.Response:
        headers = {"Origin": self.house.url} if headers is None else headers
        return self.client.post(path, data={"csrf": self.csrf, **fields}, headers=headers)


def visitor(house: House, role: str = "owner", app_id: str = APP) -> Person:
    person = Person(house)
    assert person.log_in(house.token(role, app_id)).status_code == 303
    return person


def test_the_cookie_of_a_session_hides_the_token_and_is_for_this_site_alone(house: House) -> None:
    person, token = Person(house), house.token("reporter")
    answer = person.log_in(token)
    cookie = answer.headers["set-cookie"]
    assert re.search(r"^export_pipeline=[\w=-]+; HttpOnly; Max-Age=43200; Path=/; SameSite=strict$", cookie)
    assert token not in cookie
    assert person.see("/").status_code == 200


def test_reached_by_https_the_cookie_never_travels_without(open_house: OpenHouse) -> None:
    at_root = open_house(public_url="https://exports.example.org")
    below = open_house(public_url="https://example.org/exports")
    cookies = [house.client().get("/login").headers["set-cookie"] for house in (at_root, below)]
    assert re.search(r"^__Host-export_pipeline=.*; Path=/; SameSite=strict; Secure$", cookies[0])
    assert re.search(r"^export_pipeline=.*; Path=/exports; SameSite=strict; Secure$", cookies[1])
    assert 'action="/exports/login"' in below.client().get("/login").text


@pytest.mark.parametrize("spoil", ["forged", "of another key", "too old", "garbage", "not ascii"])
def test_a_session_that_was_not_made_here_or_is_over_is_none(
    house: House, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    person = visitor(house)
    cookie = person.client.cookies["export_pipeline"]
    if spoil == "too old":
        monkeypatch.setattr(session, "SERVES", timedelta(seconds=-1))
        assert person.client.get("/").status_code == 401
        return
    forged = {
        "forged": cookie[:-4] + ("AAA=" if not cookie.endswith("AAA=") else "BBB="),
        "of another key": Fernet(Fernet.generate_key()).encrypt(b'{"csrf": "x", "token": "y"}').decode(),
        "garbage": "x" * 5000,
        "not ascii": "\u00e9",
    }[spoil]
    sent = {b"Cookie": f"export_pipeline={forged}".encode("latin-1")}
    assert httpx.get(house.url, headers=sent).status_code == 401


def test_a_revoked_token_ends_its_session_and_its_owner_is_asked_to_log_in(house: House) -> None:
    person, text = Person(house), house.token("reporter")
    person.log_in(text)
    tokens = TokenStore(house.exporter.database)
    found = tokens.find(text)
    assert found is not None
    tokens.revoke(found.id)
    answer = person.client.get("/usage")
    assert answer.status_code == 401
    assert "this token was revoked" in answer.text
    assert 'name="then" value="/usage"' in answer.text


def test_logging_out_ends_the_session(house: House) -> None:
    person = visitor(house)
    answer = person.send("/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?said=logged-out")
    assert person.client.get("/").status_code == 401


@pytest.mark.parametrize(("then", "goes"), [
    ("/usage", "/usage"),
    ("//evil.example", "/"),
    ("https://evil.example", "/"),
    ("/\\evil.example", "/"),
    ("", "/"),
])  # fmt: skip
def test_a_login_goes_on_to_a_page_of_ours(house: House, then: str, goes: str) -> None:
    assert Person(house).log_in(house.token("reporter"), then).headers["location"] == goes


def test_a_wrong_token_says_so_and_is_not_repeated(house: House) -> None:
    answer = Person(house).log_in("ep_wrong")
    assert answer.status_code == 401
    assert "is unknown" in answer.text
    assert "ep_wrong" not in answer.text
    assert accesses(house.exporter.database, limit=1)[0] | {"id": 0, "at": 0} == {
        "id": 0, "at": 0, "actor": "anonymous", "action": "log_in", "app_id": None, "target": None, "status": 401,
    }  # fmt: skip


def test_guessing_tokens_is_limited(open_house: OpenHouse) -> None:
    person = Person(open_house(anonymous_rate_limit=5))
    assert [person.log_in("ep_wrong").status_code for _ in range(6)] == [401] * 5 + [429]


def test_a_form_from_elsewhere_does_nothing(house: House) -> None:
    person, request = visitor(house), house.pending()
    path = f"/exports/{request.id}/cancel"
    other_site = {"Origin": "https://evil.example"}
    other_port = {"Origin": f"{house.url}1"}
    for headers in (other_site, other_port, {"Origin": "null"}, {}):
        assert person.send(path, headers=headers).status_code == 403
    for wrong in ("", "x", "é", visitor(house).csrf):
        assert person.send(path, csrf=wrong).status_code == 403
    assert house.exporter.requests.get(request.id).status == "pending"
    assert person.send(path).status_code == 303
    assert house.exporter.requests.get(request.id).status == "cancelled"


def test_nobody_logs_another_in(house: House) -> None:
    """A form of another site would let people work in a session that its makers can see."""
    person = Person(house)
    person.see("/login")
    token = house.token("owner")
    assert person.send("/login", headers={"Origin": "https://evil.example"}, token=token).status_code == 403
    assert house.client().post("/login", data={"token": token}, headers={"Origin": house.url}).status_code == 403


def test_the_api_does_not_take_the_cookie(house: House) -> None:
    person = visitor(house)
    assert person.client.get("/v1/exports").status_code == 401
    assert person.client.post("/v1/exports", json={"app_id": APP, "uids": ["a"]}).status_code == 401


def test_no_script_or_style_of_a_page_is_in_the_page(house: House) -> None:
    answer = visitor(house).see("/new")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"
    for template in (FOLDER / "templates").iterdir():
        text = template.read_text()
        assert not re.search(r"<script(?![^>]* src=)|\sstyle=|<style|\son\w+=|javascript:|\|\s*safe\b", text), template
    for file in (FOLDER / "static").iterdir():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", file.read_text()), file


def test_markup_stays_text_wherever_it_comes_from(house: House) -> None:
    request = house.pending(requested_by=HOSTILE)
    batch = Batch(new_id(), (request.id,))
    house.exporter.requests.claim(batch)
    progress = {"phase": "reading", "since": datetime.now(UTC).isoformat(), "collections": {HOSTILE: [10, 5, 0]}}
    house.exporter.requests.batch_progress(batch.id, progress)
    person = visitor(house)
    shown = [person.see("/").text, person.see(f"/exports/{request.id}").text]
    house.exporter.requests.fail(request.id, batch.id, code="incomplete", message=HOSTILE)
    everywhere = visitor(house, app_id="*")
    shown += [
        person.see("/").text,
        person.see(f"/exports/{request.id}").text,
        everywhere.client.get("/", params={"app_id": HOSTILE}).text,
        everywhere.client.get("/usage", params={"app_id": HOSTILE}).text,
        everywhere.client.get("/backups", params={"app_id": HOSTILE}).text,
        everywhere.send("/new", app_id=APP, uids=HOSTILE, person=HOSTILE, format=HOSTILE, recipient=HOSTILE).text,
        person.send("/schedules", app_id=APP, cron=HOSTILE, time_zone=HOSTILE).text,
        person.client.get("/login", params={"said": HOSTILE}).text,
    ]
    for text in shown:
        assert "<script>" not in text
        assert "<img" not in text
    assert all(html.escape("<script>alert(1)") in text for text in shown[:9])


def test_what_is_asked_for_is_what_the_form_said(house: House) -> None:
    person = visitor(house, "maintainer")
    answer = person.send(
        "/new", uids="a\r\n b \r\n", format="csv", since="2026-01-01", until="2026-02-01", collections=["events"]
    )
    assert answer.status_code == 303
    request = house.exporter.requests.get(answer.headers["location"].split("/")[2].partition("?")[0])
    assert request.selection == {
        "uids": ["a", "b"],
        "narrowing": {
            "since": "2026-01-01T00:00:00", "until": "2026-02-01T00:00:00", "collections": ["events"],
        },
    }  # fmt: skip
    assert request.options["format"] == "csv"
    assert request.requested_by.startswith("token:")
    assert "The export was asked for." in person.see(answer.headers["location"]).text
    found = person.send("/new", person='{"email": "me@example.org"}', format="json")
    request = house.exporter.requests.get(found.headers["location"].split("/")[2].partition("?")[0])
    assert request.selection["person"] == {"email": "me@example.org"}


def test_a_form_that_is_sent_twice_asks_once(house: House) -> None:
    person = visitor(house, "maintainer")
    key = re.search(r'name="idempotency_key" value="([^"]+)"', person.see("/new").text)
    assert key
    sent = [person.send("/new", uids=new, format="json", idempotency_key=key[1]) for new in ("twice", "twice")]
    assert len({answer.headers["location"] for answer in sent}) == 1


@pytest.mark.parametrize(("fields", "says"), [
    ({}, "expected at least one uid"),
    ({"uids": "a", "person": "{}"}, "give either uids or a filter"),
    ({"person": "{email"}, "this is not JSON"),
    ({"person": "[1]"}, "expected a filter such as"),
    ({"uids": "a", "since": "yesterday"}, "expected a moment such as"),
    ({"uids": "a", "recipient": "age1x"}, "recipient"),
    ({"uids": "a", "format": "pdf"}, "known are json"),
    ({"uids": "a", "collections": "unknown"}, "1 of the names are not among: events, users"),
    ({"uids": "a", "mail": "me@example.org"}, "this installation sends none yet"),
])  # fmt: skip
def test_a_mistake_is_told_and_what_was_typed_stays(house: House, fields: dict[str, str], says: str) -> None:
    person = visitor(house, "maintainer")
    before = len(house.exporter.requests.latest(1000))
    for path in ("/new", "/new/estimate"):
        answer = person.send(path, **fields)
        if path == "/new/estimate" and "mail" in fields:
            assert answer.status_code == 200
            continue
        assert answer.status_code == 422
        assert says in html.unescape(answer.text)
        assert html.escape(fields.get("uids", "")) in answer.text
    assert len(house.exporter.requests.latest(1000)) == before


def test_a_notice_goes_to_the_address(open_house: OpenHouse) -> None:
    house = open_house(smtp_host="localhost", mail_from="exports@example.org")
    person = visitor(house, "maintainer")
    assert person.send("/new", uids="a", format="json", mail="not one").status_code == 422
    assert house.exporter.requests.latest() == []
    answer = person.send("/new", uids="a", format="json", mail="me@example.org")
    export_id = answer.headers["location"].split("/")[2].partition("?")[0]
    (notice,) = NotificationStore(house.exporter.database).of_request(export_id)
    assert (notice.channel, notice.address) == ("mail", "me@example.org")


def test_a_list_has_pages_and_filters(house: House) -> None:
    ids = [house.pending().id for _ in range(30)]
    house.exporter.cancel(ids[0], "test")
    person = visitor(house, "reporter")
    first = person.see("/").text
    older = re.search(r'href="(/\?cursor=[^"]+)" rel="next"', first)
    assert older
    second = person.see(html.unescape(older[1])).text
    assert f"/exports/{ids[-1]}" in first
    assert f"/exports/{ids[0]}" not in first
    assert f"/exports/{ids[0]}" in second
    cancelled = person.client.get("/", params={"status": "cancelled", "since": "2026-01-01"}).text
    assert f"/exports/{ids[0]}" in cancelled
    assert ids[1] not in cancelled
    assert person.client.get("/", params={"status": "lost"}).status_code == 422
    assert person.client.get("/", params={"since": "yesterday"}).status_code == 422
    assert person.client.get("/", params={"cursor": "forged"}).status_code == 422


def test_nobody_sees_a_button_for_what_they_may_not_do(house: House) -> None:
    done = house.completed()
    buttons = {}
    for role in ("reporter", "developer", "maintainer", "owner"):
        text = visitor(house, role).see(f"/exports/{done.id}").text
        buttons[role] = [word for word in ("Download", "Make a link", "Delete for good", "SHA-256") if word in text]
    assert buttons == {
        "reporter": [],
        "developer": [],
        "maintainer": ["Download", "Make a link", "SHA-256"],
        "owner": ["Download", "Make a link", "Delete for good", "SHA-256"],
    }


def test_the_history_of_accesses_has_what_was_done_by_a_page(house: House) -> None:
    person, done = visitor(house), house.completed()
    person.send(f"/exports/{done.id}/links", days="3", one_time="yes")
    person.send(f"/exports/{done.id}/delete")
    found = [
        (event["action"], event["target"], event["app_id"]) for event in accesses(house.exporter.database, limit=2)
    ]
    assert found == [("delete_export", done.id, APP), ("make_link", done.id, APP)]
    assert house.exporter.requests.get(done.id).status == "expired"


def test_a_link_is_shown_once_and_can_be_revoked(house: House) -> None:
    person, done = visitor(house), house.completed()
    assert person.send(f"/exports/{done.id}/links", days="0").status_code == 422
    made = person.send(f"/exports/{done.id}/links", days="3")
    link = re.search(r'value="(/d/[^"]+)"', made.text)
    revoke = re.search(r'action="(/links/[^"]+/revoke)"', made.text)
    assert made.status_code == 201
    assert link
    assert revoke
    assert link[1] not in person.see(f"/exports/{done.id}").text
    assert house.client().get(link[1]).status_code == 200
    assert person.send(revoke[1]).status_code == 303
    assert house.client().get(link[1]).status_code == 410


def test_schedules_are_added_changed_rested_and_removed(house: House) -> None:
    person, store = visitor(house), ScheduleStore(house.exporter.database)
    before = {schedule.id for schedule in store.all()}
    typed = {"cron": "30 3 * * *", "time_zone": "Europe/Berlin", "full_every": "7", "daily": "14", "format": "jsonl"}
    assert person.send("/schedules", **typed).headers["location"] == "/backups?said=schedule-added"
    (schedule,) = [schedule for schedule in store.all() if schedule.id not in before]
    assert (schedule.app_id, schedule.full_every, schedule.retention.daily) == (APP, 7, 14)
    path = f"/schedules/{schedule.id}"
    assert 'value="30 3 * * *"' in person.see(path).text
    assert person.send(path, **typed | {"cron": "0 4 * * *", "daily": ""}).status_code == 303
    assert (store.get(schedule.id).cron, store.get(schedule.id).retention.daily) == ("0 4 * * *", 0)
    assert person.send(f"{path}/disable").status_code == 303
    assert not store.get(schedule.id).enabled
    assert person.send(f"{path}/enable").status_code == 303
    assert store.get(schedule.id).enabled
    wrong = person.send(path, **typed | {"cron": "never", "daily": "14"})
    assert wrong.status_code == 422
    assert 'value="never"' in wrong.text
    assert person.send(path, **typed | {"daily": "many"}).status_code == 422
    assert person.send(f"{path}/remove").status_code == 303
    assert schedule.id not in {left.id for left in store.all()}


def test_changing_a_schedule_keeps_all_who_can_read_its_backups(house: House) -> None:
    keys = sorted(str(new_identity().recipient) for _ in range(2))
    person, store = visitor(house), ScheduleStore(house.exporter.database)
    options = {"recipients": keys, "part_bytes": 50_000_000}
    schedule = store.create(NewSchedule(APP, "30 3 * * *", options=options), "cli")
    page = person.see(f"/schedules/{schedule.id}").text
    typed = re.search(r"<textarea[^>]*>([^<]*)</textarea>", page)
    assert typed
    assert person.send(f"/schedules/{schedule.id}", cron="0 4 * * *", recipients=typed[1]).status_code == 303
    assert {name: store.get(schedule.id).options[name] for name in options} == options


def test_one_backup_at_a_time(house: House) -> None:
    person = visitor(house, "maintainer", OTHER_APP)
    assert person.send("/backups", format="bson").headers["location"] == "/backups?said=backup"
    again = person.send("/backups", format="bson")
    assert again.status_code == 409
    assert "a backup of this app is pending or running" in again.text
    assert "Waiting" in again.text


def test_a_form_that_is_too_large_or_broken_is_refused_as_a_page(house: House) -> None:
    person = visitor(house)
    sent = {"Origin": house.url, "Content-Type": "multipart/form-data"}
    broken = person.client.post("/new", content=b"nonsense", headers=sent)
    assert (broken.status_code, broken.headers["content-type"]) == (400, "text/html; charset=utf-8")
    large = person.send("/new", uids="x" * (2 << 20))
    assert large.status_code == 413


def test_a_chart_shows_every_day_that_counts() -> None:
    days = [(datetime(2026, 1, day, tzinfo=UTC).date(), count) for day, count in ((1, 0), (2, 1), (3, 10_000))]
    bars = chart("calls", "Calls", days, str).bars
    assert [bar.height for bar in bars] == [0, 1, HEIGHT]
    assert [bar.y + bar.height for bar in bars] == [HEIGHT] * 3
    assert chart("calls", "Calls", [], str).total == "0"


def test_sizes_and_waits_in_words() -> None:
    assert [size(count) for count in (0, 999, 1000, 999_949, 999_950, 10**15)] == [
        "0 bytes", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "1000.0 TB",
    ]  # fmt: skip
    assert [about(seconds) for seconds in (0, 60, 119, 5399, 5400)] == [
        "less than a minute", "about 1 minute", "about 2 minutes", "about 90 minutes", "about 2 hours",
    ]  # fmt: skip
