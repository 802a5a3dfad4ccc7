"""Restores of everything into a new database: asking for one, and comparing what it made with what was backed up."""

from export_pipeline.backups.restore_plan import Wish
from export_pipeline.backups.restoring import Restores
from export_pipeline.backups.structure import read_structures
from export_pipeline.requests.models import Request
from export_pipeline_tests.backups.test_restore import contents
from export_pipeline_tests.bench import crowd
from export_pipeline_tests.faults import stages
from export_pipeline_tests.faults.backups import IN_A_PART, undisturbed
from export_pipeline_tests.faults.house import House

CHECKING = "checking"
LOADING_HALF = "loading half"
COMPARING = "comparing"
BUILDING_INDEXES = "building indexes"
FINISHING = "finishing"

IN_THE_RUN = (
    *(CHECKING, LOADING_HALF, IN_A_PART, COMPARING, BUILDING_INDEXES, FINISHING),
    *(stages.RECORDING, stages.RECORDED),
)
"""Those that the run process passes. ``checking``: nothing is written yet. ``recorded``: the row is completed, and the
target still holds how far the restore has come."""

NOT_BACKED_UP = frozenset({"apps", "members"})
"""Collections of the source that the catalogue does not know."""


def submit(house: House) -> list[Request]:
    """Ask for a restore of the undisturbed backup into a database of its own."""
    backup = undisturbed(house).id
    restores = Restores(house.exporter)
    restoring = restores.open(backup, Wish([f"restored_{next(house.numbers)}"]))
    return [restores.submit(restoring, backup, "faults")]


def what_is_wrong(house: House, request: Request) -> str | None:
    """Compare the target with what was backed up: every document, and each collection's options and indexes."""
    source, target = crowd.DATABASE, target_of(request)
    expected, made = (read_structures(house.exporter.client, database) for database in (source, target))
    names = expected.keys() - NOT_BACKED_UP
    if names != made.keys():
        return f"other collections than were backed up: {', '.join(sorted(names ^ made.keys()))}"
    changed = [name for name in sorted(names) if made[name].fingerprint != expected[name].fingerprint]
    if changed:
        return f"other options or indexes: {', '.join(changed)}"
    for name in sorted(names):
        if (kind := made[name].kind) != "view":
            here, there = _documents(house, target, name, kind), _documents(house, source, name, kind)
            if here != there:
                return f"other documents: {name} has {len(here)} instead of {len(there)}"
    documents = undisturbed(house).documents_done
    return None if request.documents_done == documents else f"its row counts {request.documents_done} documents"


def _documents(house: House, database: str, name: str, kind: str) -> list[bytes]:
    return contents(house.exporter.client, database, name, kind)


def files_of(house: House, request: Request) -> list[str]:
    """Return the keys of the files that a restore leaves: none."""
    return []


def remove(house: House, request: Request) -> None:
    """Drop the target."""
    house.exporter.client.drop_database(target_of(request))


def target_of(request: Request) -> str:
    """Return the database that a restore writes to."""
    (target,) = request.options["to_database"]
    return str(target)
