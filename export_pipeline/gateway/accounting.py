"""Every access is recorded before its answer leaves; where it cannot be, the answer does not.

It also withholds the answer of an endpoint that has not checked the caller's role in any app.
"""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export_pipeline.access.audit import AccessEvent
from export_pipeline.access.usage import CALLS, REFUSALS
from export_pipeline.errors import ExportPipelineError
from export_pipeline.gateway.authorization import Access
from export_pipeline.gateway.problems import ProblemError, as_problem
from export_pipeline.gateway.services import Services

log = logging.getLogger(__name__)


class Accounting:
    """The middleware around all endpoints."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer once it is recorded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = Access()
        scope.setdefault("state", {})["access"] = access
        withheld = False

        async def recorded_send(message: Message) -> None:
            nonlocal withheld
            if message["type"] == "http.response.start":
                problem = await self._record(access, message["status"])
                if problem is not None:
                    withheld = True
                    await problem.response()(scope, receive, send)
            if not withheld:
                await send(message)

        await self._app(scope, receive, recorded_send)

    async def _record(self, access: Access, status: int) -> ProblemError | None:
        """Record an access; return what is answered instead where that cannot be done."""
        unchecked = access.must_enter and not access.entered and status < 400
        if unchecked:
            log.error("%s answered without a check of the caller's role; its answer was withheld", access.action)
        if access.action is not None:
            shown = 500 if unchecked else status
            if access.app_id is not None:
                access.count(CALLS if shown < 400 else REFUSALS)
            event = AccessEvent(access.actor, access.action, shown, access.app_id, access.target)
            try:
                await asyncio.wrap_future(self._services.recorder.record(event, access.counts))
            except ExportPipelineError as error:
                return as_problem(error)
        return ProblemError(500, "internal", "this endpoint is broken; tell its operator") if unchecked else None
