"""What BIP 173 calls valid is read, what it does not is refused, and no mistake of one letter goes through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.encryption import bech32

PREFIXES = st.sampled_from(["age", "AGE-SECRET-KEY-", "a1b", "?"])


@pytest.mark.parametrize(
    ("text", "prefix", "data"),
    [  # from BIP 173, those whose data is whole bytes
        ("A12UEL5L", "A", ""),
        ("a12uel5l", "a", ""),
        ("abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw", "abcdef", "00443214c74254b635cf84653a56d7c675be77df"),
        ("?1ezyfcl", "?", ""),
    ],
)
def test_valid_texts_are_read_and_written(text: str, prefix: str, data: str) -> None:
    assert bech32.decode(text) == (prefix, bytes.fromhex(data))
    if prefix != "?":
        assert bech32.encode(prefix, bytes.fromhex(data)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "pzry9x0s0muk", "1pzry9x0s0muk", "x1b4n0q5v", "li1dgmt3", "de1lg7wt\xff", "10a06t8", "1qzzfhee"),
        *(" 1nwldj5", "\x7f1axkwrx", "\x801eym55h", "A1G7SGD8", "a12UEL5L", "A12uel5l", "a12uel5", "a12uel5lq"),
    ],
)
def test_invalid_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^it(s| )"):
        bech32.decode(text)


@given(PREFIXES, st.binary(max_size=100))
def test_what_is_written_can_be_read(prefix: str, data: bytes) -> None:
    text = bech32.encode(prefix, data)
    assert text in (text.lower(), text.upper())
    assert bech32.decode(text) == (prefix, data)


@given(PREFIXES, st.binary(min_size=1, max_size=60), st.data())
def test_a_wrong_letter_is_noticed(prefix: str, data: bytes, draw: st.DataObject) -> None:
    text = bech32.encode(prefix, data)
    place = draw.draw(st.integers(0, len(text) - 1))
    letter = draw.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda x: x != text[place]))
    with pytest.raises(ValueError, match=r"^it(s| )"):
        bech32.decode(text[:place] + letter + text[place + 1 :])


@pytest.mark.parametrize("values", [[0, 1], [0, 0, 0], [31], [0, 0, 0, 0, 0, 0, 0, 0, 0]])
def test_there_is_one_text_for_each_data(values: list[int]) -> None:
    letters = "".join(bech32._ALPHABET[value] for value in values)
    check = bech32._remainder([*bech32._expanded("age"), *values, *[0] * 6]) ^ 1
    letters += "".join(bech32._ALPHABET[check >> 5 * place & 31] for place in reversed(range(6)))
    with pytest.raises(ValueError, match="surplus bits"):
        bech32.decode(f"age1{letters}")
