"""Mail through a real server: what arrives, what is sent again, and what never is."""

import logging
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from export_pipeline.errors import BadInputError
from export_pipeline.notifications import smtp
from export_pipeline.notifications.mail_text import MailText
from export_pipeline.notifications.outbox import Notification, NotificationStore
from export_pipeline.notifications.sending import Notifier
from export_pipeline.notifications.smtp import MailServer, compose
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.store import RequestStore
from export_pipeline.settings import Settings
from export_pipeline_tests.notifications.conftest import ADDRESS, LINK, Clock, fail
from export_pipeline_tests.notifications.mail_server import PASSWORD, USER, PostOffice, make_certificate


@pytest.fixture
def told(notifier: Notifier, completed: Request) -> Notification:
    """Someone who is to be told of a completed request."""
    return notifier.tell(completed.id, "mail", ADDRESS)


def now_of(outbox: NotificationStore, notification: Notification) -> Notification:
    (found,) = [one for one in outbox.of_request(notification.request_id) if one.id == notification.id]
    return found


# What arrives


def test_who_waits_for_an_export_gets_its_link(
    office: PostOffice, notifier: Notifier, told: Notification, outbox: NotificationStore, completed: Request
) -> None:
    with office.open():
        assert notifier.drain(10).states == {"sent": 1}
        assert notifier.drain(10).states == {}
    (mail,) = office.messages
    assert office.recipients == [ADDRESS]
    assert mail["To"] == ADDRESS
    assert mail["From"] == "Exports <exports@example.org>"
    assert mail["Subject"] == "Your export is ready"
    assert mail["Message-ID"] == f"<{told.id}@example.org>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "multipart/alternative"
    assert completed.expires_at is not None
    for kind in ("plain", "html"):
        body = mail.get_body((kind,))
        assert body is not None
        text = body.get_content()
        assert LINK in text
        assert f"{completed.expires_at:%Y-%m-%d %H:%M} UTC" in text
    assert now_of(outbox, told).status == "sent"
    assert now_of(outbox, told).address is None


def test_who_waits_for_one_that_fails_gets_the_reason_but_nothing_internal(
    office: PostOffice, notifier: Notifier, requests: RequestStore
) -> None:
    request = requests.submit(NewRequest("app", ["uid-of-maria"]))
    notifier.tell(request.id, "mail", ADDRESS)
    with office.open():
        assert notifier.drain(10).states == {}
        fail(requests, request)
        assert notifier.drain(10).states == {"sent": 1}
    (mail,) = office.messages
    assert mail["Subject"] == "Your export has failed"
    body = mail.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert "incomplete" in text
    assert request.id in text
    for hidden in ("db.internal", "uid-of-maria", LINK):
        assert hidden not in text


def test_lines_that_begin_with_a_dot_and_long_and_foreign_ones_arrive_as_they_are(
    office: PostOffice, settings: Settings
) -> None:
    server = MailServer.of(settings)
    body = ".\n..two\nGrüße\n" + "x" * 5000 + "\n.\n"
    message = compose(server, ADDRESS, MailText("Grüße", body, f"<p>{body}</p>"), "id", datetime.now(UTC))
    with office.open():
        smtp.send(server, ADDRESS, message, lambda: None)
    (mail,) = office.messages
    part = mail.get_body(("plain",))
    assert part is not None
    assert part.get_content().replace("\r\n", "\n") == body
    assert mail["Subject"] == "Grüße"


