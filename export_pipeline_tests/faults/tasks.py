"""What can be asked for while faults strike. For each there is a module with these functions."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from export_pipeline.requests.models import Request
from export_pipeline_tests.faults import backups, exports, restores
from export_pipeline_tests.faults.house import House

TaskName = Literal["exports", "backup", "restore"]


class Task(Protocol):
    """How something is asked for, what has to be there in the end, and how that is removed."""

    def submit(self, house: House) -> list[Request]:
        """Ask for it."""

    def what_is_wrong(self, house: House, request: Request) -> str | None:
        """Look at all that a completed request has made, as whoever needs it would; None: it is as it must be."""

    def files_of(self, house: House, request: Request) -> Sequence[str]:
        """Return the keys of the files that a completed request has to leave in the storage."""

    def remove(self, house: House, request: Request) -> None:
        """Remove what a completed request has made, as where its time is over."""


TASKS: Mapping[TaskName, Task] = {"exports": exports, "backup": backups, "restore": restores}
