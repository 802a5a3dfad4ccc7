"""When a schedule's backups are due: five cron fields, read on the clock of a time zone. No I/O.

A schedule that names its hours follows the wall clock: a time that the change to summer time skips is due once, at the
moment after the gap; one that the change back brings twice is due the first time. One of every hour follows the hours
as they pass, so the repeated hour has its backup too.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from export_pipeline.errors import BadInputError

LONGEST_CRON = 100
FIELDS = 5
_ANY_TIME = datetime(2000, 1, 1)  # noqa: DTZ001  # a wall clock's, as all that CronSim is given here
_MINUTE = timedelta(minutes=1)


def check_cron(cron: object) -> None:
    """Raise BadInputError unless ``cron`` has five fields with which a time will ever come."""
    if not isinstance(cron, str) or not 0 < len(cron) <= LONGEST_CRON or len(cron.split()) != FIELDS:
        raise BadInputError(
            "cron: expected five fields: minute, hour, day of the month, month, day of the week; "
            "'30 3 * * *' is every day at half past three"
        )
    try:
        next(CronSim(cron, _ANY_TIME))
    except CronSimError as error:
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise BadInputError(
            f"cron: the {field} is not one; expected *, a number, a range such as 1-5, a list such as 1,15, "
            "or a step such as */10, and a day that the month has"
        ) from None
    except StopIteration:
        raise BadInputError("cron: such a day does not come in fifty years; change the days or the months") from None


def find_zone(name: object) -> ZoneInfo:
    """Return a time zone by its name in the IANA database. Raises BadInputError."""
    try:
        if isinstance(name, str) and name:
            return ZoneInfo(name)
    except (LookupError, OSError, ValueError):  # unknown, a folder of zones, no plain name
        pass
    raise BadInputError("time zone: expected a name of the IANA database, such as Europe/Berlin or UTC")


def newest_tick(cron: str, zone: ZoneInfo, now: datetime) -> datetime | None:
    """Return the newest tick up to ``now``, itself included, in UTC; None where there was none for fifty years."""
    # Where the clock has been turned back, a wall time that is yet to come again may have been already.
    offset = _offset(now.astimezone(zone).replace(fold=0))
    walls = CronSim(cron, _wall(now, offset) + _MINUTE, reverse=True)
    return _nearest(walls, _reader(cron, zone), lambda moment: moment <= now, max)


def next_tick(cron: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Return the first tick after ``after``, in UTC; None where none comes for fifty years."""
    offset = _offset(after.astimezone(zone).replace(fold=1))
    walls = CronSim(cron, _wall(after, offset) - _MINUTE)
    return _nearest(walls, _reader(cron, zone), lambda moment: moment > after, min)


def due_tick(cron: str, zone: ZoneInfo, served_until: datetime, now: datetime) -> datetime | None:
    """Return the tick that is due at ``now``, in UTC: the newest one after ``served_until``, however many those are.

    A clock that was set back has only served ticks behind it, so none is due.
    """
    newest = newest_tick(cron, zone, now)
    return newest if newest is not None and newest > served_until else None


Moments = Callable[[datetime], Sequence[datetime]]


def _nearest(
    walls: Iterable[datetime],
    moments_of: Moments,
    wanted: Callable[[datetime], bool],
    nearest: Callable[[Iterable[datetime]], datetime],
) -> datetime | None:
    """Return the nearest wanted moment of the wall times, which lead away from the moment asked about.

    Both the first and the second moments of wall times are in the order of those. So once all the moments of a wall
    time are wanted ones, no later wall time of the search has a nearer one.
    """
    found: list[datetime] = []
    for wall in walls:
        moments = moments_of(wall)
        hits = [moment for moment in moments if wanted(moment)]
        found += hits
        if hits and len(hits) == len(moments):
            break
    return nearest(found) if found else None


def _reader(cron: str, zone: ZoneInfo) -> Moments:
    """Return the function that gives the moments, in UTC, at which a wall time is a tick: none, one or two."""
    every_hour = CronSim(cron, _ANY_TIME).hours == set(range(24))

    def moments_of(wall: datetime) -> Sequence[datetime]:
        first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        if first.utcoffset() == second.utcoffset():
            return [first.astimezone(UTC)]
        if _offset(first) < _offset(second):  # the clock skips it
            return [] if every_hour else [_after_gap(second)]
        return [moment.astimezone(UTC) for moment in ((first, second) if every_hour else (first,))]

    return moments_of


def _after_gap(skipped: datetime) -> datetime:
    """Return the first moment after the gap that a wall time is in, to the minute, in UTC."""
    # By the offset from before the gap, minutes after its end; by the one from after it, minutes before its start.
    low, high = skipped.astimezone(UTC), skipped.replace(fold=0).astimezone(UTC)
    after = _offset(skipped)
    while high - low > _MINUTE:
        middle = low + (high - low) // 2 // _MINUTE * _MINUTE
        low, high = (low, middle) if _offset(middle.astimezone(skipped.tzinfo)) == after else (middle, high)
    return high


def _wall(moment: datetime, offset: timedelta) -> datetime:
    return (moment.astimezone(UTC) + offset).replace(tzinfo=None, second=0, microsecond=0)


def _offset(local: datetime) -> timedelta:
    offset = local.utcoffset()
    assert offset is not None  # aware
    return offset
