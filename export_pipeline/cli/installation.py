"""Commands about the installation itself: its settings, and the demo."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from export_pipeline.cli.options import json_option
from export_pipeline.settings import Settings, environment_variable


@click.command()
@json_option
def settings(as_json: bool) -> None:
    """List every setting with its value, its environment variable and what it does; secrets stay hidden."""
    values = Settings.load()
    rows = [
        {"variable": environment_variable(name), "value": values.shown(name), "description": field.description}
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("variable", "value", "what it does")
    for row in rows:
        table.add_row(row["variable"], row["value"], row["description"])
    Console().print(table)


@click.command()
@click.option("--users", default=300, show_default=True, help="How many people the demo's first app has.")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies how many documents each of them has.")
@click.option("--serve", is_flag=True, help="Leave Dagster's UI open until Ctrl-C.")
@click.option(
    "--folder",
    default="export-pipeline-demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the demo's files go.",
)
def demo(users: int, scale: float, serve: bool, folder: Path) -> None:
    """Show the whole path on generated data: a MongoDB, Dagster's daemon, three requests, their files."""
    from export_pipeline.demo.run import run_demo

    run_demo(Console(), folder.absolute(), users=users, scale=scale, serve=serve)
