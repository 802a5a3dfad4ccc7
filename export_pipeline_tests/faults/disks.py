"""Small disks that can be full: file systems in memory, mounted for the matrix. Only root can."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

BALLAST = "ballast"
TAKEN_WITHIN_SECONDS = 0.05


def can_mount() -> bool:
    """Tell whether there can be small disks here."""
    return os.geteuid() == 0


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount an empty disk at ``folder`` while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free on the disk of ``folder``."""
    with (folder / BALLAST).open("ab", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while ballast.write(bytes(size)) == size:
                    pass
            except OSError:
                continue  # the disk is full for writes of that size


def keep_full(folder: Path) -> Callable[[], None]:
    """Leave no byte free, and take what is freed at once; return what ends that."""
    fill(folder)
    over = Event()

    def take() -> None:
        while not over.wait(TAKEN_WITHIN_SECONDS):
            fill(folder)

    taking = Thread(target=take, daemon=True)
    taking.start()

    def end() -> None:
        over.set()
        taking.join()
        make_room(folder)

    return end


def make_room(folder: Path) -> None:
    """Undo ``fill``."""
    (folder / BALLAST).unlink(missing_ok=True)
