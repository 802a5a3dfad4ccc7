"""Encoding by several processes: the same text as by one, and a clear end whatever happens to them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import bson
import psutil
import pytest

from export_pipeline.formats import encoder_pool, encoder_worker
from export_pipeline.formats.encoder_pool import EncoderPool, EncoderProcessError
from export_pipeline.formats.extended_json import EncodingError, encode_batch

LINE = b"\n"


def piece(number: int, documents: int = 200) -> bytes:
    """BSON enough to be worth sending, and unlike that of other numbers."""
    return b"".join(bson.encode({"_id": number * 1000 + n, "text": "long " * 100}) for n in range(documents))


def encoders() -> list[psutil.Process]:
    """The encoder processes of this process that are there now."""
    return [child for child in living() if encoder_worker.__name__ in " ".join(child.cmdline())]


def living() -> list[psutil.Process]:
    """The children of this process that have not ended; the test run has others, such as a database."""
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes for the smallest export."""
    monkeypatch.setattr(encoder_pool, "SMALL_EXPORT", 0)


@pytest.fixture
def pool(always: None) -> Iterator[EncoderPool]:
    """Two processes, both ready."""
    pool = ready_pool()
    yield pool
    pool.close()


def ready_pool(processes: int = 2) -> EncoderPool:
    pool = EncoderPool(processes, "relaxed", LINE)
    for _ in range(2):  # processes start with the second piece
        list(pool.encode(piece(0), "first"))
    list(pool.flush())
    for worker in pool._workers:
        while not worker.room():
            assert worker.take_in(60)
    return pool


def texts(pool: EncoderPool, pieces: list[bytes], collection: str = "events") -> list[bytes]:
    found = [encoded.data for data in pieces for encoded in pool.encode(data, collection)]
    return found + [encoded.data for encoded in pool.flush()]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_texts_come_in_the_order_of_their_pieces(processes: int, always: None) -> None:
    pool = ready_pool(processes)
    # Some are too small to be sent, so they are done sooner than those before them.
    pieces = [piece(number, documents=1 if number % 3 == 2 else 300) for number in range(40)]
    assert texts(pool, pieces) == [encode_batch(data, "events", "relaxed", LINE).data for data in pieces]
    pool.close()


def test_another_process_takes_its_part(pool: EncoderPool) -> None:
    (encoder,) = encoders()
    before = encoder.cpu_times().user
    list(pool.encode(piece(1, documents=10_000), "events"))
    assert pool._jobs, "the piece was sent, so it is not done at once"
    assert [encoded.documents for encoded in pool.flush()] == [10_000]
    assert encoder.cpu_times().user > before


def test_what_waits_is_bounded(pool: EncoderPool) -> None:
    (encoder,) = encoders()
    encoder.suspend()
    bound = encoder_pool._MAILBOXES + encoder_pool._TEXTS_KEPT
    for number in range(bound):
        assert list(pool.encode(piece(number), "events")) == []
    with ThreadPoolExecutor(1) as thread:
        next_piece = thread.submit(lambda: list(pool.encode(piece(bound), "events")))
        time.sleep(0.2)
        assert not next_piece.done(), "one more piece has to wait for the first"
        encoder.resume()
        assert next_piece.result()
    assert len(list(pool.flush())) + len(next_piece.result()) == bound + 1


def test_a_small_export_starts_no_process() -> None:
    pool = EncoderPool(2, "relaxed", LINE)
    texts(pool, [bytes(piece(number)) for number in range(5)])
    assert not encoders()
    pool.close()


