"""A real browser for tests of web pages: Debian's Chromium without a window, driven by Selenium.

What it complains about and what it asks the network for is kept, so that a test can say that there was nothing.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

HOW_TO_GET_IT = "there is no Chromium here: apt-get install chromium chromium-driver"
PATIENCE_SECONDS = 30.0

_LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "devtools:")

# The rules of accessibility that a program can check, in the manner of axe: each returns what breaks it.
_AUDIT = """
const all = (selector) => [...document.querySelectorAll(selector)];
const textOf = (ids) => (ids || "").split(/\\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join("");
const nameOf = (element) =>
  (element.getAttribute("aria-label") || textOf(element.getAttribute("aria-labelledby")) ||
   [...(element.labels || [])].map((label) => label.textContent).join("") || element.textContent).trim();
const broken = [];
const expect = (holds, what, element) => holds || broken.push(`${what}: ${element?.outerHTML.slice(0, 120) ?? ""}`);
expect(document.documentElement.lang, "the page names no language");
expect(document.title.trim(), "the page has no title");
expect(all("h1").length === 1, "not one h1");
expect(all("main").length === 1, "not one main");
let level = 0;
for (const heading of all("h1, h2, h3, h4, h5, h6")) {
  const next = Number(heading.tagName[1]);
  expect(next <= level + 1, "a level of headings is left out", heading);
  expect(heading.textContent.trim(), "a heading is empty", heading);
  level = next;
}
for (const control of all("button, input, select, textarea, a[href], summary, [role=region], [tabindex='0']"))
  expect(nameOf(control), "a control has no name", control);
for (const table of all("table")) {
  expect(table.querySelector("th"), "a table has no headers", table);
  for (const header of table.querySelectorAll("th")) {
    expect(["col", "row"].includes(header.scope), "a header has no scope", header);
    expect(header.textContent.trim(), "a header is empty", header);
  }
}
for (const image of all("img, svg[role=img]")) expect(image.alt || nameOf(image), "an image has no text", image);
for (const element of all("[aria-labelledby], [aria-controls], [aria-describedby]"))
  for (const attribute of ["aria-labelledby", "aria-controls", "aria-describedby"])
    for (const id of (element.getAttribute(attribute) || "").split(/\\s+/).filter(Boolean))
      expect(document.getElementById(id), `${attribute} names nothing`, element);
const ids = all("[id]").map((element) => element.id);
expect(new Set(ids).size === ids.length, "an id comes twice");
return broken;
"""


class Browser:
    """One browser; each page that it opens begins with a clean record."""

    def __init__(self, driver: Chrome, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads

    def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        self.complaints()
        self.requests()
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """Return the first element for a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the text of all elements for a CSS selector that are shown."""
        return [found.text for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def complaints(self) -> list[str]:
        """Return what the console has said since the last look: errors, warnings, refusals of the page's policy."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that were asked of the network since the last look."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        asked = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(_LOCAL)]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the page so many CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.command("Emulation.setDeviceMetricsOverride", metrics)

    def emulate(self, media: str = "", **features: str) -> None:
        """Show the page as on ``media`` (print or screen) and with features such as prefers_color_scheme="dark"."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", {"media": media, "features": named})

    def command(self, name: str, parameters: Mapping[str, Any]) -> Any:
        """Send a command of Chrome's DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, dict(parameters))

    def download(self, button: WebElement) -> Path:
        """Press a button and return the file that it saves."""
        before = set(self.downloads.iterdir())
        button.click()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            new = [
                path for path in set(self.downloads.iterdir()) - before if path.suffix not in (".crdownload", ".tmp")
            ]
            if new and not new[0].name.startswith("."):
                return new[0]
            time.sleep(0.05)
        raise AssertionError("the button saved no file")

    def audit(self) -> list[str]:
        """Return what of the page is not accessible, as far as a program can tell."""
        broken: list[str] = self.run(_AUDIT)
        return broken


@contextmanager
def open_browser(downloads: Path) -> Iterator[Browser]:
    """Start a browser that saves files to ``downloads``; skip the test where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip(HOW_TO_GET_IT)
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    started = Chrome(options=options, service=Service(driver))
    try:
        yield Browser(started, downloads)
    finally:
        started.quit()
