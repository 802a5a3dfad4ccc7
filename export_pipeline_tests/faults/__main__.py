"""``python -m export_pipeline_tests.faults``: plays the whole matrix and prints it; ``… soak`` runs the soak.

Exit code 0 where all is as it must be. What a fault left behind is printed below its row.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from export_pipeline_tests.faults import disks
from export_pipeline_tests.faults.house import running_house
from export_pipeline_tests.faults.matrix import SETS, installations
from export_pipeline_tests.faults.play import Played, play
from export_pipeline_tests.faults.soak import soak

COLUMNS = ("", "victim", "stage", "on", "ended", "by itself", "seconds", "attempts", "published", "left", "swept")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m export_pipeline_tests.faults", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    parser.add_argument("--set", choices=SETS, action="append", help="only this part of the matrix; may be repeated")
    parser.add_argument("--victim", help="only this victim")
    parser.add_argument("--stage", help="only this stage")
    parser.add_argument("--real-waits", action="store_true", help="leases and delays as long as in production")
    soaking = commands.add_parser("soak", help="requests and faults at random")
    soaking.add_argument("--minutes", type=float, default=10.0)
    soaking.add_argument("--requests", type=int, default=5000)
    soaking.add_argument("--fault-every", type=float, default=20.0, help="seconds between two faults, on average")
    soaking.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    console = Console(width=180)
    if asked.command == "soak":
        return soak(console, asked.minutes, asked.requests, asked.fault_every, asked.seed)
    return _report(console, _matrix(console, asked))


def _matrix(console: Console, asked: argparse.Namespace) -> list[Played]:
    played: list[Played] = []
    for name in asked.set or SETS:
        if name == "disks" and not disks.can_mount():
            console.print("no full disks: only root can make small ones")
            continue
        faults = [
            fault
            for fault in SETS[name]()
            if asked.victim in (None, fault.victim) and asked.stage in (None, fault.stage)
        ]
        for group in installations(faults):
            with running_house(
                group[0].database,
                group[0].store,
                clock=name == "clocks",
                small_disks=name == "disks",
                real_waits=asked.real_waits,
            ) as house:
                for fault in group:
                    played.append(play(house, fault))
                    console.print(*_cells(played[-1]), sep=" | ", highlight=False)
                    for what in played[-1].found:
                        console.print(f"    {what}", highlight=False, soft_wrap=True)
    return played


def _report(console: Console, played: Sequence[Played]) -> int:
    table = Table(*COLUMNS, title="faults", title_justify="left")
    for one in played:
        table.add_row(*_cells(one))
    console.print(table)
    statuses = [status for one in played for status in one.statuses]
    print(
        json.dumps(
            {
                "faults": len(played),
                "ended": sum(one.ended for one in played),
                "completed": statuses.count("completed"),
                "failed": statuses.count("failed"),
                "worst_seconds": round(max((one.seconds for one in played), default=0.0), 1),
                "leftovers": sum(len(one.remains.leftovers) for one in played),
                "doubled": sum(len(one.remains.doubled) for one in played),
                "lost": sum(len(one.remains.lost) for one in played),
                "not_well": sum(not one.is_well for one in played),
            }
        )
    )
    return 0 if played and all(one.is_well for one in played) else 1


def _cells(one: Played) -> list[str]:
    fault, remains = one.fault, one.remains
    ended = ", ".join(f"{one.statuses.count(status)} {status}" for status in sorted(set(one.statuses)))
    reasons = sorted({reason for status, reason in zip(one.statuses, one.reasons, strict=True) if status == "failed"})
    return [
        "ok" if one.is_well else "NOT",
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


if __name__ == "__main__":
    sys.exit(main())
