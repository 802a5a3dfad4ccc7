"""Starts a command again whenever it has ended, as a service manager does: a killed server comes back by itself.

``python supervisor.py PID_FILE PAUSE_SECONDS COMMAND…``; the file has the id of the process that runs now. All that
the command starts stays in the group of this process, so that a ``Guarded`` supervisor leaves nothing behind.
"""

import subprocess
import sys
import time
from pathlib import Path


def supervise(pid_file: Path, pause: float, command: list[str]) -> None:
    """Run the command, again and again."""
    while True:
        process = subprocess.Popen(command)
        pid_file.write_text(str(process.pid))
        process.wait()
        pid_file.unlink()
        time.sleep(pause)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
