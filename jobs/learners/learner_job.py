"""What the jobs of all learners share: a training, a sweep of settings, an evaluation of methods, and their plan."""

import hashlib
import json
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from rich.console import Console

from neurofleet.cluster.metric_loggers import LoggedRun
from neurofleet.cluster.ray.session import available_cpus, connect
from neurofleet.cluster.store.published_tables import publish
from neurofleet.cluster.sweeps.parameter_sweep import (
    ParameterSweep,
    SweepResult,
    SweepScheduler,
    TrialResources,
    check_sweep,
)
from neurofleet.cluster.sweeps.search_space import parse_space
from neurofleet.cluster.sweeps.trial_records import TrialRow
from neurofleet.cluster.training.lightning_training import BestEpoch, Training, TrainingResult
from neurofleet.cluster.training.trainer import train
from neurofleet.errors import LearnerError, UsageError
from neurofleet.input_paths import is_url, name_of
from neurofleet.jobs.job_file import named
from neurofleet.jobs.learners import LEARNERS
from neurofleet.jobs.learners.evaluation_pieces import write_result
from neurofleet.jobs.learners.learner_folder import (
    DESCRIPTION,
    EVALUATION,
    JOURNAL,
    TRAININGS,
    TRIALS,
    remove_working_files,
    sweep_folder,
)
from neurofleet.jobs.learners.learner_report import LearnerReport
from neurofleet.jobs.learners.learner_spec import LearnerSpec, SweepSpec, Workers, metric_in_words, most_workers
from neurofleet.jobs.progress import RecordLines, duration, time_left
from neurofleet.jobs.quick import QUICK_NOTE
from neurofleet.jobs.run_folder import Ending, JobRun, raise_if_interrupted, run_in_folder
from neurofleet.jobs.terminal import BETWEEN, terminal
from neurofleet.learners.model_folder import QUICK
from neurofleet.learners.progress import LINE_S, logged_to
from neurofleet.memory import peak_memory_bytes, peak_memory_in_words
from neurofleet.threads import one_thread, threads_note

if TYPE_CHECKING:
    import torch

FILES_NAMED = 3
"""How many files an error names that is about all of them."""

RECENT_EPOCHS = 15
"""From how many epochs the time left is estimated."""

PROCESS_START_S, RAY_START_S, TRIAL_START_S = 5.0, 8.0, 1.0
"""What a process that trains, Ray on this machine, and a trial in the process of another typically take to start."""

WRITING = "writing the report"

SHARED_GPU = 0.25
"""What of a GPU a trial gets: these models are small beside one."""


class Inputs(Protocol):
    """What a job reads; a frozen dataclass with what there is to say about it."""

    @property
    def notes(self) -> list[str]:
        """Sentences for the user, also kept beside the scores."""


class Model(Protocol):
    """A trained model: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of it, plain JSON."""

    def save(self, folder: Path, run: str) -> None:
        """Write the model; `run` is the fingerprint of its training."""


SpecT = TypeVar("SpecT", bound=LearnerSpec)
InputsT = TypeVar("InputsT", bound=Inputs)


