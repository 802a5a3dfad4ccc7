"""Fans every slice in and writes one request's file and its manifest: written aside, verified, ready to be published.

The manifest is published last: it is the seal, and a package without one is not a package.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.catalog.narrowing import is_dated
from export_pipeline.errors import IncompleteError, ReadFailedError
from export_pipeline.formats.protocol import About, CollectionAbout, Survey
from export_pipeline.formats.registry import find_format, write_options
from export_pipeline.mongo.connection import NotAuthorizedError
from export_pipeline.packages.layers import lock_of
from export_pipeline.packages.manifest import (
    FORMAT_VERSION,
    CatalogUsed,
    CollectionReport,
    Manifest,
    NoticePart,
    PointInTime,
    Redaction,
    Totals,
    Users,
    software_version,
)
from export_pipeline.packages.parts import Form, PackageFiles
from export_pipeline.packages.publish import Target
from export_pipeline.requests.models import Request
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.plan import BatchPlan
from export_pipeline.slices.slice_file import Owned, SliceIndex

OnWritten = Callable[[int, int], None]
"""Called with the documents and the bytes written so far."""


class CollectionUnreadableError(ReadFailedError):
    """A collection that the request needs could not be read; the message names it and says why."""

    code = "collection_unreadable"


@dataclass(frozen=True, slots=True)
class Assembled:
    """A package that is written and verified, and that nobody sees yet."""

    manifest: Manifest
    publish: Callable[[], None]


@contextmanager
def assemble(
    slices_in: BatchSlices,
    catalog: LoadedCatalog,
    plan: BatchPlan,
    request: Request,
    target: Target,
    passphrase: str | None = None,
    on_written: OnWritten = lambda _documents, _bytes: None,
) -> Iterator[Assembled]:
    """Write and verify the package of ``request``; leaving the block without publishing it leaves nothing behind.

    Raises CollectionUnreadableError, NotAuthorizedError where a right is missing, or IncompleteError where what was
    written is not what the server counted.
    """
    entries = [catalog.entry(collection.name) for collection in plan.collections]
    slices = [_needed_slice(slices_in, entry) for entry in entries]
    options = write_options(request.options)
    form = Form(find_format(request.options["format"]), options, lock_of(options, passphrase))
    about = _about(plan, request, entries)
    survey = form.format.survey(options, about)
    if survey is not None:
        _show(survey, slices_in, plan, request.id, slices)
    with (
        PackageFiles(target, form, survey, about) as files,
        target.create(target.manifest_name) as seal,
    ):
        reports: list[CollectionReport] = []
        documents_so_far = 0

        def count(documents: int) -> None:
            nonlocal documents_so_far
            documents_so_far += documents
            on_written(documents_so_far, files.size)

        for entry, index in zip(entries, slices, strict=True):
            reports.append(_write_collection(slices_in, plan, request.id, entry, index, files, count))
        files.finish()
        manifest = _manifest(catalog, plan, request, reports, files)
        seal.write(manifest.model_dump_json(indent=2).encode() + b"\n")

        def publish() -> None:
            files.commit()
            seal.commit()

        yield Assembled(manifest, publish)


def _about(plan: BatchPlan, request: Request, entries: Sequence[Entry]) -> About:
    person = plan.people[request.id]
    return About(
        request_id=request.id,
        app_id=request.app_id,
        uids=(*person.requested_uids, *person.merged_uids),
        requested_by=request.requested_by,
        requested_at=request.requested_at,
        read_at=plan.planned_at,
        collections={
            entry.collection_of(plan.app_id): CollectionAbout(
                entry.name,
                entry.plugin,
                entry.category,
                entry.purpose,
                entry.retention,
                entry.source,
                entry.time_field,
                entry.time_unit,
            )
            for entry in entries
        },
        narrowed_by=narrowed_by(plan.narrowing.stored()),
    )


def narrowed_by(narrowing: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what keeps a part of a person's data out of a package; the profile ``access`` keeps nothing out."""
    return tuple(name for name, value in narrowing.items() if (name, value) != ("profile", "access"))


def _needed_slice(slices_in: BatchSlices, entry: Entry) -> SliceIndex:
    index = slices_in.index(entry.name)
    if index is None:
        raise CollectionUnreadableError(f"{entry.name}: its slice is missing; retry the request")
    if index.failure is not None:
        refused = index.failure.code == NotAuthorizedError.code
        raise (NotAuthorizedError if refused else CollectionUnreadableError)(f"{entry.name}: {index.failure.message}")
    return index


def _show(
    survey: Survey, slices_in: BatchSlices, plan: BatchPlan, request_id: str, slices: Sequence[SliceIndex]
) -> None:
    for planned, index in zip(plan.collections, slices, strict=True):
        if planned.source is not None:
            with slices_in.open(index, request_id) as pieces:
                for piece in pieces:
                    survey.see(planned.source.name, piece)


def _write_collection(
    slices_in: BatchSlices,
    plan: BatchPlan,
    request_id: str,
    entry: Entry,
    index: SliceIndex,
    files: PackageFiles,
    on_documents: Callable[[int], None],
) -> CollectionReport:
    collection = entry.collection_of(plan.app_id)
    planned = plan.collection(entry.name)
    expected = planned.expected.get(request_id, 0) if planned else 0
    with slices_in.open(index, request_id) as pieces:
        written = files.write_collection(collection, pieces, on_documents)
    if written.documents != expected:
        raise IncompleteError(
            f"{entry.name}: the server counted {expected} documents at the chosen moment, {written.documents} were "
            "read; retry"
        )
    return CollectionReport(
        name=entry.name,
        plugin=entry.plugin,
        collection=collection,
        category=entry.category,
        purpose=entry.purpose,
        retention=entry.retention,
        source=entry.source,
        time_field=entry.time_field,
        time_unit=entry.time_unit,
        outcome="absent" if index.outcome == "absent" else "exported" if written.documents else "empty",
        documents_expected=expected,
        documents_written=written.documents,
        date_range_applies=is_dated(entry, plan.narrowing) or not plan.narrowing.is_dated,
        redacted=_redactions(entry, index.owned.get(request_id)),
        renamed_col_fields=written.renamed,
        offset=written.offset,
        bytes=written.bytes,
        sha256=written.sha256,
        first_id=written.first_id,
        last_id=written.last_id,
    )


def _manifest(
    catalog: LoadedCatalog,
    plan: BatchPlan,
    request: Request,
    reports: Sequence[CollectionReport],
    files: PackageFiles,
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
        file=files.report(),
        parts=files.parts(),
        converted_from=None,
        software=software_version(),
        requested_by=request.requested_by,
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
