"""A month of schedules under a simulated clock: the right backups exist, the right ones are gone."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from export_pipeline.backups.retention import Retention
from export_pipeline.backups.schedules import NewSchedule, Schedule
from export_pipeline.installation import Installation
from export_pipeline.requests.backups import NewBackup
from export_pipeline.requests.models import Request
from export_pipeline.settings import Settings
from export_pipeline_tests.backups.simulation import Simulation, tick_of

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)

START = datetime(2026, 2, 28, 23, 0, tzinfo=UTC)
DOWN = datetime(2026, 3, 12, 1, 0, tzinfo=UTC)
UP = DOWN + timedelta(days=2, hours=3)
SET_BACK = datetime(2026, 3, 20, 12, tzinfo=UTC)
END = datetime(2026, 3, 31, 22, 0, tzinfo=UTC)
"""Midnight in Berlin, by then on summer time."""

HOURLY = NewSchedule("app", "0 * * * *", "Europe/Berlin", retention=Retention(last=24), full_every=6)
# On 29 March there is no half past two.
DAILY = NewSchedule("shop", "30 2 * * *", "Europe/Berlin", retention=Retention(daily=7, weekly=4))
WEEKLY = NewSchedule("*", "0 4 * * MON", "Europe/Berlin", retention=Retention(last=2), full_every=2)


def moments() -> Iterator[datetime]:
    """Every hour; for two days nobody looks, and once the clock is set back by three hours."""
    now = START
    set_back = False
    while now <= END:
        if not DOWN < now < UP:
            yield now
        if now == SET_BACK and not set_back:
            set_back = True
            now -= 3 * HOUR
        now += HOUR


def test_a_month(tmp_path: Path) -> None:
    def fails(order: NewBackup) -> bool:
        return order.app_id == "shop" and tick_of(order).astimezone(BERLIN).day == 22

    with Installation(Settings(home=tmp_path)) as installation:
        simulation = Simulation(installation, fails)
        hourly, daily, weekly = (simulation.schedules.create(new, "test", START) for new in (HOURLY, DAILY, WEEKLY))
        for now in moments():
            assert not simulation.step(now).problems

        def ticks(schedule: Schedule) -> list[datetime]:
            return [tick_of(order) for order in simulation.orders if order.schedule_id == schedule.id]

        def local_ticks(schedule: Schedule) -> list[str]:
            return [f"{tick.astimezone(BERLIN):%d. %H:%M}" for tick in ticks(schedule)]

        def days_left(schedule: Schedule) -> list[int]:
            return [made_at(request).day for request in simulation.present(schedule)]

        # one each day; 12, 13 and 14 March are one
        usual = [f"{day:02}. 02:30" for day in range(1, 32) if day not in (12, 13, 29)]
        assert sorted(local_ticks(daily)) == sorted([*usual, "29. 03:00"])
        # the newest of each of seven days, and of two weeks before; what was made on Sunday the 22nd failed
        assert days_left(daily) == [15, 21, 25, 26, 27, 28, 29, 30, 31]

        assert local_ticks(weekly) == ["02. 04:00", "09. 04:00", "16. 04:00", "23. 04:00", "30. 04:00"]
        # the last two, and what the former of them builds on
        assert days_left(weekly) == [16, 23, 30]
        first, second, third = simulation.present(weekly)
        assert [each.options.get("base") for each in (first, second, third)] == [None, first.id, None]

        # every hour that passed, each once; of the two days that were missed only the newest
        hours = int((END - START) / HOUR)
        passed = [START + number * HOUR for number in range(1, hours + 1)]
        expected = [tick for tick in passed if not DOWN < tick < UP]
        assert ticks(hourly) == expected
        # the last one is still being made; the 24 before it, and what the oldest of them builds on
        position = (len(expected) - 1 - 24) % 6
        left = [request.requested_at for request in simulation.present(hourly)]
        assert left == expected[-25 - position : -1]

        # and no file of any other backup
        folders = [path.parent.name for path in Path(installation.settings.storage_root).rglob("manifest.json")]
        remaining = [each.id for schedule in (hourly, daily, weekly) for each in simulation.present(schedule)]
        assert sorted(folders) == sorted(remaining)


def made_at(request: Request) -> datetime:
    return request.requested_at.astimezone(BERLIN)