def test_it_is_sent_over_tls_to_a_server_that_proves_itself(
    office: PostOffice,
    settings: Settings,
    outbox: NotificationStore,
    completed: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate = make_certificate(tmp_path)
    safe = settings.model_copy(
        update={
            "smtp_starttls": True,
            "smtp_user": USER,
            "smtp_password": Settings(smtp_password=PASSWORD).smtp_password,
        }
    )
    clock = Clock()
    notifier = Notifier(safe, outbox, lambda _: LINK, clock)
    told = notifier.tell(completed.id, "mail", ADDRESS)
    with office.open(certificate):
        assert notifier.drain(10).states == {"waiting": 1}
        assert now_of(outbox, told).error == "the mail server's certificate is not valid: self-signed certificate"
        assert office.commands == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
        clock.ahead = timedelta(minutes=2)
        assert notifier.drain(10).states == {"sent": 1}
    assert office.over_tls == [True]


def test_a_certificate_of_another_host_is_not_good_enough(
    office: PostOffice,
    settings: Settings,
    outbox: NotificationStore,
    completed: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate = make_certificate(tmp_path, "mail.example.org")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    notifier = Notifier(settings.model_copy(update={"smtp_starttls": True}), outbox, lambda _: LINK)
    told = notifier.tell(completed.id, "mail", ADDRESS)
    with office.open(certificate):
        assert notifier.drain(10).states == {"waiting": 1}
    assert "certificate is not valid" in (now_of(outbox, told).error or "")


def test_a_server_without_tls_gets_nothing(
    office: PostOffice, settings: Settings, outbox: NotificationStore, completed: Request
) -> None:
    """As when somebody on the way takes STARTTLS out of the server's offers."""
    notifier = Notifier(settings.model_copy(update={"smtp_starttls": True}), outbox, lambda _: LINK)
    told = notifier.tell(completed.id, "mail", ADDRESS)
    with office.open():
        assert notifier.drain(10).states == {"waiting": 1}
    assert now_of(outbox, told).error == "the mail server does not offer what STARTTLS needs"
    assert office.commands == []


def test_a_password_that_is_not_right_is_tried_again_since_it_may_be_put_right(
    office: PostOffice,
    settings: Settings,
    outbox: NotificationStore,
    completed: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    wrong = Settings(smtp_user=USER, smtp_password="wrong", smtp_starttls=True)
    update = {name: getattr(wrong, name) for name in ("smtp_user", "smtp_password", "smtp_starttls")}
    notifier = Notifier(settings.model_copy(update=update), outbox, lambda _: LINK)
    told = notifier.tell(completed.id, "mail", ADDRESS)
    with office.open(certificate):
        assert notifier.drain(10).states == {"waiting": 1}
    assert now_of(outbox, told).error == "the mail server answered 535 to logging in"


# What is sent again


def test_a_server_that_is_away_and_then_says_later_gets_it_in_the_end_and_once(
    office: PostOffice, notifier: Notifier, told: Notification, outbox: NotificationStore, clock: Clock
) -> None:
    assert notifier.drain(10).states == {"waiting": 1}  # nobody listens
    assert "ConnectionRefusedError" in (now_of(outbox, told).error or "")
    office.rcpt_answers.append("450 greylisted, come back later")
    office.data_answers.append("451 no disk")
    with office.open():
        assert notifier.drain(10).states == {}, "its time has not come"
        for minutes, becomes in ((2, "waiting"), (10, "waiting"), (50, "sent"), (5000, None)):
            clock.ahead = timedelta(minutes=minutes)
            assert notifier.drain(10).states == ({becomes: 1} if becomes else {})
    assert office.commands == ["RCPT", "RCPT", "DATA", "RCPT", "DATA"]
    (mail,) = office.messages
    assert mail["Message-ID"] == f"<{told.id}@example.org>"
    assert now_of(outbox, told).attempts == 4


def test_a_server_that_hangs_before_it_has_the_message_is_tried_again(
    settings: Settings,
    office: PostOffice,
    notifier: Notifier,
    told: Notification,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smtp, "STEP_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", office.port)):
        assert notifier.drain(10).states == {"waiting": 1}
    monkeypatch.undo()
    clock.ahead = timedelta(minutes=2)
    with office.open():
        assert notifier.drain(10).states == {"sent": 1}


# What never is


@pytest.mark.parametrize("where", ["rcpt", "data"])
def test_a_refused_one_is_given_up(
    where: str, office: PostOffice, notifier: Notifier, told: Notification, outbox: NotificationStore, clock: Clock
) -> None:
    answers = office.rcpt_answers if where == "rcpt" else office.data_answers
    answers.append(f"550 5.1.1 {ADDRESS}: nobody here")
    with office.open():
        assert notifier.drain(10).states == {"failed": 1}
        clock.ahead = timedelta(days=1)
        assert notifier.drain(10).states == {}
    assert now_of(outbox, told).address is None
    assert ADDRESS not in (now_of(outbox, told).error or "")


def test_a_server_that_dies_with_the_message_does_not_get_it_twice(
    office: PostOffice, notifier: Notifier, told: Notification, outbox: NotificationStore, clock: Clock
) -> None:
    office.data_answers.append("die")
    with office.open():
        assert notifier.drain(10).states == {"unknown": 1}
        clock.ahead = timedelta(days=1)
        assert notifier.drain(10).states == {}
    assert len(office.messages) == 1
    lost = now_of(outbox, told)
    assert (lost.status, lost.address) == ("unknown", None)
    assert "did not say whether it accepts it" in (lost.error or "")


def test_a_server_that_keeps_silent_about_the_message_does_not_get_it_twice(
    office: PostOffice, notifier: Notifier, told: Notification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "ACCEPTING_SECONDS", 0.5)
    office.holds = "DATA"
    with office.open():
        assert notifier.drain(10).states == {"unknown": 1}
    assert len(office.messages) == 1


def test_a_server_that_says_goodbye_rudely_has_the_message_all_the_same(
    settings: Settings, notifier: Notifier, told: Notification, office: PostOffice
) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            for said in (b"220 hello", b"250 hello", b"250 fine", b"250 fine", b"354 go on"):
                stream.write(said + b"\r\n")
                stream.flush()
                if said.startswith(b"354"):
                    while stream.readline() != b".\r\n":
                        pass
                elif not said.startswith(b"220"):
                    pass
                if not said.startswith(b"354"):
                    stream.readline()
            stream.write(b"250 taken\r\n")
            stream.flush()

    with socket.create_server(("127.0.0.1", office.port)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        assert notifier.drain(10).states == {"sent": 1}
        thread.join(10)


# Before anybody may wait


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"smtp_host": None}, "EXPORT_PIPELINE_SMTP_HOST"),
        ({"mail_from": None}, "EXPORT_PIPELINE_MAIL_FROM"),
        ({"mail_from": "Exports"}, "EXPORT_PIPELINE_MAIL_FROM: mail address"),
        ({"mail_from": "a@example.org\r\nBcc: b@example.org"}, "EXPORT_PIPELINE_MAIL_FROM"),
        ({"mail_from": "A\r\nB <a@example.org>"}, "EXPORT_PIPELINE_MAIL_FROM"),
        ({"smtp_user": USER}, "belong together"),
        ({"smtp_user": USER, "smtp_password": Settings(smtp_password="pw").smtp_password}, "in plain"),
        ({"mail_templates": Path("nowhere")}, "EXPORT_PIPELINE_MAIL_TEMPLATES"),
    ],
)
def test_a_set_up_that_cannot_work_is_told_before_anybody_waits(
    change: dict[str, object], says: str, settings: Settings, outbox: NotificationStore, completed: Request
) -> None:
    notifier = Notifier(settings.model_copy(update=change), outbox, lambda _: LINK)
    with pytest.raises(BadInputError, match=says):
        notifier.tell(completed.id, "mail", ADDRESS)
    assert outbox.of_request(completed.id) == []


