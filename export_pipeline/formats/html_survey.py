"""The first look for the page: how many documents each collection holds, and when they are from.

What is kept does not grow with the documents: three numbers a collection, and one for each month.
"""

from collections import Counter
from dataclasses import dataclass

from bson.errors import BSONError

from export_pipeline.formats.html_times import milliseconds, month_of, value_at
from export_pipeline.formats.protocol import About
from export_pipeline.mongo.bson_stream import Piece, documents, view


@dataclass(slots=True)
class Held:
    """What was seen of a collection."""

    documents: int = 0
    first: int | None = None
    last: int | None = None
    """The earliest and the latest of its documents' times, in milliseconds since 1970."""


class HtmlSurvey:
    """Counts, by collection and by month. Without ``about`` nobody knows which field holds a time."""

    def __init__(self, about: About | None = None) -> None:
        self.held: dict[str, Held] = {}
        self.months: Counter[int] = Counter()
        """Documents by month, see ``month_of``."""
        self._about = about

    @property
    def documents(self) -> int:
        """How many documents there are in all."""
        return sum(held.documents for held in self.held.values())

    def see(self, collection: str, piece: Piece) -> None:
        """See ``Survey.see``."""
        held = self.held.setdefault(collection, Held())
        held.documents += len(piece)
        said = self._about.collections.get(collection) if self._about else None
        if said is None or said.time_field is None:
            return
        path = said.time_field.split(".")
        for document in documents(piece.data):
            moment = _moment(document, path, said.time_unit)
            if moment is not None:
                self.months[month_of(moment)] += 1
                held.first = moment if held.first is None else min(held.first, moment)
                held.last = moment if held.last is None else max(held.last, moment)


def _moment(document: bytes, path: list[str], unit: str | None) -> int | None:
    """Return a document's time; one that is not valid BSON has none, and the writer says so better."""
    try:
        return milliseconds(value_at(view(document), path), unit)
    except BSONError:
        return None
