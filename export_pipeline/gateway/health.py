"""For whoever watches over the process: whether it is alive, and whether it can do its work."""

from collections.abc import Callable
from typing import Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy import text

from export_pipeline.errors import ExportPipelineError
from export_pipeline.gateway.authorization import OPEN, Guarded
from export_pipeline.gateway.services import Here, Services
from export_pipeline.requests.database import database_errors

LONGEST_CHECK_SECONDS = 3.0

Answer = Literal["ok", "failed"]

router = APIRouter(route_class=Guarded, tags=["health"], dependencies=[OPEN])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """What the process needs, and whether it answers."""

    status: Answer
    checks: dict[str, Answer]


@router.get("/healthz")
async def healthz() -> Alive:
    """Tell that the process is alive."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Ready}})
async def readyz(here: Here, response: Response) -> Ready:
    """Tell whether the requests table and the storage answer."""
    checks: dict[str, Answer] = {}
    async with anyio.create_task_group() as tasks:

        async def check(name: str, ask: Callable[[Services], object]) -> None:
            checks[name] = await _answer_of(here, ask)

        tasks.start_soon(check, "requests", _ask_the_database)
        tasks.start_soon(check, "storage", _ask_the_storage)
    ready: Answer = "ok" if set(checks.values()) == {"ok"} else "failed"
    response.status_code = 200 if ready == "ok" else 503
    return Ready(status=ready, checks=dict(sorted(checks.items())))


async def _answer_of(here: Services, ask: Callable[[Services], object]) -> Answer:
    try:
        with anyio.fail_after(LONGEST_CHECK_SECONDS):
            await anyio.to_thread.run_sync(ask, here, abandon_on_cancel=True, limiter=here.checking)
    except (ExportPipelineError, TimeoutError):
        return "failed"
    return "ok"


def _ask_the_database(here: Services) -> None:
    with (
        database_errors(),
        here.exporter.database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        connection.execute(text("SELECT 1"))


def _ask_the_storage(here: Services) -> None:
    here.storage.exists("readyz")
