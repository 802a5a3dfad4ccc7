"""Exports of users: asking for some, and checking what came of each."""

import tempfile
from collections import Counter
from pathlib import Path

from export_pipeline.errors import ExportPipelineError
from export_pipeline.packages.layers import Keys
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.packages.publish import package_folder, published
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.models import Request
from export_pipeline_tests.faults.house import COLLECTIONS, House

REQUESTS = 3


def submit(house: House) -> list[Request]:
    """Ask for exports of different users."""
    return house.submit(REQUESTS)


def what_is_wrong(house: House, request: Request) -> str | None:
    """Fetch a package as a user would and check it: against its manifest, its row, and what MongoDB really holds."""
    keys = Keys([house.identity]) if request.options.get("recipients") else Keys()
    with tempfile.TemporaryDirectory() as folder:
        try:
            (package,) = house.exporter.download(request, Path(folder) / "package")
            manifest = verify_package(package, keys)
        except ExportPipelineError as error:
            return f"{error.code}: {error}"
    held = Counter({report.name: report.documents_written for report in manifest.collections})
    if set(held.values()) != {house.documents_each} or len(held) != COLLECTIONS:
        return f"its collections hold {sorted(held.values())} documents"
    if (manifest.file.sha256, manifest.totals.documents_written) != (request.result_sha256, request.documents_done):
        return "its row is about another file"
    return None


def files_of(house: House, request: Request) -> list[str]:
    """Return the keys of a whole package's files; none of one that is not whole."""
    manifest = published(house.exporter.storage, request)
    folder = package_folder(request)
    return [f"{folder}/{MANIFEST}", *(f"{folder}/{part.name}" for part in manifest.parts)] if manifest else []


def remove(house: House, request: Request) -> None:
    """Let a package expire."""
    house.exporter.expire(request)
