"""The table of formats, and the check of what a request asks of one."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from export_pipeline.errors import BadInputError
from export_pipeline.formats.bson_archive import BsonArchive
from export_pipeline.formats.csv_zip import CsvZip
from export_pipeline.formats.excel import Excel
from export_pipeline.formats.extended_json import Mode
from export_pipeline.formats.json_text import JsonArray, JsonLines
from export_pipeline.formats.parquet import Parquet
from export_pipeline.formats.protocol import Format, WriteOptions

FORMATS: dict[str, Format] = {
    format_.name: format_ for format_ in (JsonArray(), JsonLines(), Parquet(), CsvZip(), Excel(), BsonArchive())
}
JSON_MODES: tuple[str, ...] = get_args(Mode)


def find_format(name: object) -> Format:
    """Return the format called ``name``. Raises BadInputError that lists the known ones."""
    if not isinstance(name, str) or name not in FORMATS:
        raise BadInputError(f"format: {_shown(name)} is unknown; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def write_options(given: Mapping[str, Any]) -> WriteOptions:
    """Return a request's options as checked ones. Raises BadInputError that names the option and what it takes."""
    try:
        return WriteOptions.model_validate({name: value for name, value in given.items() if name != "format"})
    except ValidationError as error:
        raise BadInputError("; ".join(_explain(item) for item in error.errors())) from None


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
