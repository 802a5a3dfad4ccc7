"""Which addresses a notification may go to: one plain mail address, or a webhook's URL on a network it may reach.

No error repeats the address.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from export_pipeline.errors import BadInputError

LONGEST_MAIL_ADDRESS = 254
"""RFC 5321, 4.5.3.1.3: a path has 256 characters, two of which are its brackets."""

LONGEST_LOCAL_PART = 64
LONGEST_DOMAIN = 253
LONGEST_URL = 2000

# RFC 5322's dot-atom; what would need quotes is nobody's address. RFC 1123's host names.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")

# Their last 32 bits are an IPv4 address, which a gateway goes to: RFC 6052, and RFC 8215 for one's own gateways.
_TRANSLATED = IPv6Network("64:ff9b::/96")
_TRANSLATED_AT_HOME = IPv6Network("64:ff9b:1::/48")


def check_mail_address(text: str) -> None:
    """Raise BadInputError unless ``text`` is one e-mail address in ASCII, without a name around it."""
    if not text.isascii():
        raise BadInputError(
            "mail address: only ASCII is allowed, since not every server on the way takes more (SMTPUTF8); "
            "write an international domain in its form with xn--"
        )
    local, at, domain = text.rpartition("@")
    if not at or not _LOCAL_PART.fullmatch(local) or not _DOMAIN.fullmatch(domain) or domain.endswith("."):
        raise BadInputError("mail address: expected one plain address, such as name@example.org")
    if len(local) > LONGEST_LOCAL_PART or len(domain) > LONGEST_DOMAIN or len(text) > LONGEST_MAIL_ADDRESS:
        raise BadInputError(
            f"mail address: at most {LONGEST_LOCAL_PART} characters before the @ and {LONGEST_MAIL_ADDRESS} in all "
            "are allowed"
        )


def checked_webhook_url(text: str, *, private: bool) -> SplitResult:
    """Return the URL's parts. Raises BadInputError unless it is ``https`` and, as far as it can be seen, public.

    With ``private``, addresses of one's own network are allowed, and ``http`` to them. What a host's name stands for
    is only known, and checked, when it is connected to.
    """
    # urlsplit leaves out line breaks and tabs without a word.
    if not (text.isascii() and text.isprintable()) or " " in text or len(text) > LONGEST_URL:
        raise BadInputError(f"webhook: expected a URL of at most {LONGEST_URL} printable ASCII characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadInputError("webhook: this is not a URL; it looks like https://example.org/hook") from None
    if parts.scheme not in ("https", "http") or port == 0 or not (_DOMAIN.fullmatch(host) or _is_ip(host)):
        raise BadInputError("webhook: this is not a web address; it looks like https://example.org/hook")
    if parts.username is not None or parts.password is not None or "#" in text:
        raise BadInputError("webhook: a URL with a user, a password or a fragment ('#') is not allowed")
    if parts.scheme == "http" and not private:
        raise BadInputError("webhook: only https is allowed; see EXPORT_PIPELINE_WEBHOOK_PRIVATE for one's own network")
    if _is_ip(host) and not may_reach(host, parts.scheme, private=private):
        raise BadInputError(
            "webhook: this is not an address on the public internet (https), nor is EXPORT_PIPELINE_WEBHOOK_PRIVATE on"
            if not private
            else "webhook: http is for one's own network; use https on the public internet"
        )
    return parts


def may_reach(ip: str, scheme: str, *, private: bool) -> bool:
    """Tell whether a webhook may go to that IP address: a public one by ``https``, others only with ``private``."""
    address = ip_address(ip)
    if address.is_unspecified or address.is_multicast:
        return False
    return scheme == "https" if is_public(address) else private


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether ``address``, and each IPv4 address hidden in it, is one of the public internet."""
    if isinstance(address, IPv6Address) and address in _TRANSLATED_AT_HOME:
        return False
    return all(part.is_global and not part.is_multicast for part in (address, *_hidden_in(address)))


def _hidden_in(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address]:
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _TRANSLATED:
        yield IPv4Address(int(address) & 0xFFFFFFFF)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
