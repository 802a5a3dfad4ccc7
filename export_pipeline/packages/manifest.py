"""The manifest: what a package holds, at which moment it was true, and the figures that prove it whole."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FORMAT_VERSION = 1


@cache
def software_version() -> str:
    """Return the version of this software, as the manifest names it."""
    return f"export_pipeline {version('export-pipeline')}"


class ManifestPart(BaseModel):
    """Base of the manifest's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PointInTime(ManifestPart):
    """The moment of the read. ``point_in_time`` is false where the server could not give one."""

    point_in_time: bool
    cluster_time: str | None
    """``<seconds since the epoch>.<increment>``, as MongoDB counts it."""
    read_at: datetime
    note: str | None


class CatalogUsed(ManifestPart):
    """Which catalogue decided what counts as held on the person."""

    version: int
    sha256: str


class Redaction(ManifestPart):
    """A field that never leaves, or whose values of other people are masked."""

    field: str
    how: Literal["exclude", "hash", "last4", "drop"]
    values: int
    """How many were taken out or masked."""


class CollectionReport(ManifestPart):
    """What became of one entry of the catalogue."""

    name: str
    plugin: str
    collection: str
    category: str | None
    purpose: str | None
    retention: str | None
    source: str | None
    time_field: str | None
    time_unit: str | None
    outcome: Literal["exported", "empty", "absent"]
    documents_expected: int
    documents_written: int
    renamed_col_fields: int
    """Documents that have a ``_col`` of their own; it stands under ``__col``."""
    date_range_applies: bool
    """False where a date range is asked for and the collection has no time field: then all of it is here."""
    redacted: tuple[Redaction, ...]
    offset: int
    bytes: int
    """The collection's documents are this many bytes of the content, from ``offset``: of what the files hold, opened
    and unpacked, end to end."""
    sha256: str
    """Of those bytes."""
    first_id: Any
    last_id: Any
    """Of the first and the last document in the file, in canonical Extended JSON."""


class FileReport(ManifestPart):
    """The file beside the manifest; where it was split, all of its parts, end to end."""

    name: str
    format: str
    media_type: str
    bytes: int
    sha256: str


class PartReport(ManifestPart):
    """One file. Where nothing is compressed or encrypted, its content is what is stored."""

    name: str
    bytes: int
    sha256: str
    content_bytes: int
    content_sha256: str
    documents: Mapping[str, int]
    """By collection."""


class Conversion(ManifestPart):
    """The package that this one was made from, without the database."""

    format: str
    sha256: str
    """Of its files as they were stored, end to end."""
    packaged_at: datetime


class Users(ManifestPart):
    """Whose documents these are."""

    uids: tuple[str, ...]
    """Those that the request named, or that its filter on the person found."""
    merged_uids: tuple[str, ...]
    """Older or other uids of the same people, from the catalogue's collection of people."""
    device_ids: tuple[str, ...]


class NoticePart(ManifestPart):
    """What is held of one category, and why (GDPR article 15, paragraph 1)."""

    category: str
    collections: tuple[str, ...]
    purposes: tuple[str, ...]
    retention: tuple[str, ...]
    sources: tuple[str, ...]


class Totals(ManifestPart):
    """Over all collections."""

    collections: Mapping[str, int]
    """How many collections had each outcome."""
    documents_expected: int
    documents_written: int


class Manifest(ManifestPart):
    """The whole manifest."""

    format_version: Literal[1]
    request_id: str
    app_id: str
    users: Users
    selection: Mapping[str, Any]
    options: Mapping[str, Any]
    moment: PointInTime
    catalog: CatalogUsed
    collections: tuple[CollectionReport, ...]
    not_asked: tuple[str, ...]
    """Entries of the catalogue that the selection leaves out."""
    notice: tuple[NoticePart, ...] | None
    """With the profile ``access``: what is held, by category."""
    totals: Totals
    file: FileReport
    parts: tuple[PartReport, ...]
    converted_from: Conversion | None
    software: str
    requested_by: str
    requested_at: datetime
    packaged_at: datetime