class Trainings:
    """Trains one task after the other, in this process or on workers of a cluster; each can be resumed.

    Parameters
    ----------
    job : LearnerJob
        Its tasks are trained: each has `epochs`, and `build` in its module makes it again from its payload.
    inputs : Inputs
    folder : Path
        Where each training has a folder of its own.
    workers : int or (int, int)
        0 trains in this process.
    console : Console
    cpus : int, optional
        To use here; by default all that this process may.

    Attributes
    ----------
    history : list of dict
        What was logged: a row for each epoch of each training.
    """

    def __init__(
        self,
        job: "LearnerJob[Any, Any]",
        inputs: Inputs,
        folder: Path,
        workers: Workers,
        console: Console,
        cpus: int | None = None,
    ) -> None:
        self._job = job
        self._inputs = inputs
        self._folder = folder
        self._workers = workers
        self._cpus = cpus
        self._work = job.work(inputs)
        self._console = console
        self._done = 0.0
        self._ahead: set[str] = set()
        self._rates: deque[float] = deque(maxlen=RECENT_EPOCHS)
        self._last_line = 0.0
        self.history: list[dict[str, Any]] = []

    def __call__(self, task: Any, name: str, seed: int) -> "Mapping[str, torch.Tensor]":
        """Train a task, or go on where an earlier run of the job has ended; return its weights."""
        from neurofleet.learners.local_training import without_nan

        before, each = self._done, self._job.epoch_work(task)
        if name in self._ahead:
            self._ahead.remove(name)
            self._work += each * task.epochs()
        training = self._training(task, name, seed)
        trained = training(progress=lambda row: self._epoch_done(name, task.epochs(), row, before, each))
        self._done = before + each * task.epochs()
        self.history += [{"training": name, **row} for row in trained.history]
        return without_nan(trained.weights(), name)

    def ahead(self, task: Any, name: str, seed: int) -> Callable[[], object] | None:
        """Return a training for another process of this machine; None for workers, a GPU, or on a single CPU."""
        import torch

        if self._workers or torch.cuda.is_available() or (self._cpus or available_cpus()) < 2:
            return None
        self._ahead.add(name)
        self._work -= self._job.epoch_work(task) * task.epochs()
        return self._training(task, name, seed)

    def _training(self, task: Any, name: str, seed: int) -> "partial[TrainingResult]":
        folder = self._folder / name
        return partial(
            train,
            Training(f"{type(task).__module__}:build", self._job.write_task(self._inputs, task, folder, seed), seed),
            folder,
            max_epochs=task.epochs(),
            workers=self._workers,
            precision=self._job.spec.precision,
            best=self._job.best_epoch(task),
            loggers=self._job.spec.loggers,
            logged=logged_run(self._job.spec, folder, self._folder.parent, seed),
        )

    def write_history(self, path: Path) -> None:
        """Write `history` as Parquet."""
        pq.write_table(pa.Table.from_pylist(self.history), path)

    def _epoch_done(self, name: str, epochs: int, row: Mapping[str, Any], before: float, each: float) -> None:
        from neurofleet.learners.local_training import metrics_in_words

        raise_if_interrupted()
        self._done = before + each * row["epoch"]  # of a training that is resumed, the first epochs were done before
        self._rates.append(row["seconds"] / each)
        now = time.monotonic()
        if now - self._last_line < LINE_S and row["epoch"] < epochs:
            return
        self._last_line = now
        # The median of the last epochs: the first one prepares, and others may take the processor meanwhile.
        left = max(self._work - self._done, 0.0) * statistics.median(self._rates)
        self._console.print(
            BETWEEN.join(
                filter(None, [f"{name}: epoch {row['epoch']} of {epochs}", metrics_in_words(row), training_left(left)])
            ),
            soft_wrap=True,
        )


def logged_run(spec: LearnerSpec, folder: Path, out: Path, seed: int) -> LoggedRun:
    """Return what loggers are told of a training with a folder of its own, in the run folder `out`."""
    settings = {"learner": spec.learner, "seed": seed, **spec.chosen.model_dump(mode="json")}
    return LoggedRun(folder, out, folder.name, spec.name, settings)


def training_left(seconds: float) -> str:
    """Return how long the trainings of a job still take, for display; nothing at their end."""
    return time_left(seconds).replace(" left", " of training left")


@dataclass(frozen=True)
class LearnerRun(Generic[InputsT]):
    """A run of a learner's job whose folder is open.

    Attributes
    ----------
    inputs : Inputs
    out : Path
        The run folder.
    trainings : Trainings
        Train tasks, in `out`.
    workers : int or (int, int)
        0: everything is done in this process; else inside a connection to Ray.
    console : Console
    """

    inputs: InputsT
    out: Path
    trainings: Trainings
    workers: Workers
    console: Console

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Print what is done within a ``with`` block, and what the learners log of it."""
        self.console.print(f"{doing} …", soft_wrap=True, highlight=False)
        with logged_to(RecordLines(self.console)):
            yield

    def input_digests(self, files: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of input files, and of what is in input folders, as the run folder keeps them."""
        names = tuple(file if is_url(file) else str(Path(file)) for file in files)
        within = tuple(f"{name}/" for name in names)
        kept: dict[str, str] = json.loads((self.out / "provenance.json").read_text())["inputs"]
        return {name: digest for name, digest in kept.items() if name in names or name.startswith(within)}


