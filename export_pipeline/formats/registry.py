"""The table of formats, and the check of what a request asks of one."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from export_pipeline.errors import BadInputError
from export_pipeline.formats.bson_archive import BsonArchive
from export_pipeline.formats.csv_zip import CsvZip
from export_pipeline.formats.excel import Excel
from export_pipeline.formats.extended_json import Mode
from export_pipeline.formats.html import Html
from export_pipeline.formats.json_text import JsonArray, JsonLines
from export_pipeline.formats.parquet import Parquet
from export_pipeline.formats.protocol import Format, WriteOptions


@cache
def _formats(encoder_processes: int) -> dict[str, Format]:
    texts = JsonArray(encoder_processes), JsonLines(encoder_processes)
    return {format_.name: format_ for format_ in (*texts, Parquet(), CsvZip(), Excel(), Html(), BsonArchive())}


FORMATS = _formats(1)
JSON_MODES: tuple[str, ...] = get_args(Mode)

_FOR_ALL = {"recipients", "passphrase", "json_mode"}
"""Options that every format takes: its file as a whole is encrypted; and what says how JSON is to look may say it
where there is none."""


def find_format(name: object, encoder_processes: int = 1) -> Format:
    """Return the format called ``name``; its writer uses up to so many processes for a large file, where it can.

    Raises BadInputError that lists the known ones.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise BadInputError(f"format: {_shown(name)} is unknown; known are {', '.join(FORMATS)}")
    return _formats(encoder_processes)[name]


def write_options(given: Mapping[str, Any]) -> WriteOptions:
    """Return a request's options as checked ones. Raises BadInputError that names the option and what it takes."""
    try:
        return WriteOptions.model_validate({name: value for name, value in given.items() if name != "format"})
    except ValidationError as error:
        raise BadInputError("; ".join(_explain(item) for item in error.errors())) from None


def checked_options(format_: Format, given: Mapping[str, Any]) -> WriteOptions:
    """Return a request's options for ``format_``. Raises BadInputError for one that would do nothing there."""
    options = write_options(given)
    idle = [name for name in options.model_fields_set if _is_chosen(options, name) and name not in format_.takes]
    for name in sorted(set(idle) - _FOR_ALL):
        raise BadInputError(f"option {name}: the format {format_.name} has no use for it")
    if options.recipients and options.passphrase:
        raise BadInputError("option passphrase: name recipients or give a passphrase; age takes one of the two")
    if format_.compresses_inside and options.compression == "zstd":
        raise BadInputError(f"option compression: the format {format_.name} takes none or gzip")
    return options


def _is_chosen(options: WriteOptions, name: str) -> bool:
    return bool(getattr(options, name) != WriteOptions.model_fields[name].get_default(call_default_factory=True))


def _explain(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    if name == "json_mode":
        return f"json mode: {_shown(error['input'])} is unknown; known are {', '.join(JSON_MODES)}"
    if name not in WriteOptions.model_fields:
        return f"option {_shown(name)} is unknown; known are {', '.join(WriteOptions.model_fields)}"
    return f"option {name}: {error['msg']}"


def _shown(given: object) -> str:
    """Return what was given as far as it looks like a name; anything else may be data."""
    return f"'{given}'" if isinstance(given, str) and re.fullmatch("[A-Za-z0-9_-]{1,30}", given) else "what was given"
