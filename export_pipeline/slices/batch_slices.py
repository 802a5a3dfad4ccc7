"""The finished slices of one batch, open while its packages are made.

An index lists all requests of the batch, so it is read once for all of them; and the files stay open.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import BinaryIO, Self

from export_pipeline.errors import ExportPipelineError, StorageError
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline.slices.slice_file import SliceIndex, data_key, load_index, owned_pieces
from export_pipeline.storage import Storage

MOST_OPEN = 64
"""Of a catalogue with more collections the rest are opened for each request: a process may open so many files."""


class BatchSlices:
    """One batch's slices, for one thread at a time. Leaving the block closes the files."""

    def __init__(self, storage: Storage, batch_id: str) -> None:
        self._storage = storage
        self._batch_id = batch_id
        self._stack = ExitStack()
        self._indexes: dict[str, SliceIndex] = {}
        self._files: dict[str, BinaryIO] = {}
        self._ahead: dict[tuple[str, str], Sequence[Piece]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def index(self, name: str) -> SliceIndex | None:
        """Return a slice's index; None where the slice is not finished."""
        if name not in self._indexes:
            index = load_index(self._storage, self._batch_id, name)
            if index is None:
                return None
            self._indexes[name] = index
        return self._indexes[name]

    @contextmanager
    def open(self, index: SliceIndex, request_id: str) -> Iterator[Iterator[Piece]]:
        """Open one request's documents in a slice, in pieces of bounded size.

        Raises IncompleteError, at the end of the iteration, if the slice holds fewer or more than its index says.
        """
        ahead = self._ahead.pop((index.name, request_id), None)
        if ahead is not None or request_id not in index.owned:
            yield iter(ahead or ())
            return
        with ExitStack() as for_this_request:
            file = self._file(index.name, for_this_request)
            yield self._read(file, index, request_id)

    def read_ahead(
        self, index: SliceIndex, request_ids: Iterable[str], prepare: Callable[[Sequence[Piece]], Sequence[Piece]]
    ) -> None:
        """Read what some requests own; ``open`` will give it, once, as ``prepare`` returns it all, piece for piece.

        It stays in memory until then, or until ``forget_ahead``. What cannot be read now is left to ``open`` to raise.
        """
        read: dict[str, list[Piece]] = {}
        for request_id in request_ids:
            with suppress(ExportPipelineError), self.open(index, request_id) as pieces:
                read[request_id] = list(pieces)
        prepared = iter(prepare([piece for pieces in read.values() for piece in pieces]))
        for request_id, own in read.items():
            self._ahead[index.name, request_id] = list(islice(prepared, len(own)))

    def forget_ahead(self) -> None:
        """Forget what was read ahead."""
        self._ahead.clear()

    def _file(self, name: str, for_this_request: ExitStack) -> BinaryIO:
        if name in self._files:
            return self._files[name]
        stays = len(self._files) < MOST_OPEN
        stack = self._stack if stays else for_this_request
        file = stack.enter_context(self._storage.open(data_key(self._batch_id, name)))
        if stays:
            self._files[name] = file
        return file

    def _read(self, file: BinaryIO, index: SliceIndex, request_id: str) -> Iterator[Piece]:
        try:
            yield from owned_pieces(file, index, request_id)
        except OSError as error:
            where = self._storage.locate(data_key(self._batch_id, index.name))
            raise StorageError(f"{where}: {(error.strerror or type(error).__name__).lower()}") from error
