"""The endpoint that hands over an app's events, for a backup or for another tool: by pages, or the whole as lines.

The whole ends with a line {"_end": {"documents": …}}; an answer without it broke off, as its connection did.
"""

import json
import secrets
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from export_pipeline.access.roles import Permission
from export_pipeline.access.usage import EVENTS_READ, today
from export_pipeline.catalog.narrowing import parse_narrowing
from export_pipeline.gateway.authorization import Caller, Guarded, needs
from export_pipeline.gateway.events_cursor import EventsCursors
from export_pipeline.gateway.events_reading import EventReader, Wanted
from export_pipeline.gateway.paging import Cursor
from export_pipeline.gateway.problems import ASK_AGAIN_AFTER, ProblemError, documented
from export_pipeline.gateway.services import Here, Services, secret_key

JSON, LINES = "application/json", "application/x-ndjson"
MOST_EVENTS = 1000
USUAL_EVENTS = 100

_MASK_KEY_BYTES = 32
_GZIP_LEVEL, _GZIP_WINDOW = 4, 16 + zlib.MAX_WBITS

_PAGE = {
    "type": "object",
    "required": ["events", "next"],
    "additionalProperties": False,
    "properties": {
        "events": {
            "type": "array",
            "description": "MongoDB Extended JSON v2; `_col` is the collection's name.",
            "items": {"type": "object", "required": ["_col", "_id"]},
        },
        "next": {"type": ["string", "null"], "description": "The cursor of the next page; null on the last one."},
    },
}
_LINES = {
    "type": "string",
    "description": 'An event a line, then `{"_end": {"documents": …, "collections": {…}, "cluster_times": […]}}`. '
    "Without that last line, it is not the whole.",
}

router = APIRouter(route_class=Guarded, tags=["events"])

AppPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The app.")]
Moment = Annotated[str | None, Query(max_length=40, json_schema_extra={"format": "date-time"})]


@router.get(
    "/v1/apps/{app_id}/events",
    response_class=Response,
    responses={
        200: {"description": "Events", "content": {JSON: {"schema": _PAGE}, LINES: {"schema": _LINES}}},
        **documented(400, 401, 403, 404, 406, 409, 422, 429, 503),
    },
)
async def list_events(
    app_id: AppPath,
    here: Here,
    request: Request,
    caller: Annotated[Caller, needs(Permission.EVENTS)],
    since: Moment = None,
    until: Moment = None,
    json_mode: Literal["relaxed", "canonical"] = "relaxed",
    limit: Annotated[int | None, Query(ge=1, le=MOST_EVENTS, description="The most on one page.")] = None,
    cursor: Cursor = None,
) -> Response:
    """Hand over events by pages, or as `application/x-ndjson` all at once; `since` is included, `until` is not.

    Both go by the time of each event; events without one are always among them.
    """
    await anyio.to_thread.run_sync(caller.enter, app_id)
    given = {"since": since, "until": until}
    wanted = Wanted(app_id, parse_narrowing({name: at for name, at in given.items() if at is not None}), json_mode)
    if not wants_lines(request.headers.get("accept", "")):
        return await anyio.to_thread.run_sync(
            _page, here, caller, wanted, limit or USUAL_EVENTS, cursor, limiter=here.estimating
        )
    if limit is not None or cursor is not None:
        raise ProblemError(400, "bad_input", f"limit, cursor: these are for pages; {LINES} is the whole")
    zipped = weights(request.headers.get("accept-encoding", "")).get("gzip", 0) > 0
    return await _whole(here, wanted, zipped=zipped)


def wants_lines(accept: str) -> bool:
    """Tell from an Accept header whether lines are wanted rather than a page. Raises a Problem where neither is."""
    given = weights(accept)
    if not accept.strip():
        return False
    lines, page = (_weight(given, media_type) for media_type in (LINES, JSON))
    if not lines and not page:
        raise ProblemError(406, "not_acceptable", f"events come as {JSON} or {LINES}")
    return lines > page or (lines == page and LINES in given and JSON not in given)


