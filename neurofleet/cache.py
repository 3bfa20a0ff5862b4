"""Where this machine keeps what it has compiled, downloaded or unpacked, for many processes at the same time."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

DEFAULT_LIMIT_GB = 8.0
IN_USE_S = 24 * 3600.0
"""What was used in the last day stays, whatever the limit: a run may need it again."""


def cache_folder() -> Path:
    """Return where it is kept: ``$NEUROFLEET_CACHE``, or ``neurofleet`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``."""
    if given := os.environ.get("NEUROFLEET_CACHE"):
        return Path(given).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME", "")  # one that is not absolute does not count
    return (Path(shared) if shared.startswith("/") else Path.home() / ".cache") / "neurofleet"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` within the block; the system releases it however the process ends."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def used(entry: Path) -> None:
    """Note that an entry of the cache, a file or a folder, was used now."""
    with contextlib.suppress(OSError):  # a cache that others have written
        os.utime(entry)


def keep_small(limit_gb: float | None = None) -> None:
    """Remove the entries that were not used for longest, while all are larger than a limit.

    Parameters
    ----------
    limit_gb : float, optional
        By default ``$NEUROFLEET_CACHE_GB``, else 8.
    """
    if limit_gb is None:
        given = os.environ.get("NEUROFLEET_CACHE_GB", "")
        limit_gb = float(given) if given.replace(".", "", 1).isdigit() else DEFAULT_LIMIT_GB
    entries = []
    for entry in cache_folder().glob("*/*"):
        if entry.suffix != ".lock" and not entry.name.startswith("."):
            with contextlib.suppress(OSError):  # gone meanwhile
                entries.append((entry.stat().st_mtime, _bytes(entry), entry))
    total = sum(size for _, size, _ in entries)
    for used_at, size, entry in sorted(entries):
        if total <= limit_gb * 1e9 or time.time() - used_at < IN_USE_S:
            break
        with contextlib.suppress(OSError):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            total -= size


def _bytes(entry: Path) -> int:
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.stat().st_size for file in files if file.is_file())
