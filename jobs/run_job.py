"""``neurofleet run``: from a job file to a finished run folder, whatever the kind of job."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from neurofleet.cluster.metric_loggers import missing_packages
from neurofleet.cluster.store.parts import Part
from neurofleet.errors import UsageError
from neurofleet.input_paths import text_of, with_home
from neurofleet.jobs.job_file import JobSpec, check_job, load_job, named
from neurofleet.jobs.notify import host_of, notifying, targets_of
from neurofleet.jobs.quick import QUICK_NOTE, quick_notes
from neurofleet.jobs.reports.tables import print_line
from neurofleet.jobs.run_folder import interruptible
from neurofleet.jobs.terminal import collected, print_json, terminal


def results_place(given: str | None, spec: JobSpec, folder: Path) -> str:
    """Return the run folder, a path or a URI.

    Parameters
    ----------
    given : str or None
        ``--out``. A relative path starts at the working folder.
    spec : JobSpec
        Its ``out:`` is taken when `given` is None. A relative path starts at the job file.
    folder : Path
        Of the job file.

    Raises
    ------
    UsageError
        When neither says.
    """
    if given is not None:
        return _as_path(text_of(given))
    if spec.out is None:
        raise UsageError(
            f"{spec.name}: expected a place for the results, found none. Give --out OUT, or `out: OUT` in the"
            " job file: a folder, or a URI such as s3://bucket/folder."
        )
    return _as_path(spec.out) if "://" in spec.out else os.path.normpath(folder / with_home(spec.out))


def _as_path(place: str) -> str:
    """Return a URI of a folder of this machine as its path."""
    return unquote(urlsplit(place).path) if place.startswith("file://") else place


def run_job(
    job: Path | Mapping[str, Any],
    out: str | None,
    *,
    address: str | None = None,
    cpus: int | None = None,
    part: str | None = None,
    quick: bool = False,
    notify: str | None = None,
) -> str:
    """Run a job with its results in `out` (else the job's own), or resume it there.

    Parameters
    ----------
    job : Path or mapping
        The job file, or its keys and values; relative paths in these start at the working folder.
    out : str or None
        The run folder, a path or a URI.
    address : str, optional
        ``host:port`` of the head of a running Ray cluster, or ``"auto"``; by default a Ray of its own on this machine.
    cpus : int, optional
        CPUs of this machine to use; by default all.
    part : str, optional
        Such as ``"2/5"``: fit every fifth cell from the second on. Other drivers fit the others, with the same `out`.
    quick : bool
        Make a first picture in about two minutes, with much smaller budgets, in a folder of its own.
    notify : str, optional
        A URL, or a command, that is told how the run ended; by default the job's `notify`, and what the environment's
        ``NEUROFLEET_NOTIFY`` names.

    Returns
    -------
    str
        The run folder.

    Raises
    ------
    UsageError, InputError, LearnerError
        The job file, its inputs or the folder cannot be used.
    JobError
        The job failed, or a limit was reached; the message says which and why.
    Interrupted
        Ctrl-C, or SIGTERM; the run can be resumed.
    """
    spec, folder = job_and_folder(job, quick)
    place = results_place(out, spec, folder)
    _check_loggers(spec, place)
    options = {} if part is None else {"part": part_of(part, spec)}
    targets = targets_of(notify, spec.notify)
    if spec.notify in targets and notify is None:
        told = f"the job file's `notify:` sends how the run ends to {host_of(spec.notify)}"
        print_line(terminal(errors=True), told)
    name = spec.name if part is None else options["part"].file(spec.name)
    with interruptible(), notifying(targets, name, spec.kind, place):
        named(spec.runner)(spec, folder, place, address, cpus, **options)
    return place


def job_and_folder(job: Path | Mapping[str, Any], quick: bool) -> tuple[JobSpec, Path]:
    """Return a job, by its file or its keys and values, and the folder where its relative paths start.

    Raises
    ------
    UsageError
        The job has faults.
    """
    if isinstance(job, Mapping):
        content = dict(job) | ({"quick": True} if quick else {})
        return check_job(content, "job", default_name="unnamed"), Path.cwd()
    return load_job(job, quick), job.resolve().parent


def _check_loggers(spec: JobSpec, place: str = "") -> None:
    """Refuse loggers that cannot be used, before anything is read.

    Raises
    ------
    UsageError
    """
    names: list[str] = getattr(spec, "loggers", [])
    if missing := missing_packages(names):
        raise UsageError(f"loggers: {', '.join(names)} need what is not installed: pip install {' '.join(missing)}.")
    if names and "://" in place and spec.kind == "fit":  # other kinds write into folders only, and say so
        raise UsageError(
            f"loggers: {', '.join(names)} write files beside the results, and these go to {place.partition('://')[0]}."
            " Give --out a folder, or leave the loggers out."
        )


def part_of(text: str, spec: JobSpec) -> Part:
    """Return the part of a job that ``--part`` names.

    Raises
    ------
    UsageError
        It names none, or the job cannot be divided.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--part: expected K/N with K from 1 to N, such as 2/5, found {text!r}.")
    if spec.kind != "fit":
        raise UsageError(f"--part divides the cells of a fit; {spec.name} is of kind {spec.kind}.")
    if spec.quick:
        raise UsageError("--part divides the cells of a fit, and --quick fits one of them: give one of the two.")
    return Part(int(number), int(of))


def print_plan(job: Path | Mapping[str, Any], quick: bool = False, as_json: bool = False) -> None:
    """Print what a job, given as in `run_job`, or its quick version, will do and cost.

    Raises
    ------
    UsageError, InputError
        The job file or its inputs cannot be used.
    """
    spec, folder = job_and_folder(job, quick)
    _check_loggers(spec)
    collecting: AbstractContextManager[dict[str, Any]] = collected() if as_json else nullcontext({})
    with collecting as found:
        for note in [QUICK_NOTE, *quick_notes(spec)] if spec.quick else []:
            print_line(terminal(), note)
        named(spec.planner)(spec, folder)
    if as_json:
        marked = {"quick": True} if spec.quick else {}
        print_json({"name": spec.name, "kind": spec.kind, **marked, **found})
