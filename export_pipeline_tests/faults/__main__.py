"""``python -m export_pipeline_tests.faults``: plays the whole matrix and prints it; ``… soak`` runs the soak.

Exit code 0 where all is as it must be. What a fault left behind is printed below its row.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from export_pipeline_tests.faults import disks
from export_pipeline_tests.faults.acts import acts, play_all
from export_pipeline_tests.faults.matrix import SETS
from export_pipeline_tests.faults.play import Played
from export_pipeline_tests.faults.soak import soak
from export_pipeline_tests.faults.table import print_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m export_pipeline_tests.faults", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    parser.add_argument("--set", choices=SETS, action="append", help="only this part of the matrix; may be repeated")
    parser.add_argument("--victim", help="only this victim")
    parser.add_argument("--stage", help="only this stage")
    parser.add_argument("--at-once", type=int, default=2, help="installations side by side: most of a fault is waiting")
    parser.add_argument("--real-waits", action="store_true", help="leases and delays as long as in production")
    soaking = commands.add_parser("soak", help="requests and faults at random")
    soaking.add_argument("--minutes", type=float, default=10.0)
    soaking.add_argument("--requests", type=int, default=5000)
    soaking.add_argument("--fault-every", type=float, default=20.0, help="seconds between two faults, on average")
    soaking.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.command == "soak":
        return soak(Console(), asked.minutes, asked.requests, asked.fault_every, asked.seed)
    names = asked.set or list(SETS)
    if not disks.can_mount():
        print("no full disks: only root can make small ones")
    wanted = acts(names, asked.victim, asked.stage, real_waits=asked.real_waits)
    return _report(play_all(list(wanted), asked.at_once))


def _report(played: Sequence[Played]) -> int:
    print_table(played)
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


if __name__ == "__main__":
    sys.exit(main())
