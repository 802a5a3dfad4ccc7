"""Where slices, exports and backups are kept, behind one protocol."""

from export_pipeline.errors import BadInputError
from export_pipeline.storage.directory import DirectoryStorage, create_file
from export_pipeline.storage.protocol import PendingFile, Storage

__all__ = ["DirectoryStorage", "PendingFile", "Storage", "create_file", "open_storage"]


def open_storage(root: str) -> Storage:
    """Return the storage that ``root`` (the setting EXPORT_PIPELINE_STORAGE) names. Does no I/O yet."""
    if "://" in root:
        raise BadInputError(
            f"EXPORT_PIPELINE_STORAGE: no storage of the kind '{root.partition('://')[0]}'; give a directory"
        )
    return DirectoryStorage(root)
