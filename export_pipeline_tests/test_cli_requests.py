"""The commands that follow and change a request after it was made."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from export_pipeline.cli import main
from export_pipeline.exporter import Exporter
from export_pipeline.notifications.outbox import NotificationStore
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.progress import READING, Tally
from export_pipeline.settings import Settings


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command line on the test's installation."""
    monkeypatch.setenv("DAGSTER_HOME", str(settings.home))
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_URI", settings.mongo_uri.get_secret_value())

    def invoke(*arguments: str, exit_code: int = 0, answer: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, input=answer)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


@pytest.fixture
def pending(exporter: Exporter) -> Request:
    """A request that waits."""
    return exporter.submit(NewRequest("app", ["secret-uid"]))


def fail(exporter: Exporter, request: Request, code: str = "incomplete") -> str:
    exporter.requests.claim(batch := Batch(new_id(), (request.id,)))
    exporter.requests.fail(request.id, batch.id, code=code, message="the reason")
    return batch.id


def test_cancel_ends_a_request_once(run: Any, exporter: Exporter, pending: Request) -> None:
    assert run("cancel", pending.id).stdout == f"{pending.id}: cancelled\n"
    assert exporter.requests.get(pending.id).status == "cancelled"
    assert exporter.requests.events(pending.id)[-1]["actor"].startswith("cli")
    assert "is cancelled; only a live one" in run("cancel", pending.id, exit_code=1).stderr


def test_retry_takes_a_failed_request(run: Any, exporter: Exporter, pending: Request) -> None:
    assert "is not 'failed'" in run("retry", pending.id, exit_code=1).stderr
    fail(exporter, pending)
    assert run("retry", pending.id).stdout == f"{pending.id}: pending\n"
    assert exporter.requests.get(pending.id).status == "pending"


def test_extend_moves_the_due_date(run: Any, exporter: Exporter, pending: Request) -> None:
    until = (datetime.now(UTC) + timedelta(days=60)).replace(hour=0, minute=0, second=0, microsecond=0)
    run("extend", pending.id, "--until", f"{until:%Y-%m-%d}", "--reason", "many requests")
    assert exporter.requests.get(pending.id).due_at == until
    assert "many requests" in run("status", pending.id).stdout
    too_late = until + timedelta(days=60)
    refused = run("extend", pending.id, "--until", f"{too_late:%Y-%m-%d}", "--reason", "more", exit_code=2)
    assert "until: expected" in refused.stderr
    run("extend", pending.id, "--until", f"{until:%Y-%m-%d}", exit_code=2)
    run("extend", pending.id, "--until", "tomorrow", "--reason", "more", exit_code=2)


@pytest.mark.parametrize("command", [["cancel"], ["retry"], ["extend", "--until", "2030-01-01", "--reason", "r"]])
def test_an_unknown_export_id_is_bad_usage(run: Any, command: list[str]) -> None:
    for unknown in ("nosuchid", "\ud800"):
        assert "no request has this Export ID" in run(*command, unknown, exit_code=2).stderr


def test_forget_asks_first(run: Any, exporter: Exporter, pending: Request) -> None:
    run("forget", "--app", "app", "--uid", "secret-uid", exit_code=1, answer="n\n")
    assert exporter.requests.get(pending.id).status == "pending"
    result = run("forget", "--app", "app", "--uid", "secret-uid", answer="y\n")
    assert "1 requests forgotten" in result.stdout
    assert "secret-uid" not in result.output
    assert exporter.requests.get(pending.id).selection == {"forgotten": 1}
    assert "0 requests" in run("forget", "--app", "other", "--yes").stdout


def test_status_tells_what_is_to_come(run: Any, exporter: Exporter, pending: Request) -> None:
    assert f"due {pending.due_at:%Y-%m-%d %H:%M} UTC" in run("status", pending.id).stdout
    fail(exporter, pending, "mongo_unreachable")
    waiting = run("status", pending.id).stdout
    assert "tried again from" in waiting
    assert "mongo_unreachable: the reason" in waiting
    exporter.requests.claim(batch := Batch(new_id(), (pending.id,)))
    tally = Tally(READING, {"users": 1, "crashes": 3000})
    tally._since = datetime.now(UTC) - timedelta(seconds=10)
    tally.add("crashes", 1500)
    exporter.requests.batch_progress(batch.id, tally.stored())
    shown = run("status", pending.id).stdout
    assert "reading; about 0:00:30 left" in shown
    assert "1,500" in shown
    assert "3,000" in shown
    as_json = json.loads(run("status", pending.id, "--json").stdout)
    assert as_json["progress"]["collections"]["crashes"] == [3000, 1500, 0]
    assert "secret-uid" not in json.dumps(as_json)


def test_a_request_sent_again_is_the_same_request(run: Any) -> None:
    ask = ("request", "--app", "app", "--uid", "u")
    first = run(*ask).stdout
    assert run(*ask).stdout == first
    keyed = run(*ask, "--format", "jsonl", "--idempotency-key", "order-7", "--keep", "1").stdout
    assert keyed != first
    conflict = run(*ask, "--format", "csv", "--idempotency-key", "order-7", exit_code=2)
    assert "idempotency key belongs to request" in conflict.stderr
    run(*ask, "--keep", "0", exit_code=2)
    assert "retention" in run(*ask, "--keep", "1e9", exit_code=2).stderr


def test_who_asks_is_told_by_mail(run: Any, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ("request", "--app", "app", "--uid", "u", "--mail")
    assert "EXPORT_PIPELINE_SMTP_HOST" in run(*ask, "ann@example.org", exit_code=2).stderr
    monkeypatch.setenv("EXPORT_PIPELINE_SMTP_HOST", "mail.example.org")
    monkeypatch.setenv("EXPORT_PIPELINE_MAIL_FROM", "exports@example.org")
    run(*ask, "nobody", exit_code=2)
    assert exporter.requests.latest() == [], "nothing is asked for where nobody could be told"
    export_id = run(*ask, "ann@example.org").stdout.strip()
    (told,) = NotificationStore(exporter.database).of_request(export_id)
    assert (told.channel, told.status) == ("mail", "waiting")


@pytest.mark.parametrize("command", ["cancel", "retry", "extend", "forget"])
def test_every_command_explains_itself(run: Any, command: str) -> None:
    assert "Usage:" in run(command, "--help").stdout
