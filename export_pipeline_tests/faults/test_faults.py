"""A few faults of the matrix, of each kind that one machine without further servers can show in little time.

The whole: ``python -m export_pipeline_tests.faults``.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from export_pipeline_tests.faults import backups, restores, stages
from export_pipeline_tests.faults.house import House, running_house
from export_pipeline_tests.faults.matrix import SETS
from export_pipeline_tests.faults.play import Fault, Played, play
from export_pipeline_tests.faults.remains import Remains

FAULTS = [
    Fault("run process", stages.READING),
    Fault("run process", stages.PUBLISHING),
    Fault("daemon", stages.CLAIMED),
    Fault("MongoDB", stages.READING),
    Fault("network to MongoDB", stages.SLICES_HALF),
]

OF_EVERYTHING = [
    Fault("run process", backups.IN_A_PART, task="backup"),
    Fault("run process", restores.LOADING_HALF, task="restore"),
    Fault("MongoDB", backups.IN_A_PART, task="restore"),
]

WELL = Played(Fault("run process", stages.READING), ["completed"], [""], True, 1.0, 1, Remains(published=1))


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """An installation that all faults of this module strike, one after another."""
    with running_house("sqlite", "directory") as house:
        yield house


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.victim} at {fault.stage}")
def test_every_request_ends_by_itself_whole_and_once(house: House, fault: Fault) -> None:
    played = play(house, fault)
    assert played.found == []
    assert played.ended
    assert played.statuses == ["completed"] * 3
    assert played.remains.published == 3
    assert played.is_well


@pytest.mark.parametrize("fault", OF_EVERYTHING, ids=lambda fault: f"{fault.task}: {fault.victim} at {fault.stage}")
def test_a_backup_and_a_restore_end_by_themselves_with_the_same_bytes(house: House, fault: Fault) -> None:
    played = play(house, fault)
    assert played.found == []
    assert (played.statuses, played.reasons) == (["completed"], [""])
    assert played.is_well


def test_a_fault_is_taken_for_well_only_where_nothing_is_wrong() -> None:
    assert WELL.is_well
    assert not replace(WELL, ended=False).is_well
    assert not replace(WELL, statuses=["failed"], reasons=["storage"], remains=Remains(published=0)).is_well
    assert not replace(WELL, problem="nobody got to this stage").is_well
    for wrong in (
        Remains(published=0),
        Remains(published=1, lost=["its row is about another file"]),
        Remains(published=1, doubled=["a request"]),
        Remains(published=1, leftovers=["slices/a batch/plan.json"]),
    ):
        assert not replace(WELL, remains=wrong).is_well


def test_what_cannot_succeed_has_to_fail_with_a_reason() -> None:
    hopeless = replace(
        WELL,
        fault=Fault("disk of the exports full for good", stages.READING, ends="failed"),
        statuses=["failed"],
        remains=Remains(published=0),
    )
    assert replace(hopeless, reasons=["storage"]).is_well
    assert not replace(hopeless, reasons=[""]).is_well


def test_the_matrix_has_enough_faults() -> None:
    faults = [fault for faults in SETS.values() for fault in faults()]
    assert len(set(faults)) == len(faults) >= 160
