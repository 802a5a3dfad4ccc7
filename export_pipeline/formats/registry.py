"""The table of formats, and the check of what a request asks of one."""

from typing import get_args

from export_pipeline.errors import BadInputError
from export_pipeline.formats.extended_json import Mode
from export_pipeline.formats.json_text import JsonArray, JsonLines
from export_pipeline.formats.parquet import Parquet
from export_pipeline.formats.protocol import Format, WriteOptions

FORMATS: dict[str, Format] = {format_.name: format_ for format_ in (JsonArray(), JsonLines(), Parquet())}
JSON_MODES: tuple[str, ...] = get_args(Mode)


def find_format(name: object) -> Format:
    """Return the format called ``name``. Raises BadInputError that lists the known ones."""
    if not isinstance(name, str) or name not in FORMATS:
        raise BadInputError(f"format: {name!r} is unknown; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def write_options(json_mode: object) -> WriteOptions:
    """Return checked options. Raises BadInputError."""
    if json_mode == "relaxed":
        return WriteOptions(json_mode="relaxed")
    if json_mode == "canonical":
        return WriteOptions(json_mode="canonical")
    raise BadInputError(f"json mode: {json_mode!r} is unknown; known are {', '.join(JSON_MODES)}")
