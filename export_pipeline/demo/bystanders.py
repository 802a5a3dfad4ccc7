"""Documents that are about more or less than one person.

Campaigns, which several people share; strangers, which lie among people's documents and must not be taken for
anybody's; and what the server keeps for itself, which no export may take.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

from bson import ObjectId

from export_pipeline.demo.people import REFERENCE_TIME, App, Person, make_person, random_for
from export_pipeline.demo.shapes import Plugin

DEMO_MARK: Final = {"demo": True}
"""On every document of a collection that is not one app's own, so that a reload knows its own work."""

_NO_KEY: Final = object()
_STRANGE_KEYS: Final = (_NO_KEY, None, "", 7, 1658, True, "1A2", "1a2 ", "1a", "1a22", {"uid": "1a2"}, ["zz", 8])


def campaigns(app: App, people: Sequence[Person], seed: int) -> Iterator[dict[str, Any]]:
    """Yield campaigns with the uids they reached: nobody, a few, everybody, somebody twice."""
    random = random_for(seed, app.app_id, "campaigns")
    uids = [uid for person in people for uid in person.identities]
    merged = next(person for person in people if person.old_uids)
    audiences = [
        [],
        uids,
        [people[0].uid],
        [people[0].uid, people[1].uid, people[0].uid],
        list(merged.identities),
        [*merged.old_uids, people[0].uid],
        *(random.sample(uids, random.randint(2, 15)) for _ in range(24)),
    ]
    for number, audience in enumerate(audiences):
        yield _campaign(number, {"uids": audience}, random)
    yield _campaign(len(audiences), {}, random)
    yield _campaign(len(audiences) + 1, {"uids": None}, random)
    yield _campaign(len(audiences) + 2, {"uids": [7, None, {"uid": "1a2"}, ["1a2"]]}, random)


def _campaign(number: int, audience: dict[str, Any], random: Random) -> dict[str, Any]:
    return {
        "_id": f"campaign-{number}",
        "name": random.choice(("Spring sale", "Черная пятница", "双十一", "عرض الصيف", "Rentrée")),
        "cost": random.randint(0, 90_000) / 100,
        **audience,
        "created": REFERENCE_TIME - random.randint(0, 20_000_000),
    }


def strangers(plugin: Plugin, app: App, seed: int) -> Iterator[dict[str, Any]]:
    """Yield documents under keys that look like somebody's and are not, or under none."""
    random = random_for(seed, app.app_id, plugin.name, "strangers")
    *parents, field = plugin.user_key.split(".")
    for number, key in enumerate(_STRANGE_KEYS):
        if field == "_id" and (key is _NO_KEY or isinstance(key, list)):
            continue  # the server wants an _id, and takes no array for one
        person = make_person(app, f"nobody-{number}", random)
        document = next(plugin.shape(person, [(person.uid, person.last_seen * 1000)], random))
        assert isinstance(document, dict)
        holder = document
        for parent in parents:
            holder = holder[parent]
        if key is _NO_KEY:
            del holder[field]
        else:
            holder[field] = key
        yield document


def app_records(apps: Sequence[App]) -> Iterator[dict[str, Any]]:
    """Yield the registry of apps."""
    for app in apps:
        yield {
            "_id": ObjectId(app.app_id),
            "name": app.name,
            "key": app.key,
            "country": app.country,
            "timezone": app.timezone,
            "type": "mobile",
            "category": "6",
            "created_at": int(app.app_id[:8], 16),
            "seq": REFERENCE_TIME % 10_000,
            **DEMO_MARK,
        }


def members(apps: Sequence[App]) -> Iterator[dict[str, Any]]:
    """Yield those who log in to the dashboard; they are nobody's users."""
    for number, login in enumerate(("ada", "marketing", "support")):
        yield {
            "_id": ObjectId(f"{int(apps[0].app_id[:8], 16):08x}{number:016x}"),
            "full_name": f"{login.title()} (demo)",
            "username": login,
            "email": f"{login}@example.org",
            "global_admin": number == 0,
            "apps": [app.app_id for app in apps],
            **DEMO_MARK,
        }


def event_totals(apps: Sequence[App]) -> Iterator[dict[str, Any]]:
    """Yield counts of events per month, of everybody together."""
    for app in apps:
        for month in range(1, 11):
            yield {
                "_id": f"no-segment_{app.app_id}_2026:{month}_0",
                "m": f"2026:{month}",
                "s": "no-segment",
                "d": {str(day): {"c": day * 31 + month, "s": day / 4, "dur": 0} for day in range(1, 29)},
                **DEMO_MARK,
            }


def system_logs(apps: Sequence[App]) -> Iterator[dict[str, Any]]:
    """Yield what members did, sometimes to a person: the log is the server's, not that person's."""
    for number, (app, uid) in enumerate((app, uid) for app in apps for uid in ("1a2", "2f7", "1a5")):
        yield {
            "_id": ObjectId(f"{REFERENCE_TIME:08x}{number:016x}"),
            "a": "app_user_viewed",
            "i": {"app_id": app.app_id, "uids": [uid]},
            "u": "support@example.org",
            "ts": REFERENCE_TIME - number,
            **DEMO_MARK,
        }


def crash_groups(app: App) -> Iterator[dict[str, Any]]:
    """Yield one app's kinds of crashes."""
    for line in range(0, 900, 45):
        yield {
            "_id": f"{line * 7919:040x}",
            "name": f"NullPointerException in {app.name}",
            "users": line + 1,
            "reports": line * 3 + 1,
            "is_resolved": line % 2 == 0,
        }


def view_totals(app: App) -> Iterator[dict[str, Any]]:
    """Yield how often each of one app's views was seen."""
    for number, view in enumerate(app.views):
        yield {"_id": f"{app.app_id}_{view}_2026:10", "view": view, "t": 100 * number + 7, "d": {"1": {"t": number}}}


COMMON: Final[dict[str, Callable[[Sequence[App]], Iterator[dict[str, Any]]]]] = {
    "members": members,
    "events_data": event_totals,
    "systemlogs": system_logs,
    "apps": app_records,
}
"""The collections that all apps share, and what makes their documents."""
