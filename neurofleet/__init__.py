"""Populations of fitted neuron models and cell-identity learners, on a laptop or on a Ray cluster.

The Python face, in the order in which it is used::

    import neurofleet as nf

    run = nf.run("rat.yaml", out="rat")                          # any kind of job; the same call again resumes
    run = nf.open_run("rat")                                     # a run folder, also while it runs
    run.hall_of_fame("C060114A7")                                # pandas
    nf.open_recording("cell.nwb")                                # sweeps, and what looks odd about them
    model = nf.sims.train(adata, label="cell_type")              # also nf.hippie, nf.neuprint
    model = nf.load_model("model")
    model.predict(adata)

Importing this package is cheap: ray, torch and NEURON are loaded when they are needed.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurofleet.errors import Interrupted, JobError, NeurofleetError, UsageError
from neurofleet.input_paths import here, text_of, with_home

if TYPE_CHECKING:
    from neurofleet.jobs.opened_run import Run
    from neurofleet.learners import hippie as hippie
    from neurofleet.learners import neuprint as neuprint
    from neurofleet.learners import sims as sims
    from neurofleet.neurosim.recordings.recording import Recording

__version__ = "0.2.0"

__all__ = [
    "Interrupted",
    "JobError",
    "NeurofleetError",
    "UsageError",
    "hippie",
    "load_model",
    "neuprint",
    "open_recording",
    "open_run",
    "run",
    "sims",
]

_LEARNERS = ("hippie", "neuprint", "sims")


def run(
    job: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    address: str | None = None,
    cpus: int | None = None,
    quick: bool = False,
    notify: str | None = None,
) -> "Run":
    """Run a job to its end, or go on with it where it stopped.

    The same as ``neurofleet run``: it reads and checks the job and its inputs, starts Ray on this machine (or uses the
    cluster at `address`), logs its progress on standard error, and leaves everything in the run folder.

    Parameters
    ----------
    job : path or mapping
        A job file, or its keys and values as a dict. Relative paths start at the job file, those of a dict at the
        working folder.
    out : path, optional
        The run folder, a path or a URI such as ``s3://bucket/folder``; by default the job's own ``out``.
    address : str, optional
        ``host:port`` of the head of a Ray cluster that this machine belongs to, or ``"auto"``.
    cpus : int, optional
        CPUs of this machine to use; by default all.
    quick : bool
        Make a first picture in about two minutes, with much smaller budgets, in a folder of its own.
    notify : str, optional
        A URL, or a command, that is told how the run ended.

    Returns
    -------
    Run
        Its status, tables, report and models; see `open_run`.

    Raises
    ------
    UsageError, InputError
        The job, its inputs or the folder cannot be used; nothing has been written.
    JobError
        The job failed, or reached a limit of its own.
    Interrupted
        Ctrl-C (the notebook's stop button); the same call goes on with it.

    Examples
    --------
    >>> run = nf.run("rat.yaml", out="rat")
    >>> run = nf.run({"kind": "validate", "name": "unseen", "models": {"run": "rat"}}, out="rat-validation")
    """
    from neurofleet.jobs.run_job import run_job

    source = job if isinstance(job, Mapping) else with_home(job)
    place = None if out is None else text_of(out)
    return open_run(run_job(source, place, address=address, cpus=cpus, quick=quick, notify=notify))


def open_run(folder: str | Path) -> "Run":
    """Open a run folder of any kind of job, finished or not; no Ray is needed, and nothing is written.

    Parameters
    ----------
    folder : path
        As it was given to ``--out``: a path, or a URI such as ``s3://bucket/folder``. Or the address of its page on a
        server (``neurofleet serve``), ``http://127.0.0.1:8700/runs/NAME``.

    Returns
    -------
    Run
        ``run.status``, ``run.kind``, ``run.tables``, ``run.sql(query)``, ``run.hall_of_fame(cell)``,
        ``run.evaluations()``, ``run.report()``, ``run.export(cell, to="sonata")``, ``run.model()``.

    Raises
    ------
    UsageError
        If there is no run.
    """
    if str(folder).startswith(("http://", "https://")):
        from neurofleet.jobs.served_run import ServedRun

        return ServedRun(str(folder))
    from neurofleet.jobs.opened_run import Run

    return Run(text_of(folder))


def open_recording(
    path: str | Path,
    *,
    stimuli: Sequence[str] = ("*",),
    electrode: str | None = None,
    junction_potential_mV: float = 14.0,
    exclude: Sequence[int] = (),
    bias_current: Literal["add", "ignore"] | None = None,
    spike_threshold_mV: float | None = None,
    window_ms: tuple[float, float] | None = None,
) -> "Recording":
    """Read the step sweeps of a patch-clamp recording as a fit does, and look at them.

    Parameters
    ----------
    path : path
        The recording, in any format that a fit reads; also its URL.
    stimuli : sequence of str
        Names or shell patterns of the stimuli to read; by default all of them.
    electrode : str, optional
        Name or pattern of the electrode, where the file has several.
    junction_potential_mV : float
        Liquid-junction potential, subtracted from the recorded voltage.
    exclude : sequence of int
        Numbers of sweeps to leave out.
    bias_current : "add" or "ignore", optional
        What is done about a bias current that the file has; by default it is added to the recorded current unless that
        has it already.
    spike_threshold_mV : float, optional
        Voltage that a spike rises above; by default -20 mV, or lower for a cell whose spikes are small.
    window_ms : (float, float), optional
        The part of each sweep that is read, where a sweep has several steps.

    Returns
    -------
    Recording
        ``recording.sweeps`` (time in ms, voltage in mV, current in nA), ``recording.table`` (a row a sweep: step,
        holding current, spikes, or why it cannot be used; ``.to_pandas()``), ``recording.warnings``. A notebook shows
        the table.

    Raises
    ------
    InputError
        The file cannot be read, no sweep has such a stimulus, or it has several electrodes and none was named.
    """
    from neurofleet.neurosim.recordings.recording import RecordingSource

    source = RecordingSource(
        here(path, Path()),
        junction_potential_mV,
        tuple(stimuli),
        tuple(exclude),
        electrode,
        bias_current,
        spike_threshold_mV,
        window_ms=window_ms,
    )
    return source.look()


def load_model(folder: str | Path) -> Any:
    """Load a trained model of any learner: from its folder, or a published one by its name. No code of it is run.

    Parameters
    ----------
    folder : path or str
        As `nf.sims.train(..., out=folder)` or ``neurofleet run`` of a training wrote it; or ``"NAME@VERSION"``, or
        ``"NAME"`` for the newest version, as ``neurofleet models`` lists them; or the URL of one, ``"hf://ORG/NAME"``.

    Returns
    -------
    SimsModel, HippieModel or NeuprintModel
        With ``predict``, ``embed`` and, of SIMS, ``explain``.

    Raises
    ------
    LearnerError
        If there is no such model, or it is damaged.
    """
    from neurofleet.learners.model_folder import load_model as load
    from neurofleet.learners.published_models import local_model

    return load(local_model(folder))


def __getattr__(name: str) -> Any:
    if name in _LEARNERS:
        return import_module(f"neurofleet.learners.{name}")
    raise AttributeError(f"module 'neurofleet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
