"""The demo's two apps and the people who use them.

Who there is, under which uids, and how many documents each one has. What those documents look like belongs in
``shapes``.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice
from random import Random
from typing import Final
from uuid import UUID

from export_pipeline.demo.text import LOCALES, Locale
from export_pipeline.examples import EXAMPLE_APP_ID, EXAMPLE_UID

DEMO_APP_ID: Final = EXAMPLE_APP_ID
DEMO_SECOND_APP_ID: Final = "652f1b0a9c3b4d0012ab34d8"

DEMO_UID: Final = EXAMPLE_UID
"""A person with a few documents in every collection; they are the same whatever the size of the demo."""
DEMO_HEAVIEST_UID: Final = "2f7"
DEMO_MERGED_UID: Final = "1a5"
DEMO_EMPTY_UID: Final = "9zz"
"""A uid of which no collection knows anything."""

REFERENCE_TIME: Final = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
"""The demo's now, in Unix seconds: nothing that anybody did is later."""

SMALL_DOCUMENTS: Final = 240
"""How many documents DEMO_UID has in an app, at any scale."""

_MERGED_POSITION: Final = 4
_DAY: Final = 86_400

_PLATFORMS: Final = (
    ("Android", "Pixel 8", "14", "1080x2400"),
    ("Android", "Galaxy S23", "13", "1080x2340"),
    ("iOS", "iPhone14,5", "17.4", "1170x2532"),
    ("iOS", "iPad13,1", "16.7.8", "1640x2360"),
    ("Web", "Chrome", "126", "1920x1080"),
    ("Windows Phone", "Lumia 950", "10.0", "1440x2560"),
)


@dataclass(frozen=True, slots=True)
class App:
    """A tenant, and how many documents its people leave behind at scale 1.

    The busiest have ``heavy``; of the others the n-th has ``tail / (n + 3)``.
    """

    app_id: str
    name: str
    timezone: str
    country: str
    views: tuple[str, ...]
    goods: tuple[str, ...]
    audience: float  # of all users of the demo
    heavy: tuple[int, ...]
    tail: int

    @property
    def key(self) -> str:
        """The key with which the app's SDK signs its requests."""
        return hashlib.sha1(self.app_id.encode(), usedforsecurity=False).hexdigest()


APPS: Final = (
    App(
        app_id=DEMO_APP_ID,
        name="Lantern Shop",
        timezone="Europe/London",
        country="GB",
        views=("Home", "Product", "Cart", "Checkout", "Orders", "Settings", "Help / Контакты"),
        goods=("Rain jacket", "Hiking boots", "Lantern, 400 lm", 'Tent "Duo"', "Wool socks", "Thermos 0.75 l"),
        audience=1.0,
        heavy=(50_000, 20_000, 10_000),
        tail=17_000,
    ),
    App(
        app_id=DEMO_SECOND_APP_ID,
        name="Tram Times 電車",
        timezone="Asia/Tokyo",
        country="JP",
        views=("Map", "Stops", "Route", "Tickets", "Alerts", "Profile"),
        goods=("Single ticket", "Day pass", "Month pass", "Bicycle supplement"),
        audience=2 / 3,
        heavy=(),
        tail=10_500,
    ),
)


@dataclass(frozen=True, slots=True)
class Person:
    """A user of an app, before any document has been written about them."""

    app: App
    uid: str
    old_uids: tuple[str, ...]  # uids merged into this one; documents of that time still carry them
    documents: int  # in all collections together
    everywhere: bool  # has something in every collection
    specimens: bool  # has one of every specimen
    locale: Locale
    name: str
    email: str
    city: str
    devices: tuple[str, ...]
    platform: tuple[str, str, str, str]
    first_seen: int
    last_seen: int

    @property
    def identities(self) -> tuple[str, ...]:
        """All uids of this person, the present one last."""
        return (*self.old_uids, self.uid)

    @property
    def device(self) -> str:
        """The device seen last."""
        return self.devices[-1]


def random_for(*parts: object) -> Random:
    """Return a source of randomness that depends on nothing but the parts, on any machine."""
    return Random(":".join(map(str, parts)))  # noqa: S311  (a demo, not a secret)


def people_of(app: App, users: int, scale: float, seed: int) -> list[Person]:
    """Return the people of one app; a person's uid and habits do not depend on how many others there are."""
    free_uids = _free_uids()
    people = []
    for position in range(round(users * app.audience)):
        random = random_for(seed, app.app_id, "person", position)
        uid = {0: DEMO_UID, 1: DEMO_HEAVIEST_UID}.get(position) or next(free_uids)
        people.append(
            make_person(
                app,
                uid,
                random,
                old_uids=tuple(islice(free_uids, _merges(position))),
                documents=_documents(app, position, scale),
                everywhere=position <= _MERGED_POSITION,
                specimens=position in {0, 1, _MERGED_POSITION} or position % 25 == 0,
            )
        )
    return people


def make_person(
    app: App,
    uid: str,
    random: Random,
    *,
    old_uids: tuple[str, ...] = (),
    documents: int = 0,
    everywhere: bool = False,
    specimens: bool = False,
) -> Person:
    """Invent a person of whom the uids and the number of documents are given."""
    locale = random.choice(LOCALES)
    joined = random.randint(REFERENCE_TIME - 700 * _DAY, REFERENCE_TIME - 30 * _DAY)
    return Person(
        app=app,
        uid=uid,
        old_uids=old_uids,
        documents=documents,
        everywhere=everywhere,
        specimens=specimens,
        locale=locale,
        name=locale.full_name(random.choice(locale.given), random.choice(locale.family)),
        email=f"{uid}@example.org",
        city=random.choice(locale.cities),
        devices=tuple(str(UUID(int=random.getrandbits(128))) for _ in range(len(old_uids) + 1)),
        platform=random.choice(_PLATFORMS),
        first_seen=joined,
        last_seen=random.randint(joined + 20 * _DAY, REFERENCE_TIME),
    )


def _documents(app: App, position: int, scale: float) -> int:
    if position == 0:
        return SMALL_DOCUMENTS
    busiest = len(app.heavy)
    at_scale_1 = app.heavy[position - 1] if position <= busiest else app.tail / (position - busiest + 3)
    return max(1, round(at_scale_1 * scale))


def _merges(position: int) -> int:
    if position == _MERGED_POSITION:
        return 2
    return 1 + position % 3 if position % 11 == 10 else 0


def _free_uids() -> Iterator[str]:
    """Yield uids in the order in which Countly hands them out, without those that have a meaning here."""
    for number in count(int(DEMO_UID, 36) + 1):
        uid = _base36(number)
        if uid not in {DEMO_HEAVIEST_UID, DEMO_EMPTY_UID}:
            yield uid


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits
