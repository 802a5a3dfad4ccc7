"""Webhooks to a real receiver: what it gets and can verify, what is sent again, and where none may go."""

import hashlib
import hmac
import json
import logging
import re
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import export_pipeline
from export_pipeline.errors import BadInputError
from export_pipeline.notifications import webhook
from export_pipeline.notifications.outbox import Notification, NotificationStore
from export_pipeline.notifications.sending import Notifier
from export_pipeline.notifications.webhook import DELIVERY, SIGNATURE
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.store import RequestStore
from export_pipeline.settings import Settings
from export_pipeline_tests.notifications.conftest import LINK, SECRET, Clock, fail
from export_pipeline_tests.notifications.mail_server import make_certificate
from export_pipeline_tests.notifications.receiver import Receiver

README = Path(export_pipeline.__file__).parents[1] / "README.md"


def state_of(outbox: NotificationStore, told: Notification) -> Notification:
    (found,) = [one for one in outbox.of_request(told.request_id) if one.id == told.id]
    return found


def url_of(receiver: Receiver, path: str = "/hook?key=hush") -> str:
    return f"http://127.0.0.1:{receiver.port}{path}"


# What arrives


def test_a_program_gets_the_facts_and_can_tell_who_says_so(
    receiver: Receiver, notifier: Notifier, outbox: NotificationStore, completed: Request
) -> None:
    with receiver.open():
        told = notifier.tell(completed.id, "webhook", url_of(receiver))
        assert notifier.drain(10).states == {"sent": 1}
        assert notifier.drain(10).states == {}
    (content,), (headers,) = receiver.bodies, receiver.headers
    assert completed.expires_at is not None
    assert completed.finished_at is not None
    assert json.loads(content) == {
        "event": "export.completed",
        "delivery_id": told.id,
        "export_id": completed.id,
        "app_id": "app",
        "status": "completed",
        "error_code": None,
        "link": LINK,
        "expires_at": completed.expires_at.isoformat(),
        "requested_at": completed.requested_at.isoformat(),
        "finished_at": completed.finished_at.isoformat(),
    }
    assert receiver.targets == ["/hook?key=hush"]
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert headers[DELIVERY] == told.id
    parts = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers[SIGNATURE])
    assert parts is not None
    expected = hmac.new(SECRET.encode(), parts[1].encode() + b"." + content, hashlib.sha256).hexdigest()
    assert parts[2] == expected
    assert abs(int(parts[1]) - time.time()) < 60
    assert state_of(outbox, told).status == "sent"
    assert state_of(outbox, told).address is None


def test_a_failure_is_told_by_its_code(receiver: Receiver, notifier: Notifier, requests: RequestStore) -> None:
    request = requests.submit(NewRequest("app", ["uid-of-maria"]))
    with receiver.open():
        notifier.tell(request.id, "webhook", url_of(receiver))
        fail(requests, request)
        notifier.drain(10)
    (content,) = receiver.bodies
    said = json.loads(content)
    assert (said["event"], said["status"], said["error_code"]) == ("export.failed", "failed", "incomplete")
    assert (said["link"], said["expires_at"]) == (None, None)
    assert b"maria" not in content
    assert b"db.internal" not in content


def test_the_recipe_in_the_readme_knows_a_true_one_from_others() -> None:
    (recipe,) = re.findall(r"<!-- tried: webhook -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    given: dict[str, Any] = {}
    exec(recipe, given)
    verify, at = given["verify"], int(time.time())
    header = webhook.signature(SECRET, b"{}", at)
    assert verify(SECRET, header, b"{}")
    assert not verify(SECRET, header, b"{ }")
    assert not verify(SECRET + "x", header, b"{}")
    assert not verify(SECRET, webhook.signature(SECRET, b"{}", at - 3600), b"{}")
    assert not verify(SECRET, header.replace(f"t={at}", f"t={at + 1}"), b"{}")
    for nonsense in ("", "t=1", "v1=abc", "t=x,v1=y", "t=1,v1=é", ",,,"):
        assert not verify(SECRET, nonsense, b"{}")


def test_over_tls_the_receiver_proves_itself(
    receiver: Receiver,
    notifier: Notifier,
    outbox: NotificationStore,
    completed: Request,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate = make_certificate(tmp_path)
    with receiver.open(certificate):
        told = notifier.tell(completed.id, "webhook", f"https://127.0.0.1:{receiver.port}/")
        assert notifier.drain(10).states == {"waiting": 1}
        assert "certificate is not valid" in (state_of(outbox, told).error or "")
        assert receiver.bodies == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
        clock.ahead = timedelta(minutes=2)
        assert notifier.drain(10).states == {"sent": 1}
    assert receiver.headers[0]["Host"] == f"127.0.0.1:{receiver.port}"


# What is sent again


def test_a_receiver_that_fails_first_gets_it_again_under_the_same_id(
    receiver: Receiver, notifier: Notifier, outbox: NotificationStore, completed: Request, clock: Clock
) -> None:
    receiver.answers.extend([500, 429, "drop", 503])
    with receiver.open():
        told = notifier.tell(completed.id, "webhook", url_of(receiver))
        for minutes, becomes in ((0, "waiting"), (2, "waiting"), (10, "waiting"), (60, "waiting"), (240, "sent")):
            clock.ahead = timedelta(minutes=minutes)
            assert notifier.drain(10).states == {becomes: 1}
        clock.ahead = timedelta(days=2)
        assert notifier.drain(10).states == {}
    assert {headers[DELIVERY] for headers in receiver.headers} == {told.id}
    assert len(receiver.bodies) == 5


def test_one_that_is_not_there_yet_gets_it_once_it_is(
    receiver: Receiver, notifier: Notifier, outbox: NotificationStore, completed: Request, clock: Clock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = notifier.tell(completed.id, "webhook", f"http://127.0.0.1:{port}/")
    assert notifier.drain(10).states == {"waiting": 1}
    assert state_of(outbox, told).error == "the receiver did not answer (ConnectionRefusedError)"


def test_a_name_that_is_not_known_may_be_later(
    notifier: Notifier, outbox: NotificationStore, completed: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    told = notifier.tell(completed.id, "webhook", "https://hush.example/")
    assert notifier.drain(10).states == {"waiting": 1}
    assert state_of(outbox, told).error == "the receiver's name is not known"


def test_an_answer_that_never_ends_is_cut_off(
    receiver: Receiver, notifier: Notifier, completed: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ANSWER_SECONDS", 1.0)
    receiver.answers.append("drip")
    with receiver.open():
        notifier.tell(completed.id, "webhook", url_of(receiver))
        begun = time.monotonic()
        assert notifier.drain(10).states == {"waiting": 1}
        assert time.monotonic() - begun < 8


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 410])
def test_a_refusal_or_redirect_is_the_end(
    status: int,
    receiver: Receiver,
    notifier: Notifier,
    outbox: NotificationStore,
    completed: Request,
    clock: Clock,
) -> None:
    receiver.answers.append(status)
    with receiver.open():
        told = notifier.tell(completed.id, "webhook", url_of(receiver))
        assert notifier.drain(10).states == {"failed": 1}
        clock.ahead = timedelta(days=1)
        assert notifier.drain(10).states == {}
    assert len(receiver.bodies) == 1
    assert state_of(outbox, told).error == f"the receiver answered {status}"


# Where none may go


@pytest.fixture
def public_only(settings: Settings, outbox: NotificationStore) -> Notifier:
    """A notifier as it is by default."""
    return Notifier(settings.model_copy(update={"webhook_private": False}), outbox, lambda _: LINK)


def test_by_default_nothing_on_this_machine_is_reached(
    receiver: Receiver, public_only: Notifier, outbox: NotificationStore, completed: Request
) -> None:
    with receiver.open():
        with pytest.raises(BadInputError, match="only https is allowed"):
            public_only.tell(completed.id, "webhook", url_of(receiver))
        outbox.add(completed.id, "webhook", url_of(receiver))
        assert public_only.drain(10).states == {"failed": 1}
    assert receiver.bodies == []


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "169.254.169.254"])
def test_a_public_name_that_stands_for_a_private_address_leads_nowhere(
    ip: str,
    public_only: Notifier,
    outbox: NotificationStore,
    completed: Request,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it was connected to"))
    told = public_only.tell(completed.id, "webhook", "https://hush.example/")
    assert public_only.drain(10).states == {"failed": 1}
    assert "does not stand for an address that webhooks may go to" in (state_of(outbox, told).error or "")


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    receiver: Receiver, public_only: Notifier, completed: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name's second answer may be another one than the first (DNS rebinding)."""
    answers = [("93.184.215.14", 443), ("127.0.0.1", 443)]
    asked: list[Any] = []
    connected: list[Any] = []

    def look_up(*args: Any, **_: Any) -> Any:
        asked.append(args)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", answers.pop(0))]

    def connect(address: Any, *_: Any) -> Any:
        connected.append(address)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    public_only.tell(completed.id, "webhook", "https://rebound.example/")
    assert public_only.drain(10).states == {"waiting": 1}
    assert connected == [("93.184.215.14", 443)]
    assert len(asked) == 1


def test_of_a_name_s_addresses_the_first_that_answers_is_taken(
    receiver: Receiver, notifier: Notifier, completed: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **more: Any) -> Any:
        if host != "receiver.internal":
            return real(host, port, *args, **more)
        nobody_listens, receives = "127.0.0.2", "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in (nobody_listens, receives)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with receiver.open():
        notifier.tell(completed.id, "webhook", f"http://receiver.internal:{receiver.port}/")
        assert notifier.drain(10).states == {"sent": 1}
    assert receiver.headers[0]["Host"] == f"receiver.internal:{receiver.port}"


# Before anybody may wait, and what is told


def test_without_a_secret_there_are_no_webhooks(
    settings: Settings, outbox: NotificationStore, completed: Request
) -> None:
    notifier = Notifier(settings.model_copy(update={"webhook_secret": None}), outbox, lambda _: LINK)
    with pytest.raises(BadInputError, match="EXPORT_PIPELINE_WEBHOOK_SECRET"):
        notifier.tell(completed.id, "webhook", "https://hush.example/")
    assert outbox.of_request(completed.id) == []


def test_no_url_gets_into_logs_errors_or_the_history(
    receiver: Receiver,
    notifier: Notifier,
    requests: RequestStore,
    outbox: NotificationStore,
    completed: Request,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers.extend([500, 400, "drop"])
    with receiver.open():
        for number in range(3):
            notifier.tell(completed.id, "webhook", url_of(receiver, f"/hook?key=hush{number}"))
        assert notifier.drain(10).states == {"waiting": 2, "failed": 1}
    said = [caplog.text, str(requests.events(completed.id)), str(outbox.of_request(completed.id))]
    for text in said:
        assert "hush" not in text
        assert str(receiver.port) not in text


def test_the_body_and_signature_are_as_documented() -> None:
    at = datetime(2026, 1, 31, tzinfo=UTC)
    assert webhook.signature("k" * 32, b'{"a":1}', int(at.timestamp())) == (
        "t=1769817600,v1=" + hmac.new(b"k" * 32, b'1769817600.{"a":1}', hashlib.sha256).hexdigest()
    )
