"""Files that a command writes: nothing is overwritten unasked, nothing is left half written."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neurofleet.errors import Interrupted, UsageError
from neurofleet.input_paths import is_url


def check_new(targets: Sequence[Path], overwrite: bool, inputs: Sequence[str | Path] = ()) -> None:
    """Refuse inputs that are not there, then names that are taken.

    Parameters
    ----------
    targets : sequence of Path
        What is to be written.
    overwrite : bool
        Whether files of these names may be replaced.
    inputs : sequence of str or Path
        What is read, which may be URLs; it is never replaced.

    Raises
    ------
    UsageError
    """
    here = [Path(file) for file in inputs if not is_url(file)]
    if missing := [str(file) for file in here if not file.exists()]:
        raise UsageError(f"{', '.join(missing)}: no such file.")
    read = {path.resolve() for path in here}
    for target in targets:
        if target.resolve() in read:
            raise UsageError(f"{target} is read and cannot be written as well. Give another name.")
        if target.is_dir():
            raise UsageError(f"{target} is a folder; expected the name of a file to write.")
        if target.exists() and not overwrite:
            raise UsageError(
                f"{target} exists already. Nothing was written. Give another name, or --overwrite to replace it."
            )


@contextmanager
def new_files(targets: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Yield a name to write each file under; they get their own names when the block has ended well.

    However else it ends, what was written is removed.

    Raises
    ------
    UsageError
        If a folder cannot be written in.
    Interrupted
        On Ctrl-C.
    """
    partial = {target: target.with_name(f"{target.name}.{os.getpid()}.partial") for target in targets}
    try:
        for target, path in partial.items():
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError as error:
                raise UsageError(f"Cannot write in {target.parent}: {error.strerror}.") from error
        yield partial
        for target, path in partial.items():
            os.replace(path, target)
    except KeyboardInterrupt:
        raise Interrupted("interrupted. Nothing was written.") from None
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
