"""HTML: one page for the person whose data it is, that needs no network and holds all of the data.

It tells what is held and what for, and shows the first documents of each collection as a table. All of them are
beneath the tables, packed (``html_data``): the page saves them as JSON, and ``documents`` reads them back.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats import html_page
from export_pipeline.formats.extended_json import encode_batch
from export_pipeline.formats.html_data import Blocks, documents, seal
from export_pipeline.formats.html_survey import HtmlSurvey
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.mongo.bson_stream import Piece

__all__ = ["Html", "documents"]

MOST_ROWS = 200
"""Of a table."""
MOST_ROW_BYTES = 256 << 10
"""Of the documents in a table, as BSON; the first is shown however large it is."""


class _HtmlWriter:
    def __init__(self, sink: Sink, survey: HtmlSurvey, about: About | None) -> None:
        self._sink = sink
        self._sha256 = hashlib.sha256()
        self._about = about
        self._places = {place.collection: place for place in html_page.places(survey, about)}
        self._to_come = {name: held.documents for name, held in survey.held.items()}
        self._collection: str | None = None
        self._blocks = Blocks(self._put)
        # The first documents, until there are enough for the table, which comes before the data.
        self._first: list[bytes] | None = None
        self._first_bytes = self._renamed = 0
        self._put(html_page.head(survey, about))

    def write(self, collection: str, piece: Piece) -> None:
        if collection != self._collection:
            assert self._collection is None, "a collection must be ended before the next one"
            self._collection, self._first, self._first_bytes = collection, [], 0
        self._to_come[collection] = self._to_come.get(collection, 0) - len(piece)
        if rest := piece.data[self._keep_first(piece) :]:
            self._blocks.add(self._encoded(rest))

    def _keep_first(self, piece: Piece) -> int:
        """Keep documents for the table, and put it down when there are enough; return where the others begin."""
        for begin, end in pairwise([*piece.offsets, len(piece.data)]):
            if self._first is None:
                return begin
            if len(self._first) == MOST_ROWS or (self._first and self._first_bytes + end - begin > MOST_ROW_BYTES):
                self._put_section()
                return begin
            self._first.append(piece.data[begin:end])
            self._first_bytes += end - begin
        return len(piece.data)

    def _put_section(self) -> None:
        """Put down the table, and the data of the documents in it."""
        assert self._collection is not None
        assert self._first is not None
        lines = self._encoded(b"".join(self._first))  # first, as it refuses what is not BSON and says why
        self._put(html_page.section(self._places[self._collection], self._first))
        self._blocks.add(lines)
        self._first = None

    def _encoded(self, data: bytes) -> bytes:
        assert self._collection is not None
        encoded = encode_batch(data, self._collection, "canonical", b"\n")
        self._renamed += encoded.renamed
        return encoded.data + b"\n"

    def end_collection(self) -> int:
        if self._collection is not None:
            if self._first is not None:
                self._put_section()
            self._blocks.end()
            self._put(html_page.section_end())
            self._check_counted([self._collection])
            self._collection = None
        renamed, self._renamed = self._renamed, 0
        return renamed

    def close(self) -> None:
        self.end_collection()
        self._check_counted(self._to_come)
        self._put(html_page.foot(self._about))
        self._sink.write(seal(self._sha256.hexdigest()))

    def _check_counted(self, collections: Iterable[str]) -> None:
        """Check that as many documents came as the page's head has told of."""
        for collection in collections:
            if self._to_come[collection]:
                raise IncompleteError(f"{collection}: fewer or more documents came than were seen before; retry")

    def _put(self, data: bytes) -> None:
        self._sink.write(data)
        self._sha256.update(data)


class Html:
    """One page for all collections."""

    name = "html"
    extension = "html"
    media_type = "text/html"
    takes = frozenset[str]()
    compresses_inside = False

    def survey(self, options: WriteOptions, about: About | None = None) -> HtmlSurvey:  # noqa: ARG002
        """See ``Format.survey``. Without ``about`` the page has no chart: nobody says where the times are."""
        return HtmlSurvey(about)

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,  # noqa: ARG002
        survey: Survey | None = None,
        about: About | None = None,
    ) -> _HtmlWriter:
        """See ``Format.writer``."""
        assert isinstance(survey, HtmlSurvey)
        return _HtmlWriter(sink, survey, about)

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``. It needs nothing but the page."""
        return Counter(collection for collection, _ in documents(file))
