"""What was played, for people to read."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from export_pipeline_tests.faults.play import Played

WIDTH = 180
COLUMNS = ("", "task", "victim", "stage", "on", "ended", "by itself", "seconds", "attempts", "whole", "left", "swept")


def print_row(one: Played) -> None:
    """Print one fault, and below it what was found that must not be."""
    console = Console(width=WIDTH)
    console.print(*_cells(one), sep=" | ", highlight=False)
    for what in one.found:
        console.print(f"    {what}", highlight=False, soft_wrap=True)


def print_table(played: Sequence[Played]) -> None:
    """Print all that was played."""
    table = Table(*COLUMNS, title="faults", title_justify="left")
    for one in played:
        table.add_row(*_cells(one))
    Console(width=WIDTH).print(table)


def _cells(one: Played) -> list[str]:
    fault, remains = one.fault, one.remains
    ended = ", ".join(f"{one.statuses.count(status)} {status}" for status in sorted(set(one.statuses)))
    reasons = sorted({reason for status, reason in zip(one.statuses, one.reasons, strict=True) if status == "failed"})
    return [
        "ok" if one.is_well else "NOT",
        fault.task,
        fault.victim,
        fault.stage,
        f"{fault.database}, {fault.store}",
        f"{ended} {' '.join(reasons)}".strip(),
        "yes" if one.ended else "NO",
        f"{one.seconds:.1f}",
        str(one.attempts),
        f"{remains.published} of {len(one.statuses)}",
        str(len(remains.leftovers)),
        str(remains.swept),
    ]
