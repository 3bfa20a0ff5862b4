"""The most memory that a job has held."""

import resource
import sys
from pathlib import Path

_of_others: list[int] = []


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # the other figure begins with that of the process that has started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def remember_other_process(peak_bytes: int) -> None:
    """Remember what another process of this job has held, for `peak_memory_in_words`."""
    _of_others.append(peak_bytes)


def peak_memory_in_words() -> str:
    """Return the most memory that this process, and others that it has heard of, have held."""
    own = f"Peak memory: {peak_memory_bytes() / 1e9:.2f} GB"
    return f"{own}, and {max(_of_others) / 1e9:.2f} GB in a second process." if _of_others else f"{own}."