@dataclass(frozen=True)
class Trained:
    """What a training ends in: a model with its scores, and the report of them."""

    model: Model
    report: LearnerReport


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep, in a process of its own.

    Attributes
    ----------
    spec : LearnerSpec
        The sweep, with the trial's settings in place of its own.
    parameters : mapping
        The trial's settings alone.
    seed : int
    folder : Path
    report : callable
        Is given each epoch's metrics; does not return when the trial is to be stopped.
    """

    spec: LearnerSpec
    parameters: Mapping[str, Any]
    seed: int
    folder: Path
    report: Callable[[Mapping[str, Any]], None]

    @property
    def out(self) -> Path:
        """The run folder of the sweep."""
        return self.folder.parent.parent

    def train(self, task: Any, payload: dict[str, Any]) -> TrainingResult:
        """Train a task that is written in the trial's folder; `payload` is what makes it again."""
        assert isinstance(self.spec, SweepSpec)
        # A population (pbt) changes the settings of its trials while they run.
        changeable = {"changes": dict(self.parameters)} if self.spec.trials.scheduler == "pbt" else {}
        return train(
            Training(f"{type(task).__module__}:build", payload, self.seed, changeable),
            self.folder,
            max_epochs=task.epochs(),
            workers=self.spec.workers or 0,
            precision=self.spec.precision,
            loggers=self.spec.loggers,
            logged=logged_run(self.spec, self.folder, self.out, self.seed),
            progress=self.report,
        )


class LearnerJob(ABC, Generic[SpecT, InputsT]):
    """What a learner does in its jobs. Everything around it is the same for all learners, and stands below.

    Parameters
    ----------
    spec : LearnerSpec
        The job file.
    folder : Path
        Of the job file: relative paths start there.
    """

    publishes: ClassVar[bool] = True
    """Whether other jobs on the cluster can read the tables of a training by its name."""

    def __init__(self, spec: SpecT, folder: Path) -> None:
        self.spec = spec
        self.folder = folder

    @abstractmethod
    def read(self) -> InputsT:
        """Open and check what the job names; write nothing.

        Raises
        ------
        UsageError, LearnerError
            A file is missing, or what is in it cannot be used.
        """

    @abstractmethod
    def epochs(self, inputs: InputsT) -> int:
        """Return how many epochs all trainings of the job have, at most; for the estimate of the time left."""

    def work(self, inputs: InputsT) -> float:
        """Return what all trainings of the job have to do, in the unit of `epoch_work`; for the time left."""
        return float(self.epochs(inputs))

    def epoch_work(self, task: Any) -> float:
        """Return what an epoch of a task has to do, beside those of the job's other tasks; by default all the same."""
        return 1.0

    @abstractmethod
    def write_task(self, inputs: InputsT, task: Any, folder: Path, seed: int) -> dict[str, Any]:
        """Write a task into a folder, and return the payload from which `build` in its module makes it again."""

    def best_epoch(self, task: Any) -> BestEpoch | None:
        """Return which epoch of a training is kept; None for the last."""
        return None

    @abstractmethod
    def train(self, run: LearnerRun[InputsT]) -> Trained:
        """Train the model that is kept and score it; write its tables into the run folder."""

    def split_fingerprint(self, inputs: InputsT) -> str:
        """Return what tells splits apart, where the job file does not."""
        return ""

    def evaluate(self, run: LearnerRun[InputsT]) -> tuple[dict[str, Any], LearnerReport]:
        """Compare methods; write their tables; return what is kept as ``evaluation.json``, and its report."""
        raise NotImplementedError

    @abstractmethod
    def trial_epochs(self, inputs: InputsT) -> int:
        """Return how many epochs a trial of a sweep has, at most."""

    @abstractmethod
    def trial(self, trial: Trial) -> Mapping[str, float]:
        """Train with a trial's settings, and return the last epoch's metrics."""

    def after_trials(self, rows: Sequence[TrialRow], inputs: InputsT, out: Path) -> None:
        """Write what the trials of the best setting show together."""

    def inputs_after_sweep(self, inputs: InputsT, sweep: SpecT) -> InputsT:
        """Return the inputs of the training with the best settings, which this job has; `sweep` is that before."""
        return inputs

    @abstractmethod
    def print_plan(self, inputs: InputsT, console: Console) -> float:
        """Print what the job is made of and how long it takes; return the seconds of a training such as a trial's."""

    def print_notes(self, notes: Sequence[str], console: Console) -> None:
        """Print sentences as they are."""
        for note in notes:
            console.print(note, soft_wrap=True, highlight=False, markup=False)


