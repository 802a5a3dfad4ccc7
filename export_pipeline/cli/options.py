"""The options that several commands share, and how they become a checked request."""

import getpass
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from export_pipeline.catalog.narrowing import parse_narrowing
from export_pipeline.errors import BadInputError
from export_pipeline.mongo.filters import parse_json
from export_pipeline.requests.models import DEFAULT_FORMAT, DEFAULT_JSON_MODE, NewRequest

if TYPE_CHECKING:
    from export_pipeline.packages.layers import Keys

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

Command = Callable[..., Any]

PASSPHRASE_VARIABLE = "EXPORT_PIPELINE_PASSPHRASE"  # noqa: S105  # a name
UNLOCK_VARIABLE = "EXPORT_PIPELINE_UNLOCK_PASSPHRASE"
"""Not settings of the installation: the passphrases of the one package that is written, or read."""


def selection_options(command: Command) -> Command:
    """Add the options that say whose data is wanted, which part of it, and in which form."""
    for option in reversed(_SELECTION):
        command = option(command)
    return command


def new_request(app_id: str, given: Mapping[str, Any]) -> NewRequest:
    """Return the request that the options of ``selection_options`` ask for. Raises BadInputError."""
    narrowing = {
        "since": given["since"],
        "until": given["until"],
        "limit": given["limit"],
        "profile": given["profile"],
        **{name: given[name] for name in _LISTS},
        "fields": {name: value.split(",") for name, value in _by_collection("--fields", given["fields"])},
        "sort": {name: value.split(",") for name, value in _by_collection("--sort", given["sort"])},
        "where": {name: parse_json(value, "--where") for name, value in _by_collection("--where", given["where"])},
    }
    person = given["person"]
    return NewRequest(
        app_id,
        given["uids"],
        given["format_"],
        given["json_mode"],
        requested_by=operator(),
        # Only what was not given is left out: an empty --since, as from a variable that is not set, is a mistake.
        narrowing=parse_narrowing({name: value for name, value in narrowing.items() if value not in (None, (), {})}),
        person=None if person is None else parse_json(person, "--person"),
        max_users=given["max_users"],
        file_options=file_options(given),
    )


def file_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was chosen about the file, but for its format and its JSON mode."""
    chosen = {name: given[name] for name, default in _FILE_OPTIONS.items() if given[name] != default}
    if "recipients" in chosen:
        chosen["recipients"] = list(chosen["recipients"])
    return chosen | ({"passphrase": True} if given["with_passphrase"] else {})


def ask_for_passphrase() -> str:
    """Return a new passphrase: from EXPORT_PIPELINE_PASSPHRASE, or typed twice on a terminal."""
    return os.environ.get(PASSPHRASE_VARIABLE) or str(
        click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    )


def _by_collection(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in given]
    if any(not equals or not name or not value for name, equals, value in pairs):
        raise BadInputError(f"{option}: expected COLLECTION=…, with the collection's name in the catalogue")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise BadInputError(f"{option}: a collection is named twice")
    return [(name, value) for name, _, value in pairs]


def operator() -> str:
    """Return who is at the command line, as the history names them."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "cli"


_FILE_OPTIONS = {
    "lossless": True,
    "dotted": False,
    "formulas": False,
    "compression": "none",
    "split_bytes": None,
    "recipients": (),
}
_LISTS = ("collections", "exclude_collections", "plugins", "exclude_plugins", "categories", "exclude_categories")


def _many(flag: str, name: str, metavar: str, help_: str) -> Callable[[Command], Command]:
    return click.option(flag, name, multiple=True, metavar=metavar, help=f"{help_} May be repeated.")


