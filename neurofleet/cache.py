"""Where this machine keeps what it has compiled or downloaded, for many processes at the same time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Return where it is kept: ``$NEUROFLEET_CACHE``, else ``~/.cache/neurofleet``."""
    given = os.environ.get("NEUROFLEET_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "neurofleet"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` within the block; the system releases it however the process ends."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
