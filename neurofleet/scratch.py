"""Temporary folders of which nothing is left, however their process ends."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = ".in-use"


@contextmanager
def scratch_folder(prefix: str = "neurofleet", parent: str | Path | None = None) -> Iterator[Path]:
    """Make a folder that is removed at the end of the ``with`` block; of a killed process, when the next one is made.

    A lock, which the system releases however a process ends, tells folders in use from those that are left.

    Parameters
    ----------
    prefix : str
        Beginning of its name. Left folders of the same prefix in `parent` are removed first.
    parent : path, optional
        By default the system's folder for temporary files.
    """
    place = Path(parent or tempfile.gettempdir())
    remove_left_folders(prefix, place)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=place))
    with (folder / f"{_LOCK}-new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, folder / _LOCK)  # no other process finds it before it is locked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left_folders(prefix: str, parent: Path) -> None:
    """Remove the folders of `scratch_folder` that no process uses any more."""
    for lock in parent.glob(f"{prefix}-*/{_LOCK}"):
        with suppress(OSError), lock.open("r+") as held:  # of another user, in use, or gone meanwhile
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
