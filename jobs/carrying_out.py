"""What jobs do around their work: read the input, take the folder, say how it ended."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import Interrupted, UsageError
from jobs.progress import duration
from jobs.spec import JobSpec

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.store import RunStore

TRAININGS = "trainings"


@dataclass(frozen=True)
class Opened:
    """A job whose input is read and whose folder is taken.

    Attributes
    ----------
    spec : JobSpec
    inputs : object
        As the job's own `read` returned it.
    notes : list of str
    out : Path
    console : Console
    store : RunStore
        Of `out`, locked.
    """

    spec: Any
    inputs: Any
    notes: list[str]
    out: Path
    console: "Console"
    store: "RunStore"


def carry_out(
    spec: JobSpec,
    folder: Path,
    out: str,
    read: Callable[[], tuple[Any, Sequence[str]]],
    work: Callable[[Opened], None],
    result: str,
) -> None:
    """Read and check a job's input, take its folder, and do its work.

    Parameters
    ----------
    folder : Path
        Of the job file.
    read : callable
        Returns the input, and what is to be said of it; writes nothing.
    work : callable
        Leaves the file `result` in the folder, last of all; not called where it is there already.

    Raises
    ------
    UsageError, LearnerError
        The inputs or the folder cannot be used; said before anything is written.
    Interrupted
        Ctrl-C, or SIGTERM; the same command goes on from what is finished.
    """
    # Threads that wait by spinning lose hundredfold where other work shares the cores; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.console import Console

    from cluster.store import RunStore
    from jobs.provenance import open_run
    from learners.errors import LearnerError

    if "://" in out:
        raise UsageError(
            f"The results of kind {spec.kind} go to a path, found {out}. Give --out a folder that all"
            " machines see."
        )
    console = Console(stderr=True)
    try:
        inputs, notes = read()
    except LearnerError as error:
        error.exit_code = 2  # whatever is wrong with what a job names is a matter of its user
        raise
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    store = RunStore(out)
    started = time.monotonic()
    with store.locked():
        resumed = open_run(spec, digests(spec, folder), folder, store)
        store.append_event("resumed" if resumed else "started")
        if resumed and (Path(out) / result).is_file():
            console.print(f"{spec.name}: finished already. Its results are in {out}", soft_wrap=True)
            return
        try:
            work(Opened(spec, inputs, list(notes), Path(out), console, store))
        except KeyboardInterrupt:
            store.append_event("interrupted")
            raise Interrupted(
                f"interrupted. What is finished is kept in {out}; run the same command to go on."
            ) from None
        spent = time.monotonic() - started
        store.append_event("finished", seconds=round(spent, 1))
    console.print(f"{spec.name}: done after {duration(spent)}. Its results are in {out}", soft_wrap=True)


def refuse_missing(spec: JobSpec, folder: Path) -> None:
    """Raise UsageError where a path that the job names is not there."""
    missing = [f"{path} does not exist" for path in spec.paths_named() if not (folder / path).exists()]
    if missing:
        raise UsageError(
            f"{'; '.join(missing)}. A relative path starts at the job file's folder, {folder.resolve()}."
        )


def digests(spec: JobSpec, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each input file, by the name it has in the job."""
    found = {}
    for path in spec.paths_named():
        place = folder / path
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                with file.open("rb") as content:
                    name = str(path) if file == place else f"{path}/{file.relative_to(place)}"
                    found[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found