def job_of(spec: LearnerSpec, folder: Path) -> LearnerJob[Any, Any]:
    """Return the job of a learner that a job file describes."""
    job: LearnerJob[Any, Any] = named(LEARNERS[spec.learner].job)(spec, folder)
    return job


def run_learner_job(spec: LearnerSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Do a job with everything kept in `out`, or go on with it there; raises as `run_in_folder` does.

    Parameters
    ----------
    folder : Path
        Of the job file.
    address : str or None
        Of a Ray cluster; None starts Ray here, where workers need it.
    cpus : int or None
        To use here.
    """
    job = job_of(spec, folder)
    if isinstance(spec, SweepSpec) and address is None and cpus_of(spec) > (cpus or available_cpus()):
        raise UsageError(f"{_too_many_cpus(spec, cpus or available_cpus())} Give it fewer, or a cluster by --address.")

    def read() -> tuple[Any, list[str]]:
        inputs = checked_inputs(job)
        return inputs, inputs.notes

    run_in_folder(
        spec,
        folder,
        out,
        read,
        lambda opened: _run(job, opened, address, cpus),
        EVALUATION if spec.kind == "evaluate" else DESCRIPTION,
    )
    remove_working_files(Path(out))


def checked_inputs(job: LearnerJob[Any, Any]) -> Any:
    """Return what a job reads, when nothing of what can be known beforehand is in its way.

    Raises
    ------
    UsageError, LearnerError
        The message names the files that it is about.
    ClusterError
        A sweep cannot be run as it is asked for.
    """
    with naming_files(job.spec):
        inputs = job.read()
        if isinstance(job.spec, SweepSpec):
            check_sweep(trials_of(job, inputs))
    return inputs


@contextmanager
def naming_files(spec: LearnerSpec) -> Iterator[None]:
    """Let an error within a ``with`` block name the job's files, unless it names one of them."""
    try:
        yield
    except LearnerError as error:
        names = list(dict.fromkeys(map(name_of, spec.files_named())))
        if any(name in str(error) for name in names):
            raise
        more = f" and {len(names) - FILES_NAMED} more" if len(names) > FILES_NAMED else ""
        raise LearnerError(f"{', '.join(names[:FILES_NAMED])}{more}: {error}") from error


def cpus_of(spec: SweepSpec) -> float:
    """Return how many CPUs a trial of a sweep needs."""
    return spec.trials.cpus * max(most_workers(spec.workers or 0), 1)


def _too_many_cpus(spec: SweepSpec, here: int) -> str:
    workers = most_workers(spec.workers or 0)
    how = f" ({spec.trials.cpus:g} for each of {workers} workers)" if workers else ""
    return f"trials: a trial needs {cpus_of(spec):g} CPUs{how}, and this machine has {here} to give."


def _run(job: LearnerJob[Any, Any], opened: JobRun, address: str | None, cpus: int | None) -> Ending:
    inputs, out, console = opened.inputs, opened.out, opened.console
    if note := threads_note():
        console.print(note, soft_wrap=True, highlight=False)
    if isinstance(job.spec, SweepSpec):
        best = run_sweep(job, inputs, out, console, address, cpus)
        inputs = best.inputs_after_sweep(inputs, job.spec)
        job = best
    spec, workers = job.spec, job.spec.workers_at(address)
    trainings = Trainings(job, inputs, (out / TRAININGS).absolute(), workers, console, cpus)
    run = LearnerRun(inputs, out, trainings, workers, console)
    quick = {QUICK: QUICK_NOTE} if spec.quick else {}
    with one_thread(), connect(address, None if address else cpus) if workers else nullcontext():
        if spec.kind == "evaluate":
            findings, report = job.evaluate(run)
            findings |= quick
            with run.step(WRITING):
                report.write(out)
            write_result(out / EVALUATION, findings, indent=1)
        else:
            trained = job.train(run)
            report = trained.report
            with run.step(WRITING):
                report.write(out)
            model = replace(trained.model, facts={**trained.model.facts, **quick})
            model.save(out, run=_fingerprint(spec, job.split_fingerprint(inputs)))
            if workers and job.publishes:
                publish(spec.name, out)
    report.print_tables(console)
    console.print(peak_memory_in_words(), soft_wrap=True, highlight=False)
    return Ending(recorded={"peak_memory_bytes": peak_memory_bytes()})


def _fingerprint(spec: LearnerSpec, splits: str) -> str:
    """Return what tells a job's model from those of other jobs."""
    return hashlib.sha256((json.dumps(spec.identity(), sort_keys=True) + splits).encode()).hexdigest()


def run_sweep(
    job: LearnerJob[Any, Any], inputs: Any, out: Path, console: Console, address: str | None, cpus: int | None
) -> LearnerJob[Any, Any]:
    """Run the trials of a sweep that have not ended, and return the job with the best settings."""
    from neurofleet.cluster.sweeps.ray_tune import sweep

    spec = job.spec
    plan = trials_of(job, inputs)
    folder = sweep_folder(out).absolute()
    renew_description(folder, plan)
    number = plan.number_of_settings() * plan.repeats
    done = 0

    def report(row: TrialRow) -> None:
        nonlocal done
        done += 1
        console.print(f"{done} of {number} trials: {described(row)}", soft_wrap=True, highlight=False)

    with connect(address, None if address else cpus):
        journal = (out / JOURNAL, spec.name)
        swept: SweepResult = sweep(plan, folder, resources_of(spec), report, out / TRIALS, journal)
    settings = _listed(swept.parameters) or "the job's settings"
    best = next(row.number for row in swept.rows if row.trial == swept.trial)
    console.print(
        f"Best of {len(swept.rows)} trials: trial {best}, {metric_in_words(plan.metric)}"
        f" {swept.score:.4f}, with {settings}. Training it again …",
        soft_wrap=True,
        highlight=False,
    )
    rows = [row for row in swept.rows if row.status == "done" and row.parameters == swept.parameters]
    job.after_trials(rows, inputs, out)
    return type(job)(spec.with_settings(swept.parameters), job.folder)


TRIAL_FACTORY = "neurofleet.jobs.learners.learner_job:run_trial"
_FORMER_FACTORY = "jobs.{learner}.trial:run"
"""What ran a trial up to version 0.1; it stands in the file that describes a sweep."""


def trials_of(job: LearnerJob[Any, Any], inputs: Any) -> ParameterSweep:
    """Return what the trials of a sweep are."""
    spec: SweepSpec = job.spec
    trials = spec.trials
    metric, mode = spec.metric
    epochs = parse_space(spec.search).tested_values("epochs")
    longest = job_of(spec.with_settings({"epochs": max(map(int, epochs))}), job.folder) if epochs else job
    return ParameterSweep(
        factory=TRIAL_FACTORY,
        payload={"spec": _payload(spec), "folder": str(job.folder.resolve())},
        search=spec.search,
        metric=metric,
        mode=mode,
        method=trials.method,
        settings=trials.number,
        repeats=trials.repeats,
        seed=spec.seed,
        scheduler=SweepScheduler(
            trials.scheduler,
            longest.trial_epochs(inputs),
            trials.grace_epochs,
            trials.reduction,
            trials.perturb_epochs,
        ),
        time_limit_s=trials.time_limit_s,
    )


def _payload(spec: SweepSpec) -> dict[str, Any]:
    """Return a sweep as its trials get it."""
    return spec.model_dump(mode="json", exclude={"notify"})


def renew_description(folder: Path, plan: ParameterSweep) -> None:
    """Let a sweep that an earlier version began go on: what runs its trials had another name, and job files less keys.

    A key that the description lacks has its default.
    """
    description = folder / "sweep.json"
    if not description.is_file():
        return
    kept = json.loads(description.read_text())
    factory, payload, *others = kept
    learner = plan.payload["spec"]["learner"]
    if factory == _FORMER_FACTORY.format(learner=learner):
        factory = plan.factory
    with suppress(ValidationError):  # of another learner: refused where the sweep is opened
        model = named(LEARNERS[learner].specs["sweep"])
        payload = payload | {"spec": _payload(model.model_validate(payload["spec"]))}
    if [factory, payload, *others] != kept:
        description.write_text(json.dumps([factory, payload, *others], sort_keys=True))


def resources_of(spec: SweepSpec) -> TrialResources:
    """Return what a trial works with; a part of a GPU where the cluster has any and the job says nothing."""
    import ray

    gpus = spec.trials.gpus
    if gpus is None:
        gpus = SHARED_GPU if ray.cluster_resources().get("GPU") and not spec.workers else 0.0
    return TrialResources(spec.trials.cpus, gpus, most_workers(spec.workers or 0), spec.trials.at_once)


def described(row: TrialRow) -> str:
    """Return a trial in one line."""
    scores = ", ".join(f"{metric_in_words(name)} {value:.4f}" for name, value in sorted(row.scores.items()))
    ended = row.status if row.status == "done" else f"{row.status} ({row.error})"
    settings = f"{_listed(row.parameters)}, seed {row.seed}".removeprefix(", ")
    return f"trial {row.number} ({settings}): {scores} after {row.epochs} epochs, {ended}"


def _listed(parameters: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in parameters.items()
    )


def run_trial(
    payload: Mapping[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    folder: Path,
    report: Callable[[Mapping[str, Any]], None],
) -> dict[str, float]:
    """Train with `parameters` in place of a sweep's settings, and return the last epoch's scores.

    Parameters
    ----------
    payload : mapping
        ``spec`` (the sweep, as its job file) and ``folder`` (of that file).
    report : callable
        Is given each epoch's metrics; does not return when the trial is to be stopped.
    """
    model = named(LEARNERS[payload["spec"]["learner"]].specs["sweep"])
    spec: SweepSpec = model.model_validate(payload["spec"])
    tried = spec.with_settings(parameters)
    return dict(job_of(tried, Path(payload["folder"])).trial(Trial(tried, parameters, seed, folder, report)))


def print_learner_plan(spec: LearnerSpec, folder: Path) -> None:
    """Print what a job is made of and the time it takes, after a few measured steps in this process.

    Raises
    ------
    UsageError, LearnerError
        The input cannot be used.
    """
    console = terminal()
    job = job_of(spec, folder)
    doing = terminal(errors=True)
    doing.print("reading the input …")
    before = time.process_time()
    inputs = checked_inputs(job)
    start_s = max(time.process_time() - before, PROCESS_START_S)  # reading imports what training needs
    doing.print("measuring a few steps, by the CPU time of the thread that trains …")
    with naming_files(spec), one_thread():
        trial_s = job.print_plan(inputs, console)
    workers = most_workers(spec.workers or 0)
    others_s = (RAY_START_S + start_s) if workers else 0.0
    console.print(
        f"On top come about {duration(start_s + others_s)} to start"
        f"{', with Ray and its workers,' if workers else ''} and to read the input.",
        soft_wrap=True,
        highlight=False,
    )
    if isinstance(spec, SweepSpec):
        if cpus_of(spec) > available_cpus():
            console.print(f"{_too_many_cpus(spec, available_cpus())} Run it on a cluster (--address).", soft_wrap=True)
        plan = trials_of(job, inputs)
        trials = plan.number_of_settings() * plan.repeats
        each_s = start_s if workers else max(start_s - PROCESS_START_S, TRIAL_START_S)
        starts_s = RAY_START_S + start_s + trials * each_s
        console.print(
            f"Before that, {trials} trials of up to {plan.scheduler.max_epochs} epochs: about"
            f" {duration(starts_s + trials * trial_s)} one by one, of which about {duration(starts_s)} are to start Ray"
            " and the trials; what is searched may change it.",
            soft_wrap=True,
            highlight=False,
        )
