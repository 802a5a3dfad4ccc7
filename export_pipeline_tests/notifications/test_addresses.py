"""Which addresses a notification may go to. Nothing of a refused one is repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.errors import BadInputError
from export_pipeline.notifications.addresses import check_mail_address, checked_webhook_url, may_reach


@pytest.mark.parametrize(
    "address",
    [
        "name@example.org",
        "first.last+tag@sub.example.org",
        "o'brien@example.org",
        "x@xn--mnchen-3ya.de",
        "root@localhost",
        f"{'a' * 64}@example.org",
    ],
)
def test_plain_addresses_are_fine(address: str) -> None:
    check_mail_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "name",
        "@example.org",
        "name@",
        "hush@hush@example.org",
        "hush@example.org, hush2@example.org",
        "hush@example.org;hush2@example.org",
        "Hush <hush@example.org>",
        "<hush@example.org>",
        '"hush hush"@example.org',
        "hush@example.org\r\nBcc: all@example.org",
        "hush@example.org\n",
        "hush\x00@example.org",
        "hush@example.org> SIZE=0",
        "hush hush@example.org",
        " hush@example.org",
        ".hush@example.org",
        "hu..sh@example.org",
        "hush@-example.org",
        "hush@example..org",
        "hush@example.org.",
        "hush@[127.0.0.1]",
        "hush@exa_mple.org",
        f"{'h' * 65}@example.org",
        f"hush@{'.'.join(['a' * 60] * 5)}",
    ],
)
def test_what_is_not_one_plain_address_is_refused(address: str) -> None:
    with pytest.raises(BadInputError, match=r"^mail address: ") as raised:
        check_mail_address(address)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("address", ["müller@example.org", "name@bücher.example", "nаme@example.org"])  # noqa: RUF001
def test_what_needs_an_extension_of_every_server_on_the_way_is_refused(address: str) -> None:
    with pytest.raises(BadInputError, match="SMTPUTF8"):
        check_mail_address(address)


@given(st.text())
def test_no_text_gets_a_second_header_or_recipient_in(text: str) -> None:
    try:
        check_mail_address(text)
    except BadInputError:
        return
    assert not set(text) & set(' \r\n\t,;<>()"\\:')


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "https://example.org:8443/hook?key=value&a=%20",
        "https://93.184.215.14/hook",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
    ],
)
def test_public_https_is_fine(url: str) -> None:
    checked_webhook_url(url, private=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hush",
        "//hush.example/",
        "ftp://hush.example/",
        "file:///etc/hush",
        "javascript:hush",
        "https://",
        "https:///hush",
        "https://user@hush.example/",
        "https://user:password@hush.example/",
        "https://@hush.example/",
        "https://hush.example/#part",
        "https://hush.example/a b",
        "https://hush.example/\r\nX-Header: 1",
        "https://hu\tsh.example/",
        "https://hush.example\\@127.0.0.1/",
        "https://hush.exämple/",
        "https://hush.example:0/",
        "https://hush.example:99999/",
        "https://hush.example:port/",
        "https://[hush/",
        f"https://hush.example/{'x' * 2000}",
    ],
)
@pytest.mark.parametrize("private", [False, True])
def test_what_is_no_web_address_is_refused(url: str, private: bool) -> None:
    with pytest.raises(BadInputError, match=r"^webhook: ") as raised:
        checked_webhook_url(url, private=private)
    assert "hush" not in str(raised.value)


PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::",
]
NEVER = ["0.0.0.0", "::", "224.0.0.1", "ff02::1"]
PUBLIC = ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"]


@pytest.mark.parametrize("ip", PRIVATE + NEVER)
def test_one_s_own_network_is_out_of_reach(ip: str) -> None:
    assert not may_reach(ip, "https", private=False)
    assert not may_reach(ip, "http", private=False)


@pytest.mark.parametrize("ip", PRIVATE)
def test_one_s_own_network_is_in_reach_where_that_is_wished(ip: str) -> None:
    assert may_reach(ip, "https", private=True)
    assert may_reach(ip, "http", private=True)


@pytest.mark.parametrize("ip", NEVER)
def test_what_is_no_host_s_address_is_never_in_reach(ip: str) -> None:
    assert not may_reach(ip, "http", private=True)


@pytest.mark.parametrize("ip", PUBLIC)
@pytest.mark.parametrize("private", [False, True])
def test_the_public_internet_is_in_reach_by_https_alone(ip: str, private: bool) -> None:
    assert may_reach(ip, "https", private=private)
    assert not may_reach(ip, "http", private=private)


@pytest.mark.parametrize(
    ("url", "private", "says"),
    [
        ("http://example.org/", False, "only https is allowed"),
        ("https://127.0.0.1/", False, "not an address on the public internet"),
        ("https://[::1]/", False, "not an address on the public internet"),
        ("https://169.254.169.254/latest/", False, "not an address on the public internet"),
        ("http://1.1.1.1/", True, "use https on the public internet"),
    ],
)
def test_what_can_be_seen_in_the_url_is_refused_at_once(url: str, private: bool, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        checked_webhook_url(url, private=private)
