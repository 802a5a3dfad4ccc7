"""Encoding by several processes: pieces of BSON in, their text out, in the order in which they came.

This process encodes as well as the others, which are ``encoder_worker``. They begin once an export has proved large.
"""

# A piece travels through a mailbox: a file in memory that both processes have open, so that putting a piece there does
# not wait for anybody to take it out, and that is gone with the last process that has it open, however that ends.
# There and back, for 4 MiB of BSON that take 45 ms to encode, in milliseconds of CPU of both processes:
#
#   multiprocessing.shared_memory 1.2   a file in memory 2.5   Connection.send_bytes 5 to 9   ProcessPoolExecutor 22
#
# Shared memory has to be made anew where a text is too long for it, and outlives a process that is killed.
#
# The processes are new ones, not forks: a fork of a process that has threads may hold their locks for ever. Nor are
# they multiprocessing's, which would import the main module, and with it Dagster.

import json
import os
import select
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export_pipeline.errors import ExportPipelineError
from export_pipeline.formats import encoder_worker
from export_pipeline.formats.encoder_worker import LARGEST_MESSAGE, READY, put
from export_pipeline.formats.extended_json import Encoded, EncodingError, Mode, encode_batch

SMALL_EXPORT = 8 << 20
"""Bytes of BSON up to which one process does it all: a process takes as long to start as to encode as much."""

_SMALLEST_SENT = 64 << 10
"""Less is encoded here sooner than it is sent."""

_LARGEST_SENT = 8 << 20
"""More, which is a document of nearly the largest size, is encoded here: what mailboxes hold stays bounded."""

_MAILBOXES = 2
"""Of each process: one to work on, one waiting, so that it need not wait for us."""

_TEXTS_KEPT = 2
"""How many texts of this process may wait for those before them."""

_PATIENCE_SECONDS = 120.0
"""For one piece, which takes a tenth of a second."""


class EncoderProcessError(ExportPipelineError):
    """An encoder process could not start, ended, failed, or fell silent."""

    code = "encoder_process"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; try again, with one encoder process if it happens again")


