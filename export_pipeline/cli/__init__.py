"""The command line. Exit codes: 0 done, 1 failed, 2 bad usage. Each command parses, calls the library, and prints."""

import sys
from typing import Any

import click

from export_pipeline.cli.backup import backup
from export_pipeline.cli.catalog import catalog
from export_pipeline.cli.erase import erase
from export_pipeline.cli.exports import export, request, status
from export_pipeline.cli.installation import demo, settings
from export_pipeline.cli.lifecycle import cancel, extend, forget, retry
from export_pipeline.cli.packages import convert, download, verify
from export_pipeline.cli.restore import restore
from export_pipeline.cli.schedule import schedule
from export_pipeline.cli.serve import serve
from export_pipeline.cli.token import token
from export_pipeline.errors import BadInputError, ExportPipelineError


class ReportedGroup(click.Group):
    """Turns the library's errors into one line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ExportPipelineError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2 if isinstance(error, BadInputError) else 1)


@click.group(cls=ReportedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="export-pipeline")
def main() -> None:
    """Hand over all that a MongoDB holds about a user: whole, at one point in time, and proven so.

    Settings come from environment variables; 'export-pipeline settings' lists them.
    """


for command in (
    *(cancel, catalog, convert, demo, download, export, extend, forget, request, retry, settings, status, verify),
    *(backup, erase, restore, schedule, serve, token),
):
    main.add_command(command)


def _keep_examples_as_they_stand(command: click.Command) -> None:
    """Turn the mark of raw docstrings into the character by which click tells a paragraph that it must not wrap."""
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    for each in getattr(command, "commands", {}).values():
        _keep_examples_as_they_stand(each)


_keep_examples_as_they_stand(main)
