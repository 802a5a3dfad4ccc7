"""The outbox on each database: when a notification is due, who gets to send it, and what is forgotten when."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from export_pipeline.errors import BadInputError, UnknownRequestError
from export_pipeline.notifications.faults import StaleNotificationError
from export_pipeline.notifications.outbox import (
    DELAYS,
    MOST_FOR_ONE_REQUEST,
    SENDER_IS_DEAD_AFTER,
    Claim,
    Notification,
    NotificationStore,
    retry_at,
)
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.forgetting import without_people
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.store import RequestStore
from export_pipeline_tests.notifications.conftest import ADDRESS, complete, fail

pytest_plugins = "export_pipeline_tests.postgres"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def requests(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RequestStore]:
    """The requests table, on each kind of database."""
    sqlite = request.param == "sqlite"
    store = RequestStore.open(f"sqlite:///{tmp_path}/r.db" if sqlite else request.getfixturevalue("postgres_url"))
    yield store
    store.close()


@pytest.fixture
def request_(requests: RequestStore) -> Request:
    return requests.submit(NewRequest("app", ["uid"]))


def claimed(outbox: NotificationStore, notification: Notification, at: datetime | None = None) -> Claim:
    claim = outbox.claim(notification.id, at or now())
    assert claim is not None
    return claim


def only(outbox: NotificationStore, request: Request) -> Notification:
    (notification,) = outbox.of_request(request.id)
    return notification


# When one is due


def test_it_is_due_once_its_request_has_completed(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    added = outbox.add(request_.id, "mail", ADDRESS)
    assert outbox.due(now(), 10) == []
    assert outbox.claim(added.id, now()) is None
    complete(requests, request_)
    assert outbox.due(now(), 10) == [added]


def test_it_is_due_once_its_request_has_failed_for_good(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    added = outbox.add(request_.id, "mail", ADDRESS)
    fail(requests, request_, code="mongo_unreachable")
    assert requests.get(request_.id).status == "pending"
    assert outbox.due(now(), 10) == []
    fail(requests, request_, code="incomplete")
    assert outbox.due(now(), 10) == [added]


def test_one_who_has_been_told_of_a_failure_does_not_hear_of_a_retry(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    added = outbox.add(request_.id, "mail", ADDRESS)
    fail(requests, request_)
    claim = claimed(outbox, added)
    outbox.sending(claim)
    outbox.sent(claim)
    requests.retry(request_.id, "ann")
    complete(requests, request_)
    assert outbox.due(now(), 10) == []


def test_new_ones_are_ahead_of_those_that_have_failed_before(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    first, second = (outbox.add(request_.id, "mail", f"{name}@example.org") for name in "ab")
    assert outbox.not_delivered(claimed(outbox, first), "away", now()) == "waiting"
    later = now() + timedelta(hours=1)
    assert [one.id for one in outbox.due(later, 10)] == [second.id, first.id]
    assert [one.id for one in outbox.due(later, 1)] == [second.id]


@pytest.mark.parametrize("ending", ["cancelled", "expired", "too late"])
def test_there_is_nothing_to_tell_of_what_is_gone(
    ending: str, outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    added = outbox.add(request_.id, "mail", ADDRESS)
    at = now()
    if ending == "cancelled":
        requests.cancel(request_.id, "ann")
    else:
        complete(requests, request_)
        if ending == "expired":
            requests.expire(request_.id)
        else:
            at += timedelta(days=8)
    assert outbox.due(at, 10) == []
    assert outbox.claim(added.id, at) is None
    outbox.settle(at)
    assert (only(outbox, request_).status, only(outbox, request_).address) == ("dropped", None)


# Who is told


def test_an_address_is_told_once(outbox: NotificationStore, request_: Request) -> None:
    added = outbox.add(request_.id, "mail", ADDRESS)
    assert outbox.add(request_.id, "mail", ADDRESS) == added
    assert outbox.add(request_.id, "mail", "other@example.org") != added


def test_many_who_add_the_same_address_at_once_add_one(outbox: NotificationStore, request_: Request) -> None:
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda _: outbox.add(request_.id, "mail", ADDRESS).id, range(16)))
    assert len(set(added)) == 1


def test_a_request_tells_so_many_and_no_more(outbox: NotificationStore, request_: Request) -> None:
    for number in range(MOST_FOR_ONE_REQUEST):
        outbox.add(request_.id, "mail", f"{number}@example.org")
    with pytest.raises(BadInputError, match="no more are allowed") as raised:
        outbox.add(request_.id, "mail", ADDRESS)
    assert ADDRESS not in str(raised.value)


@pytest.mark.parametrize("unknown", ["", "no-such-request", "half a surrogate pair \ud800"])
def test_there_has_to_be_such_a_request(unknown: str, outbox: NotificationStore) -> None:
    with pytest.raises(UnknownRequestError):
        outbox.add(unknown, "mail", ADDRESS)
    assert outbox.of_request(unknown) == []


# Who sends it


def test_of_many_senders_one_gets_it(outbox: NotificationStore, requests: RequestStore, request_: Request) -> None:
    complete(requests, request_)
    added = outbox.add(request_.id, "mail", ADDRESS)
    with ThreadPoolExecutor(8) as threads:
        claims = list(threads.map(lambda _: outbox.claim(added.id, now()), range(16)))
    assert sum(claim is not None for claim in claims) == 1


def test_a_sender_has_the_request_as_it_was(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    claim = claimed(outbox, outbox.add(request_.id, "mail", ADDRESS))
    assert claim.request == requests.get(request_.id)
    assert (claim.notification.status, claim.notification.attempts) == ("claimed", 1)
    assert ADDRESS not in repr(claim)


def test_what_has_been_sent_is_forgotten_and_in_the_history(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    claim = claimed(outbox, outbox.add(request_.id, "mail", ADDRESS))
    outbox.sending(claim)
    outbox.sent(claim)
    assert (only(outbox, request_).status, only(outbox, request_).address) == ("sent", None)
    last = requests.events(request_.id)[-1]
    assert (last["event"], last["detail"]) == ("notified", "mail")


def test_the_waits_grow_and_end_after_a_day(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    added, begun = outbox.add(request_.id, "mail", ADDRESS), now()
    at, waits = begun, []
    while outbox.not_delivered(claimed(outbox, added, at), "away", at) == "waiting":
        again = only(outbox, request_).not_before
        assert again is not None
        assert outbox.due(again - timedelta(seconds=1), 10) == []
        waits.append(again - at)
        at = again
    assert waits[:4] == [timedelta(minutes=minutes) for minutes in (1, 5, 30, 120)]
    assert timedelta(hours=20) < at - begun < timedelta(hours=24)
    given_up = only(outbox, request_)
    assert (given_up.status, given_up.address, given_up.error) == ("failed", None, "away")
    assert requests.events(request_.id)[-1]["detail"] == "mail: away"


def test_there_is_an_end_to_attempts() -> None:
    assert [retry_at(attempts, now()) is not None for attempts in (1, len(DELAYS), len(DELAYS) + 1)] == [
        True,
        True,
        False,
    ]


# Senders that die


def test_what_a_dead_sender_had_not_begun_is_tried_again(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    claim = claimed(outbox, outbox.add(request_.id, "mail", ADDRESS))
    assert outbox.settle(now()) == []
    later = now() + SENDER_IS_DEAD_AFTER
    outbox.settle(later)
    assert [one.id for one in outbox.due(later + DELAYS[0], 10)] == [claim.notification.id]
    with pytest.raises(StaleNotificationError):
        outbox.sending(claim)  # it was only asleep


def test_a_sender_that_wakes_up_does_not_take_the_next_ones_turn(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    added = outbox.add(request_.id, "mail", ADDRESS)
    asleep = claimed(outbox, added)
    later = now() + SENDER_IS_DEAD_AFTER
    outbox.settle(later)
    second = claimed(outbox, added, later + DELAYS[0])
    with pytest.raises(StaleNotificationError):
        outbox.sending(asleep)
    outbox.sending(second)
    outbox.sent(second)


def test_what_a_dead_sender_may_have_handed_over_is_not_sent_again(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    claim = claimed(outbox, outbox.add(request_.id, "mail", ADDRESS))
    outbox.sending(claim)
    later = now() + SENDER_IS_DEAD_AFTER
    outbox.settle(later)
    lost = only(outbox, request_)
    assert (lost.status, lost.address) == ("unknown", None)
    assert lost.error is not None
    assert outbox.due(later + timedelta(days=1), 10) == []
    assert requests.events(request_.id)[-1]["event"] == "notification_unknown"
    outbox.sent(claim)  # it was only slow, and knows more than we did
    assert only(outbox, request_).status == "sent"


def test_many_who_settle_at_once_do_it_once(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    complete(requests, request_)
    claim = claimed(outbox, outbox.add(request_.id, "mail", ADDRESS))
    outbox.sending(claim)
    later = now() + SENDER_IS_DEAD_AFTER
    with ThreadPoolExecutor(8) as threads:
        settled = list(threads.map(lambda _: len(outbox.settle(later)), range(8)))
    assert sum(settled) == 1


# Forgetting people


def forget(requests: RequestStore, request: Request) -> None:
    requests.rewrite_selection(request.id, without_people, "ann")


def test_an_address_is_forgotten_with_its_person(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    added = outbox.add(request_.id, "mail", ADDRESS)
    fail(requests, request_)
    forget(requests, request_)
    assert only(outbox, request_).address is None
    assert outbox.due(now(), 10) == []
    assert outbox.claim(added.id, now()) is None
    outbox.settle(now())
    assert only(outbox, request_).status == "dropped"


def test_one_who_was_forgotten_in_the_last_moment_is_not_written_to(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    fail(requests, request_)
    claim = claimed(outbox, outbox.add(request_.id, "mail", ADDRESS))
    forget(requests, request_)
    with pytest.raises(StaleNotificationError):
        outbox.sending(claim)


def test_one_who_was_forgotten_while_the_server_said_later_is_not_tried_again(
    outbox: NotificationStore, requests: RequestStore, request_: Request
) -> None:
    fail(requests, request_)
    claim = claimed(outbox, outbox.add(request_.id, "mail", ADDRESS))
    outbox.sending(claim)
    forget(requests, request_)
    outbox.not_delivered(claim, "later", now())
    assert outbox.due(now() + timedelta(hours=1), 10) == []


def test_a_claim_of_a_batch_is_left_alone(outbox: NotificationStore, requests: RequestStore) -> None:
    """A request under way keeps its address, whatever is settled."""
    request = requests.submit(NewRequest("app", ["uid"]))
    outbox.add(request.id, "webhook", "https://example.org/")
    requests.claim(Batch(new_id(), (request.id,)))
    assert outbox.settle(now() + timedelta(days=90)) == []
    assert only(outbox, request).address == "https://example.org/"
