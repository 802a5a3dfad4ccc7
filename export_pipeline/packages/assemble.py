"""Fans every slice in and writes one request's file and its manifest: written aside, verified, then published.

The manifest is published last: it is the seal, and a package without one is not a package.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from bson import json_util

from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.catalog.narrowing import is_dated
from export_pipeline.errors import IncompleteError, ReadFailedError
from export_pipeline.formats.protocol import Format, Survey, Writer
from export_pipeline.formats.registry import find_format, write_options
from export_pipeline.mongo.bson_stream import view
from export_pipeline.packages.manifest import (
    FORMAT_VERSION,
    CatalogUsed,
    CollectionReport,
    FileReport,
    Manifest,
    NoticePart,
    PointInTime,
    Redaction,
    Totals,
    Users,
    software_version,
)
from export_pipeline.packages.publish import Target
from export_pipeline.packages.verify import check_counts, sha256_of
from export_pipeline.requests.models import Request
from export_pipeline.slices.plan import BatchPlan
from export_pipeline.slices.slice_file import Owned, SliceIndex, load_index, open_slice
from export_pipeline.storage import PendingFile, Storage

OnWritten = Callable[[int, int], None]
"""Called with the documents and the bytes written so far."""


class CollectionUnreadableError(ReadFailedError):
    """A collection that the request needs could not be read; the message names it and says why."""

    code = "collection_unreadable"


def assemble(
    storage: Storage,
    catalog: LoadedCatalog,
    plan: BatchPlan,
    request: Request,
    target: Target,
    on_written: OnWritten = lambda _documents, _bytes: None,
    before_publishing: Callable[[], None] = lambda: None,
) -> Manifest:
    """Write, verify and publish the package of ``request``; return its manifest.

    Raises CollectionUnreadableError, or IncompleteError where what was written is not what the server counted;
    then nothing is published, nor where ``before_publishing`` raises.
    """
    entries = [catalog.entry(collection.name) for collection in plan.collections]
    slices = [_needed_slice(storage, plan, entry) for entry in entries]
    format_ = find_format(request.options["format"])
    options = write_options(request.options)
    survey = format_.survey(options)
    if survey is not None:
        _show(survey, storage, plan, request.id, slices)
    with target.create_file() as file, target.create_manifest() as seal:
        sink = _HashingSink(file)
        writer = format_.writer(sink, options, survey)
        reports: list[CollectionReport] = []
        documents_so_far = 0

        def count(documents: int) -> None:
            nonlocal documents_so_far
            documents_so_far += documents
            on_written(documents_so_far, sink.size)

        for entry, index in zip(entries, slices, strict=True):
            reports.append(_write_collection(storage, plan, request.id, entry, index, sink, writer, count))
        writer.close()
        _verify(file, format_, sink, reports)
        manifest = _manifest(catalog, plan, request, reports, format_, target.name, sink)
        seal.write(manifest.model_dump_json(indent=2).encode() + b"\n")
        before_publishing()
        file.commit()
        seal.commit()
    return manifest


def _needed_slice(storage: Storage, plan: BatchPlan, entry: Entry) -> SliceIndex:
    index = load_index(storage, plan.batch_id, entry.name)
    if index is None:
        raise CollectionUnreadableError(f"{entry.name}: its slice is missing; retry the request")
    if index.failure is not None:
        raise CollectionUnreadableError(f"{entry.name}: {index.failure.message}")
    return index


def _show(survey: Survey, storage: Storage, plan: BatchPlan, request_id: str, slices: Sequence[SliceIndex]) -> None:
    for planned, index in zip(plan.collections, slices, strict=True):
        if planned.source is not None:
            with open_slice(storage, plan.batch_id, index, request_id) as pieces:
                for piece in pieces:
                    survey.see(planned.source.name, piece)


def _write_collection(
    storage: Storage,
    plan: BatchPlan,
    request_id: str,
    entry: Entry,
    index: SliceIndex,
    sink: "_HashingSink",
    writer: Writer,
    on_documents: Callable[[int], None],
) -> CollectionReport:
    collection = entry.collection_of(plan.app_id)
    planned = plan.collection(entry.name)
    expected = planned.expected.get(request_id, 0) if planned else 0
    offset = sink.begin_section()
    written = 0
    first_id: Any = None
    last: bytes | None = None
    with open_slice(storage, plan.batch_id, index, request_id) as pieces:
        for piece in pieces:
            writer.write(collection, piece)
            if last is None:
                first_id = _id_of(piece.first)
            last = piece.last
            written += len(piece)
            on_documents(len(piece))
    renamed = writer.end_collection()
    if written != expected:
        raise IncompleteError(
            f"{entry.name}: the server counted {expected} documents at the chosen moment, {written} were read; retry"
        )
    return CollectionReport(
        name=entry.name,
        plugin=entry.plugin,
        collection=collection,
        category=entry.category,
        purpose=entry.purpose,
        outcome="absent" if index.outcome == "absent" else "exported" if written else "empty",
        documents_expected=expected,
        documents_written=written,
        renamed_col_fields=renamed,
        date_range_applies=is_dated(entry, plan.narrowing) or not plan.narrowing.is_dated,
        redacted=_redactions(entry, index.owned.get(request_id)),
        offset=offset,
        bytes=sink.size - offset,
        sha256=sink.section_sha256(),
        first_id=first_id,
        last_id=None if last is None else _id_of(last),
    )


def _verify(file: PendingFile, format_: Format, sink: "_HashingSink", reports: Sequence[CollectionReport]) -> None:
    """Read the file back: its bytes must be those that were written, its documents those that were counted."""
    with file.read_back() as written:
        if sha256_of(written) != sink.sha256():
            raise IncompleteError("the file read back is not the file written; the disk may be failing")
        written.seek(0)
        found = format_.count(written)
    check_counts(found, Counter({report.collection: report.documents_written for report in reports}))


def _manifest(
    catalog: LoadedCatalog,
    plan: BatchPlan,
    request: Request,
    reports: Sequence[CollectionReport],
    format_: Format,
    name: str,
    sink: "_HashingSink",
) -> Manifest:
    time = plan.cluster_time
    person = plan.people[request.id]
    asked = [collection.name for collection in plan.collections]
    return Manifest(
        format_version=FORMAT_VERSION,
        request_id=request.id,
        app_id=request.app_id,
        users=Users(uids=person.requested_uids, merged_uids=person.merged_uids, device_ids=person.device_ids),
        selection=plan.narrowing.stored(),
        options=request.options,
        moment=PointInTime(
            point_in_time=time is not None,
            cluster_time=None if time is None else f"{time.seconds}.{time.increment}",
            read_at=plan.planned_at,
            note=None if time else "this server cannot read at one point in time: collections were read in turn",
        ),
        catalog=CatalogUsed(version=catalog.version, sha256=catalog.sha256),
        collections=tuple(reports),
        not_asked=tuple(entry.name for entry in catalog.entries if entry.name not in asked),
        notice=_notice([catalog.entry(name) for name in asked]) if plan.narrowing.profile == "access" else None,
        totals=Totals(
            collections=Counter(report.outcome for report in reports),
            documents_expected=sum(report.documents_expected for report in reports),
            documents_written=sum(report.documents_written for report in reports),
        ),
        file=FileReport(
            name=name, format=format_.name, media_type=format_.media_type, bytes=sink.size, sha256=sink.sha256()
        ),
        software=software_version(),
        requested_at=request.requested_at,
        packaged_at=datetime.now(UTC),
    )


def _redactions(entry: Entry, owned: Owned | None) -> tuple[Redaction, ...]:
    values = owned.redacted if owned else {}
    rules = {**dict.fromkeys(entry.exclude, "exclude"), **entry.mask}
    return tuple(
        Redaction.model_validate({"field": path, "how": how, "values": values.get(path, 0)})
        for path, how in rules.items()
    )


def _notice(entries: Sequence[Entry]) -> tuple[NoticePart, ...]:
    by_category: dict[str, list[Entry]] = {}
    for entry in entries:
        by_category.setdefault(entry.category or "not stated", []).append(entry)
    return tuple(
        NoticePart(
            category=category,
            collections=tuple(entry.name for entry in of),
            purposes=_stated(entry.purpose for entry in of),
            retention=_stated(entry.retention for entry in of),
            sources=_stated(entry.source for entry in of),
        )
        for category, of in by_category.items()
    )


def _stated(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value)) or ("not stated in the catalogue",)


def _id_of(document: bytes) -> Any:
    """Return a document's ``_id`` in canonical Extended JSON; None where it has none, as in some views."""
    only_id = {key: value for key, value in view(document).items() if key == "_id"}
    return json.loads(json_util.dumps(only_id, json_options=json_util.CANONICAL_JSON_OPTIONS)).get("_id")


class _HashingSink(io.RawIOBase):
    """Counts and hashes what passes through: the whole, and the section that was begun last.

    An io object, since pyarrow writes to nothing less.
    """

    def __init__(self, file: PendingFile) -> None:
        self._file = file
        self._whole = hashlib.sha256()
        self._section = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:  # any bytes-like object, as io has it
        self._file.write(data)
        self._whole.update(data)
        self._section.update(data)
        self.size += len(data)
        return len(data)

    def begin_section(self) -> int:
        """Begin a section; return the offset where it starts."""
        self._section = hashlib.sha256()
        return self.size

    def section_sha256(self) -> str:
        return self._section.hexdigest()

    def sha256(self) -> str:
        return self._whole.hexdigest()
