"""Fixtures: an installation that can send, the outbox, requests that have ended, a mail server, a receiver."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from export_pipeline.notifications.outbox import NotificationStore
from export_pipeline.notifications.sending import Notifier
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.store import RequestStore
from export_pipeline.settings import Settings
from export_pipeline_tests.notifications.mail_server import PostOffice
from export_pipeline_tests.notifications.receiver import Receiver

SECRET = "a secret of at least 32 characters"
ADDRESS = "maria.musterfrau@example.org"
LINK = "https://exports.example.org/d/a-link"


@pytest.fixture
def office() -> PostOffice:
    """A mail server that is still closed."""
    return PostOffice()


@pytest.fixture
def receiver() -> Receiver:
    """A receiver of webhooks that is still closed."""
    return Receiver()


@pytest.fixture
def settings(tmp_path: Path, office: PostOffice) -> Settings:
    """An installation with a mail server on this machine, in plain."""
    return Settings(
        home=tmp_path / "home",
        smtp_host="127.0.0.1",
        smtp_port=office.port,
        smtp_starttls=False,
        mail_from="Exports <exports@example.org>",
        webhook_secret=SECRET,
        webhook_private=True,
    )


@pytest.fixture
def requests(settings: Settings) -> Iterator[RequestStore]:
    """The requests table."""
    store = RequestStore.open(settings.requests_database)
    yield store
    store.close()


@pytest.fixture
def outbox(requests: RequestStore) -> NotificationStore:
    """The outbox beside it."""
    return NotificationStore(requests._engine)


def complete(store: RequestStore, request: Request, expires_in: timedelta = timedelta(days=7)) -> None:
    """Take a request to its good end."""
    batch = Batch(new_id(), (request.id,))
    assert store.claim(batch) == [request.id]
    store.complete(
        request.id,
        batch.id,
        documents=1,
        result_uri="exports/somewhere",
        result_bytes=1,
        result_sha256="0" * 64,
        expires_at=datetime.now(UTC) + expires_in,
    )


def fail(store: RequestStore, request: Request, code: str = "incomplete") -> None:
    """Let a request fail."""
    batch = Batch(new_id(), (request.id,))
    assert store.claim(batch) == [request.id]
    store.fail(request.id, batch.id, code=code, message="the host db.internal said no")


@pytest.fixture
def completed(requests: RequestStore) -> Request:
    """A request that has completed."""
    request = requests.submit(NewRequest("app", ["uid-of-maria"]))
    complete(requests, request)
    return requests.get(request.id)


class Clock:
    """The time, which a test moves on."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    """The notifier's clock."""
    return Clock()


MakeNotifier = Callable[..., Notifier]


@pytest.fixture
def notifier(settings: Settings, outbox: NotificationStore, clock: Clock) -> Notifier:
    """A notifier of that installation."""
    return Notifier(settings, outbox, lambda _: LINK, clock)
