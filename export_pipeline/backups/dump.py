"""Laying a backup out as mongodump would have left it, for mongorestore: one file of BSON for each collection.

Whatever the parts' format, compression and encryption are; each is checked on the way. mongorestore takes no
measurements, so a time series is left for ``restore``.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from export_pipeline.backups.manifest import BackedUpCollection
from export_pipeline.backups.parts import open_content, part_format
from export_pipeline.backups.verify import load_manifest, naming
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.packages.layers import Keys
from export_pipeline.storage import Storage, create_file

_NOT_ESCAPED = "!#$&'()*+,:;=@[]^`{|}~ "
"""mongodump escapes what cannot be in a file's name, as URLs do, and leaves the rest."""


def dump_backup(
    storage: Storage, folder: str, output: Path, keys: Keys, on_documents: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Write the backup in ``folder`` to the directory ``output``; return the collections that are left out.

    Raises BadInputError where the backup's format does not keep the documents or there is something at ``output``,
    IncompleteError that names the part for what is not what was written, WrongKeyError where no key fits.
    """
    if output.exists() and any(output.iterdir()):
        raise BadInputError(f"{output}: there are files in it; name a new directory")
    manifest = load_manifest(storage, folder)
    format_ = part_format(manifest.options.format)
    beside = folder.rpartition("/")[0]
    left_out = []
    for collection in manifest.collections:
        if collection.structure.kind == "timeseries":
            left_out.append(collection.name)
            continue
        stem = output / collection.database / quote(collection.name, safe=_NOT_ESCAPED)
        if collection.structure.kind != "view":
            with create_file(stem.with_name(f"{stem.name}.bson")) as target:
                for part in collection.parts:
                    place = f"{collection.folder}/{part.name}"
                    held = f"{beside}/{part.backup_id or manifest.backup_id}/{place}".lstrip("/")
                    digest = hashlib.sha256()
                    with naming(place), storage.open(held) as file:
                        for piece in format_.pieces(open_content(file, manifest.options, keys)):
                            digest.update(piece.data)
                            target.write(piece.data)
                            on_documents(len(piece))
                        if digest.hexdigest() != part.documents_sha256:
                            raise IncompleteError("its documents are not those that were written")
                target.commit()
        with create_file(stem.with_name(f"{stem.name}.metadata.json")) as target:
            target.write(metadata_of(collection))
            target.commit()
    return left_out


def metadata_of(collection: BackedUpCollection) -> bytes:
    """Return what mongodump says of a collection."""
    return json.dumps({**collection.structure.metadata, "collectionName": collection.name}).encode()
