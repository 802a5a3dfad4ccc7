"""Telling those who wait: what is due is claimed, sent, and recorded; and what has to be so before anybody may wait."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Self

from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.installation import Installation
from export_pipeline.notifications import smtp, webhook
from export_pipeline.notifications.addresses import check_mail_address, checked_webhook_url
from export_pipeline.notifications.faults import (
    NotDeliveredError,
    RefusedError,
    StaleNotificationError,
    UncertainDeliveryError,
)
from export_pipeline.notifications.links import link_maker
from export_pipeline.notifications.mail_text import MailTemplates
from export_pipeline.notifications.news import LinkFor, news_of
from export_pipeline.notifications.outbox import Channel, Claim, Notification, NotificationStore, State
from export_pipeline.requests.models import Request
from export_pipeline.requests.rows import now
from export_pipeline.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Senders: a receiver that does not answer holds up its own, not everybody's."""

MOST_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of what was due."""

    states: Mapping[State, int]
    """How many are ``sent``, ``failed``, ``unknown``, or ``waiting`` for another attempt."""
    problems: tuple[str, ...]
    """What keeps a whole channel from being served; nothing was tried in it."""


class Notifier:
    """Sends what the outbox holds, in the way that the settings say."""

    def __init__(
        self, settings: Settings, outbox: NotificationStore, link_for: LinkFor, clock: Callable[[], datetime] = now
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._link_for = link_for
        self._now = clock

    @classmethod
    def of(cls, installation: Installation) -> Self:
        """Return the notifier of an installation; its links are those of the HTTP API."""
        return cls(installation.settings, NotificationStore(installation.database), link_maker(installation))

    @cached_property
    def _mail(self) -> tuple[smtp.MailServer, MailTemplates]:
        return smtp.MailServer.of(self._settings), MailTemplates(self._settings.mail_templates)

    @cached_property
    def _webhook_secret(self) -> str:
        if self._settings.webhook_secret is None:
            raise BadInputError("webhooks need the setting EXPORT_PIPELINE_WEBHOOK_SECRET, which signs them")
        return self._settings.webhook_secret.get_secret_value()

    def check_channel(self, channel: Channel) -> None:
        """Raise BadInputError where the settings, or the operator's templates, do not allow a channel."""
        _ = self._mail if channel == "mail" else self._webhook_secret

    def check(self, channel: Channel, address: str) -> None:
        """Raise BadInputError where nobody could be told at ``address``."""
        self.check_channel(channel)
        self._check_address(channel, address)

    def _check_address(self, channel: Channel, address: str) -> None:
        if channel == "mail":
            check_mail_address(address)
        else:
            checked_webhook_url(address, private=self._settings.webhook_private)

    def check_all(self, wishes: Mapping[Channel, str | None]) -> None:
        """Check each address that is given; see ``check``."""
        for channel, address in wishes.items():
            if address is not None:
                self.check(channel, address)

    def tell_all(self, request: Request, wishes: Mapping[Channel, str | None]) -> None:
        """Have each address told that is given. Of a request that had ended before, they have been told."""
        for channel, address in wishes.items():
            if address is not None and request.is_live:
                self.tell(request.id, channel, address)

    def tell(self, request_id: str, channel: Channel, address: str) -> Notification:
        """Have ``address`` told when the request has ended. Raises BadInputError; see ``check`` and the outbox."""
        self.check(channel, address)
        return self._outbox.add(request_id, channel, address)

    def drain(self, seconds: float) -> Drained:
        """Send what is due, beginning no more after that many seconds. Several may do so at once."""
        self._outbox.settle(self._now())
        deadline = time.monotonic() + seconds
        due = self._outbox.due(self._now(), MOST_AT_A_TIME)
        broken = self._broken_channels({one.channel for one in due})
        served = [one for one in due if one.channel not in broken]
        with ThreadPoolExecutor(AT_ONCE) as senders:
            ended = senders.map(lambda one: self._send(one) if time.monotonic() < deadline else None, served)
            states = Counter(state for state in ended if state is not None)
        return Drained(states, tuple(broken.values()))

    def _broken_channels(self, channels: set[Channel]) -> dict[Channel, str]:
        broken: dict[Channel, str] = {}
        for channel in channels:
            try:
                self.check_channel(channel)
            except BadInputError as error:
                broken[channel] = str(error)
        return broken

    def _send(self, due: Notification) -> State | None:
        """Send one; return what became of it, or None where it is another sender's."""
        claim = self._outbox.claim(due.id, self._now())
        if claim is None:
            return None
        try:
            return self._carry_out(claim)
        except StaleNotificationError as error:
            log.info("%s", error)
            return None

    def _carry_out(self, claim: Claim) -> State:
        begun = False

        def last_step() -> None:
            nonlocal begun
            self._outbox.sending(claim)
            begun = True

        try:
            self._hand_over(claim, last_step)
        except StaleNotificationError:
            raise
        except RefusedError as error:
            return self._failed(claim, error)
        except UncertainDeliveryError as error:
            return self._unknown(claim, error)
        except ExportPipelineError as error:
            return self._not_delivered(claim, error)
        except Exception as error:  # noqa: BLE001  # an unforeseen message may quote an address: only its kind is told
            unforeseen = NotDeliveredError(f"unforeseen: {type(error).__name__}")
            return self._unknown(claim, unforeseen) if begun else self._not_delivered(claim, unforeseen)
        self._outbox.sent(claim)
        return "sent"

    def _hand_over(self, claim: Claim, last_step: Callable[[], None]) -> None:
        notification, request = claim.notification, claim.request
        address = notification.address or ""
        try:
            self._check_address(notification.channel, address)
        except BadInputError as error:
            raise RefusedError(str(error)) from None
        news = news_of(request, self._link_for(request) if request.status == "completed" else None)
        at = self._now()
        if notification.channel == "mail":
            server, templates = self._mail
            message = smtp.compose(server, address, templates.render(news), notification.id, at)
            smtp.send(server, address, message, last_step)
        else:
            webhook.send(
                address,
                webhook.body(news, notification.id),
                secret=self._webhook_secret,
                delivery_id=notification.id,
                at=int(at.timestamp()),
                private=self._settings.webhook_private,
                before_the_last_step=last_step,
            )

    def _not_delivered(self, claim: Claim, error: ExportPipelineError) -> State:
        state = self._outbox.not_delivered(claim, str(error), self._now())
        _say(claim, "was not delivered" if state == "waiting" else "was not delivered and is given up", error)
        return state

    def _failed(self, claim: Claim, error: ExportPipelineError) -> State:
        self._outbox.failed(claim, str(error))
        _say(claim, "was refused", error)
        return "failed"

    def _unknown(self, claim: Claim, error: ExportPipelineError) -> State:
        self._outbox.unknown(claim, str(error))
        _say(claim, "may or may not have arrived, and is not sent again", error)
        return "unknown"


def _say(claim: Claim, what: str, error: ExportPipelineError) -> None:
    one = claim.notification
    log.warning("the %s %s of request %s %s: %s", one.channel, one.id, one.request_id, what, error)
