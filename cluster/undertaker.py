"""Ends what is left of an embedded Ray after its driver, and removes its folder.

Ray's own processes follow a killed driver within a second, but two of its agents take another minute,
and nobody removes the temporary folder. Run as ``python -m cluster.undertaker FOLDER`` with a pipe as
standard input: when the driver is gone, the pipe ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path


def bury(folder: Path) -> None:
    """Kill every process that has a file open in the folder, then remove the folder."""
    give_up = time.monotonic() + 10.0
    while time.monotonic() < give_up:
        processes = _processes_in(folder)
        if not processes:
            break
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _processes_in(folder: Path) -> list[int]:
    """Other processes of ours with an open file, or their working folder, at or below `folder`."""
    prefix = f"{folder}/"
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        links = [f"{entry.path}/cwd"]
        try:
            links += [link.path for link in os.scandir(f"{entry.path}/fd")]
        except OSError:
            continue
        if any(_target(link).startswith(prefix) for link in links):
            found.append(int(entry.name))
    return found


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


if __name__ == "__main__":
    sys.stdin.buffer.read()
    bury(Path(sys.argv[1]))
