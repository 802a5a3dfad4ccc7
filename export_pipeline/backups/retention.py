"""Which backups of a schedule have served, and whether the next one can build on the last. No I/O.

A backup is good while it is completed and all that it builds on is: only a good one can be restored.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import LIVE, Status

_MOST = 36_500


class Retention(BaseModel):
    """What is kept: all that any of the rules keeps. Without a rule, everything.

    ``daily`` keeps the newest backup of each of so many days that have one, so downtime costs none; the others alike.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    last: int = Field(0, ge=0, le=_MOST)
    """So many of the newest."""
    days: int = Field(0, ge=0, le=_MOST)
    """All that are not older than so many days."""
    daily: int = Field(0, ge=0, le=_MOST)
    weekly: int = Field(0, ge=0, le=_MOST)
    """Of weeks that begin on Monday."""
    monthly: int = Field(0, ge=0, le=_MOST)
    yearly: int = Field(0, ge=0, le=_MOST)

    @property
    def has_rules(self) -> bool:
        """Whether anything may ever be removed."""
        return any(self.model_dump().values())


@dataclass(frozen=True, slots=True)
class Backup:
    """What is to be known of a backup."""

    id: str
    made_at: datetime
    """When it was asked for; with a time zone."""
    status: Status
    base: str | None = None
    """The id of the backup that an incremental one builds on; None: it is a full one."""


def parse_retention(given: Mapping[str, Any]) -> Retention:
    """Return a retention. Raises BadInputError that names the rule and what it takes."""
    try:
        return Retention.model_validate(dict(given))
    except ValidationError as error:
        rules = sorted({str(item["loc"][0]) for item in error.errors()})
    unknown = [rule for rule in rules if rule not in Retention.model_fields]
    if unknown:
        raise BadInputError(f"retention: an unknown rule; known are {', '.join(Retention.model_fields)}")
    raise BadInputError(f"retention: {', '.join(rules)}: expected a whole number from 0 (no such rule) to {_MOST}")


def to_remove(
    backups: Sequence[Backup],
    retention: Retention,
    zone: ZoneInfo,
    now: datetime,
    *,
    needed: Collection[str] = (),
) -> list[Backup]:
    """Return those of a schedule's backups that have served, such that none comes before what builds on it.

    Days, weeks, months and years are those of ``zone``. Never among them: the newest good one; one that is kept, or
    pending, or running, needs to build on; the ``needed`` ones, which others build on; one that is not completed.
    Where there is no good one, nothing is removed.
    """
    by_id = {backup.id: backup for backup in backups}
    good = sorted((backup for backup in backups if is_good(backup, by_id)), key=_age_order, reverse=True)
    if not good or not retention.has_rules:
        return []
    live = [backup for backup in backups if backup.status in LIVE]
    wanted = {good[0].id, *_kept(good, retention, zone, now), *(backup.id for backup in live), *needed}
    kept = {each.id for backup_id in wanted if backup_id in by_id for each in chain(by_id[backup_id], by_id)}
    served = [backup for backup in backups if backup.status == "completed" and backup.id not in kept]
    return sorted(served, key=lambda backup: len(chain(backup, by_id)), reverse=True)


def base_of_next(backups: Sequence[Backup], full_every: int) -> Backup | None:
    """Return the backup that the next one builds on: the newest completed one; None where a full one is due.

    That is so where every ``full_every``-th is full and it is its turn, or where the newest cannot be built on.
    """
    by_id = {backup.id: backup for backup in backups}
    newest = max((backup for backup in backups if backup.status == "completed"), key=_age_order, default=None)
    if newest is None or not is_good(newest, by_id) or len(chain(newest, by_id)) >= full_every:
        return None
    return newest


def is_good(backup: Backup, by_id: Mapping[str, Backup]) -> bool:
    """Tell whether a backup, and all that it builds on, is completed."""
    links = chain(backup, by_id)
    return links[-1].base is None and all(link.status == "completed" for link in links)


def chain(backup: Backup, by_id: Mapping[str, Backup]) -> list[Backup]:
    """Return the backup and what it builds on, the oldest last: a full one, or the last one that is known of."""
    links = [backup]
    while (base := by_id.get(links[-1].base or "")) is not None and base not in links:
        links.append(base)
    return links


def _kept(good: Sequence[Backup], retention: Retention, zone: ZoneInfo, now: datetime) -> Iterable[str]:
    """Yield the ids that the rules keep of good backups, the newest first."""
    oldest = now - timedelta(days=retention.days)
    yield from (backup.id for backup in good[: retention.last])
    yield from (backup.id for backup in good if retention.days and backup.made_at >= oldest)
    periods: Sequence[tuple[int, Callable[[datetime], object]]] = (
        (retention.daily, datetime.date),
        (retention.weekly, lambda local: local.isocalendar()[:2]),
        (retention.monthly, lambda local: (local.year, local.month)),
        (retention.yearly, lambda local: local.year),
    )
    for count, period in periods:
        newest_of: dict[object, str] = {}
        for backup in good:
            newest_of.setdefault(period(backup.made_at.astimezone(zone)), backup.id)
        yield from list(newest_of.values())[:count]


def _age_order(backup: Backup) -> tuple[datetime, str]:
    return backup.made_at, backup.id
