"""Makes a package of another format out of a lossless one, with nothing but its files: no database, no storage."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from export_pipeline.errors import BadInputError
from export_pipeline.formats import lossless
from export_pipeline.formats.extended_json_reader import TaggedDocument
from export_pipeline.formats.protocol import About, CollectionAbout
from export_pipeline.formats.registry import write_options
from export_pipeline.packages.assemble import narrowed_by
from export_pipeline.packages.layers import NO_KEYS, Keys
from export_pipeline.packages.manifest import CollectionReport, Conversion, Manifest, software_version
from export_pipeline.packages.naming import whole_name
from export_pipeline.packages.parts import Form, PackageFiles
from export_pipeline.packages.publish import local_target
from export_pipeline.packages.verify import can_look_inside, open_part, verify_package

OnDocuments = Callable[[int], None]


def convert(
    package: Path,
    form: Form,
    options: dict[str, Any],
    output: Path,
    keys: Keys = NO_KEYS,
    on_documents: OnDocuments = lambda _: None,
) -> Manifest:
    """Write what ``package`` holds to ``output`` in another form; return the new manifest.

    The package is verified first. Raises BadInputError where it is encrypted and no key is given, or where its format
    does not keep the documents as they were stored; whatever ``verify_package`` raises; IncompleteError where the
    documents read are not those that its manifest counts. Then nothing is written.
    """
    manifest = verify_package(package, keys)
    if not can_look_inside(manifest, keys):
        raise BadInputError(f"{package}: it is encrypted; give the identity file or the passphrase that opens it")
    if not lossless.is_lossless(manifest.file.format, write_options(manifest.options)):
        raise BadInputError(
            f"{package}: a package in this form ({manifest.file.format}) does not keep what was stored to the last "
            "bit; convert from canonical json or jsonl, from parquet with _doc, from html or from bson"
        )
    source = _Source(package, manifest, keys)
    about = _about(manifest)
    survey = form.format.survey(form.options, about)
    if survey is not None:
        for report, pieces in source.collections():
            for piece in pieces:
                survey.see(report.collection, piece)
    target = local_target(output)
    with PackageFiles(target, form, survey, about) as files, target.create(target.manifest_name) as seal:
        reports = []
        for report, pieces in source.collections():
            written = files.write_collection(report.collection, pieces, on_documents)
            reports.append(
                report.model_copy(
                    update={
                        "renamed_col_fields": written.renamed,
                        "offset": written.offset,
                        "bytes": written.bytes,
                        "sha256": written.sha256,
                        "documents_written": written.documents,
                    }
                )
            )
        files.finish()
        converted = manifest.model_copy(
            update={
                "options": options,
                "collections": tuple(reports),
                "file": files.report(),
                "parts": files.parts(),
                "converted_from": Conversion(
                    format=manifest.file.format, sha256=manifest.file.sha256, packaged_at=manifest.packaged_at
                ),
                "software": software_version(),
                "packaged_at": datetime.now(UTC),
            }
        )
        seal.write(converted.model_dump_json(indent=2).encode() + b"\n")
        files.commit()
        seal.commit()
    return converted


class _Source:
    """The documents of a package that was verified, collection by collection."""

    def __init__(self, package: Path, manifest: Manifest, keys: Keys) -> None:
        self._package = package.with_name(whole_name(package.name))
        self._manifest = manifest
        self._keys = keys

    def collections(self) -> Iterator[tuple[CollectionReport, Iterator[Any]]]:
        """Yield each collection's report and its documents, which the caller reads to their end."""
        tagged = self._documents()
        for report in self._manifest.collections:
            # The manifest's order is the file's; a document of another collection is noticed by ``pieces``.
            yield report, lossless.pieces(report.collection, islice(tagged, report.documents_written))

    def _documents(self) -> Iterator[TaggedDocument]:
        for number in range(len(self._manifest.parts)):
            with open_part(self._package, self._manifest, number, self._keys) as content:
                yield from lossless.documents(self._manifest.file.format, content)


def _about(manifest: Manifest) -> About:
    return About(
        request_id=manifest.request_id,
        app_id=manifest.app_id,
        uids=(*manifest.users.uids, *manifest.users.merged_uids),
        requested_by=manifest.requested_by,
        requested_at=manifest.requested_at,
        read_at=manifest.moment.read_at,
        collections={
            report.collection: CollectionAbout(
                report.name,
                report.plugin,
                report.category,
                report.purpose,
                report.retention,
                report.source,
                report.time_field,
                report.time_unit,
            )
            for report in manifest.collections
        },
        narrowed_by=narrowed_by(manifest.selection),
    )
