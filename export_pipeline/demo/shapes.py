"""What the documents of each plugin look like, modelled on Countly's.

Each plugin has a generator that turns moments of a person's life (under which uid, when in Unix milliseconds)
into documents, one each. Who has how many belongs in ``data``, what is rare in BSON in ``specimens``, and what
is about more or less than one person in ``bystanders``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from random import Random
from typing import Any, Final, Literal

import bson
from bson import Binary, Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument

from export_pipeline.demo.people import Person, random_for
from export_pipeline.demo.specimens import SPECIMENS, join
from export_pipeline.demo.text import HARD_TEXTS

Document = dict[str, Any] | RawBSONDocument
Moments = Iterable[tuple[str, int]]
Shape = Callable[[Person, Moments, Random], Iterator[Document]]

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  (BSON's dates are UTC, and naive ones encode faster)
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One collection per app that holds documents about people."""

    name: str
    user_key: str
    shape: Shape
    share: float  # of a person's documents; with `one_for`, of the people
    one_for: Literal["person", "uid"] | None = None
    indexed: bool = True
    drill: bool = False  # lies in the drill database and takes the rest of a person's documents

    def collection(self, app_id: str) -> str:
        """Name the collection of an app."""
        return f"{self.name}{app_id}"


def _date(at: int) -> datetime:
    return _EPOCH + at * _MILLISECOND


def _object_id(at: int, random: Random) -> ObjectId:
    return ObjectId(f"{at // 1000:08x}{random.getrandbits(64):016x}")


def _hash(random: Random) -> str:
    return f"{random.getrandbits(160):040x}"


def _mixed_id(uid: str, at: int, random: Random) -> Any:
    """Return an ``_id`` of one of the types that years of SDKs have left behind."""
    match random.getrandbits(3):
        case 0 | 1 | 2:
            return _object_id(at, random)
        case 3 | 4:
            return f"{uid}_{at}_{random.getrandbits(32):08x}"
        case 5:
            return Int64(random.getrandbits(53))
        case 6:
            return {"uid": uid, "at": at, "n": random.getrandbits(30)}
        case _:
            return Binary(random.getrandbits(128).to_bytes(16, "big"), 4)


def _version(at: int) -> str:
    """Return the version of the app at that time, with the colons that Countly puts for dots."""
    month = at // 2_629_800_000
    return f"{month // 12 - 50}:{month % 12}:{at // 604_800_000 % 4}"


