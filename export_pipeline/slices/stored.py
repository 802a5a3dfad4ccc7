"""What is kept as JSON beside the slices: the base of such records, and how they are written."""

from pydantic import BaseModel, ConfigDict

from export_pipeline.storage import Storage

SLICES = "slices"
"""The folder of the storage in which batches have theirs."""


class Stored(BaseModel):
    """Base of what is kept as JSON beside the slices."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def batch_folder(batch_id: str) -> str:
    """Return where a batch's plan and slices are stored."""
    return f"{SLICES}/{batch_id}"


def store_json(storage: Storage, key: str, value: BaseModel) -> None:
    """Store ``value`` as JSON, whole or not at all."""
    with storage.create(key) as file:
        file.write(value.model_dump_json().encode())
        file.commit()