def weights(header: str) -> Mapping[str, float]:
    """Return what a header such as Accept lists, each with its weight.

    >>> weights("text/html, application/json;q=0.5")
    {'text/html': 1.0, 'application/json': 0.5}
    """
    found = {}
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        with suppress(ValueError):
            found[name] = min(1.0, max(0.0, float(weight)))
    return {name: weight for name, weight in found.items() if name}


def _weight(given: Mapping[str, float], media_type: str) -> float:
    return next((given[name] for name in (media_type, "application/*", "*/*") if name in given), 0)


def _page(here: Services, caller: Caller, wanted: Wanted, limit: int, cursor: str | None) -> Response:
    listed = ("events", wanted.app_id, wanted.narrowing.stored(), wanted.mode)
    cursors = EventsCursors(here.cursors, secret_key(here.settings), listed)
    after = None if cursor is None else cursors.read(cursor)
    mask_key = secrets.token_bytes(_MASK_KEY_BYTES) if after is None else after.mask_key
    page = EventReader(here.exporter, wanted, mask_key).page(limit, after)
    following = None if page.last is None else cursors.after(page.last)
    if page.events:
        caller.access.count(EVENTS_READ, page.events)
    return Response(b'{"events":[\n%b\n],"next":%b}\n' % (page.text, json.dumps(following).encode()), media_type=JSON)


async def _whole(here: Services, wanted: Wanted, *, zipped: bool) -> Response:
    """Return the answer with all events, once the first of them are there: what fails until then is told as usual."""
    turn = object()
    try:
        here.streaming.acquire_on_behalf_of_nowait(turn)
    except anyio.WouldBlock:
        raise ProblemError(
            503,
            "busy",
            "as many streams of events are under way as this installation allows; try again later",
            headers={"Retry-After": str(ASK_AGAIN_AFTER)},
        ) from None
    stream = _Stream(here, wanted, turn, zipped=zipped)
    try:
        first = await stream.next_piece()
    except BaseException:
        await stream.close()
        raise
    return _StreamedLines(stream, first)


class _Stream:
    """Pieces of an answer as they are read, each in a thread, and what has to be given back at its end."""

    def __init__(self, here: Services, wanted: Wanted, turn: object, *, zipped: bool) -> None:
        self._here = here
        self._turn = turn
        self._app_id = wanted.app_id
        self._reader: EventReader | None = None
        self.zipped = zipped
        self._pieces = self._read(wanted)

    def _read(self, wanted: Wanted) -> Generator[bytes, None, None]:
        self._reader = EventReader(self._here.exporter, wanted, secrets.token_bytes(_MASK_KEY_BYTES))
        yield from _zipped(self._reader.lines()) if self.zipped else self._reader.lines()

    async def next_piece(self) -> bytes:
        """Return the next piece; nothing at the end."""
        return await anyio.to_thread.run_sync(next, self._pieces, b"", limiter=self._here.estimating)

    async def close(self) -> None:
        """Let go of the server's cursor and of the turn, and count what was read."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._pieces.close, limiter=self._here.estimating)
        self._here.streaming.release_on_behalf_of(self._turn)
        if self._reader is not None and self._reader.counts:
            events = Counter({today(self._app_id, EVENTS_READ): self._reader.counts.total()})
            self._here.recorder.record(counts=events)


class _StreamedLines(StreamingResponse):
    def __init__(self, stream: _Stream, first: bytes) -> None:
        headers = {"Vary": "Accept, Accept-Encoding"} | ({"Content-Encoding": "gzip"} if stream.zipped else {})
        super().__init__(self._pieces(first), 200, headers, media_type=LINES)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also where the caller has gone
            await self._stream.close()

    async def _pieces(self, piece: bytes) -> AsyncIterator[bytes]:
        while piece:
            yield piece
            piece = await self._stream.next_piece()


def _zipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces as one gzip file; what it holds back stays little."""
    packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
    for piece in pieces:
        packed = packer.compress(piece)
        if packed:
            yield packed
    yield packer.flush()
