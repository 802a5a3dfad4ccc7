"""The sensor that serves the schedules: ticks on real tables."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from export_pipeline.backups.removal import backup_folder
from export_pipeline.backups.retention import Retention
from export_pipeline.backups.schedules import NewSchedule, ScheduleStore
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.backup_schedules import backup_schedules
from export_pipeline.settings import Settings
from export_pipeline_tests.backups.simulation import make_request

TWO_HOURS_AGO = datetime.now(UTC) - timedelta(hours=2)


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    with Exporter(Settings(home=tmp_path)) as exporter:
        yield exporter


def tick(exporter: Exporter) -> str | None:
    skipped = backup_schedules(dg.build_sensor_context(), exporter=exporter)
    assert isinstance(skipped, dg.SkipReason)
    return skipped.skip_message


def test_a_tick_asks_for_what_is_due_once(exporter: Exporter) -> None:
    schedule = ScheduleStore(exporter.database).create(NewSchedule("app", "0 * * * *"), "test", TWO_HOURS_AGO)
    assert tick(exporter) == "1 backups are asked for, 0 removed"
    assert tick(exporter) == "nothing is due"
    (backup,) = exporter.requests.latest()
    assert backup.options == {"schedule_id": schedule.id}


def test_a_tick_removes_what_has_served(exporter: Exporter) -> None:
    new = NewSchedule("app", "0 0 1 1 *", retention=Retention(last=1))
    schedule = ScheduleStore(exporter.database).create(new, "test")
    of_schedule = {"schedule_id": schedule.id}
    former = make_request(exporter, options=of_schedule, requested_at=TWO_HOURS_AGO)
    make_request(exporter, options=of_schedule)
    with exporter.storage.create(f"{backup_folder(former)}/manifest.json") as file:
        file.commit()
    assert tick(exporter) == "0 backups are asked for, 1 removed"
    assert not exporter.storage.exists(f"{backup_folder(former)}/manifest.json")
    assert exporter.requests.get(former.id).status == "expired"


def test_a_tick_that_could_not_serve_all_fails_and_says_which(exporter: Exporter, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    new = NewSchedule("app", "0 0 1 1 *", storage=str(tmp_path / "a-file" / "below"), retention=Retention(last=1))
    schedule = ScheduleStore(exporter.database).create(new, "test")
    for at in (TWO_HOURS_AGO, datetime.now(UTC)):
        make_request(exporter, options={"schedule_id": schedule.id, "storage": new.storage}, requested_at=at)
    with pytest.raises(dg.Failure, match=f"schedule {schedule.id} could not be served: storage: .*not a directory"):
        tick(exporter)
