"""Whose document is it? Decides, from the value of the user key, which requests a document belongs to. No I/O.

The rules are those of MongoDB's ``$in`` on a path (manual, "Query an Array"): a document belongs to a uid if the
path leads to it, to an array with it, or through an array of documents to either.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

UIDS_PER_QUERY = 5000
"""A query with more uids is cut; with uids of up to 512 characters it stays far below MongoDB's 16 MB."""


class Ownership:
    """The requests of a batch by uid, and the queries that fetch their documents."""

    def __init__(self, uids_by_request: Mapping[str, Iterable[str]]) -> None:
        self._requests: dict[str, set[str]] = {}
        for request_id, uids in uids_by_request.items():
            for uid in uids:
                self._requests.setdefault(uid, set()).add(request_id)
        uids = list(self._requests)
        self.queries: list[list[str]] = [
            uids[start : start + UIDS_PER_QUERY] for start in range(0, len(uids), UIDS_PER_QUERY)
        ]
        self._query_of = {uid: number for number, cut in enumerate(self.queries) for uid in cut}
        everyone = set(uids_by_request)
        self.only_owner: str | None = next(iter(everyone)) if len(everyone) == 1 and len(self.queries) == 1 else None
        """The request that owns all that the one query finds; None where documents must be looked at."""

    def owners(self, uids: Iterable[Any], query: int) -> set[str]:
        """Return the requests that own a document found by query number ``query``, by its values of the user key.

        Empty for a document that an earlier query has found already: with several uids it matches several queries.
        """
        owners: set[str] = set()
        for uid in uids:
            requests = self._requests.get(uid) if isinstance(uid, str) else None
            if requests is not None:
                if self._query_of[uid] < query:
                    return set()
                owners |= requests
        return owners


def values_at(document: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield the values that ``$in`` compares at ``path``, arrays opened once.

    >>> list(values_at({"to": [{"uid": "a"}, {"uid": ["b", ["c"]]}]}, ["to", "uid"]))
    ['a', 'b', ['c']]
    """
    if isinstance(document, list):
        for item in document:
            if isinstance(item, Mapping):
                yield from values_at(item, path)
    elif isinstance(document, Mapping) and path[0] in document:
        value = document[path[0]]
        if len(path) > 1:
            yield from values_at(value, path[1:])
        elif isinstance(value, list):
            yield from value
        else:
            yield value
