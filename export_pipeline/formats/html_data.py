"""The documents inside the page: canonical JSON Lines, gzip'ed, as base64 in script elements that no browser runs.

Writing the blocks, and reading a finished page back to the documents, counting and checking on the way.
"""

import hashlib
import html
import json
import re
import zlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.bson_walk import quote

OPENING = b'<script type="application/gzip">\n'
CLOSING = b"</script>\n"

BLOCK_BYTES = 4 << 20
"""Of text in a block, or one document: the browser unpacks block by block."""

_LEVEL = 6
_LINE_BYTES = 48 << 10  # of gzip, divisible by 3 so that a block's lines are one base64 text

_FIRST_LINE = b"<!doctype html>\n"
_LAST_LINE = b"</html>\n"
_ROW = b'<tbody class="record">'
_MAIN = re.compile(rb'<main data-records="(\d{1,18})">\n')
_SECTION = re.compile(
    rb'<section class="collection" data-collection="([^"<>]*)" data-records="(\d{1,18})" data-shown="(\d{1,18})">\n'
)
_SECTION_END = b"</section><!-- collection -->\n"
_SEAL = b"<!-- sha256 of all above: %b -->\n"
_SEAL_BEGINS = b"<!-- sha256 of all above: "

_LONGEST_LINE = 1 << 20
"""Of the page. What is longer is read as several."""
_LONGEST_DOCUMENT = 256 << 20
"""As text: 16 MB of BSON may be many times that as JSON."""
_UNPACKED_AT_ONCE = 1 << 20


def seal(digest: str) -> bytes:
    """Return the line that ends a page, with the SHA-256 of all that stands before it."""
    return _SEAL % digest.encode()


def attribute(collection: str) -> str:
    """Return a collection's name as the page keeps it for machines, not yet escaped for HTML."""
    return json.dumps(collection)


class Blocks:
    """Writes the blocks of one collection."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._text = bytearray()

    def add(self, lines: bytes) -> None:
        """Add whole lines."""
        self._text += lines
        begin = 0
        while len(self._text) - begin >= BLOCK_BYTES:
            end = self._text.index(b"\n", begin + BLOCK_BYTES - 1) + 1
            self._put(memoryview(self._text)[begin:end].tobytes())
            begin = end
        del self._text[:begin]

    def end(self) -> None:
        """Put down what is left."""
        if self._text:
            self._put(bytes(self._text))
            self._text.clear()

    def _put(self, text: bytes) -> None:
        packer = zlib.compressobj(_LEVEL, wbits=31)  # 31 is gzip, with no time in its header
        packed = packer.compress(text) + packer.flush()
        self._write(OPENING)
        for begin in range(0, len(packed), _LINE_BYTES):
            self._write(b64encode(packed[begin : begin + _LINE_BYTES]) + b"\n")
        self._write(CLOSING)


# Reading back


def documents(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield each document of a finished page: its collection, and its line of canonical JSON with the tag ``_col``.

    Memory stays bounded whatever the page's size. Raises IncompleteError, at the end at the latest, where the page is
    not whole: what was yielded before is then not to be trusted either.
    """
    page = _Page(file)
    if page.line() != _FIRST_LINE:
        raise IncompleteError("the file does not begin as a page does")
    stated = int(page.find(_MAIN)[1])
    seen: set[str] = set()
    total = 0
    while line := page.line():
        if line == _LAST_LINE:
            break
        if begins := _SECTION.fullmatch(line):
            collection = _collection(begins[1])
            if collection in seen:
                raise IncompleteError("the page holds a collection twice")
            seen.add(collection)
            for document in _section(page, collection, int(begins[2]), int(begins[3])):
                total += 1
                yield collection, document
        elif line.startswith((_ROW, OPENING.rstrip())):
            raise IncompleteError("the page holds documents outside a collection's section")
    page.check_end()
    if total != stated:
        raise IncompleteError("the page does not hold as many documents as it says")


class _Page:
    """A page, line by line, and the SHA-256 of the lines so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def line(self) -> bytes:
        """Return the next line, or as much of it as is read at once; nothing at the end."""
        line = self._file.readline(_LONGEST_LINE)
        self._sha256.update(line)
        return line

    def find(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """Return the next line that is ``pattern``."""
        while line := self.line():
            if found := pattern.fullmatch(line):
                return found
        raise IncompleteError("the page ends before it says how many documents it holds")

    def check_end(self) -> None:
        """Check that the page ends here, with its seal."""
        expected = seal(self._sha256.hexdigest())
        if self._file.read(len(expected) + 1) != expected:
            raise IncompleteError("the page is not as it was written: it was cut short or changed")


def _section(page: _Page, collection: str, stated: int, stated_rows: int) -> Iterator[bytes]:
    """Yield the documents of a section, whose first line was read."""
    opening = b'{"_col":%b' % quote(collection.encode()).encode()
    rows = found = 0
    while line := page.line():
        if line == OPENING:
            for document in _lines(_unpacked(page)):
                if not document.startswith((opening + b",", opening + b"}")) or not document.endswith(b"}"):
                    raise IncompleteError(f"{collection}: a line of the page's data is not one of its documents")
                found += 1
                yield document
        elif line == _SECTION_END:
            break
        rows += line.startswith(_ROW)
    if (found, rows) != (stated, stated_rows) or rows > found:
        raise IncompleteError(f"{collection}: the page does not hold as many documents as it says")


def _collection(escaped: bytes) -> str:
    """Return the collection that a section's attribute names."""
    with suppress(ValueError, RecursionError):
        collection = json.loads(html.unescape(escaped.decode()))
        if isinstance(collection, str) and collection.encode():
            return collection
    raise IncompleteError("a section of the page does not name its collection")


def _unpacked(page: _Page) -> Iterator[bytes]:
    """Yield the text of a block, of which the first line was read."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        while (line := page.line()) != CLOSING:
            packed = b64decode(line.removesuffix(b"\n"), validate=True)
            if not packed or unpacker.eof:
                break
            while packed:
                yield unpacker.decompress(packed, _UNPACKED_AT_ONCE)
                packed = unpacker.unconsumed_tail
        yield unpacker.flush()
    except (zlib.error, Base64Error):
        raise IncompleteError("a block of the page's data is damaged") from None
    if line != CLOSING or not unpacker.eof or unpacker.unused_data:
        raise IncompleteError("a block of the page's data does not end as it should")


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = bytearray()
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest += first
        if len(rest) > _LONGEST_DOCUMENT:
            raise IncompleteError("a document in the page is larger than a document can be")
        for other in others:
            yield bytes(rest)
            rest = bytearray(other)
    if rest:
        raise IncompleteError("a block of the page's data ends in the middle of a document")
