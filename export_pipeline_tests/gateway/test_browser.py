"""The pages in a real browser: the whole story of an export that Dagster makes, without a mouse, a script, or colours.

``SCREENSHOTS=folder`` keeps pictures of every page, light, dark and on a phone, to be looked at.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from export_pipeline.access.audit import Recorder
from export_pipeline.access.usage import CALLS, DOWNLOADED_BYTES, DOWNLOADS, EXPORTS_REQUESTED, Counted
from export_pipeline.backups.retention import Retention
from export_pipeline.backups.schedules import NewSchedule, ScheduleStore
from export_pipeline.requests.backups import BackupRequests, NewBackup
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import Request
from export_pipeline.settings import Settings
from export_pipeline_tests.bench.daemon import dagster_daemon
from export_pipeline_tests.browser import HOW_TO_GET_IT
from export_pipeline_tests.gateway.conftest import APP, DATABASE, House, OpenHouse, house_settings, opened

CHROMIUM = Path("/usr/bin/chromium")
AXE = files("axe_core_python").joinpath("axe.min.js").read_text()
EXPORT_SECONDS = 180
PHONE = ViewportSize(width=360, height=740)
DESKTOP = ViewportSize(width=1280, height=900)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(HOW_TO_GET_IT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Browser, house: House, **options: Any) -> Iterator[Page]:
    """Open a tab of somebody new; the console stays without complaint."""
    complaints: list[str] = []
    context: BrowserContext = browser.new_context(base_url=house.url, locale="en-GB", **{"viewport": DESKTOP} | options)
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    # A browser complains of every answer that is an error.
    assert [said for said in complaints if "401 (Unauthorized)" not in said] == []


def log_in(page: Page, token: str) -> None:
    page.goto("/login")
    page.get_by_label("Your token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Exports")


def running(house: House, shares: dict[str, tuple[int, int]]) -> Request:
    """Make a request that a worker is in the middle of."""
    request = house.pending()
    batch = Batch(new_id(), (request.id,))
    house.exporter.requests.claim(batch)
    collections = {name: [expected, done, done * 100] for name, (expected, done) in shares.items()}
    progress = {"phase": "reading", "since": request.requested_at.isoformat(), "collections": collections}
    house.exporter.requests.set_totals(batch.id, {request.id: sum(expected for expected, _ in shares.values())})
    house.exporter.requests.batch_progress(batch.id, progress)
    return house.exporter.requests.get(request.id)


def test_the_whole_story(chromium: Browser, source: str, mongo_uri: str, tmp_path: Path) -> None:
    """Log in, ask, watch Dagster make it, download it, read it, hand a link to the person, who uses it once."""
    settings = house_settings(tmp_path / "home", mongo_uri, poll_after=timedelta(seconds=0.5))
    for_dagster = Settings(
        home=settings.home, mongo_uri=settings.mongo_uri, mongo_database=DATABASE, catalog=settings.catalog
    )
    with (
        opened(settings) as house,
        dagster_daemon(for_dagster),
        visiting(chromium, house, accept_downloads=True) as page,
    ):
        log_in(page, house.token("maintainer"))
        page.get_by_role("link", name="Export…").click()
        page.get_by_label("User IDs").fill("a")
        page.get_by_role("button", name="Estimate").click()
        expect(page.get_by_text("301 documents")).to_be_visible()
        page.get_by_role("button", name="Export", exact=True).click()
        expect(page.get_by_text("The export was asked for.")).to_be_visible()
        expect(page.locator(".badge")).to_have_text(re.compile("Waiting|Running"))

        expect(page.locator(".badge")).to_have_text(re.compile("Ready"), timeout=EXPORT_SECONDS * 1000)
        expect(page.get_by_role("status").last).to_have_text("The export: Ready.")
        expect(page.get_by_text("301 of 301 documents that the server counted")).to_be_visible()
        with page.expect_download() as downloading:
            page.get_by_role("link", name="Download").click()
        downloading.value.save_as(tmp_path / "me.json")
        documents = json.loads((tmp_path / "me.json").read_bytes())
        assert Counter(document["_col"] for document in documents) == {f"app_users{APP}": 1, f"events{APP}": 300}

        page.get_by_label("For one download only").check()
        page.get_by_role("button", name="Make a link").click()
        link = page.get_by_label("Link", exact=True).input_value()
        assert link.startswith(f"{house.url}/d/")
        with visiting(chromium, house, accept_downloads=True) as person:
            with person.expect_download() as fetching:
                person.evaluate("(link) => { location.href = link }", link)
            assert Path(fetching.value.path()).read_bytes() == (tmp_path / "me.json").read_bytes()
            assert person.context.request.get(link).status == 410
        assert house.client().get("/").status_code == 401


def test_an_export_is_cancelled_where_it_is_listed_and_that_is_announced(chromium: Browser, house: House) -> None:
    request, other = house.pending(), house.pending()
    with visiting(chromium, house) as page:
        log_in(page, house.token("maintainer"))
        card = page.locator(f"#export-{request.id}")
        page.on("dialog", lambda dialog: dialog.accept())
        card.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("It is cancelled")).to_be_visible()
        expect(card.locator(".badge")).to_have_text(re.compile("Cancelled"))
        expect(page.locator(f"#export-{other.id} .badge")).to_have_text(re.compile("Waiting"))
    assert house.exporter.requests.get(request.id).status == "cancelled"


def test_a_list_that_changes_leaves_the_focus_and_tells_what_is_new(chromium: Browser, open_house: OpenHouse) -> None:
    house = open_house(poll_after=timedelta(seconds=0.3))
    request = running(house, {"users": (1, 1), "events": (300, 30)})
    with visiting(chromium, house) as page:
        log_in(page, house.token("maintainer"))
        card = page.locator(f"#export-{request.id}")
        card.get_by_role("link").focus()
        assert card.get_by_role("progressbar").get_attribute("value") == "5.1"
        house.pending()
        expect(page.locator(".card")).to_have_count(2)
        assert page.evaluate("document.activeElement.closest('li').id") == f"export-{request.id}"
        card.get_by_role("button", name="Cancel").focus()
        house.exporter.requests.fail(request.id, str(request.batch_id), code="incomplete", message="<b>3</b> of 301")
        expect(page.get_by_role("status").last).to_have_text(f"Export {request.id}: Failed.")
        expect(card.locator(".error")).to_have_text("<b>3</b> of 301")
        assert page.evaluate("document.activeElement.closest('li').id") == f"export-{request.id}"


def test_it_all_works_without_scripts(chromium: Browser, house: House) -> None:
    done = house.completed()
    with visiting(chromium, house, java_script_enabled=False) as page:
        log_in(page, house.token("maintainer"))
        page.get_by_role("link", name="Export…").click()
        page.get_by_label("User IDs").fill("a")
        page.get_by_label("Format").select_option("csv")
        page.get_by_role("button", name="Estimate").click()
        expect(page.get_by_text("301 documents")).to_be_visible()
        assert page.get_by_label("Format").input_value() == "csv"
        page.get_by_role("button", name="Export", exact=True).click()
        expect(page.locator(".badge")).to_have_text(re.compile("Waiting"))
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".badge")).to_have_text(re.compile("Cancelled"))
        page.goto(f"/exports/{done.id}")
        page.get_by_role("button", name="Make a link").click()
        assert page.get_by_label("Link", exact=True).input_value().startswith("/d/")


def test_a_session_that_is_over_asks_for_a_login(chromium: Browser, open_house: OpenHouse) -> None:
    house = open_house(poll_after=timedelta(seconds=0.2))
    with visiting(chromium, house) as page:
        log_in(page, house.token("reporter"))
        page.context.clear_cookies()
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_it_is_all_within_reach_of_the_keyboard(chromium: Browser, house: House) -> None:
    request = house.completed()
    with visiting(chromium, house) as page:
        log_in(page, house.token("owner"))
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        names = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            names.add(page.evaluate("document.activeElement.textContent.trim()"))
        assert {"Export…", "Show", f"Export {request.id}", f"Download export {request.id}"} <= names


@pytest.fixture(scope="module")
def full_house(
    source: str, mongo_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[House, dict[str, str]]]:
    """A house in which every page has something to show; yields also the pages' paths."""
    settings = house_settings(tmp_path_factory.mktemp("full") / "home", mongo_uri, smtp_host="localhost")
    with opened(settings) as house:
        cancelled = house.pending()
        house.exporter.cancel(cancelled.id, "test")
        done, failed = house.completed(), house.failed()
        under_way = running(house, {"users": (1, 1), "events": (300, 90)})
        house.pending()
        BackupRequests.beside(house.exporter.requests).submit(NewBackup(APP, requested_by="test"))
        kept = ScheduleStore(house.exporter.database).create(
            NewSchedule(APP, "30 3 * * *", "Europe/Berlin", retention=Retention(daily=14, weekly=8), full_every=7),
            "test",
        )
        counts: Counter[Counted] = Counter()
        for ago in range(30):
            day = date.today() - timedelta(days=ago)  # noqa: DTZ011
            for what, count in ((EXPORTS_REQUESTED, ago % 7), (DOWNLOADS, ago % 5), (CALLS, 400 - ago * ago % 300)):
                counts[Counted(day, APP, what)] += count
            counts[Counted(day, APP, DOWNLOADED_BYTES)] += (ago % 5) * 61_300_000
        recorder = Recorder(house.exporter.database)
        recorder.record(counts=counts).result()
        recorder.close()
        yield (
            house,
            {
                "login": "/login",
                "exports": "/",
                "running": f"/exports/{under_way.id}",
                "ready": f"/exports/{done.id}",
                "failed": f"/exports/{failed.id}",
                "new": "/new",
                "backups": "/backups",
                "schedule": f"/schedules/{kept.id}",
                "usage": "/usage",
            },
        )


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def audit(page: Page, *rules: str) -> list[str]:
    """Return what axe finds wrong, by all of its rules or by some."""
    page.evaluate(AXE)
    found = page.evaluate("(rules) => axe.run(rules.length ? { runOnly: rules } : {})", list(rules))
    assert found["passes"]
    return [f"{rule['id']}: {[node['html'][:150] for node in rule['nodes']]}" for rule in found["violations"]]


