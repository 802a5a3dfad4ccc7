"""The matrix, installation by installation: each has its part of the faults, and several play side by side."""

import multiprocessing
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from export_pipeline_tests.faults import disks
from export_pipeline_tests.faults.house import House, running_house
from export_pipeline_tests.faults.matrix import SETS
from export_pipeline_tests.faults.play import Fault, Played, play
from export_pipeline_tests.faults.remains import Remains
from export_pipeline_tests.faults.table import print_row
from export_pipeline_tests.faults.victims import ON_SMALL_DISKS


@dataclass(frozen=True, slots=True)
class Act:
    """Faults that one installation is for, one after another."""

    name: str
    faults: Sequence[Fault]
    small_disks: bool = False
    real_waits: bool = False


def acts(names: Sequence[str], victim: str | None, stage: str | None, *, real_waits: bool) -> Iterator[Act]:
    """Cut sets of the matrix into acts; only those of a victim or a stage, where one is named, and that can be here."""
    for name in names:
        faults = [fault for fault in SETS[name]() if victim in (None, fault.victim) and stage in (None, fault.stage)]
        for (_, _, small_disks), group in groupby(faults, _needs):
            if not small_disks or disks.can_mount():
                yield Act(name, list(group), small_disks, real_waits)


def _needs(fault: Fault) -> tuple[str, str, bool]:
    return fault.database, fault.store, fault.victim in ON_SMALL_DISKS


def play_all(acts: Sequence[Act], at_once: int) -> list[Played]:
    """Play acts, so many side by side; each row is printed as it is there. Returns them in the order of the acts."""
    # A process for each: DAGSTER_HOME, and what is patched for the sweep, are a process's own.
    with ProcessPoolExecutor(
        at_once, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as processes:
        return [one for played in processes.map(_play, acts) for one in played]


def _play(act: Act) -> list[Played]:
    played: list[Played] = []
    with running_house(
        act.faults[0].database,
        act.faults[0].store,
        clock=act.name == "clocks",
        small_disks=act.small_disks,
        real_waits=act.real_waits,
    ) as house:
        for fault in act.faults:
            played.append(_play_one(house, fault))
            print_row(played[-1])
    return played


def _play_one(house: House, fault: Fault) -> Played:
    """Play a fault; where that is impossible, it is not well, and the others are played nevertheless."""
    try:
        return play(house, fault)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Played(fault, [], [], False, 0.0, 0, Remains(0), f"it could not be played: {type(error).__name__}")