def test_a_large_export_starts_them_and_close_ends_them() -> None:
    pool = EncoderPool(3, "relaxed", LINE)
    large = piece(1) * (encoder_pool.SMALL_EXPORT // len(piece(1)) // 2 + 1)
    texts(pool, [large, large])
    assert not encoders()
    texts(pool, [large])
    assert len(encoders()) == 2
    pool.close()
    assert not encoders()


def test_what_is_not_valid_is_refused_as_by_one_process(pool: EncoderPool) -> None:
    # The second element's type is damaged in a document that is long enough to be sent.
    damaged = piece(1).replace(b"\x02text\0", b"\x77text\0")
    with pytest.raises(EncodingError) as alone:
        encode_batch(damaged, "events", "relaxed", LINE)
    list(pool.encode(damaged, "events"))
    with pytest.raises(EncodingError) as apart:
        list(pool.flush())
    assert str(apart.value) == str(alone.value)
    assert "events" in str(apart.value)
    assert "text" in str(apart.value)
    assert not encoders()


def test_another_failure_is_named_without_what_it_says(pool: EncoderPool) -> None:
    nameless: str = None  # type: ignore[assignment]  # no collection is: so the process, not the encoder, fails
    with pytest.raises(EncoderProcessError, match=r"^an encoder process failed with AttributeError; try again"):
        texts(pool, [piece(1)], nameless)
    assert not encoders()


@pytest.mark.parametrize("when", ["before it has a piece", "while it works"])
def test_a_process_that_is_killed_fails_the_export(pool: EncoderPool, when: str) -> None:
    (encoder,) = encoders()
    if when == "while it works":
        encoder.suspend()
        list(pool.encode(piece(1), "events"))
    encoder.kill()
    with pytest.raises(EncoderProcessError, match=r"^an encoder process ended early \(signal 9\)"):
        texts(pool, [piece(2), piece(3)])
    assert not encoders()
    with pytest.raises(ValueError, match="closed"):
        texts(pool, [piece(4)])


def test_a_process_that_falls_silent_fails_the_export(pool: EncoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_pool, "_PATIENCE_SECONDS", 0.1)
    (encoder,) = encoders()
    encoder.suspend()
    with pytest.raises(EncoderProcessError, match="silent"):
        texts(pool, [piece(1)])
    assert not encoders()


def test_a_process_that_cannot_start_fails_the_export(always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    open_files = psutil.Process().num_fds()
    with pytest.raises(EncoderProcessError, match="could not start"):
        texts(EncoderPool(2, "relaxed", LINE), [piece(1), piece(2)])
    assert psutil.Process().num_fds() == open_files


def test_a_process_that_ends_as_it_starts_fails_the_export(always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_worker, "__name__", "export_pipeline.no_such_module")
    others = living()
    pool = EncoderPool(2, "relaxed", LINE)
    texts(pool, [piece(1), piece(2)])
    wait_until(lambda: not set(living()) - set(others))
    with pytest.raises(EncoderProcessError, match=r"ended early \(exit status 1\)"):
        texts(pool, [piece(3)])


def test_a_pool_that_is_dropped_leaves_nothing_behind(always: None) -> None:
    open_files = psutil.Process().num_fds()
    pool = ready_pool(3)
    list(pool.encode(piece(1), "events"))
    assert len(encoders()) == 2
    del pool
    assert not encoders()
    assert psutil.Process().num_fds() == open_files


def test_whoever_stops_taking_gives_the_export_up(pool: EncoderPool) -> None:
    list(pool.encode(piece(1), "events"))
    list(pool.encode(piece(2), "events"))
    rest = pool.flush()
    next(rest)
    rest.close()  # type: ignore[attr-defined]
    assert not encoders()


OWNER = """
import sys, time
from export_pipeline_tests.formats.test_encoder_pool import encoders, encoder_pool, piece, ready_pool
encoder_pool.SMALL_EXPORT = 0
pool = ready_pool()
if sys.argv[1] == "busy":
    for number in range(2):
        list(pool.encode(piece(number, documents=8_000), "events"))
print(encoders()[0].pid, flush=True)
if sys.argv[1] != "ends":
    time.sleep(600)
"""


@pytest.mark.parametrize("doing", ["idle", "busy", "ends"])
def test_no_process_outlives_its_owner(doing: str) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, doing], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        encoder = int(owner.stdout.readline())
        if doing != "ends":
            os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(encoder))


def test_pools_in_threads_do_not_disturb_each_other(always: None) -> None:
    def run(number: int) -> bool:
        pool = ready_pool()
        pieces = [piece(number * 100 + n) for n in range(10)]
        found = texts(pool, pieces, f"events{number}")
        pool.close()
        return found == [encode_batch(data, f"events{number}", "relaxed", LINE).data for data in pieces]

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(run, range(3)))
    assert not encoders()


def test_a_process_imports_little() -> None:
    program = f"import sys, {encoder_worker.__name__}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    names = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"dagster", "pyarrow", "pydantic", "pymongo", "bson", "multiprocessing"} & set(names)
    assert "orjson" in names
