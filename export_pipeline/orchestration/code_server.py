"""Two faults of Dagster's code server, mended in one place: after either, it can hang for good.

A thread of it looks twice a second for runs whose process has ended, and itself ends where Dagster's database is away
just then: nobody looks any more. And who ends a run whose process has ended, but was not found yet, waits in
``multiprocessing`` for that process to wake up: no sensor and no run of that server starts again.
"""

import logging
import sys
from functools import wraps
from typing import Any

log = logging.getLogger(__name__)

SERVER = "dagster._grpc.server"
"""Where Dagster 1.13 has it; no part of its public interface, so a test tells when it changes."""


def mend_code_server() -> None:
    """Mend this process's code server; nothing happens where it is none, or was mended before."""
    module = sys.modules.get(SERVER)
    if module is not None:
        mend(module.DagsterApiServer)


def mend(server: Any) -> None:
    """Let a class of code servers go on looking for ended runs, and look before it ends one."""
    look, cancel = server._check_for_orphaned_runs, server.CancelExecution  # noqa: SLF001  # see SERVER
    if hasattr(look, "__wrapped__"):
        return

    @wraps(look)
    def look_again_next_time(self: Any) -> None:
        try:
            look(self)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next look may succeed
            log.warning("ended runs could not be looked for, and will be again: %s", type(error).__name__)

    @wraps(cancel)
    def cancel_what_lives(self: Any, request: Any, context: Any) -> Any:
        self._check_for_orphaned_runs()
        return cancel(self, request, context)

    server._check_for_orphaned_runs, server.CancelExecution = look_again_next_time, cancel_what_lives  # noqa: SLF001
