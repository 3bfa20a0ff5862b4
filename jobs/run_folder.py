"""What every job does around its work: read its input, open or resume its run folder, record how it ended."""

import hashlib
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.store.parts import WHOLE, Part
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import Interrupted, JobError, StorageUnreachable, UsageError
from neurofleet.input_paths import has_pattern, local_files, shown
from neurofleet.jobs.job_file import JobSpec, differences, parse_job
from neurofleet.jobs.job_kinds import print_verdict
from neurofleet.jobs.notify import run_took, run_was_finished
from neurofleet.jobs.progress import duration
from neurofleet.jobs.quick import QUICK_NOTE, quick_notes, quick_record, refuse_other_length
from neurofleet.jobs.terminal import terminal

_interrupted = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM, with which job systems end a process, do what Ctrl-C does, and remember either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    _interrupted.clear()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_interrupted() -> None:
    """Raise what was asked for: an exception out of a finaliser or a callback of C code is lost.

    Raises
    ------
    KeyboardInterrupt
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


PACKAGES = (
    "neurofleet",
    "neuron",
    "bluepyopt",
    "efel",
    "cmaes",
    "deap",
    "numpy",
    "pynwb",
    "ray",
    "pyarrow",
    "torch",
    "lightning",
    "scikit-learn",
    "anndata",
    "scipy",
    "umap-learn",
    "salib",
)


def start_or_resume(spec: JobSpec, inputs: dict[str, str], folder: Path, store: RunStore) -> bool:
    """Record job and inputs in a new run folder, or make sure that they are those of the run in it.

    Returns
    -------
    bool
        Whether a run is resumed.

    Raises
    ------
    UsageError
        When the folder holds a run of another job or of changed inputs; says what differs.
    """
    stored = store.read_text("job.yaml")
    if stored is None:
        record = {"job_folder": str(folder.resolve()), "inputs": inputs, "versions": versions()} | quick_record(spec)
        store.write_text("provenance.json", json.dumps(record, indent=1))
        store.write_text("job.yaml", yaml.safe_dump(spec.plain(), sort_keys=False))
        return False
    kept = parse_job(stored, f"{store.root}/job.yaml", spec.name)
    if kept.kind != spec.kind:
        raise UsageError(
            f"{store.root} holds a run of `kind: {kept.kind}`, not one of `kind: {spec.kind}`. Give another --out."
        )
    refuse_other_length(kept, spec, store.root)
    changes = differences(kept.identity(), spec.identity())
    before = json.loads(store.read_text("provenance.json") or "{}")
    changes += [
        f"input {name} has changed" if name in inputs else f"input {name} is gone"
        for name, digest in before.get("inputs", {}).items()
        if inputs.get(name) != digest
    ]
    now = versions()
    changes += [
        f"{package} was {before['versions'].get(package)}, is {now[package]}"
        for package in spec.decisive_packages
        if before.get("versions", {}).get(package, now[package]) != now[package]
    ]
    if changes:
        raise UsageError(
            f"{store.root} holds a run of another job: {'; '.join(changes)}. The results of two jobs are never "
            "mixed: for the job as it is now give another --out, or remove that folder. To go on with the run there, "
            "put back what has changed."
        )
    return True


def versions() -> dict[str, str]:
    """Return the versions that a score can depend on."""
    versions_found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions_found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions_found[package] = "unknown"
    return versions_found


@dataclass(frozen=True)
class JobRun:
    """A job whose input is read and whose run folder is locked.

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
    resumed : bool
        Whether the folder held this run already.
    """

    spec: Any
    inputs: Any
    notes: list[str]
    out: Path
    console: Console
    store: RunStore
    resumed: bool = False


@dataclass(frozen=True)
class Ending:
    """How the work of a job ended, where there is more to it than that it is done.

    Attributes
    ----------
    recorded : mapping
        Fields of the event "finished".
    stopped : bool
        Whether a limit of the job stopped it.
    table : rich Table, optional
        Printed before the last line.
    error : JobError, optional
        Raised when all else is done: something is left to do, or failed.
    """

    recorded: Mapping[str, Any] = field(default_factory=dict)
    stopped: bool = False
    table: Table | None = None
    error: JobError | None = None


def run_in_folder(
    spec: JobSpec,
    folder: Path,
    out: str,
    read: Callable[[], tuple[Any, Sequence[str]]],
    work: Callable[[JobRun], Ending | None],
    result: str | Callable[[Any], bool],
    *,
    files: Callable[[], dict[str, str]] | None = None,
    storage_wait_s: float | None = None,
    part: Part = WHOLE,
) -> None:
    """Read and check a job's input, open or resume its run folder, do its work, and record how it ended.

    Parameters
    ----------
    folder : Path
        Of the job file.
    read : callable
        Returns the input, and notes that are printed; writes nothing.
    work : callable
        Not called where the job is finished already.
    result : str or callable
        The file that `work` writes last of all, or a function of the input: whether nothing is left to do.
    files : callable, optional
        Returns the SHA-256 of each input file, by name; by default of all paths that the job names.
    storage_wait_s : float, optional
        How long to wait for an object store that does not answer. None where the folder cannot be a `pyarrow.fs` URI.
    part : Part
        Which part of the run to do.

    Raises
    ------
    UsageError, InputError, LearnerError
        The inputs or the folder cannot be used; raised before anything is written.
    JobError
        As `work` raised or returned it.
    ClusterError
        The run folder was removed, or another driver has taken the run over.
    StorageUnreachable
        The object store did not answer for so long; the same command goes on from what is finished.
    Interrupted
        Ctrl-C, or SIGTERM; the same command goes on from what is finished.
    """
    # Threads that wait by spinning lose hundredfold where other work shares the cores; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "://" in out and storage_wait_s is None:
        raise UsageError(
            f"The results of kind {spec.kind} go to a path, found {shown(out)}. Give --out a folder that all machines"
            " see."
        )
    console, told = terminal(errors=True), terminal(errors=True, warnings=True)
    if spec.quick:
        told.print(QUICK_NOTE, soft_wrap=True, highlight=False, markup=False)
    inputs, notes = read()
    notes = [*quick_notes(spec), *notes]
    for note in notes:
        told.print(note, soft_wrap=True, highlight=False, markup=False)
    contents = digests(spec, folder) if files is None else files()
    store = RunStore(out, part)
    started = time.monotonic()
    with store.locked(storage_wait_s, lambda: not _interrupted.is_set()):
        resumed = start_or_resume(spec, contents, folder, store)
        store.append_event("resumed" if resumed else "started")
        run = JobRun(spec, inputs, list(notes), Path(out), console, store, resumed)
        if _is_finished(run, result):
            run_was_finished()
            told.print(f"{spec.name}: finished already. Its results are in {shown(out)}", soft_wrap=True)
            print_verdict(out, told)
            return
        console.print(f"{spec.name}: {'resuming' if resumed else 'starting'} …", soft_wrap=True)
        try:
            ending = work(run) or Ending()
        except (KeyboardInterrupt, StorageUnreachable) as error:
            if isinstance(error, StorageUnreachable) and not _interrupted.is_set():
                raise
            with suppress(StorageUnreachable):
                store.append_event("interrupted")
            raise Interrupted(
                f"interrupted. What is finished is kept in {shown(out)}; run the same command to resume."
            ) from None
        spent = time.monotonic() - started
        run_took(spent)
        store.check_whole()
        store.append_event("finished", **ending.recorded, seconds=round(spent, 1))
    if ending.table is not None:
        told.print(ending.table)
    how = "stopped" if ending.stopped else "done"
    told.print(f"{spec.name}: {how} after {duration(spent)}. Its results are in {shown(out)}", soft_wrap=True)
    print_verdict(out, told)
    if ending.error is not None:
        raise ending.error


def _is_finished(run: JobRun, result: str | Callable[[Any], bool]) -> bool:
    if isinstance(result, str):
        return run.resumed and (run.out / result).is_file()
    return result(run.inputs)


def refuse_missing(spec: JobSpec, folder: Path) -> None:
    """Raise UsageError where a path that the job names is not there."""
    missing = [
        f"{path}: no file matches this pattern" if has_pattern(path) else f"{path} does not exist"
        for path in (*spec.paths_named(), *(spec.files or ()))
        if not (folder / path).exists()
    ]
    if missing:
        raise UsageError(f"{'; '.join(missing)}. A relative path starts at the job file's folder, {folder.resolve()}.")


def digests(spec: JobSpec, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each input file, by the name it has in the job."""
    named = [(str(path), folder / path) for path in (*spec.paths_named(), *(spec.files or ()))]
    named += [(url, place) for url in spec.urls_named() for place in local_files([url])]
    sha256 = {}
    for name, place in named:
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                with file.open("rb") as content:
                    key = name if file == place else f"{name}/{file.relative_to(place)}"
                    sha256[key] = hashlib.file_digest(content, "sha256").hexdigest()
    return sha256
