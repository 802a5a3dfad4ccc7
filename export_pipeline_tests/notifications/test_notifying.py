"""The sensor that tells those who wait: ticks on an instance of Dagster's, through all definitions."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from export_pipeline.definitions import build_defs
from export_pipeline.exporter import Exporter
from export_pipeline.notifications.outbox import NotificationStore
from export_pipeline.notifications.sending import Notifier
from export_pipeline.orchestration.resources import resources
from export_pipeline.requests.models import Request
from export_pipeline.settings import Settings
from export_pipeline_tests.notifications.conftest import ADDRESS
from export_pipeline_tests.notifications.mail_server import PostOffice
from export_pipeline_tests.notifications.receiver import Receiver


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(settings: Settings, instance: dg.DagsterInstance) -> Any:
    """Evaluate the sensor that the definitions hold, with the resources that they give it."""
    sensor = build_defs(settings).resolve_sensor_def("due_notifications")
    with dg.build_sensor_context(instance=instance, resources=dict(resources(settings))) as context:
        return sensor.evaluate_tick(context)


def test_a_tick_sends_what_is_due_and_the_next_one_nothing(
    office: PostOffice,
    receiver: Receiver,
    settings: Settings,
    completed: Request,
    instance: dg.DagsterInstance,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with Exporter(settings) as exporter, office.open(), receiver.open():
        notifier = Notifier.of(exporter)
        notifier.tell(completed.id, "mail", ADDRESS)
        notifier.tell(completed.id, "webhook", f"http://127.0.0.1:{receiver.port}/hush")
        ticks = [tick(settings, instance) for _ in range(2)]
    assert [ticked.skip_message for ticked in ticks] == ["2 sent", "nothing is due"]
    assert office.recipients == [ADDRESS]
    assert len(receiver.bodies) == 1
    assert "hush" not in caplog.text
    assert instance.get_runs() == []


def test_a_tick_fails_while_the_settings_keep_mail_from_being_sent_and_then_it_is_sent(
    office: PostOffice, settings: Settings, completed: Request, instance: dg.DagsterInstance
) -> None:
    with Exporter(settings) as exporter:
        Notifier.of(exporter).tell(completed.id, "mail", ADDRESS)
        broken = settings.model_copy(update={"mail_templates": Path("nowhere")})
        with pytest.raises(dg.Failure) as raised:
            tick(broken, instance)
        said = str(raised.value.description)
        assert "EXPORT_PIPELINE_MAIL_TEMPLATES" in said
        assert ADDRESS not in said
        (waiting,) = NotificationStore(exporter.database).of_request(completed.id)
        assert (waiting.status, waiting.attempts) == ("waiting", 0)
        with office.open():
            assert tick(settings, instance).skip_message == "1 sent"
