"""The check of what is chosen about the form of a schedule's backups. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from export_pipeline.backups.manifest import DEFAULT_PART_BYTES, BackupOptions
from export_pipeline.encryption.age import parse_recipient
from export_pipeline.errors import BadInputError
from export_pipeline.formats.protocol import MOST_RECIPIENTS, SMALLEST_PART


def check_form(given: Mapping[str, Any]) -> BackupOptions:
    """Return what was chosen, checked. Raises BadInputError that names the option and what it takes."""
    if "passphrase" in given:
        raise BadInputError("option passphrase: nobody is there to type one; name the recipients' public keys (age1…)")
    try:
        form = BackupOptions.model_validate_json(json.dumps(dict(given)), strict=True)
    except ValidationError as error:
        raise BadInputError("; ".join(_explain(item["loc"], item["msg"]) for item in error.errors())) from None
    except (TypeError, ValueError):  # no JSON
        raise BadInputError(_explain((), "")) from None
    if form.format == "parquet" and form.compression != "none":
        raise BadInputError("option compression: parquet compresses inside; choose none")
    if not SMALLEST_PART <= form.part_bytes <= DEFAULT_PART_BYTES:
        raise BadInputError(f"option part_bytes: expected {SMALLEST_PART:,} to {DEFAULT_PART_BYTES:,} bytes")
    if len(form.recipients) > MOST_RECIPIENTS:
        raise BadInputError(f"option recipients: at most {MOST_RECIPIENTS} are allowed")
    for recipient in form.recipients:
        parse_recipient(recipient)
    return form


def check_incremental(form: BackupOptions) -> None:
    """Raise BadInputError where nothing of an earlier backup can be taken over."""
    if form.format == "csv":
        raise BadInputError("option format: a backup as csv is a whole one each time; for incremental ones choose bson")


def _explain(location: tuple[int | str, ...], message: str) -> str:
    name = str(location[0]) if location else ""
    if name not in BackupOptions.model_fields:
        return f"options: expected plain values of {', '.join(BackupOptions.model_fields)}"
    return f"option {name}: {message[:1].lower()}{message[1:]}"