def test_every_page_is_accessible_light_and_dark_and_fits_on_a_phone(
    chromium: Browser, full_house: tuple[House, dict[str, str]]
) -> None:
    house, paths = full_house
    found: dict[str, list[str]] = {}
    with visiting(chromium, house, bypass_csp=True, reduced_motion="reduce") as page:
        for name, path in paths.items():
            page.set_viewport_size(DESKTOP)
            page.emulate_media(color_scheme="light")
            if name == "exports":
                log_in(page, house.token("owner", "*"))
            page.goto(path)
            if name == "ready":
                page.get_by_label("For one download only").check()
                page.get_by_role("button", name="Make a link").click()
                expect(page.get_by_label("Link", exact=True)).to_be_visible()
            if name == "new":
                page.get_by_label("App").fill(APP)
                page.get_by_label("User IDs").fill("a")
                page.get_by_role("button", name="Estimate").click()
                expect(page.get_by_text("301 documents")).to_be_visible()
            page.evaluate("for (const box of document.querySelectorAll('details')) box.open = true")
            picture(page, f"{name}-light")
            found[name] = audit(page)
            page.emulate_media(color_scheme="dark")
            picture(page, f"{name}-dark")
            found[f"{name}, dark"] = audit(page, "color-contrast")
            page.set_viewport_size(PHONE)
            picture(page, f"{name}-phone")
            width = page.evaluate("document.documentElement.scrollWidth")
            found[f"{name}, on a phone"] = [] if width == PHONE["width"] else [f"{width} pixels wide"]
    assert {what: wrong for what, wrong in found.items() if wrong} == {}


def test_the_audit_finds_what_is_not_accessible(chromium: Browser, house: House) -> None:
    with visiting(chromium, house, bypass_csp=True) as page:
        page.goto("/login")
        page.evaluate("document.querySelector('label').remove(); document.querySelector('h1').style.color = '#ddd'")
        assert {said.partition(":")[0] for said in audit(page)} >= {"label", "color-contrast"}
