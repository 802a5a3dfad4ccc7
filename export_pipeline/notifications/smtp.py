"""Mail: the message, and handing it over to the operator's mail server."""

import re
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, formataddr, parseaddr
from typing import Self

from export_pipeline.errors import BadInputError
from export_pipeline.notifications.addresses import check_mail_address
from export_pipeline.notifications.faults import NotDeliveredError, RefusedError, UncertainDeliveryError
from export_pipeline.notifications.mail_text import MailText
from export_pipeline.settings import Settings

STEP_SECONDS = 10.0
"""For how long the server may think about one step."""

ACCEPTING_SECONDS = 40.0
"""Likewise about the whole message, which it may want to look through. Who does not wait never learns the answer."""

_POLICY = SMTP.clone(cte_type="7bit")  # a server on the way may not take 8 bits


@dataclass(frozen=True, slots=True)
class MailServer:
    """The operator's mail server, and whom mail is from."""

    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    starttls: bool
    sender_name: str
    sender: str

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the settings. Raises BadInputError for what is missing, or would send a password in plain."""
        password = None if settings.smtp_password is None else settings.smtp_password.get_secret_value()
        if settings.smtp_host is None or settings.mail_from is None:
            raise BadInputError(
                "mail: this installation sends none yet; it needs the settings EXPORT_PIPELINE_SMTP_HOST and "
                "EXPORT_PIPELINE_MAIL_FROM"
            )
        if (settings.smtp_user is None) != (password is None):
            raise BadInputError("EXPORT_PIPELINE_SMTP_USER and EXPORT_PIPELINE_SMTP_PASSWORD belong together")
        if password is not None and not settings.smtp_starttls:
            raise BadInputError(
                "EXPORT_PIPELINE_SMTP_STARTTLS is off, so the password would travel in plain: turn it on, or unset "
                "EXPORT_PIPELINE_SMTP_USER and EXPORT_PIPELINE_SMTP_PASSWORD"
            )
        name, sender = parseaddr(settings.mail_from)
        if not settings.mail_from.isprintable():
            raise BadInputError("EXPORT_PIPELINE_MAIL_FROM: a line break or another control character is not allowed")
        try:
            check_mail_address(sender)
        except BadInputError as error:
            raise BadInputError(f"EXPORT_PIPELINE_MAIL_FROM: {error}") from None
        return cls(
            settings.smtp_host, settings.smtp_port, settings.smtp_user, password, settings.smtp_starttls, name, sender
        )

    @property
    def domain(self) -> str:
        """The sender's domain."""
        return self.sender.rpartition("@")[2]


def compose(server: MailServer, to: str, text: MailText, notification_id: str, at: datetime) -> EmailMessage:
    """Return the mail: plain text, and HTML for those who prefer it."""
    check_mail_address(to)
    message = EmailMessage(_POLICY)
    message["From"] = formataddr((server.sender_name, server.sender))
    message["To"] = to
    message["Subject"] = text.subject
    message["Date"] = format_datetime(at)
    message["Message-ID"] = f"<{notification_id}@{server.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    message.set_content(text.text)
    message.add_alternative(text.html, subtype="html")
    return message


def send(server: MailServer, to: str, message: EmailMessage, before_the_last_step: Callable[[], None]) -> None:
    """Hand a message over; returning, it has been accepted.

    ``before_the_last_step`` is called once all is transmitted but the dot that makes the server take it on. Raises
    the ``faults``; what is wrong with the set-up counts as passing, since somebody may put it right in time.
    """
    content = re.sub(rb"(?m)^\.", b"..", message.as_bytes())
    with _session(server) as smtp:
        _expect(2, smtp.mail(server.sender), "MAIL")
        _expect(2, smtp.rcpt(to), "RCPT", lasting=True)
        _expect(3, smtp.docmd("DATA"), "DATA", lasting=True)
        smtp.send(content if content.endswith(b"\r\n") else content + b"\r\n")
        before_the_last_step()
        _expect(2, _last_step(smtp), "the message", lasting=True)
        # What it says to our goodbye changes nothing any more.
        with suppress(OSError, smtplib.SMTPException):
            smtp.quit()


@contextmanager
def _session(server: MailServer) -> Iterator[smtplib.SMTP]:
    """Connect and log in. Within it, the connection's faults are passing ones."""
    step = "connecting"
    try:
        with closing(smtplib.SMTP(server.host, server.port, server.domain, STEP_SECONDS)) as smtp:
            smtp.ehlo_or_helo_if_needed()
            if server.starttls:
                step = "STARTTLS"
                smtp.starttls(context=ssl.create_default_context())
                smtp.ehlo_or_helo_if_needed()
            if server.user is not None and server.password is not None:
                step = "logging in"
                smtp.login(server.user, server.password)
            step = "the message"
            yield smtp
    except ssl.SSLCertVerificationError as error:
        raise NotDeliveredError(f"the mail server's certificate is not valid: {error.verify_message}") from None
    except smtplib.SMTPNotSupportedError:
        raise NotDeliveredError(f"the mail server does not offer what {step} needs") from None
    except smtplib.SMTPResponseException as error:
        raise NotDeliveredError(f"the mail server answered {error.smtp_code} to {step}") from None
    except (OSError, smtplib.SMTPException) as error:  # not before the others, which are special cases of these
        raise NotDeliveredError(f"the mail server failed at {step} ({type(error).__name__})") from None


def _last_step(smtp: smtplib.SMTP) -> tuple[int, bytes]:
    try:
        if smtp.sock is not None:
            smtp.sock.settimeout(ACCEPTING_SECONDS)
        smtp.send(b".\r\n")
        code, said = smtp.getreply()
    except (OSError, smtplib.SMTPException) as error:
        raise UncertainDeliveryError(
            f"the mail server took the message and did not say whether it accepts it ({type(error).__name__})"
        ) from None
    if code // 100 not in (2, 4, 5):
        raise UncertainDeliveryError(f"the mail server answered {code} to the message")
    return code, said


def _expect(kind: int, answer: tuple[int, bytes], step: str, *, lasting: bool = False) -> None:
    """Raise unless the answer's first digit is ``kind``; ``lasting``: a 5 says no for good."""
    code = answer[0]
    if code // 100 != kind:
        fault = RefusedError if lasting and code // 100 == 5 else NotDeliveredError
        raise fault(f"the mail server answered {code} to {step}")
