"""Several senders, senders that are killed, receivers that hold others up, and the link of the HTTP API."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from export_pipeline.access.links import LinkStore
from export_pipeline.errors import BadInputError
from export_pipeline.installation import Installation
from export_pipeline.notifications import webhook
from export_pipeline.notifications.outbox import Notification, NotificationStore
from export_pipeline.notifications.sending import Notifier
from export_pipeline.requests.models import Request
from export_pipeline.requests.store import RequestStore
from export_pipeline.settings import Settings
from export_pipeline_tests.notifications.conftest import ADDRESS, LINK, SECRET, Clock
from export_pipeline_tests.notifications.mail_server import PostOffice
from export_pipeline_tests.notifications.receiver import Receiver

SENDER = """
import sys
from export_pipeline.installation import Installation
from export_pipeline.notifications.sending import Notifier
from export_pipeline.settings import Settings
home, port = sys.argv[1:]
settings = Settings(home=home, smtp_host="127.0.0.1", smtp_port=int(port), smtp_starttls=False,
                    mail_from="Exports <exports@example.org>")
with Installation(settings) as installation:
    print(dict(Notifier.of(installation).drain(20).states))
"""


def sender(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a process that sends what is due."""
    return subprocess.Popen([sys.executable, "-c", SENDER, str(settings.home), str(settings.smtp_port)])


@pytest.fixture
def told(notifier: Notifier, completed: Request) -> Notification:
    """Someone who is to be told of a completed request."""
    return notifier.tell(completed.id, "mail", ADDRESS)


def only(outbox: NotificationStore, request: Request) -> Notification:
    (notification,) = outbox.of_request(request.id)
    return notification


# Never twice


def test_many_senders_at_once_send_each_mail_once(
    office: PostOffice, settings: Settings, notifier: Notifier, completed: Request
) -> None:
    told = [notifier.tell(completed.id, "mail", f"{number}@example.org").id for number in range(20)]
    stores = [RequestStore.open(settings.requests_database) for _ in range(4)]
    notifiers = [Notifier(settings, NotificationStore(store._engine), lambda _: LINK) for store in stores]
    with office.open(), ThreadPoolExecutor(4) as threads:
        drained = list(threads.map(lambda one: one.drain(30).states, notifiers))
    assert sum((Counter(states) for states in drained), Counter()) == {"sent": 20}
    assert sorted(str(mail["Message-ID"]) for mail in office.messages) == sorted(f"<{id_}@example.org>" for id_ in told)
    assert sorted(office.recipients) == sorted(f"{number}@example.org" for number in range(20))
    for store in stores:
        store.close()


def test_processes_that_send_at_once_send_each_mail_once(
    office: PostOffice, settings: Settings, notifier: Notifier, completed: Request
) -> None:
    for number in range(10):
        notifier.tell(completed.id, "mail", f"{number}@example.org")
    with office.open():
        processes = [sender(settings) for _ in range(2)]
        assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(office.recipients) == [f"{number}@example.org" for number in range(10)]


def test_a_sender_that_is_killed_with_the_message_handed_over_leaves_it_unknown(
    office: PostOffice,
    settings: Settings,
    notifier: Notifier,
    outbox: NotificationStore,
    completed: Request,
    told: Notification,
    clock: Clock,
) -> None:
    office.holds = "DATA"
    with office.open():
        process = sender(settings)
        assert office.came.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        office.go.set()
        assert only(outbox, completed).status == "sending"
        assert notifier.drain(10).states == {}, "it may yet be alive"
        for minutes in (6, 10, 60, 24 * 60):
            clock.ahead = timedelta(minutes=minutes)
            assert notifier.drain(10).states == {}
    assert len(office.messages) == 1
    assert (only(outbox, completed).status, only(outbox, completed).address) == ("unknown", None)


