"""Who calls in ``bench http``: programs that ask for states, and programs that download."""

import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

BUFFER_BYTES = 1 << 20
SLOW_BYTES = 64 << 10
SLOW_PAUSE_SECONDS = 0.05
"""A slow reader takes so many bytes, then pauses: about 1.3 MB/s."""

_PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Caller:
    """A program with a connection and a token, and the paths that it asks for in turn."""

    port: int
    token: str
    paths: tuple[str, ...]

    def connect(self) -> HTTPConnection:
        """Return a new connection; it connects with its first request."""
        return HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)

    def headers(self, **more: str) -> dict[str, str]:
        """Return what it sends along."""
        return {"Authorization": f"Bearer {self.token}", **more}


def poll(callers: Sequence[Caller], seconds: float, every: float = 0.0) -> list[float]:
    """Let callers ask, each on a connection that it keeps; return how many seconds each answer took.

    A caller asks ``every`` so many seconds, or with 0 as soon as it has its answer. Where the answer before came too
    late, the time counts from when a call was due, so that a server that stalls is not asked less for it.
    """
    with ThreadPoolExecutor(len(callers)) as threads:
        answered = threads.map(lambda number: _poll(callers[number], seconds, every, number), range(len(callers)))
        return [taken for each in answered for taken in each]


def _poll(caller: Caller, seconds: float, every: float, number: int) -> list[float]:
    taken: list[float] = []
    headers = caller.headers()
    with closing(caller.connect()) as connection:
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            path = caller.paths[(len(taken) + number) % len(caller.paths)]
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"a poll was answered with {answer.status}")
            now = time.perf_counter()
            taken.append(now - due)
            due = due + every if every else now
    return taken


def download(caller: Caller, size: int, begin: int = 0, slow_seconds: float = 0.0) -> float:
    """Fetch the file of ``size`` bytes at the caller's first path, from the byte ``begin`` on, and drop it.

    For ``slow_seconds`` it is read slowly. Returns the seconds that it took.
    """
    wanted, headers = (206, caller.headers(Range=f"bytes={begin}-")) if begin else (200, caller.headers())
    buffer = memoryview(bytearray(BUFFER_BYTES))
    begun, received = time.perf_counter(), 0
    with closing(caller.connect()) as connection:
        connection.request("GET", caller.paths[0], headers=headers)
        answer = connection.getresponse()
        if answer.status != wanted:
            raise RuntimeError(f"a download was answered with {answer.status}")
        while time.perf_counter() - begun < slow_seconds and (read := answer.readinto(buffer[:SLOW_BYTES])):
            received += read
            time.sleep(SLOW_PAUSE_SECONDS)
        while read := answer.readinto(buffer):
            received += read
    if received != size - begin:
        raise RuntimeError(f"a download ended after {received:,} of {size - begin:,} bytes")
    return time.perf_counter() - begun


def download_together(caller: Caller, size: int, slow_seconds: Sequence[float]) -> list[float]:
    """Fetch the file once for each of ``slow_seconds``, all at once; return the seconds that each took."""
    with ThreadPoolExecutor(len(slow_seconds)) as threads:
        return list(threads.map(lambda slow: download(caller, size, slow_seconds=slow), slow_seconds))


def cat(file: Path) -> float:
    """Run ``cat FILE > /dev/null``; return its seconds."""
    begun = time.perf_counter()
    subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def cat_into_socket(file: Path) -> float:
    """Run ``cat FILE`` with a connection of this machine as its output, and drop what comes; return the seconds."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as receiving:
        sending, _ = server.accept()
        begun = time.perf_counter()
        with sending, subprocess.Popen(["cat", str(file)], stdout=sending.fileno()) as process:
            sending.close()  # cat has it; with its end, the connection ends
            while receiving.recv_into(buffer):
                pass
        if process.returncode:
            raise RuntimeError(f"cat ended with {process.returncode}")
        return time.perf_counter() - begun
