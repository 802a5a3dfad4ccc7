"""What the fields of sampled documents hold, and which of them hold uids. No I/O.

Names and values are personal data until ``without_keys`` has gone over them: a document may be a map, with a uid, a
date or an e-mail address where others have a field's name. After it, ``*`` stands for all such names of a level.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from export_pipeline.catalog.importing.user_selector import USER_KEYS

ANY = "*"

LONGEST_UID = 512
DEEPEST = 6
"""How many levels are looked at; deeper ones hardly hold the uid of who a document belongs to."""

MOST_STRINGS = 100
"""How many distinct strings of a field are kept; enough to judge it by."""

_MOST_NAMES = 200  # distinct names in a level; with more it is a map
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}", re.ASCII)
_DIGIT = re.compile(r"\d", re.ASCII)
_MOST_DIGITS = 3
_CLEARLY_LONG = 5
_FEW = 3


@dataclass(frozen=True, slots=True)
class Uids:
    """Which of the words that were looked up are uids of an app, and how long its uids usually are."""

    known: frozenset[str] = field(repr=False)
    usual_length: int

    def telling(self, word: str) -> bool:
        """Tell whether ``word`` is a uid that is hardly anything else.

        Counters make short uids, so in an app of some size every language ("en"), version ("12") and platform
        ("ios") is somebody's uid. Such a coincidence is shorter than most uids of the app, or a plain word or number.
        """
        if word not in self.known or len(word) < self.usual_length:
            return False
        return len(word) >= _CLEARLY_LONG or (word.isalnum() and not word.isalpha() and not word.isdecimal())


@dataclass(slots=True)
class Field:
    """What a sample holds at one path, arrays opened; a whole document is the field at no path."""

    times: int = 0
    objects: int = 0  # how often it was a document, with fields of its own
    strings: set[str] = field(default_factory=set, repr=False)
    keys: set[str] = field(default_factory=set, repr=False)  # names in it that are no field's, and stand under ANY
    fields: dict[str, "Field"] = field(default_factory=dict, repr=False)

    def look_at(self, value: Any, depth: int = DEEPEST) -> None:
        """Add a value."""
        if isinstance(value, str):
            _keep(self.strings, value)
        elif isinstance(value, list):
            for item in value:
                self.look_at(item, depth)
        elif depth and isinstance(value, Mapping):
            self.objects += 1
            for name, inner in value.items():
                self._look_into(name, inner, depth - 1)

    def names(self) -> Iterator[str]:
        """Yield the names at all levels."""
        yield from self.keys
        for name, inner in self.fields.items():
            yield name
            yield from inner.names()

    def words(self) -> Iterator[str]:
        """Yield the names and the strings at all levels: whatever may be a uid."""
        yield from self.names()
        yield from self.strings
        for _, inner in self.paths():
            yield from inner.strings

    def paths(self, prefix: str = "") -> Iterator[tuple[str, "Field"]]:
        """Yield the fields inside, with their dotted paths."""
        for name, inner in self.fields.items():
            path = f"{prefix}{name}"
            yield path, inner
            yield from inner.paths(f"{path}.")

    def absorb(self, other: "Field") -> None:
        """Add what another field holds."""
        self.times += other.times
        self.objects += other.objects
        self.strings |= other.strings
        self.keys |= other.keys
        for name, inner in other.fields.items():
            self.fields.setdefault(name, Field()).absorb(inner)

    def _look_into(self, name: str, value: Any, depth: int) -> None:
        inner = self.fields.get(name)
        if inner is None:
            if name == ANY or not _is_plain(name) or len(self.fields) > _MOST_NAMES:
                _keep(self.keys, name)
                name = ANY
            inner = self.fields.setdefault(name, Field())
        inner.times += 1
        inner.look_at(value, depth)


def strings_at(value: Any, path: Sequence[str]) -> Iterator[str]:
    """Yield the strings at ``path``, arrays opened.

    >>> list(strings_at({"to": [{"uid": "a"}, {"uid": ["b", 7]}]}, ["to", "uid"]))
    ['a', 'b']
    """
    if isinstance(value, list):
        for item in value:
            yield from strings_at(item, path)
    elif not path:
        if isinstance(value, str):
            yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from strings_at(value[path[0]], path[1:])


def without_keys(level: Field, uids: Uids) -> Field:
    """Return a copy in which ``*`` stands for all names that are data.

    A name is data if it is not plain (a letter, then up to 39 letters, ``_``, ``-`` and three digits), or a telling
    uid, or a uid that few documents of its level have. Where half of a level's names have a digit or are data, or
    there are more than 200, the level is a map: then also those with a digit, and those that few documents have.
    ``_id``, ``uid`` and their like are always names.
    """
    is_map = _is_map(level, uids)
    keys = set(level.keys)
    groups: dict[str, Field] = {}
    for name, inner in level.fields.items():
        rare = level.objects < _FEW or 2 * inner.times < level.objects
        is_key = name not in USER_KEYS and (
            uids.telling(name)
            or (rare and (is_map or name in uids.known))
            or (is_map and _DIGIT.search(name) is not None)
        )
        if is_key and name != ANY:
            keys.add(name)
        groups.setdefault(ANY if is_key else name, Field()).absorb(inner)
    return Field(
        times=level.times,
        objects=level.objects,
        strings=set(level.strings),
        keys=keys,
        fields={name: without_keys(inner, uids) for name, inner in groups.items()},
    )


def fields_with_uids(document: Field, uids: Uids) -> list[str]:
    """Return the paths at which sampled documents, without their keys, hold uids; the best user key first.

    Of the distinct strings at a path half must be uids, and two of those must be telling (see ``Uids.telling``).
    Where the field is called like a user key, such as ``uid``, a tenth of the strings is enough, and any uid counts.
    Names that are data count as strings at ``*``: a map by uid holds uids as well.
    """
    candidates = [(path, inner.strings) for path, inner in document.paths()]
    candidates += [(ANY, document.keys), *((f"{path}.{ANY}", inner.keys) for path, inner in document.paths())]
    hits = {path: len(words & uids.known) for path, words in candidates if _hold_uids(path, words, uids)}
    return sorted(hits, key=lambda path: (ANY in path, -hits[path], not _is_called_user_key(path), path))


def _hold_uids(path: str, words: Iterable[str], uids: Uids) -> bool:
    distinct = set(words)
    known = distinct & uids.known
    if _is_called_user_key(path):
        return 10 * len(known) >= len(distinct) > 0
    return 2 * len(known) >= len(distinct) and sum(map(uids.telling, known)) >= 2


def _is_called_user_key(path: str) -> bool:
    name = path.rpartition(".")[2]
    return name in USER_KEYS and name != "_id"  # any collection has an _id


def _is_map(level: Field, uids: Uids) -> bool:
    like_keys = sum(1 for name in level.fields if name != ANY and (_DIGIT.search(name) or uids.telling(name)))
    names = len(level.fields.keys() - {ANY}) + len(level.keys)
    return names > _MOST_NAMES or 2 * (like_keys + len(level.keys)) >= max(names, 1)


def _is_plain(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is not None and len(_DIGIT.findall(name)) <= _MOST_DIGITS


def _keep(words: set[str], word: str) -> None:
    if len(words) < MOST_STRINGS:
        words.add(word[: LONGEST_UID + 1])
