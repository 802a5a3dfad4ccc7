"""What is kept as JSON beside the slices: the base of such records, and how they are written."""

from pydantic import BaseModel, ConfigDict

from export_pipeline.storage import Storage


class Stored(BaseModel):
    """Base of what is kept as JSON beside the slices."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def store_json(storage: Storage, key: str, value: BaseModel) -> None:
    """Store ``value`` as JSON, whole or not at all."""
    with storage.create(key) as file:
        file.write(value.model_dump_json().encode())
        file.commit()
