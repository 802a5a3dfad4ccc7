"""A stored file as an answer: streamed in pieces, so that many downloads at once take little memory."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import BinaryIO

import anyio.to_thread
from fastapi import Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from export_pipeline.access.usage import DOWNLOADED_BYTES, DOWNLOADS, Counted, today
from export_pipeline.errors import IncompleteError, StorageError
from export_pipeline.gateway.authorization import access_of
from export_pipeline.gateway.byte_ranges import Span, chosen_span
from export_pipeline.gateway.package_files import PackageFile
from export_pipeline.gateway.problems import ProblemError, not_found
from export_pipeline.gateway.services import Services

PIECE_BYTES = 256 << 10
STORE_LINK_SERVES = timedelta(minutes=1)
"""Long enough to begin a download; one under way goes on."""


def hand_over(
    here: Services, request: Request, file: PackageFile, admit: Callable[[], None] = lambda: None
) -> Response:
    """Return a file, the part of it that was asked for, or the way to it where the store hands it over itself.

    ``admit`` is called when all is well and before anything of the file leaves; what it raises keeps the file here.
    Raises a Problem for a file that is not there, or a part that it does not have.
    """
    if request.method == "GET":
        link = here.storage.link(file.key, STORE_LINK_SERVES, file.name, file.media_type)
        if link is not None:
            if not here.storage.exists(file.key):
                raise not_found()
            admit()
            access_of(request).count(DOWNLOADS)
            return RedirectResponse(link, 307)
    return _from_here(here, request, file, admit)


def _from_here(here: Services, request: Request, file: PackageFile, admit: Callable[[], None]) -> Response:
    opened = ExitStack()
    try:
        stored, size = _open(here, opened, file)
        asked = request.headers
        span = chosen_span(
            size,
            file.etag,
            range_=asked.get("range") if request.method == "GET" else None,
            if_range=asked.get("if-range"),
            if_none_match=asked.get("if-none-match"),
        )
        headers = _headers(file, size, span)
        if span.status == 416:
            raise ProblemError(416, "bad_range", "the file does not have these bytes", headers=headers)
        if span.status == 304:
            opened.close()
            return Response(status_code=304, headers={"ETag": file.etag})
        if request.method == "HEAD":
            opened.close()
            return Response(None, span.status, headers, media_type=file.media_type)
        stored.seek(span.begin)
        admit()
    except BaseException:
        opened.close()
        raise
    access = access_of(request)
    if span.begin == 0:
        access.count(DOWNLOADS)
    return _StreamedFile(
        here, opened, stored, span, headers, file.media_type, today(str(access.app_id), DOWNLOADED_BYTES)
    )


def _open(here: Services, opened: ExitStack, file: PackageFile) -> tuple[BinaryIO, int]:
    if not here.storage.exists(file.key):
        raise not_found()
    stored = opened.enter_context(here.storage.open(file.key))
    size = stored.seek(0, 2)
    if file.size is not None and size != file.size:
        raise StorageError(f"{here.storage.locate(file.key)}: it has not the size that was published")
    return stored, size


def _headers(file: PackageFile, size: int, span: Span) -> Mapping[str, str]:
    headers = {"Accept-Ranges": "bytes", "ETag": file.etag}
    if span.status == 416:
        return {"Content-Range": f"bytes */{size}"}
    headers["Content-Length"] = str(span.length)
    # The name is made of our own ids and extensions: nothing in it needs to be escaped.
    headers["Content-Disposition"] = f'attachment; filename="{file.name}"'
    if span.status == 206:
        headers["Content-Range"] = f"bytes {span.begin}-{span.begin + span.length - 1}/{size}"
    return headers


class _StreamedFile(StreamingResponse):
    def __init__(
        self,
        here: Services,
        opened: ExitStack,
        stored: BinaryIO,
        span: Span,
        headers: Mapping[str, str],
        media_type: str,
        counter: Counted,
    ) -> None:
        super().__init__(self._pieces(), span.status, headers, media_type)
        self._here = here
        self._opened = opened
        self._stored = stored
        self._left = span.length
        self._sent = 0
        self._counter = counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also where the caller has gone, or the answer was withheld
            self._opened.close()
            if self._sent:
                self._here.recorder.record(counts=Counter({self._counter: self._sent}))

    async def _pieces(self) -> AsyncIterator[bytes]:
        while self._left:
            read = partial(self._stored.read, min(self._left, PIECE_BYTES))
            piece = await anyio.to_thread.run_sync(read, limiter=self._here.downloading)
            if not piece:
                raise IncompleteError("a stored file became shorter while it was sent")
            self._left -= len(piece)
            yield piece
            self._sent += len(piece)
