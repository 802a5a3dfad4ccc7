"""Which of a batch's packages are made together: small ones are encoded at once, and published several at a time.

Between its last byte and its place a package mostly waits for the disk or the network.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from export_pipeline.formats.protocol import SharingFormat, WriteOptions
from export_pipeline.formats.registry import find_format, write_options
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.models import Request
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.plan import BatchPlan

MOST_TOGETHER = 32
"""Packages that wait for each other, with their files open."""

MOST_DOCUMENTS = 20_000
"""In packages that wait for each other: a large one is not to hold up small ones, nor the other way round."""

MOST_AHEAD = 8 << 20
"""Bytes of BSON that are encoded ahead, and held as text until their package is written."""

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Package:
    """A package that is whole and verified."""

    request: Request
    uri: str
    manifest: Manifest
    publish: Callable[[], None]
    """Puts it in its place; does nothing where it is there."""


def groups(requests: Sequence[Request], documents: Callable[[str], int]) -> Iterator[list[Request]]:
    """Cut requests into those whose packages are published together; ``documents`` counts a request's."""
    group: list[Request] = []
    total = 0
    for request in requests:
        count = documents(request.id)
        if group and (len(group) == MOST_TOGETHER or total + count > MOST_DOCUMENTS):
            yield group
            group, total = [], 0
        group.append(request)
        total += count
    if group:
        yield group


def encode_ahead(slices: BatchSlices, plan: BatchPlan, requests: Sequence[Request]) -> None:
    """Encode the documents of several requests at once, where their formats allow: collection by collection.

    One user's few documents of a collection take several times as long by themselves.
    """
    slices.forget_ahead()
    left = MOST_AHEAD
    for form in _shared_forms(requests):
        for collection in plan.collections:
            index = slices.index(collection.name)
            if collection.source is None or index is None or index.failure is not None:
                continue
            small: list[str] = []
            for request in form.requests:
                size = index.owned[request.id].bytes if request.id in index.owned else left + 1
                if size <= left:
                    small.append(request.id)
                    left -= size
            if len(small) > 1:
                slices.read_ahead(index, small, partial(form.encode, collection.source.name))


@dataclass(frozen=True, slots=True)
class _SharedForm:
    """Requests whose documents become the same text."""

    format: SharingFormat
    options: WriteOptions
    requests: Sequence[Request]

    def encode(self, collection: str, pieces: Sequence[Piece]) -> Sequence[Piece]:
        return self.format.encode_together(collection, pieces, self.options)


def _shared_forms(requests: Sequence[Request]) -> Iterator[_SharedForm]:
    alike: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        alike[json.dumps(dict(request.options), sort_keys=True)].append(request)
    for group in alike.values():
        format_ = find_format(group[0].options["format"])
        if isinstance(format_, SharingFormat):
            yield _SharedForm(format_, write_options(group[0].options), group)


def publish_all(packages: Sequence[Package]) -> list[Exception | None]:
    """Publish packages, several at once; return, in their order, what went wrong with each."""

    def publish(package: Package) -> Exception | None:
        try:
            package.publish()
        except Exception as error:  # noqa: BLE001  # the caller tells whose it is
            return error
        return None

    if len(packages) < 2:  # a thread would be for nothing
        return [publish(package) for package in packages]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="publish") as threads:
        return list(threads.map(publish, packages))
