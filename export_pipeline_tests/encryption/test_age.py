"""Files are those of age: the reference reads ours, we read its, and no damage or wrong key goes unnoticed."""

import io
import traceback
from collections.abc import Sequence

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from export_pipeline.encryption.age import (
    AgeWriter,
    Identity,
    Recipient,
    WrongKeyError,
    new_identity,
    open_age,
    parse_identities,
    parse_recipient,
)
from export_pipeline.encryption.header import HEADER_LIMIT, Stanza, read_header, write_header
from export_pipeline.encryption.wrapping import WORK_FACTOR
from export_pipeline.errors import BadInputError, ExportPipelineError, IncompleteError
from export_pipeline_tests.encryption import forging

CHUNK = 64 << 10
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]
PLAIN = bytes(range(251)) * (3 * CHUNK // 251 + 1)
FAST = 10
"""A work factor for passphrases that tests can afford."""

IDENTITY = Identity(bytes(range(32)))
OTHER = Identity(bytes(32))


def theirs(identity: Identity) -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.from_str(identity.secret)


def seal(plain: bytes, recipients: Sequence[Recipient] = (IDENTITY.recipient,), passphrase: str | None = None) -> bytes:
    sink = io.BytesIO()
    writer = AgeWriter(sink, recipients=recipients, passphrase=passphrase, work_factor=FAST)
    assert writer.write(plain) == writer.tell() == len(plain)
    writer.close()
    return sink.getvalue()


def unseal(sealed: bytes, identities: Sequence[Identity] = (IDENTITY,), passphrase: str | None = None) -> bytes:
    with open_age(io.BytesIO(sealed), identities=identities, passphrase=passphrase) as file:
        return file.read()


# With the reference


@pytest.mark.parametrize("size", SIZES)
def test_the_reference_opens_what_we_seal(size: int) -> None:
    assert pyrage.decrypt(seal(PLAIN[:size]), [theirs(IDENTITY)]) == PLAIN[:size]
    assert pyrage.passphrase.decrypt(seal(PLAIN[:size], [], "correct horse ü"), "correct horse ü") == PLAIN[:size]


@pytest.mark.parametrize("size", SIZES)
def test_we_open_what_the_reference_seals(size: int) -> None:
    sealed = pyrage.encrypt(PLAIN[:size], [theirs(IDENTITY).to_public()])
    assert unseal(sealed) == PLAIN[:size]
    assert open_age(io.BytesIO(sealed), identities=[IDENTITY]).seek(0, io.SEEK_END) == size


def test_we_open_what_the_reference_seals_with_a_passphrase() -> None:
    sealed = pyrage.passphrase.encrypt(PLAIN, "correct horse ü")
    assert unseal(sealed, [], "correct horse ü") == PLAIN


def test_a_passphrase_is_as_hard_to_guess_as_the_programs_make_it() -> None:
    sink = io.BytesIO()
    AgeWriter(sink, passphrase="correct horse").close()
    assert f" {WORK_FACTOR}\n".encode() in sink.getvalue()
    assert WORK_FACTOR == 18
    assert unseal(sink.getvalue(), [], "correct horse") == b""


def test_each_of_several_recipients_opens_the_file() -> None:
    identities = [new_identity() for _ in range(5)]
    ours = seal(PLAIN, [identity.recipient for identity in identities])
    reference = pyrage.encrypt(PLAIN, [theirs(identity).to_public() for identity in identities])
    for identity in identities:
        assert pyrage.decrypt(ours, [theirs(identity)]) == PLAIN
        assert unseal(ours, [identity]) == PLAIN
        assert unseal(reference, [OTHER, identity]) == PLAIN


def test_keys_may_go_through_text() -> None:
    identity = pyrage.x25519.Identity.generate()
    sealed = seal(PLAIN, [parse_recipient(str(identity.to_public()))])
    assert pyrage.decrypt(sealed, [identity]) == PLAIN
    assert unseal(sealed, parse_identities(f"# a comment\n{identity}\n")) == PLAIN


# Keys


def test_a_wrong_key_opens_nothing_and_the_reference_agrees() -> None:
    sealed = seal(PLAIN)
    with pytest.raises(WrongKeyError, match="age file: none of the identities given opens it") as caught:
        unseal(sealed, [OTHER, new_identity()])
    assert caught.value.code == "wrong_key"
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(sealed, [theirs(OTHER)])


@pytest.mark.parametrize(
    ("sealed", "identities", "passphrase", "message"),
    [
        (seal(b"x"), [], None, "it opens with an identity .*, and none was given"),
        (seal(b"x"), [], "correct horse", "it opens with an identity .*, and none was given"),
        (seal(b"x"), [OTHER], "correct horse", "none of the identities given"),
        (seal(b"x", [], "correct horse"), [IDENTITY], None, "it opens with a passphrase, and none was given"),
        (seal(b"x", [], "correct horse"), [], "Correct horse", "the passphrase given does not open it"),
    ],
    ids=range(5),
)
def test_the_message_says_which_key_is_missing(
    sealed: bytes, identities: list[Identity], passphrase: str | None, message: str
) -> None:
    with pytest.raises(WrongKeyError, match=message) as caught:
        unseal(sealed, identities, passphrase)
    assert "orrect horse" not in "".join(traceback.format_exception(caught.value))


def test_keys_of_both_kinds_may_be_offered() -> None:
    assert unseal(seal(b"x"), [IDENTITY], "any") == b"x"
    assert unseal(seal(b"x", [], "correct horse"), [IDENTITY], "correct horse") == b"x"


@pytest.mark.parametrize(
    ("recipients", "passphrase", "message"),
    [
        ([], None, "either recipients or a passphrase"),
        ([IDENTITY.recipient], "correct horse", "either recipients or a passphrase"),
        ([], "", "it is empty"),
        ([], "secret\ud800", "not valid Unicode"),
    ],
)
def test_a_writer_takes_recipients_or_a_passphrase(
    recipients: list[Recipient], passphrase: str | None, message: str
) -> None:
    sink = io.BytesIO()
    with pytest.raises(BadInputError, match=message) as caught:
        AgeWriter(sink, recipients=recipients, passphrase=passphrase)
    assert sink.getvalue() == b""
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_whoever_wrote_the_file_can_read_it_back() -> None:
    sink = io.BytesIO()
    writer = AgeWriter(sink, recipients=[OTHER.recipient])
    writer.write(PLAIN)
    writer.close()
    assert open_age(io.BytesIO(sink.getvalue()), file_key=writer.file_key).read() == PLAIN
    with pytest.raises(IncompleteError):
        open_age(io.BytesIO(seal(PLAIN)), file_key=writer.file_key)


def test_nothing_secret_is_the_same_in_two_files() -> None:
    one, other = seal(b"the same"), seal(b"the same")
    assert not set(one.split(b"\n")[1:]) & set(other.split(b"\n")[1:])


def test_no_secret_is_in_a_repr() -> None:
    writer = AgeWriter(io.BytesIO(), recipients=[IDENTITY.recipient])
    assert repr(writer.file_key) not in repr(writer)


# Streaming


def test_the_content_is_pushed_on_as_it_comes() -> None:
    sink = io.BytesIO()
    writer = AgeWriter(sink, recipients=[IDENTITY.recipient])
    header = len(sink.getvalue())
    assert sink.getvalue().startswith(b"age-encryption.org/v1\n-> X25519 ")
    writer.write(PLAIN)
    assert len(sink.getvalue()) - header == len(PLAIN) // CHUNK * (CHUNK + 16)
    assert not sink.closed


def test_a_file_without_its_end_is_refused() -> None:
    for size in SIZES:
        sink = io.BytesIO()
        AgeWriter(sink, recipients=[IDENTITY.recipient]).write(PLAIN[:size])
        with pytest.raises(IncompleteError, match="its end"):
            unseal(sink.getvalue())


def test_a_file_may_begin_behind_something_else() -> None:
    file = io.BytesIO(b"before" + seal(PLAIN))
    file.seek(6)
    plain = open_age(file, identities=[IDENTITY])
    plain.seek(CHUNK + 5)
    assert plain.read(10) == PLAIN[CHUNK + 5 : CHUNK + 15]
    plain.close()
    assert not file.closed


# Damage


def outcome(sealed: bytes, **keys: object) -> bytes | type[ExportPipelineError]:
    try:
        return open_age(io.BytesIO(sealed), **keys).read()  # type: ignore[arg-type]
    except (WrongKeyError, IncompleteError) as error:
        return type(error)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_no_changed_byte_goes_unnoticed(flip: int) -> None:
    sealed = seal(b"a small file", [IDENTITY.recipient, OTHER.recipient])
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= flip
        assert outcome(bytes(changed), identities=[IDENTITY]) in (WrongKeyError, IncompleteError)


def test_no_changed_byte_of_a_file_with_a_passphrase_goes_unnoticed() -> None:
    sealed = seal(b"a small file", [], "correct horse")
    work_factor = sealed.index(b" 10\n") + 1
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 0x04 if place == work_factor else 0x01  # 50, and 11, not 00
        try:
            assert outcome(bytes(changed), passphrase="correct horse") in (WrongKeyError, IncompleteError)
        except BadInputError:
            assert place == work_factor


def test_a_small_file_cut_short_anywhere_is_refused() -> None:
    sealed = seal(b"a small file")
    for cut in range(len(sealed)):
        assert outcome(sealed[:cut], identities=[IDENTITY]) is IncompleteError


def test_bytes_after_the_end_are_refused() -> None:
    for extra in (b"\n", bytes(16), seal(b"a small file")):
        assert outcome(seal(b"a small file") + extra, identities=[IDENTITY]) is IncompleteError


def test_a_header_for_another_payload_is_refused() -> None:
    one, other = seal(b"one"), seal(b"other")
    ends = [sealed.index(b"\n", sealed.index(b"\n---") + 1) + 1 for sealed in (one, other)]
    assert outcome(one[: ends[0]] + other[ends[1] :], identities=[IDENTITY]) is IncompleteError


def test_the_name_of_the_file_is_in_its_errors() -> None:
    sealed = seal(PLAIN)
    with pytest.raises(WrongKeyError, match=r"^me\.json\.age: none of"):
        open_age(io.BytesIO(sealed), identities=[OTHER], name="me.json.age")
    with pytest.raises(IncompleteError, match=r"^me\.json\.age: its end is not"):
        open_age(io.BytesIO(sealed[:-1]), identities=[IDENTITY], name="me.json.age")
    with pytest.raises(IncompleteError, match=r"^me\.json\.age: it was changed"):
        open_age(
            io.BytesIO(sealed.replace(sealed[500:600], bytes(100))), identities=[IDENTITY], name="me.json.age"
        ).read()


@pytest.mark.parametrize(
    "content", [b"", b"[\n]\n", b"-----BEGIN AGE ENCRYPTED FILE-----\n", b"age-encryption.org/v2\n"]
)
def test_what_is_no_file_of_age_is_refused(content: bytes) -> None:
    with pytest.raises(IncompleteError, match="it is not a file of age, version 1"):
        unseal(content)


# Headers that no writer makes: each has a MAC that fits, and a payload


SHARE = Identity(b"e" * 32)
SHARED = X25519PrivateKey.from_private_bytes(b"e" * 32).exchange(
    X25519PublicKey.from_public_bytes(IDENTITY.recipient.key)
)
ARGUMENT = forging.base64(SHARE.recipient.key)
BODY = forging.x25519_body(SHARED, SHARE.recipient.key, IDENTITY.recipient.key)
GOOD = b"-> X25519 %b\n%b\n" % (ARGUMENT, BODY)
LOW_ORDER = bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")
LINE = b"A" * 64

SALT = forging.base64(b"s" * 16)
PASS_BODY = forging.scrypt_body(b"word", b"s" * 16, FAST)
GOOD_PASS = b"-> scrypt %b 10\n%b\n" % (SALT, PASS_BODY)


def not_canonical(text: bytes) -> bytes:
    """The same data, with a bit set that stands for nothing."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return text[:-1] + letters[letters.index(text[-1]) + 1 :][:1]


@pytest.mark.parametrize(
    "stanzas",
    [
        GOOD,
        b"-> other\n\n" + GOOD,
        b"-> X !~ [ -> ---\n" + LINE + b"\n\n" + GOOD + b"-> x25519 a\nAAA\n",
        b"-> joint-grease\n" + (LINE + b"\n") * 50 + b"AAAA\n" + GOOD,
        b"-> scrypts\n\n" + GOOD,
        GOOD + GOOD,
    ],
    ids=["alone", "unknown", "odd arguments", "long body", "name that begins alike", "twice"],
)
def test_stanzas_that_we_do_not_know_are_left_alone(stanzas: bytes) -> None:
    assert unseal(forging.file(stanzas)) == b"plain"
    assert pyrage.decrypt(forging.file(stanzas), [theirs(IDENTITY)]) == b"plain"


@pytest.mark.parametrize("length", [0, 1, 47, 48, 49, 96, 1000])
def test_a_stanza_is_read_as_it_was_written(length: int) -> None:
    stanzas = (Stanza(("other", "a"), PLAIN[:length]), Stanza(("more",), b""))
    header = read_header(io.BytesIO(write_header(stanzas, forging.FILE_KEY)))
    assert header.stanzas == stanzas
    header.verify(forging.FILE_KEY)


def test_the_independent_writer_makes_passphrases_too() -> None:
    assert unseal(forging.file(GOOD_PASS), [], "word") == b"plain"


MALFORMED = {
    "no stanza": b"",
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "blank line": b"\n" + GOOD,
    "no body": b"-> other\n" + GOOD,
    "no arguments": b"-> \n\n" + GOOD,
    "no space": b"->other\n\n" + GOOD,
    "other mark": b"=> other\n\n" + GOOD,
    "two spaces": b"-> other  a\n\n" + GOOD,
    "space at the end": b"-> other \n\n" + GOOD,
    "tab": b"-> other\ta\n\n" + GOOD,
    "not ASCII": "-> öther\n\n".encode() + GOOD,
    "control character": b"-> other\0\n\n" + GOOD,
    "padding": b"-> other\nAA==\n" + GOOD,
    "not canonical": b"-> other\nAB\n" + GOOD,
    "impossible length": b"-> other\nAAAAA\n" + GOOD,
    "no base64": b"-> other\nA-_A\n" + GOOD,
    "space in the body": b"-> other\nAA AA\n" + GOOD,
    "line too long": b"-> other\n" + LINE + b"AAAA\n" + GOOD,
    "full line at the end": b"-> other\n" + LINE + b"\n" + GOOD,
    "short line in between": b"-> other\nAAAA\nAAAA\n" + GOOD,
    "body cut in two": GOOD.replace(BODY, BODY[:20] + b"\n" + BODY[20:]),
    "X25519 with more": b"-> X25519 %b a\n%b\n" % (ARGUMENT, BODY),
    "X25519 with less": b"-> X25519\n%b\n" % BODY,
    "X25519 and a short share": b"-> X25519 %b\n%b\n" % (forging.base64(SHARE.recipient.key[:-1]), BODY),
    "X25519 and a long share": b"-> X25519 %b\n%b\n" % (forging.base64(SHARE.recipient.key + b"\0"), BODY),
    "X25519 and a share that is not canonical": b"-> X25519 %b\n%b\n" % (not_canonical(ARGUMENT), BODY),
    "X25519 and a body that is not canonical": b"-> X25519 %b\n%b\n" % (ARGUMENT, not_canonical(BODY)),
    "X25519 and a padded share": b"-> X25519 %b=\n%b\n" % (ARGUMENT, BODY),
    "X25519 and a share of low order": b"-> X25519 %b\n%b\n"
    % (forging.base64(LOW_ORDER), forging.x25519_body(bytes(32), LOW_ORDER, IDENTITY.recipient.key)),
    "X25519 and a long key": b"-> X25519 %b\n%b\n"
    % (ARGUMENT, forging.x25519_body(SHARED, SHARE.recipient.key, IDENTITY.recipient.key, b"k" * 24)),
    "passphrase with X25519": GOOD + GOOD_PASS,
    "passphrase with another": GOOD_PASS + b"-> other\n\n",
    "two passphrases": GOOD_PASS + GOOD_PASS,
}


@pytest.mark.parametrize("stanzas", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_header_that_is_not_well_formed_is_refused(stanzas: bytes) -> None:
    with pytest.raises(IncompleteError, match="its header is damaged"):
        unseal(forging.file(stanzas), [IDENTITY], "word")


MALFORMED_PASS = {
    "upper case": (GOOD_PASS.replace(b"scrypt", b"Scrypt"), WrongKeyError),
    "more": (GOOD_PASS.replace(b" 10\n", b" 10 a\n"), IncompleteError),
    "less": (GOOD_PASS.replace(b" 10\n", b"\n"), IncompleteError),
    "no salt": (b"-> scrypt 10\n%b\n" % PASS_BODY, IncompleteError),
    "short salt": (GOOD_PASS.replace(SALT, forging.base64(b"s" * 15)), IncompleteError),
    "long salt": (GOOD_PASS.replace(SALT, forging.base64(b"s" * 17)), IncompleteError),
    "salt not canonical": (GOOD_PASS.replace(SALT, not_canonical(SALT)), IncompleteError),
    "body not canonical": (GOOD_PASS.replace(PASS_BODY, not_canonical(PASS_BODY)), IncompleteError),
    "long key": (
        GOOD_PASS.replace(PASS_BODY, forging.scrypt_body(b"word", b"s" * 16, FAST, b"k" * 24)),
        IncompleteError,
    ),
    "work factor of 0": (GOOD_PASS.replace(b" 10\n", b" 0\n"), IncompleteError),
    "work factor with a zero": (GOOD_PASS.replace(b" 10\n", b" 010\n"), IncompleteError),
    "work factor with a sign": (GOOD_PASS.replace(b" 10\n", b" +10\n"), IncompleteError),
    "work factor below 0": (GOOD_PASS.replace(b" 10\n", b" -10\n"), IncompleteError),
    "work factor in hex": (GOOD_PASS.replace(b" 10\n", b" 0xa\n"), IncompleteError),
    "work factor and letters": (GOOD_PASS.replace(b" 10\n", b" 10x\n"), IncompleteError),
    "work factor that overflows": (GOOD_PASS.replace(b" 10\n", b" %d\n" % (2**64 + 10)), IncompleteError),
    "other work factor": (GOOD_PASS.replace(b" 10\n", b" 9\n"), WrongKeyError),
    "work factor of 23": (GOOD_PASS.replace(b" 10\n", b" 23\n"), BadInputError),
    "work factor of 999": (GOOD_PASS.replace(b" 10\n", b" 999\n"), BadInputError),
}


@pytest.mark.parametrize(("stanzas", "error"), MALFORMED_PASS.values(), ids=MALFORMED_PASS.keys())
def test_a_passphrase_that_is_not_well_formed_is_refused(stanzas: bytes, error: type[ExportPipelineError]) -> None:
    with pytest.raises(error) as caught:
        unseal(forging.file(stanzas), [], "word")
    assert type(caught.value) is error


def test_the_end_of_the_header_has_one_form() -> None:
    covered = forging.VERSION + GOOD + b"---"
    mac, rest = forging.mac(covered), forging.NONCE + forging.chunk(0, b"plain", last=True)
    assert unseal(covered + b" " + mac + b"\n" + rest) == b"plain"
    for wrong in (
        *(b"\n", b" \n", mac + b"\n", b"  " + mac + b"\n", b" " + mac + b" \n", b" " + mac + b"\r\n"),
        *(b" " + mac[:-1] + b"\n", b" " + mac + b"=\n", b" " + mac + b"A\n", b" " + not_canonical(mac) + b"\n"),
        *(b" " + mac, b" " + forging.mac(covered + b" ") + b"\n", b" " + mac + b" a\n"),
    ):
        with pytest.raises(IncompleteError):
            unseal(covered + wrong + rest)
    other_mark = covered[:-3] + b"==="
    with pytest.raises(IncompleteError):
        unseal(other_mark + b" " + forging.mac(other_mark) + b"\n" + rest)


@pytest.mark.parametrize(
    "stanzas",
    [(b"-> other\n" + (LINE + b"\n") * 1000 + b"\n") * (HEADER_LIMIT // 65000 + 1), b"-> " + b"a" * HEADER_LIMIT],
    ids=["stanzas", "one line"],
)
def test_what_is_kept_of_a_header_has_an_end(stanzas: bytes) -> None:
    file = io.BytesIO(forging.file(stanzas + b"\n\n" + GOOD))
    with pytest.raises(IncompleteError, match="its header is damaged"):
        open_age(file, identities=[IDENTITY])
    assert file.tell() == HEADER_LIMIT
