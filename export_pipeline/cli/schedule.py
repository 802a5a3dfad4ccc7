"""The commands about the schedules of backups."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from export_pipeline.cli.options import Command, json_option, operator
from export_pipeline.settings import Settings

if TYPE_CHECKING:
    from export_pipeline.backups.schedules import Schedule, ScheduleStore

INSTALLATIONS = "installation"
"""What is given for the storage, so that backups go where the settings say."""

NOBODY = "none"
"""What is given for a recipient, so that backups are not encrypted."""

_RULES = {
    "last": "Keep so many of the newest backups.",
    "days": "Keep backups that are not older than so many days.",
    "daily": "Keep the newest backup of each of so many days.",
    "weekly": "Of so many weeks.",
    "monthly": "Of so many months.",
    "yearly": "Of so many years.",
}

_WANTED = (
    click.option(
        "--zone", "time_zone", metavar="ZONE", help="Whose clock counts, such as Europe/Berlin; UTC, if left out."
    ),
    click.option(
        "--format", "format_", type=click.Choice(["bson", "jsonl", "parquet", "csv"]), help="bson, if left out."
    ),
    click.option("--compression", type=click.Choice(["none", "gzip", "zstd"]), help="none, if left out."),
    click.option(
        "--recipient",
        "recipients",
        multiple=True,
        metavar="AGE1…",
        help="Encrypt with age, so that only the holder of this public key can read it. May be repeated; 'none' "
        "stops encrypting.",
    ),
    click.option("--part-bytes", type=int, metavar="N", help="The most bytes of one file; 100000000, if left out."),
    click.option(
        "--storage",
        metavar="ROOT",
        help="Where its backups go: a directory's whole path, s3://bucket/prefix, or 'installation' for where the "
        "settings say, as it is if left out.",
    ),
    click.option(
        "--full-every",
        type=int,
        metavar="N",
        help="1, if left out: each backup is full. N: every Nth, and the others hold what changed.",
    ),
    *(click.option(f"--keep-{rule}", type=int, metavar="N", help=help_) for rule, help_ in _RULES.items()),
)


def _wanted_options(command: Command) -> Command:
    for option in reversed(_WANTED):
        command = option(command)
    return command


@click.group()
def schedule() -> None:
    """Back up apps at certain times; the schedules can be changed while all is running.

    A backup is kept while any --keep rule keeps it; without a rule all are. The last good one is never removed, nor
    what it builds on.
    """


@schedule.command()
@click.option("--app", "app_id", required=True, metavar="APP", help="The app, or '*' for all.")
@click.option(
    "--cron", required=True, metavar="'M H D M W'", help="Minute, hour, day of the month, month, day of the week."
)
@_wanted_options
@json_option
def add(app_id: str, cron: str, as_json: bool, **given: Any) -> None:
    r"""Make a schedule.

    A time that the change to summer time skips is made up for at once; one that comes twice counts once. Times that
    passed while nothing was running are made up for by one backup.

    \b
    Example:
      export-pipeline schedule add --app 652f1a7e9c3b4d0012ab34c1 --cron '30 3 * * *' --zone Europe/Berlin \
        --full-every 7 --keep-daily 14 --keep-weekly 8 --keep-monthly 12
    """
    from export_pipeline.backups.schedules import NewSchedule

    new = NewSchedule(app_id, cron, **_changes(given, {}, {}))
    with _schedules() as schedules:
        _print_one(schedules.create(new, operator()), as_json)


@schedule.command("list")
@click.option("--app", "app_id", metavar="APP", help="Only this app's, or '*' for those of all apps.")
@json_option
def list_(app_id: str | None, as_json: bool) -> None:
    """List the schedules."""
    with _schedules() as schedules:
        found = schedules.all(app_id)
    if as_json:
        click.echo(json.dumps([each.shown() for each in found]))
        return
    table = Table("id", "app", "cron", "zone", "form", "full every", "kept", "storage", "next")
    for each in found:
        table.add_row(
            *(each.id, each.app_id, each.cron, each.time_zone),
            " ".join(str(each.options[name]) for name in ("format", "compression") if name in each.options) or "bson",
            str(each.full_every),
            " ".join(f"{rule} {count}" for rule, count in each.retention.model_dump().items() if count) or "all",
            each.storage or INSTALLATIONS,
            _next(each),
        )
    Console().print(table)


@schedule.command()
@click.argument("schedule_id")
@click.option("--cron", metavar="'M H D M W'", help="Minute, hour, day of the month, month, day of the week.")
@_wanted_options
@json_option
def edit(schedule_id: str, cron: str | None, as_json: bool, **given: Any) -> None:
    r"""Change what is given; all else stays as it is. A rule --keep-… of 0 is none.

    \b
    Example:
      export-pipeline schedule edit SCHEDULE_ID --cron '0 */6 * * *' --keep-last 28
    """
    with _schedules() as schedules:
        former = schedules.get(schedule_id)
        changes = _changes(given, former.options, former.retention.model_dump())
        changes |= {} if cron is None else {"cron": cron}
        _print_one(schedules.edit(schedule_id, changes, operator()), as_json)


@schedule.command()
@click.argument("schedule_id")
def enable(schedule_id: str) -> None:
    """Let a schedule work from now on; what it missed is not made up for."""
    with _schedules() as schedules:
        _print_one(schedules.enable(schedule_id, operator()), as_json=False)


@schedule.command()
@click.argument("schedule_id")
def disable(schedule_id: str) -> None:
    """Let a schedule rest: it makes no backup, and removes none."""
    with _schedules() as schedules:
        _print_one(schedules.disable(schedule_id, operator()), as_json=False)


@schedule.command()
@click.argument("schedule_id")
def remove(schedule_id: str) -> None:
    """Remove a schedule. Its backups stay, and nothing removes them any more."""
    with _schedules() as schedules:
        schedules.remove(schedule_id)
    click.echo(f"{schedule_id}: removed; its backups stay")


@contextmanager
def _schedules() -> Iterator["ScheduleStore"]:
    from export_pipeline.backups.schedules import ScheduleStore
    from export_pipeline.installation import Installation

    with Installation(Settings.load()) as installation:
        yield ScheduleStore(installation.database)


def _changes(given: Mapping[str, Any], options: Mapping[str, Any], rules: Mapping[str, int]) -> dict[str, Any]:
    """Return the fields of a schedule that the options of ``_WANTED`` name, by what it has so far."""
    from export_pipeline.backups.retention import parse_retention

    changes = {name: given[name] for name in ("time_zone", "full_every") if given[name] is not None}
    if given["storage"] is not None:
        changes["storage"] = None if given["storage"] == INSTALLATIONS else given["storage"]
    form = {"format": given["format_"], "compression": given["compression"], "part_bytes": given["part_bytes"]}
    chosen = {name: value for name, value in form.items() if value is not None}
    if given["recipients"]:
        chosen["recipients"] = [] if given["recipients"] == (NOBODY,) else list(given["recipients"])
    if chosen:
        changes["options"] = {**options, **chosen}
    kept = {rule: given[f"keep_{rule}"] for rule in _RULES if given[f"keep_{rule}"] is not None}
    if kept:
        changes["retention"] = parse_retention({**rules, **kept})
    return changes


def _print_one(schedule: "Schedule", as_json: bool) -> None:
    click.echo(json.dumps(schedule.shown()) if as_json else f"{schedule.id}: next backup: {_next(schedule)}")


def _next(schedule: "Schedule") -> str:
    tick = schedule.next_tick()
    return "never, it is disabled" if tick is None else f"{tick:%Y-%m-%d %H:%M} UTC"
