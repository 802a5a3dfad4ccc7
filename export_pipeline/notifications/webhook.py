"""Webhooks: the body, its signature, and handing it over to a receiver that is nobody's friend.

A receiver's name is looked up once, and the connection goes to an address that was checked: a name that stands for
another one a moment later leads nowhere. Nothing of an answer counts but its status; redirects are not followed.
"""

import hashlib
import hmac
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from threading import Timer
from urllib.parse import SplitResult

from export_pipeline.notifications.addresses import checked_webhook_url, may_reach
from export_pipeline.notifications.faults import NotDeliveredError, RefusedError
from export_pipeline.notifications.news import News

SIGNATURE = "X-Export-Pipeline-Signature"
DELIVERY = "X-Export-Pipeline-Delivery"

ANSWER_SECONDS = 10.0
"""For how long a receiver may take, from the connection to the end of its answer's head."""

CONNECTING_SECONDS = 5.0
MOST_ADDRESSES = 3
"""Of a receiver's name, that are tried."""

TOLD_TO_WAIT = frozenset({408, 425, 429})
"""Of the 4xx, those that ask for another attempt."""


def body(news: News, delivery_id: str) -> bytes:
    """Return what a webhook says: JSON without personal data, in UTF-8."""
    told = {
        "event": news.event,
        "delivery_id": delivery_id,
        "export_id": news.export_id,
        "app_id": news.app_id,
        "status": news.outcome,
        "error_code": news.error_code,
        "link": news.link,
        "expires_at": _iso(news.expires_at),
        "requested_at": _iso(news.requested_at),
        "finished_at": _iso(news.finished_at),
    }
    return json.dumps(told).encode()


def signature(secret: str, content: bytes, at: int) -> str:
    """Return the header that proves who sent ``content`` at that Unix time: HMAC-SHA256 over both, in hex."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


def send(
    url: str,
    content: bytes,
    *,
    secret: str,
    delivery_id: str,
    at: int,
    private: bool,
    before_the_last_step: Callable[[], None],
) -> None:
    """POST a webhook; returning, it has been answered with a 2xx.

    ``before_the_last_step`` is called once connected, before anything is said. Raises the ``faults`` but no
    UncertainDeliveryError: where no answer comes, it may be sent again, since its delivery id tells of repetitions.
    """
    parts = checked_webhook_url(url, private=private)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"export-pipeline/{version('export-pipeline')}",
        DELIVERY: delivery_id,
        SIGNATURE: signature(secret, content, at),
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with (
        _passing_faults(),
        closing(_connect(parts, private=private)) as connection,
        _cut_off(connection.sock, ANSWER_SECONDS),
    ):
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock.do_handshake()
        before_the_last_step()
        connection.request("POST", target, content, headers)
        status = connection.getresponse().status
    if status // 100 == 2:
        return
    passing = status // 100 == 5 or status in TOLD_TO_WAIT
    raise (NotDeliveredError if passing else RefusedError)(f"the receiver answered {status}")


def _connect(parts: SplitResult, *, private: bool) -> http.client.HTTPConnection:
    """Connect to an address that was checked; where it is to be TLS, its handshake comes next."""
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    found = dict.fromkeys(str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    reachable = [ip for ip in found if may_reach(ip, parts.scheme, private=private)]
    if not reachable:
        raise RefusedError(
            "the receiver's name does not stand for an address that webhooks may go to: a public one by https, or with "
            "EXPORT_PIPELINE_WEBHOOK_PRIVATE one of one's own network"
        )
    plain = _first_that_answers(reachable[:MOST_ADDRESSES], port)
    # It only ever speaks over the connection that it is given.
    connection = http.client.HTTPConnection(host, port)
    connection.default_port = 443 if secure else 80
    connection.auto_open = 0
    context = ssl.create_default_context()
    connection.sock = (
        context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False) if secure else plain
    )
    return connection


def _first_that_answers(ips: Sequence[str], port: int) -> socket.socket:
    *others, last = ips
    for ip in others:
        with suppress(OSError):
            return socket.create_connection((ip, port), CONNECTING_SECONDS)
    return socket.create_connection((last, port), CONNECTING_SECONDS)


@contextmanager
def _passing_faults() -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise NotDeliveredError(f"the receiver's certificate is not valid: {error.verify_message}") from None
    except socket.gaierror:
        raise NotDeliveredError("the receiver's name is not known") from None
    except (OSError, http.client.HTTPException) as error:
        raise NotDeliveredError(f"the receiver did not answer ({type(error).__name__})") from None


@contextmanager
def _cut_off(connection: socket.socket, seconds: float) -> Iterator[None]:
    """End a connection that takes longer in all; a socket's own timeout begins anew with each byte."""

    def cut() -> None:
        with suppress(OSError):  # it has just ended
            # That of the class below TLS, whose own is not for another thread.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = Timer(seconds, cut)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