class _Size(click.ParamType[int]):
    """A number of bytes: 25000000, 25MB, 1.5GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kMG]?B?)", str(value))
        if not found:
            self.fail("expected a size such as 25MB", param, ctx)
        units = {"k": 10**3, "M": 10**6, "G": 10**9}
        return int(float(found[1]) * units.get(found[2][:1], 1))


_FILE = (
    click.option(
        "--format",
        "format_",
        default=DEFAULT_FORMAT,
        show_default=True,
        help="json, jsonl, parquet, csv, excel, html or bson.",
    ),
    click.option(
        "--json-mode",
        default=DEFAULT_JSON_MODE,
        show_default=True,
        help="relaxed is easy to read, canonical keeps every BSON type.",
    ),
    click.option(
        "--lossless/--no-lossless", default=True, help="Parquet: with each whole document in the column _doc, or not."
    ),
    click.option("--dotted", is_flag=True, help="CSV, Excel: columns of their own for embedded documents' fields."),
    click.option("--formulas", is_flag=True, help="CSV: leave cells that a spreadsheet would run as a formula."),
    click.option(
        "--compression",
        type=click.Choice(["none", "gzip", "zstd"]),
        default="none",
        show_default=True,
        help="JSON, and gzip within bson; the other formats are compressed as they are.",
    ),
    click.option(
        "--split",
        "split_bytes",
        type=_Size(),
        metavar="SIZE",
        help="The most of one file, such as 25MB; what is more goes to further parts, each a whole file.",
    ),
    click.option(
        "--recipient",
        "recipients",
        multiple=True,
        metavar="AGE1…",
        help="Encrypt with age, so that only the holder of this public key can open it. May be repeated.",
    ),
    click.option(
        "--passphrase",
        "with_passphrase",
        is_flag=True,
        help="Encrypt with age and a passphrase, which is asked for, or taken from EXPORT_PIPELINE_PASSPHRASE.",
    ),
)


def file_format_options(command: Command) -> Command:
    """Add the options that say in which form a file is wanted."""
    for option in reversed(_FILE):
        command = option(command)
    return command


def opening_options(command: Command) -> Command:
    """Add the options that say what opens an encrypted package."""
    for option in reversed(_OPENING):
        command = option(command)
    return command


def opening_keys(given: Mapping[str, Any]) -> "Keys":
    """Return what opens a package. Raises BadInputError for a file without identities."""
    from export_pipeline.encryption.age import parse_identities
    from export_pipeline.packages.layers import Keys

    file: Path | None = given["identity_file"]
    passphrase = None
    if given["unlock"]:
        passphrase = os.environ.get(UNLOCK_VARIABLE) or click.prompt("Passphrase", hide_input=True, err=True)
    return Keys(parse_identities(file.read_text()) if file else [], passphrase)


_OPENING = (
    click.option(
        "--identity",
        "identity_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The file with the age identity (AGE-SECRET-KEY-1…) that opens an encrypted package.",
    ),
    click.option(
        "--unlock",
        is_flag=True,
        help=f"Open an encrypted package by its passphrase, which is asked for, or taken from {UNLOCK_VARIABLE}.",
    ),
)

_SELECTION = (
    _many("--uid", "uids", "UID", "The user."),
    click.option(
        "--person",
        metavar="JSON",
        help='Instead of uids, a filter on the people, such as \'{"email": "me@example.org"}\' or \'{"did": "d1"}\'.',
    ),
    click.option("--max-users", default=1, show_default=True, help="The most people that --person may find."),
    *_FILE,
    click.option("--since", metavar="TIME", help="From this moment on: 2026-01-31 or 2026-01-31T12:00:00Z."),
    click.option("--until", metavar="TIME", help="Before this moment."),
    _many("--collection", "collections", "NAME", "Only this entry of the catalogue."),
    _many("--exclude-collection", "exclude_collections", "NAME", "Not this entry of the catalogue."),
    _many("--plugin", "plugins", "NAME", "Only this plugin's collections."),
    _many("--exclude-plugin", "exclude_plugins", "NAME", "Not this plugin's collections."),
    _many("--category", "categories", "NAME", "Only this category of data."),
    _many("--exclude-category", "exclude_categories", "NAME", "Not this category of data."),
    _many("--fields", "fields", "NAME=A,B.C", "Of this collection, only these fields (and _id)."),
    _many("--where", "where", "NAME=JSON", 'Conditions, such as \'drill_events={"e": {"$in": ["purchase"]}}\'.'),
    _many("--sort", "sort", "NAME=A,-B", "Order this collection by these fields; - turns the order round."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The most documents of each collection."),
    click.option(
        "--profile",
        help="access: everything, with a notice (GDPR article 15); portability: what the person provided (article 20).",
    ),
)
