"""Who the person is: from what a request names to all uids and device ids of the same person.

Uids are merged when a product finds that two were one person; documents written before lie under the old ones. A
device id does not join people: two of them may have used one device.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from export_pipeline.catalog.model import Identity
from export_pipeline.errors import BadInputError
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.filters import SELECTING_OPERATORS, checked_filter
from export_pipeline.mongo.snapshot import CollectionId, SnapshotReader
from export_pipeline.slices.ownership import UIDS_PER_QUERY, values_at
from export_pipeline.slices.stored import Stored

MOST_MERGED = 1000
"""A person with more merged uids than this is damaged data, and following it would hand over other people's."""


class NobodyFoundError(BadInputError):
    """The filter on the person matches nobody."""

    code = "nobody_found"


class TooManyPeopleError(BadInputError):
    """The filter matches more people than the request allows, or too many uids are merged into one."""

    code = "too_many_people"


class Person(Stored):
    """The ids of the people that one request is about."""

    requested_uids: tuple[str, ...]
    merged_uids: tuple[str, ...] = ()
    device_ids: tuple[str, ...] = ()

    @property
    def uids(self) -> tuple[str, ...]:
        """All uids: those that the request named or its filter found, and those merged with them."""
        return (*self.requested_uids, *self.merged_uids)


class People:
    """The collection of people, as the catalogue describes it, at the batch's moment."""

    def __init__(self, reader: SnapshotReader, identity: Identity, source: CollectionId) -> None:
        self._reader = reader
        self._identity = identity
        self._source = source

    def find(self, person: object, max_users: int) -> tuple[str, ...]:
        """Return the uids of those that the filter ``person`` matches.

        Raises BadInputError for a filter that is not allowed, NobodyFoundError, TooManyPeopleError with the number.
        """
        selector = checked_person(person, self._identity)
        found = self._reader.count(self._source, selector)
        if found == 0:
            raise NobodyFoundError("the filter matches nobody in this app")
        if found > max_users:
            raise TooManyPeopleError(
                f"the filter matches {found} people, and the request allows {max_users}; narrow it, or raise max_users"
            )
        documents = self._reader.find(self._source, selector, {self._identity.uid: 1})
        uids = [uid for document in documents for uid in _ids(document, self._identity.uid)]
        if len(set(uids)) < found:
            raise NobodyFoundError(f"of the {found} people that the filter matches, some have no uid of their own")
        return tuple(dict.fromkeys(uids))

    def close(self, requested: Mapping[str, Sequence[str]]) -> dict[str, Person | TooManyPeopleError]:
        """Return, by request, the person with all merged uids, in either direction, and all device ids."""
        merged: dict[str, set[str]] = defaultdict(set)
        devices: dict[str, set[str]] = defaultdict(set)
        seen: set[str] = set()
        ahead = {uid for uids in requested.values() for uid in uids}
        while ahead:
            seen |= ahead
            for uid, others, device_ids in self._who_are(sorted(ahead)):
                devices[uid] |= device_ids
                for other in others:
                    merged[uid].add(other)
                    merged[other].add(uid)
                ahead |= {uid, *others}
            ahead -= seen
        return {request_id: _closed(uids, merged, devices) for request_id, uids in requested.items()}

    def _who_are(self, uids: Sequence[str]) -> Iterator[tuple[str, set[str], set[str]]]:
        """Yield uid, merged uids and device ids of all whose uid, current or merged, is among ``uids``."""
        paths = [path for path in (self._identity.uid, self._identity.merged_uids) if path]
        wanted = [*paths, *([self._identity.device_ids] if self._identity.device_ids else [])]
        most = max(1, UIDS_PER_QUERY // len(paths))  # the query holds them once for each path
        for start in range(0, len(uids), most):
            cut = list(uids[start : start + most])
            selector: Document = {"$or": [{path: {"$in": cut}} for path in paths]}
            for document in self._reader.find(self._source, selector, dict.fromkeys(wanted, 1)):
                others = _ids(document, self._identity.merged_uids)
                for uid in _ids(document, self._identity.uid):
                    yield uid, others, _ids(document, self._identity.device_ids)


def checked_person(person: object, identity: Identity) -> Document:
    """Return the filter on people, checked: fields that the catalogue lets one search by, and no negation."""
    selector = checked_filter(person, "person", SELECTING_OPERATORS)
    if not selector:
        raise BadInputError("person: an empty filter would match everybody")
    for path, condition in selector.items():
        if not identity.may_search(path):
            raise BadInputError(f"person: the catalogue does not let one search by this field; {_searchable(identity)}")
        if any(value is None for values in condition.values() for value in _listed(values)):
            raise BadInputError("person: null would match all people without the field")
    return selector


def _searchable(identity: Identity) -> str:
    return f"one may by {', '.join(identity.search)}" if identity.search else "it lists no field under 'search'"


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _ids(document: Document, path: str | None) -> set[str]:
    values: Iterable[Any] = values_at(document, path.split(".")) if path else ()
    return {value for value in values if isinstance(value, str) and value and not _is_damaged(value)}


def _is_damaged(text: str) -> bool:
    """Tell whether text was not valid UTF-8 (see ``bson_stream.ANYTHING``); it can be neither searched nor stored."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _closed(
    requested: Sequence[str], merged: Mapping[str, set[str]], devices: Mapping[str, set[str]]
) -> Person | TooManyPeopleError:
    named = tuple(dict.fromkeys(requested))
    closed = dict.fromkeys(named)
    ahead = list(named)
    while ahead:
        for other in sorted(merged.get(ahead.pop(), ())):
            if other not in closed:
                closed[other] = None
                ahead.append(other)
    others = tuple(closed)[len(named) :]
    if len(others) > MOST_MERGED * len(named):
        return TooManyPeopleError(
            f"{len(others)} uids are merged with the {len(named)} requested; more than {MOST_MERGED} to a person "
            "are taken for damaged data: look at the collection of people"
        )
    return Person(
        requested_uids=named,
        merged_uids=others,
        device_ids=tuple(sorted({device for uid in closed for device in devices.get(uid, ())})),
    )
