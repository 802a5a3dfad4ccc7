"""Is a document the erased person's alone, and what is left of one that is not? Decisions alone, no I/O.

A document belongs to others too where its user key leads to any id but the person's, as it can in an array. Of such a
document the person's ids are taken out, with the array's items that are about nobody else; the rest stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export_pipeline.slices.ownership import values_at

_GONE = object()


@dataclass(frozen=True, slots=True)
class Claim:
    """A collection's user key, with the person's ids that it may hold."""

    path: tuple[str, ...]
    ids: frozenset[str]

    def is_shared(self, document: Mapping[str, Any]) -> bool:
        """Tell whether a document is about others too.

        >>> Claim(("uid",), frozenset("a")).is_shared({"uid": ["a", "b"]})
        True
        """
        return self._names_others(document, self.path)

    def detached(self, document: Mapping[str, Any]) -> Any:
        """Return what a shared document keeps in the top-level field of its user key.

        >>> Claim(("to", "uid"), frozenset("a")).detached({"to": [{"uid": "a"}, {"uid": "b"}]})
        [{'uid': 'b'}]
        """
        return self._without(document[self.path[0]], self.path[1:])

    def _is_theirs(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.ids

    def _names_others(self, document: Any, path: tuple[str, ...]) -> bool:
        return any(value is not None and not self._is_theirs(value) for value in values_at(document, path))

    def _without(self, value: Any, path: tuple[str, ...]) -> Any:
        """Return ``value`` without the ids at ``path`` in it, or _GONE."""
        if isinstance(value, list):
            kept = [self._without(item, path) if path and isinstance(item, Mapping) else item for item in value]
            return [item for item in kept if item is not _GONE and (path or not self._is_theirs(item))]
        if not path or not isinstance(value, Mapping):
            return value
        if not any(self._is_theirs(found) for found in values_at(value, path)):
            return value
        if not self._names_others(value, path):
            return _GONE  # an item that is about the person alone
        return {**value, path[0]: self._without(value[path[0]], path[1:])}