def test_a_sender_that_is_killed_before_that_leaves_it_to_the_next(
    office: PostOffice,
    settings: Settings,
    notifier: Notifier,
    outbox: NotificationStore,
    completed: Request,
    told: Notification,
    clock: Clock,
) -> None:
    office.holds = "RCPT"
    with office.open():
        process = sender(settings)
        assert office.came.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        office.holds = ""
        office.go.set()
        assert only(outbox, completed).status == "claimed"
        clock.ahead = timedelta(minutes=6)
        assert notifier.drain(10).states == {}, "the next attempt is a minute away"
        clock.ahead = timedelta(minutes=8)
        assert notifier.drain(10).states == {"sent": 1}
        clock.ahead = timedelta(days=1)
        assert notifier.drain(10).states == {}
    (mail,) = office.messages
    assert mail["Message-ID"] == f"<{told.id}@example.org>"


def test_one_who_is_forgotten_while_a_server_hesitates_gets_nothing(
    office: PostOffice,
    notifier: Notifier,
    requests: RequestStore,
    outbox: NotificationStore,
    completed: Request,
    told: Notification,
) -> None:
    office.holds = "RCPT"
    with office.open():
        drained: list[object] = []
        sending = threading.Thread(target=lambda: drained.append(notifier.drain(10).states))
        sending.start()
        assert office.came.wait(30)
        requests.rewrite_selection(completed.id, lambda _: {"forgotten": 1}, "ann")
        office.go.set()
        sending.join(30)
    assert drained == [{}]
    assert office.messages == []
    notifier.drain(1)


# Everybody's turn


def test_receivers_that_do_not_answer_hold_up_their_own_alone(
    office: PostOffice,
    receiver: Receiver,
    notifier: Notifier,
    completed: Request,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook, "ANSWER_SECONDS", 3.0)
    receiver.answers.extend(["drip"] * 4)
    with receiver.open(), office.open():
        for number in range(4):
            notifier.tell(completed.id, "webhook", f"http://127.0.0.1:{receiver.port}/{number}")
        for number in range(8):
            notifier.tell(completed.id, "mail", f"{number}@example.org")
        begun = time.monotonic()
        assert notifier.drain(20).states == {"waiting": 4, "sent": 8}
        assert time.monotonic() - begun < 10, "one after the other they would take 12 s"


def test_what_there_is_no_time_for_waits_for_the_next_turn(
    office: PostOffice, notifier: Notifier, outbox: NotificationStore, completed: Request, told: Notification
) -> None:
    with office.open():
        assert notifier.drain(0).states == {}
        assert only(outbox, completed).attempts == 0
        assert notifier.drain(10).states == {"sent": 1}


# The link


@pytest.fixture
def public(settings: Settings) -> Settings:
    """An installation whose HTTP API people reach."""
    return settings.model_copy(
        update={"public_url": "https://exports.example.org/", "secret_key": Settings(secret_key=SECRET).secret_key}
    )


def test_the_link_is_one_of_the_http_api_s_and_lives_as_long_as_the_file(
    office: PostOffice, public: Settings, completed: Request
) -> None:
    with Installation(public) as installation, office.open():
        notifier = Notifier.of(installation)
        notifier.tell(completed.id, "mail", ADDRESS)
        assert notifier.drain(10).states == {"sent": 1}
        body = office.messages[0].get_body(("plain",))
        assert body is not None
        (url,) = [urlsplit(line) for line in body.get_content().splitlines() if line.startswith("https://")]
        assert (url.netloc, url.path[:3]) == ("exports.example.org", "/d/")
        link = LinkStore(installation.database, SECRET).open(url.path.removeprefix("/d/"))
        assert link.request_id == completed.id
        assert link.expires_at == completed.expires_at
        assert not link.one_time


def test_without_a_public_url_the_mail_says_what_to_ask_for(
    office: PostOffice, settings: Settings, completed: Request
) -> None:
    with Installation(settings) as installation, office.open():
        notifier = Notifier.of(installation)
        notifier.tell(completed.id, "mail", ADDRESS)
        assert notifier.drain(10).states == {"sent": 1}
    body = office.messages[0].get_body(("plain",))
    assert body is not None
    assert "https://" not in body.get_content()
    assert completed.id in body.get_content()


def test_links_that_cannot_be_signed_are_told_before_anything_is_sent(public: Settings) -> None:
    with (
        Installation(public.model_copy(update={"secret_key": None})) as installation,
        pytest.raises(BadInputError, match="EXPORT_PIPELINE_SECRET_KEY"),
    ):
        Notifier.of(installation)