def test_a_set_up_that_has_ceased_to_work_loses_nothing(
    office: PostOffice, settings: Settings, outbox: NotificationStore, notifier: Notifier, told: Notification
) -> None:
    broken = Notifier(settings.model_copy(update={"mail_templates": Path("nowhere")}), outbox, lambda _: LINK)
    with office.open():
        drained = broken.drain(10)
        assert drained.states == {}
        assert "EXPORT_PIPELINE_MAIL_TEMPLATES" in drained.problems[0]
        assert now_of(outbox, told).attempts == 0
        assert notifier.drain(10).states == {"sent": 1}


@pytest.mark.parametrize("address", ["hush@a.org\r\nBcc: b@example.org", "hush@a.org, b@a.org", "Hush"])
def test_an_address_that_was_let_in_by_mistake_is_not_written_to(
    address: str,
    office: PostOffice,
    notifier: Notifier,
    outbox: NotificationStore,
    completed: Request,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(BadInputError, match="mail address"):
        notifier.tell(completed.id, "mail", address)
    outbox.add(completed.id, "mail", address)
    with office.open():
        assert notifier.drain(10).states == {"failed": 1}
    assert office.commands == []
    assert "hush" not in caplog.text.lower()


# What is told of it


def test_nothing_personal_is_in_logs_errors_or_the_history(
    office: PostOffice,
    notifier: Notifier,
    requests: RequestStore,
    outbox: NotificationStore,
    completed: Request,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for number in range(4):
        notifier.tell(completed.id, "mail", f"{number}.{ADDRESS}")
    notifier.drain(10)
    clock.ahead = timedelta(minutes=2)
    office.rcpt_answers.extend([f"550 {ADDRESS} is not here", f"450 {ADDRESS} is busy"])
    office.data_answers.extend(["die"])
    with office.open():
        states = notifier.drain(10).states
    assert states == {"failed": 1, "waiting": 1, "unknown": 1, "sent": 1}
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("export_pipeline")]
    assert len(ours) >= 7
    told = [*ours, *(str(one.error) for one in outbox.of_request(completed.id))]
    told += [str(event) for event in requests.events(completed.id)]
    told += [repr(one) for one in outbox.of_request(completed.id)]
    for text in told:
        for personal in ("maria", "@", LINK):
            assert personal not in text
    assert any(completed.id in text for text in ours)


def test_an_unforeseen_fault_is_told_by_its_kind_alone_and_tried_again(
    office: PostOffice,
    settings: Settings,
    outbox: NotificationStore,
    completed: Request,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_link(_: Request) -> str:
        raise KeyError(ADDRESS)

    notifier = Notifier(settings, outbox, no_link)
    told = notifier.tell(completed.id, "mail", ADDRESS)
    with office.open():
        assert notifier.drain(10).states == {"waiting": 1}
    assert now_of(outbox, told).error == "unforeseen: KeyError"
    assert ADDRESS not in caplog.text


def test_passwords_and_secrets_are_not_shown() -> None:
    settings = Settings(smtp_password="hush" * 8, webhook_secret="hush" * 8)
    for field in ("smtp_password", "webhook_secret"):
        assert settings.shown(field) == "***"
    assert "hush" not in repr(settings)
    assert "hush" not in repr(MailServer("host", 587, USER, "hush", True, "", "a@example.org"))
