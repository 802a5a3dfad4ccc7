"""The faults: every victim at every stage where it can matter, on SQLite and a directory, on PostgreSQL and S3."""

from dataclasses import replace

from export_pipeline_tests.faults import backups as backup
from export_pipeline_tests.faults import restores as restore
from export_pipeline_tests.faults import stages
from export_pipeline_tests.faults.play import Fault


def small() -> list[Fault]:
    """One machine: SQLite and a directory."""
    return [
        Fault("nothing", stages.PLANNING),
        *(Fault("run process", stage) for stage in (*stages.IN_THE_RUN, stages.RECORDED)),
        *(Fault("code server", stage) for stage in stages.ALL),
        *(Fault("code server and its runs", stage) for stage in (*stages.IN_THE_RUN, stages.RECORDED)),
        *(Fault("daemon", stage) for stage in stages.ALL),
        *(Fault("all of Dagster", stage) for stage in (stages.CLAIMED, stages.SLICES_HALF, stages.PUBLISHING)),
        *(Fault("MongoDB", stage) for stage in stages.ALL),
        *(Fault("network to MongoDB", stage) for stage in (stages.PLANNING, stages.READING, stages.SLICES_HALF)),
        Fault("two daemons", stages.CLAIMED),
        Fault("two daemons", stages.SLICES_HALF),
    ]


def disks() -> list[Fault]:
    """Disks that are full for some seconds, or for good."""
    storage = (stages.PLANNING, stages.READING, stages.SLICES_HALF, stages.ASSEMBLING, stages.VERIFYING)
    return [
        *(Fault("disk of the exports full", stage) for stage in storage),
        Fault("disk of the exports full for good", stages.READING, ends="failed"),
        Fault("disk of the exports full for good", stages.ASSEMBLING, ends="failed"),
        *(Fault("disk of DAGSTER_HOME full", stage) for stage in (stages.CLAIMED, stages.READING, stages.RECORDING)),
    ]


def clocks() -> list[Fault]:
    """Clocks that are wrong. Each jump adds to the one before."""
    return [
        Fault("run's clock 2 h ahead", stages.READING),
        Fault("run's clock 2 h back", stages.READING),
        Fault("run's clock 2 h ahead", stages.RECORDING),
        *(Fault("clocks 20 s back", stage) for stage in (stages.CLAIMED, stages.SLICES_HALF, stages.VERIFYING)),
        *(Fault("clocks 2 h ahead", stage) for stage in (stages.CLAIMED, stages.SLICES_HALF, stages.VERIFYING)),
    ]


def large() -> list[Fault]:
    """Several machines: PostgreSQL, for Dagster too, and S3."""
    faults = [
        Fault("nothing", stages.PLANNING),
        *(Fault("run process", stage) for stage in (*stages.IN_THE_RUN, stages.RECORDED)),
        *(Fault("S3 server", stage) for stage in stages.ALL),
        *(Fault("PostgreSQL", stage) for stage in stages.ALL),
        Fault("MongoDB", stages.READING),
        Fault("code server and its runs", stages.PUBLISHING),
        Fault("daemon", stages.CLAIMED),
        *(Fault("network to S3", stage) for stage in (stages.READING, stages.ASSEMBLING, stages.VERIFYING)),
        Fault("network to S3", stages.PUBLISHING),
        *(Fault("network to PostgreSQL", stage) for stage in (stages.READING, stages.RECORDING)),
        Fault("two daemons", stages.CLAIMED),
    ]
    return [replace(fault, database="postgresql", store="s3") for fault in faults]


def crossed() -> list[Fault]:
    """The other two combinations."""
    return [
        *(
            Fault(victim, stage, "sqlite", "s3")
            for victim in ("run process", "S3 server")
            for stage in (stages.SLICES_HALF, stages.PUBLISHING)
        ),
        *(
            Fault(victim, stage, "postgresql", "directory")
            for victim in ("run process", "PostgreSQL")
            for stage in (stages.SLICES_HALF, stages.RECORDING)
        ),
    ]


def backups() -> list[Fault]:
    """Backups of all apps, on one machine, on small disks, and on several machines."""
    one_machine = [
        Fault("nothing", stages.PLANNING),
        *(Fault("run process", stage) for stage in backup.IN_THE_RUN),
        Fault("code server", backup.IN_A_PART),
        *(Fault("code server and its runs", stage) for stage in (backup.PARTS_HALF, backup.SEALED)),
        *(Fault("daemon", stage) for stage in (stages.CLAIMED, backup.PARTS_HALF)),
        Fault("all of Dagster", backup.PARTS_HALF),
        *(Fault("MongoDB", stage) for stage in (stages.PLANNING, backup.PLANNED, backup.IN_A_PART)),
        *(Fault("network to MongoDB", stage) for stage in (stages.PLANNING, backup.IN_A_PART)),
        Fault("two daemons", stages.CLAIMED),
        *(Fault("disk of the exports full", stage) for stage in (backup.IN_A_PART, backup.SEALING)),
        Fault("disk of the exports full for good", backup.IN_A_PART, ends="failed"),
        Fault("disk of DAGSTER_HOME full", stages.RECORDING),
    ]
    several_machines = [
        *(Fault("run process", stage) for stage in (backup.IN_A_PART, backup.SEALED)),
        *(Fault("S3 server", stage) for stage in (backup.IN_A_PART, backup.SEALING, stages.RECORDING)),
        Fault("network to S3", backup.PARTS_HALF),
        *(Fault("PostgreSQL", stage) for stage in (stages.CLAIMED, backup.PARTS_HALF, stages.RECORDING)),
    ]
    large = [replace(fault, database="postgresql", store="s3") for fault in several_machines]
    return [replace(fault, task="backup") for fault in (*one_machine, *large)]


def restores() -> list[Fault]:
    """Restores of all apps into a new database, on one machine and on several."""
    one_machine = [
        Fault("nothing", restore.CHECKING),
        *(Fault("run process", stage) for stage in restore.IN_THE_RUN),
        Fault("code server", restore.LOADING_HALF),
        *(Fault("code server and its runs", stage) for stage in (restore.LOADING_HALF, stages.RECORDED)),
        Fault("daemon", stages.CLAIMED),
        *(Fault("MongoDB", stage) for stage in (backup.IN_A_PART, restore.BUILDING_INDEXES, stages.RECORDED)),
        Fault("network to MongoDB", restore.COMPARING),
    ]
    several_machines = [
        Fault("run process", backup.IN_A_PART),
        *(Fault("S3 server", stage) for stage in (restore.CHECKING, restore.LOADING_HALF)),
        *(Fault("PostgreSQL", stage) for stage in (restore.LOADING_HALF, stages.RECORDING)),
    ]
    large = [replace(fault, database="postgresql", store="s3") for fault in several_machines]
    return [replace(fault, task="restore") for fault in (*one_machine, *large)]


SETS = {
    "small": small,
    "disks": disks,
    "clocks": clocks,
    "large": large,
    "crossed": crossed,
    "backups": backups,
    "restores": restores,
}
