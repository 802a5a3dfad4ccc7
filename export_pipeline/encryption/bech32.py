"""Bech32, the text form of age's keys: a prefix, '1', then the data and a checksum of six letters.

After BIP 173, which age takes without its limit of 90 characters. No error here holds the text: it may be secret.
"""

from collections.abc import Iterable, Iterator

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_CHECKSUM_LETTERS = 6
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode(prefix: str, data: bytes) -> str:
    """Return ``data`` under ``prefix``, in capitals if the prefix is."""
    values = list(_regroup(data, 8, 5))
    if spare := len(data) * 8 % 5:
        values.append((data[-1] << (5 - spare)) & 31)
    check = _remainder([*_expanded(prefix.lower()), *values, *[0] * _CHECKSUM_LETTERS]) ^ 1
    values += [check >> 5 * place & 31 for place in reversed(range(_CHECKSUM_LETTERS))]
    text = f"{prefix.lower()}1{''.join(_ALPHABET[value] for value in values)}"
    return text.upper() if prefix.isupper() else text


def decode(text: str) -> tuple[str, bytes]:
    """Return the prefix, in the case it was written in, and the data. Raises ValueError for text that is not Bech32."""
    lower = text.lower()
    if text not in (lower, text.upper()):
        raise ValueError("it mixes capitals and small letters")
    prefix, one, letters = lower.rpartition("1")
    if not prefix or not one:
        raise ValueError("it has no prefix that ends with '1'")
    if not all("!" <= character <= "~" for character in prefix) or not _VALUES.keys() >= set(letters):
        raise ValueError("it holds a character that does not belong there")
    values = [_VALUES[letter] for letter in letters]
    if len(values) < _CHECKSUM_LETTERS or _remainder([*_expanded(prefix), *values]) != 1:
        raise ValueError("its checksum is wrong, so it was not copied whole, or was mistyped")
    values = values[:-_CHECKSUM_LETTERS]
    spare = len(values) * 5 % 8
    # What encoding added to fill the last letter is less than a letter, and zero: each data has one text only.
    if spare >= 5 or (spare and values[-1] & ((1 << spare) - 1)):
        raise ValueError("it has surplus bits at its end")
    return text[: len(prefix)], bytes(_regroup(values, 5, 8))


def _regroup(values: Iterable[int], width: int, new_width: int) -> Iterator[int]:
    """Yield the bits of ``values`` in groups of another width; what does not fill a group is left out."""
    held = bits = 0
    for value in values:
        held = (held << width | value) & 0xFFF  # no more than 4 bits wait for the next 8
        bits += width
        while bits >= new_width:
            bits -= new_width
            yield held >> bits & ((1 << new_width) - 1)


def _expanded(prefix: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]


def _remainder(values: Iterable[int]) -> int:
    """Return the remainder of BIP 173's code; it is 1 for what carries its own checksum."""
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                remainder ^= generator
    return remainder
