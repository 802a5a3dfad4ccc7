"""Keys are those of age; a mistake is named, and nothing of a secret is ever shown."""

import traceback

import pyrage
import pytest

from export_pipeline.encryption import bech32
from export_pipeline.encryption.age import new_identity, parse_identities, parse_recipient
from export_pipeline.errors import BadInputError

PYRAGE = pyrage.x25519.Identity.from_str(bech32.encode("AGE-SECRET-KEY-", bytes(range(32))))
POST_QUANTUM = bech32.encode("age1pq", bytes(1216))
PLUGIN = bech32.encode("age1yubikey", bytes(33))
LOW_ORDER = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"


def test_the_reference_has_the_same_keys() -> None:
    identity = new_identity()
    assert str(pyrage.x25519.Identity.from_str(identity.secret).to_public()) == str(identity.recipient)
    [parsed] = parse_identities(str(PYRAGE))
    assert (parsed.secret, str(parsed.recipient)) == (str(PYRAGE), str(PYRAGE.to_public()))
    assert parse_recipient(f" {PYRAGE.to_public()}\n") == parsed.recipient


def test_identities_differ() -> None:
    assert len({new_identity().secret for _ in range(10)}) == 10


def test_an_identity_file_has_comments_and_blank_lines() -> None:
    one, other = new_identity(), new_identity()
    text = f"# created: 2026-11-01\n# public key: {one.recipient}\n{one.secret}\n\n  {other.secret}  \r\n"
    assert [identity.secret for identity in parse_identities(text)] == [one.secret, other.secret]


def test_no_secret_is_shown() -> None:
    identity = new_identity()
    for shown in (repr(identity), str(identity), f"{identity}", repr([identity]), repr(identity.recipient)):
        assert "SECRET" not in shown.upper()
        assert identity._key.hex() not in shown
        assert repr(identity._key) not in shown
    assert str(identity.recipient) in repr(identity)


def refusal(parse: object, text: str) -> str:
    """The message with which ``text`` is refused; what a log would hold of the error holds nothing of the text."""
    with pytest.raises(BadInputError) as caught:
        parse(text)  # type: ignore[operator]
    logged = "".join(traceback.format_exception(caught.value)).replace("AGE-SECRET-KEY-1…", "")
    for line in filter(None, text.splitlines()):
        assert line.strip() not in logged
        assert len(line) < 30 or line.strip()[-20:] not in logged
    return str(caught.value)


@pytest.mark.parametrize("text", [str(PYRAGE), f" {PYRAGE}\n", str(PYRAGE).lower(), f"# public key: x\n{PYRAGE}"])
def test_a_secret_key_is_no_recipient(text: str) -> None:
    assert "this is a secret key, which opens files and must not be handed over" in refusal(parse_recipient, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (str(PYRAGE.to_public()).upper(), "does not begin with age1"),
        (str(PYRAGE.to_public())[:-1], "checksum"),
        (str(PYRAGE.to_public()).replace("1", "1q", 1), "checksum"),
        (f"{PYRAGE.to_public()},{PYRAGE.to_public()}", "checksum"),
        (POST_QUANTUM, "does not begin with age1"),
        (PLUGIN, "does not begin with age1"),
        (bech32.encode("age", bytes(31)), "length"),
        (bech32.encode("age", b"\1" + bytes(31)), "keeps nothing secret"),
        (bech32.encode("age", bytes.fromhex(LOW_ORDER)), "keeps nothing secret"),
        (f"ssh-ed25519 {'AAAA' * 17} me", "capitals"),
        (f"{PYRAGE.to_public()}é", "character"),
        ("me@example.org", "prefix"),
    ],
)
def test_what_is_no_recipient_is_refused_with_the_reason(text: str, reason: str) -> None:
    message = refusal(parse_recipient, text)
    assert message.startswith("recipient: this is no public key of age (it")
    assert reason in message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (str(PYRAGE.to_public()), "does not begin with AGE-SECRET-KEY-1"),
        (str(PYRAGE).lower(), "does not begin with AGE-SECRET-KEY-1"),
        (str(PYRAGE)[:-1], "checksum"),
        (f"{PYRAGE} # mine", "capitals"),
        (bech32.encode("AGE-SECRET-KEY-", bytes(33)), "length"),
        (bech32.encode("AGE-SECRET-KEY-PQ-", bytes(32)), "does not begin with AGE-SECRET-KEY-1"),
        (bech32.encode("AGE-PLUGIN-YUBIKEY-", bytes(32)), "does not begin with AGE-SECRET-KEY-1"),
        ("-----BEGIN AGE ENCRYPTED FILE-----", "prefix"),
    ],
)
def test_a_line_that_is_no_identity_is_named_by_its_number(line: str, reason: str) -> None:
    message = refusal(parse_identities, f"# mine\n{PYRAGE}\n{line}\n")
    assert message.startswith("identity file, line 3: this is no identity (it")
    assert reason in message


def test_a_file_without_identities_is_refused() -> None:
    assert "holds no identity" in refusal(parse_identities, "# nothing\n\n")