def _profile(person: Person, at: int) -> dict[str, Any]:
    platform, model, system, resolution = person.platform
    return {
        "fs": person.first_seen,
        "ls": at // 1000,
        "sc": (at // 1000 - person.first_seen) // 40_000,
        "d": model,
        "p": platform,
        "pv": f"{platform[0].lower()}{system.replace('.', ':')}",
        "r": resolution,
        "av": _version(at),
        "la": person.locale.language,
        "cc": person.locale.country,
        "cty": person.city,
        "hour": at // 3_600_000 % 24,
        "dow": (at // 86_400_000 + 4) % 7,
    }


def _custom(person: Person) -> dict[str, Any]:
    random = random_for(person.device)  # the same wherever it is told
    return {
        "plan": random.choice(("free", "plus", "family")),
        "newsletter": random.random() < 0.4,
        "favourite": random.choice(person.app.goods),
        "interests": random.sample(("travel", "sport", "музыка", "料理", "كتب"), 2),
    }


def app_users(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield the person's record; of merged people only the present one is left."""
    device_ids = list(person.devices)
    for uid, at in moments:
        yield {
            "_id": _hash(random),
            "uid": uid,
            "did": device_ids if len(device_ids) > 1 else person.device,
            "name": person.name,
            "username": f"user.{uid}",
            "email": person.email,
            "byear": random.randint(1940, 2010),
            "lac": person.last_seen,
            "fac": person.first_seen,
            **_profile(person, at),
            "ls": person.last_seen,
            "tsd": random.randint(60, 400_000),
            "custom": {
                **_custom(person),
                "balance": Decimal128(f"{random.randint(0, 99_999)}E-2"),
                "points": Int64(random.randint(0, 9_999)),
                "note": random.choice(tuple(HARD_TEXTS.values())[:-1]),
            },
            **({"merges": len(person.old_uids), "merged_uid": list(person.old_uids)} if person.old_uids else {}),
            "consent": {"sessions": True, "events": True, "location": random.random() < 0.5},
            "tk": {"ip": True} if person.platform[0] == "iOS" else {},
        }


def metric_changes(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield what changed between two sessions: the app's version, the country."""
    for uid, at in moments:
        change: dict[str, Any] = {"av": {"o": _version(at - 2_629_800_000), "n": _version(at)}}
        if random.random() < 0.2:
            change["cc"] = {"o": person.locale.country, "n": person.app.country}
        yield {"_id": _object_id(at, random), "uid": uid, "ts": at // 1000, "cd": _date(at), **change}


def app_crashes(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield single crash reports, with their stack traces."""
    platform, model, system, _ = person.platform
    for uid, at in moments:
        line = random.randrange(900)
        yield {
            "_id": _hash(random),
            "group": f"{line * 7919:040x}",
            "uid": uid,
            "ts": at // 1000,
            "cd": _date(at),
            "os": platform,
            "os_version": system.replace(".", ":"),
            "device": model,
            "app_version": _version(at),
            "name": "java.lang.NullPointerException" if platform == "Android" else "NSInvalidArgumentException",
            "error": f"at shop.checkout.Basket.total(Basket.kt:{line})\n\tat shop.Main.run(Main.kt:{line % 50})\r\n",
            "nonfatal": line % 3 == 0,
            "ram_current": Int64(random.randrange(6_000)),
            "battery": random.randrange(101) / 100,
            "logs": f"12:00 «{person.locale.searches[0]}»\n12:01 tap\t[pay]\n",
            "custom": {"cart.size": line % 9, "$currency": "EUR"} if line % 11 == 0 else {"cart": line % 9},
        }


def app_crashusers(_person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield how often a kind of crash met a person; newer groups carry a secret that must never leave."""
    for uid, at in moments:
        group_hash = _hash(random)
        secret = {"hash": group_hash, "secret": f"sk-{random.getrandbits(64):016x}", "jira": "CRASH-17"}
        yield {
            "_id": _object_id(at, random),
            "group": secret if random.random() < 0.3 else group_hash,
            "uid": uid,
            "reports": random.randint(1, 40),
            "sessions": random.randint(1, 900),
            "fatal": random.getrandbits(1),
            "lrc": at // 1000,
        }


def feedback(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield comments, in the person's own words."""
    for uid, at in moments:
        yield {
            "_id": _mixed_id(uid, at, random),
            "uid": uid,
            "ts": at // 1000,
            "cd": _date(at),
            "rating": random.randint(1, 5),
            "comment": random.choice(person.locale.comments),
            "email": person.email if random.random() < 0.5 else "",
            "app_version": _version(at),
            "contact_me": random.random() < 0.1,
        }


def ratings(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield stars given to a widget."""
    for uid, at in moments:
        yield {
            "_id": _mixed_id(uid, at, random),
            "uid": uid,
            "widget_id": f"{random.getrandbits(2):024x}",
            "rating": random.choice((1, 2, 3, 4.5, 5, Int64(5))),
            "platform": person.platform[0],
            "ts": at // 1000,
        }


def nps(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield answers to whether one would recommend the app; the time is a date here."""
    for uid, at in moments:
        score = random.randrange(11)
        yield {
            "_id": _object_id(at, random),
            "uid": uid,
            "score": score,
            "followUp": random.choice(person.locale.comments) if score < 7 else None,
            "answered": _date(at),
        }


def consent_history(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield each time that consent was given or taken back."""
    for uid, at in moments:
        given = random.random() < 0.7
        features = random.sample(("sessions", "events", "location", "push", "crashes", "star-rating"), 3)
        yield {
            "_id": _object_id(at, random),
            "uid": uid,
            "device_id": person.device,
            "type": "i" if given else "o",
            "after": dict.fromkeys(features, given),
            "change": {features[0]: given},
            "ts": at,
            "cd": _date(at),
            "av": _version(at),
        }


def event_timeline(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield the last things that happened, for the profile's page."""
    for uid, at in moments:
        yield {
            "_id": f"{uid}:{at}:{random.getrandbits(32):08x}",
            "uid": uid,
            "e": random.choice(("[CLY]_session", "[CLY]_view", "Search", "Purchase")),
            "time": at,
            "v": random.choice(person.app.views),
        }


def event_flows(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield the order of views within a session."""
    for uid, at in moments:
        views = random.choices(person.app.views, k=4)
        yield {
            "_id": _object_id(at, random),
            "uid": uid,
            "ts": at // 1000,
            "flow": [{"v": view, "t": at + 1_000 * step, "d": step * 1.5} for step, view in enumerate(views)],
        }


def cohort_changes(_person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield when somebody entered or left a cohort."""
    for uid, at in moments:
        yield {
            "_id": _object_id(at, random),
            "uid": uid,
            "cohort": random.choice(("Loyal", "Sleeping", "Новички", "重度用户")),
            "in": random.random() < 0.6,
            "ts": at // 1000,
        }


def remote_config_history(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield values handed out to the app; they may be of any type, so the specimens lie here."""
    remaining = iter(moments)
    if person.specimens:
        for (uid, at), (name, elements) in zip(islice(remaining, len(SPECIMENS)), SPECIMENS.items(), strict=False):
            yield join({"_id": _object_id(at, random), "uid": uid, "ts": at // 1000, "parameter": name}, elements)
    for uid, at in remaining:
        yield {
            "_id": _object_id(at, random),
            "uid": uid,
            "ts": at // 1000,
            "parameter": random.choice(("checkout_steps", "banner", "discount")),
            "value": random.choice((1, 2.5, "blue", True, None, {"percent": 10, "until": _date(at)})),
        }


def surveys(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield answered surveys; who answered lies one level down."""
    for uid, at in moments:
        yield {
            "_id": _object_id(at, random),
            "survey": f"{random.getrandbits(3):024x}",
            "respondent": {"uid": uid, "did": person.device, "name": person.name},
            "answers": [
                {"q": "How did you hear of us?", "a": random.choice(("friend", "ad", "other"))},
                {"q": "What should we improve?", "a": random.choice(person.locale.comments)},
            ],
            "ts": at // 1000,
        }


def push(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield push tokens, with the messages sent to them."""
    for uid, at in moments:
        yield {
            "_id": uid,
            "tk": {"ap" if person.platform[0] == "iOS" else "ap_fcm": f"{random.getrandbits(512):0128x}"},
            "msgs": {
                str(_object_id(at + day * 86_400_000, random)): [
                    at + day * 86_400_000 + minute * 60_000 for minute in (0, 7)
                ]
                for day in range(random.randint(0, 6))
            },
        }


def app_userviews(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield when each view was last seen, by its name: keys hold spaces, slashes and any script."""
    for uid, at in moments:
        yield {
            "_id": uid,
            **{
                view: {"ts": at // 1000 + order, "lvid": _hash(random), "sc": random.randint(1, 300)}
                for order, view in enumerate(person.app.views)
            },
        }


def _segments(person: Person, key: str, random: Random) -> list[RawBSONDocument]:
    """Return a handful of details with which events of one kind come, already encoded."""
    app, locale = person.app, person.locale
    details: list[dict[str, Any]] = []
    for _ in range(6):
        thing, cents = random.choice(app.goods), random.randint(199, 29_900)
        match key:
            case "Purchase" | "Add to cart":
                detail = {"item": thing, "price": cents / 100, "currency": "EUR", "count": cents % 4 + 1}
            case "Search":
                detail = {"query": random.choice(locale.searches), "results": cents % 60, "filter": None}
            case "Share":
                detail = {"item": thing, "to": random.choice(("mail", "link", "чат")), "text": locale.comments[-1]}
            case "[CLY]_view":
                detail = {"name": random.choice(app.views), "visit": 1, "start": cents % 2, "scr": cents / 29_900}
            case _:
                detail = {"request_id": _hash(random), "ended": "true", "prev_session": cents % 900}
        details.append(detail)
    return [RawBSONDocument(bson.encode(detail)) for detail in details]


_EVENTS: Final = ("[CLY]_view",) * 7 + ("[CLY]_session",) * 3 + ("Search",) * 3 + ("Add to cart", "Purchase", "Share")


def drill_events(person: Person, moments: Moments, random: Random) -> Iterator[Document]:
    """Yield every event, with what was known of the person at the time: by far the largest collection."""
    # What repeats is encoded once, and one number of 64 bits decides the rest: there are 200,000 of these.
    custom = RawBSONDocument(bson.encode(_custom(person)))
    details = {key: _segments(person, key, random) for key in dict.fromkeys(_EVENTS)}
    profile, profile_until = None, 0
    app_id, device = person.app.app_id, person.device
    for uid, at in moments:
        if profile is None or at >= profile_until:
            profile = RawBSONDocument(bson.encode(_profile(person, at)))
            profile_until = at + 3 * 86_400_000
        bits = random.getrandbits(64)
        key = _EVENTS[bits & 15]
        date = _date(at)
        yield {
            "_id": f"{bits:016x}{random.getrandbits(96):024x}_{uid}_{at}",
            "a": app_id,
            "e": key,
            "uid": uid,
            "did": device,
            "lsid": f"{at // 3_600_000:012x}{bits >> 36:07x}",
            "ts": at,
            "cd": date,
            "m": f"{date.year}:{date.month}",
            "d": f"{date.year}:{date.month}:{date.day}",
            "c": 1,
            "s": (bits >> 4 & 4095) / 100 if key == "Purchase" else 0,
            "dur": bits >> 16 & 255,
            "up": profile,
            "custom": custom,
            "sg": details[key][(bits >> 24) % 6],
        }


PLUGINS: Final[tuple[Plugin, ...]] = (
    Plugin("app_users", "uid", app_users, 0.98, one_for="person"),
    Plugin("metric_changes", "uid", metric_changes, 0.03),
    Plugin("app_crashes", "uid", app_crashes, 0.02),
    Plugin("app_crashusers", "uid", app_crashusers, 0.02),
    Plugin("feedback", "uid", feedback, 0.01, indexed=False),
    Plugin("ratings", "uid", ratings, 0.01),
    Plugin("nps", "uid", nps, 0.003),
    Plugin("consent_history", "uid", consent_history, 0.02),
    Plugin("eventTimeline", "uid", event_timeline, 0.06),
    Plugin("event_flows", "uid", event_flows, 0.02),
    Plugin("cohort_changes", "uid", cohort_changes, 0.015),
    Plugin("remote_config_history", "uid", remote_config_history, 0.02),
    Plugin("surveys", "respondent.uid", surveys, 0.005, indexed=False),
    Plugin("push_", "_id", push, 0.6, one_for="uid"),
    Plugin("app_userviews", "_id", app_userviews, 0.8, one_for="uid"),
    Plugin("drill_events", "uid", drill_events, 0, drill=True),
)