class EncoderPool:
    """Encodes the pieces of one file by up to ``processes`` processes, of which this is one.

    Where the system has no files in memory (it is not Linux), this process does it all.
    """

    def __init__(self, processes: int, mode: Mode, separator: bytes) -> None:
        self._most_workers = processes - 1 if hasattr(os, "memfd_create") else 0
        self._mode: Mode = mode
        self._separator = separator
        self._workers: list[_Worker] = []
        # In the order of their pieces, and who does them. A job does not name its worker: that would be a cycle, which
        # keeps a dropped pool's processes alive until the garbage collector comes.
        self._jobs: deque[tuple[_Job, _Worker | None]] = deque()
        self._seen = 0
        self._closed = False

    def encode(self, data: bytes, collection: str) -> Iterator[Encoded]:
        """Take a piece in; yield what is next in order and done. See ``encode_batch`` for what a piece becomes.

        Raises EncodingError, about this piece or an earlier one, and EncoderProcessError. Whoever does not take all
        that is yielded gives the file up.
        """
        if self._closed:
            raise ValueError("the encoder is closed")
        try:
            self._jobs.append(self._begin(data, collection))
            yield from self._finished(self._most_workers * _MAILBOXES + _TEXTS_KEPT if self._workers else 0)
        except BaseException:
            self.close()  # a piece may be lost now, so there must not be a next one
            raise

    def flush(self) -> Iterator[Encoded]:
        """Yield the rest of what was taken in, waiting for it. Raises as ``encode`` does."""
        try:
            yield from self._finished(0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the other processes. It happens too when the pool is dropped, and when this process ends."""
        self._closed = True
        for worker in self._workers:
            worker.end()

    def _begin(self, data: bytes, collection: str) -> "tuple[_Job, _Worker | None]":
        """Give a piece to a process that has room for it, or encode it here meanwhile."""
        if self._seen > SMALL_EXPORT and not self._workers:
            for _ in range(self._most_workers):
                self._workers.append(_Worker())
        self._seen += len(data)
        for worker in self._workers:
            while worker.take_in(0):
                pass
        if _SMALLEST_SENT <= len(data) <= _LARGEST_SENT and self._workers:
            worker = max(self._workers, key=_Worker.room)
            if worker.room():
                return worker.send(data, collection, self._mode, self._separator), worker
        return _Job(encode_batch(data, collection, self._mode, self._separator)), None

    def _finished(self, may_wait: int) -> Iterator[Encoded]:
        """Yield what is next and done, and wait for what is not until only so many pieces are left."""
        while self._jobs:
            job, worker = self._jobs[0]
            while job.encoded is None:
                if len(self._jobs) <= may_wait:
                    return
                assert worker
                if not worker.take_in(_PATIENCE_SECONDS):
                    raise EncoderProcessError(f"an encoder process was silent for {_PATIENCE_SECONDS:.0f} s")
            self._jobs.popleft()
            yield job.encoded


@dataclass(slots=True)
class _Job:
    """A piece that is being encoded, and then its text."""

    encoded: Encoded | None = None


class _Worker:
    """An encoder process, seen from here."""

    def __init__(self) -> None:
        self._ready = False
        self._free: list[int] = []
        self._working: deque[tuple[_Job, int]] = deque()  # it carries orders out one after the other
        with ExitStack() as stack:
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(self._line)
            for _ in range(_MAILBOXES):
                self._free.append(os.memfd_create("export_pipeline_piece"))
                stack.callback(os.close, self._free[-1])
            with theirs:
                self._process = _start(theirs, self._free)
            stack.callback(_end, self._process)
            self.end = weakref.finalize(self, stack.pop_all().close)
        self._message = select.poll()
        self._message.register(self._line, select.POLLIN)

    def room(self) -> int:
        """Return how many pieces it can be sent."""
        return len(self._free) if self._ready else 0

    def send(self, data: bytes, collection: str, mode: Mode, separator: bytes) -> _Job:
        mailbox = self._free.pop()
        put(mailbox, data)
        order = {"mailbox": mailbox, "size": len(data), "collection": collection}
        try:
            self._line.send(json.dumps(order | {"mode": mode, "separator": separator.decode()}).encode())
        except ConnectionError:
            raise self._ended() from None
        job = _Job()
        self._working.append((job, mailbox))
        return job

    def take_in(self, patience: float) -> bool:
        """Take in one message, which may finish a job; return False if none came in so many seconds."""
        if not self._message.poll(patience * 1000):
            return False
        try:
            message = self._line.recv(LARGEST_MESSAGE)
        except ConnectionError:
            message = b""
        if not message:
            raise self._ended()
        if message == READY:
            self._ready = True
        else:
            self._finish(json.loads(message))
        return True

    def _finish(self, reply: dict[str, Any]) -> None:
        if refused := reply.get("refused"):
            raise EncodingError(refused)
        if failed := reply.get("failed"):
            raise EncoderProcessError(f"an encoder process failed with {failed}")
        job, mailbox = self._working.popleft()
        text = os.pread(mailbox, reply["size"], 0)
        if len(text) != reply["size"]:
            raise EncoderProcessError("an encoder process left less text than it said")
        job.encoded = Encoded(text, reply["documents"], reply["renamed"])
        self._free.append(mailbox)

    def _ended(self) -> EncoderProcessError:
        status = self._process.wait()  # only its end closes its end of the line
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return EncoderProcessError(f"an encoder process ended early ({how})")


def _start(line: socket.socket, mailboxes: list[int]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", encoder_worker.__name__, str(line.fileno())]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[line.fileno(), *mailboxes],
            # It must find the very modules that are in use here.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)},
            # Ctrl-C in a terminal goes to the whole foreground group; this process decides what it means.
            start_new_session=True,
        )
    except OSError as error:
        raise EncoderProcessError(f"an encoder process could not start ({error.strerror})") from None


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # it has nothing to put in order
    process.wait()
