"""Run a sweep's trials under Ray Tune, and keep the sweep's folder."""

from __future__ import annotations

import logging
import math
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from neurofleet.cluster.ray.internals import environment
from neurofleet.cluster.store.folders import LocalFolder
from neurofleet.cluster.sweeps.optuna_journal import OptunaJournal
from neurofleet.cluster.sweeps.parameter_sweep import (
    TABLE,
    ParameterSweep,
    SweepFailed,
    SweepRefused,
    SweepResult,
    TrialResources,
    check_sweep,
)
from neurofleet.cluster.sweeps.search_space import (
    ChoiceDimension,
    ListedSettings,
    OptunaSettings,
    RandomSettings,
    SettingProposer,
)
from neurofleet.cluster.sweeps.trial_process import run_trial, trial_setting
from neurofleet.cluster.sweeps.trial_records import REPORTS, SweepTrials, TrialRow, trials_to_table
from neurofleet.errors import ClusterError, RunFolderRefused

ONE_CPU = TrialResources()

logger = logging.getLogger(__name__)


def sweep(
    plan: ParameterSweep,
    folder: str | Path,
    resources: TrialResources = ONE_CPU,
    progress: Callable[[TrialRow], None] = lambda row: None,
    table: str | Path | None = None,
    journal: tuple[str | Path, str] | None = None,
) -> SweepResult:
    """Run a sweep's trials, or those that are left of it, on the cluster that this process is connected to.

    Parameters
    ----------
    plan : ParameterSweep
    folder : str or Path
        That all machines of the cluster share.
    resources : TrialResources
    progress : callable
        Is called with each trial that has ended, in this thread.
    table : str or Path, optional
        Where the table of the trials that have ended is kept; ``trials.parquet`` in `folder` by default.
    journal : (str or Path, str), optional
        An Optuna journal file that gets the trials that have ended, too, and the name of its study. Where it cannot be
        written, that is told in the log, and the sweep goes on without it.

    Raises
    ------
    ClusterError
        If the sweep cannot be, a trial has no room, or all trials failed.
    KeyboardInterrupt
        Ctrl-C. Trials that were running go on when the sweep does.
    """
    check_sweep(plan)
    files = SweepFiles(Path(folder).absolute(), plan, None if table is None else Path(table).absolute(), journal)
    if files.trials.unfinished:
        run_trials(plan, files, resources, progress)
    return files.result()


_PLAN, _DRIVER_FILE = "sweep.json", ".driver"


class SweepFiles:
    """A sweep's folder, as an earlier run of the sweep left it.

    Parameters
    ----------
    path : Path
    plan : ParameterSweep
    table : Path, optional
    journal : (str or Path, str), optional
        See `sweep`.

    Raises
    ------
    RunFolderRefused
        If the folder holds another sweep.
    """

    def __init__(
        self,
        path: Path,
        plan: ParameterSweep,
        table: Path | None = None,
        journal: tuple[str | Path, str] | None = None,
    ) -> None:
        self.path = path
        self._plan = plan
        self._table = table or path / TABLE
        self._folder = LocalFolder(path)
        stored = self._folder.read(_PLAN)
        if stored is not None and (changes := plan.changes_since(stored.decode())):
            raise RunFolderRefused(
                f"{path} holds another sweep: its {', '.join(changes)} in {_PLAN} should be as asked for now, and"
                " differ. Give a new folder, or the same sweep again."
            )
        settings = plan.number_of_settings()
        self.trials = SweepTrials(path, _proposer(plan), settings, plan.repeats, plan.seed, plan.metric)
        self._settings = settings
        self._folder.write(_PLAN, plan.fingerprint.encode())
        self.driver_id = uuid.uuid4().hex
        self._folder.write(_DRIVER_FILE, self.driver_id.encode())
        self._journal: OptunaJournal | None = None
        if journal is not None:
            with self._going_on_without_journal():
                self._journal = OptunaJournal(Path(journal[0]), plan, journal[1])
        self.write()

    def write(self) -> None:
        """Write the trials that have ended: the table, and the journal."""
        if self._journal is not None:
            with self._going_on_without_journal():
                for index, row in sorted(self.trials.rows.items()):
                    self._journal.add(row, self.trials.folder(index))
        sink = pa.BufferOutputStream()
        pq.write_table(trials_to_table(self._rows()), sink, compression="zstd")
        LocalFolder(self._table.parent).write(self._table.name, sink.getvalue().to_pybytes())

    @contextmanager
    def _going_on_without_journal(self) -> Iterator[None]:
        """Give the journal up where it fails within a ``with`` block: no sweep reads it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  Optuna and the disk fail in ways of their own, and the sweep goes on
            self._journal = None
            logger.warning("the sweep goes on without its Optuna journal: %s", str(error) or type(error).__name__)

    def result(self) -> SweepResult:
        """The sweep's best setting.

        Raises
        ------
        SweepFailed
            If no trial has a score.
        """
        by_setting = [(setting, self.trials.of_setting(setting)) for setting in range(self._settings)]
        # Settings of which all repeats are done come first; then those of which some are; then any with a score.
        for enough in (all, any, lambda done: True):
            scored = [
                (score, setting)
                for setting, rows in by_setting
                if rows and enough([row.status == "done" for row in rows]) and math.isfinite(score := self._score(rows))
            ]
            if scored:
                break
        else:
            raise SweepFailed(self._without_score())
        score, setting = min(scored, key=lambda s: (self._worth(s[0]), s[1]))
        rows = [r for r in self.trials.of_setting(setting) if math.isfinite(self._score([r]))]
        best = min(rows, key=lambda row: self._worth(self._score([row])))
        return SweepResult(best.parameters, score, best.trial, self._rows())

    def _without_score(self) -> str:
        """Return why no trial has a score."""
        rows, metric = self._rows(), self._plan.metric
        told = f"No trial of the sweep in {self.path} has a score."
        lost = [row for row in rows if metric in row.scores]
        failed = [row for row in rows if metric not in row.scores]
        if lost:
            told += (
                f" {metric} is NaN or infinite in {len(lost)} of {len(rows)} trials: they have diverged. Epoch by"
                f" epoch: {self.path / lost[0].trial / REPORTS}. Search smaller learning rates, or another metric."
            )
        if failed:
            told += f" {len(failed)} of {len(rows)} trials failed; the first of them: {failed[0].error}"
        return told

    def _rows(self) -> list[TrialRow]:
        return [row for _, row in sorted(self.trials.rows.items())]

    def _score(self, rows: Sequence[TrialRow]) -> float:
        """The mean metric of the trials that are done, or of all if none is."""
        counted = [row for row in rows if row.status == "done"] or rows
        scores = [row.scores[self._plan.metric] for row in counted if self._plan.metric in row.scores]
        return float(np.mean(scores)) if scores else math.nan

    def _worth(self, score: float) -> float:
        return score if self._plan.mode == "min" else -score


def _proposer(plan: ParameterSweep) -> SettingProposer:
    space = plan.space()
    if not space.dimensions:
        return ListedSettings([space.fixed])
    if plan.method == "grid":
        return ListedSettings(space.grid())
    if plan.method == "optuna":
        return OptunaSettings(space, plan.seed, plan.mode)
    return RandomSettings(space, plan.seed)


MAX_PROCESS_DEATHS = 2
"""How often a trial is begun again after its process died."""

# What a process without a CPU requests: Tune does not accept a request of nothing.
_LEAST_MEMORY_BYTES = 2**20
_TUNE = "tune"
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # its state is never read: the trials' folders have all of it
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a frame whatever its settings
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_trials(
    plan: ParameterSweep, files: SweepFiles, resources: TrialResources, progress: Callable[[TrialRow], None]
) -> None:
    """Run the trials that have not ended.

    Parameters
    ----------
    plan, resources, progress
        As of `neurofleet.cluster.sweeps.ray_tune.sweep`.
    files : SweepFiles

    Raises
    ------
    ClusterError
        If a trial has no room, or does not see the sweep's folder.
    KeyboardInterrupt
    """
    own, at_once = _trial_resources(resources)
    storage = files.path / _TUNE
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(mode=0o700)
    scheduler = _tune_scheduler(plan)
    monitor = _TrialMonitor(files, progress)
    _replay_ended_trials(scheduler, files.trials)
    common: dict[str, Any] = {
        "factory": plan.factory,
        "payload": dict(plan.payload),
        "folder": str(files.path),
        "driver_id": files.driver_id,
        "metric": plan.metric,
        "mode": plan.mode,
        "time_limit_s": plan.time_limit_s,
        "population": plan.scheduler.perturb_epochs if plan.scheduler.kind == "pbt" else 0,
    }
    space: dict[str, Any] = {"sweep": common}
    searched: dict[str, Any] = {"search_alg": _TrialSearcher(files.trials), "num_samples": files.trials.unfinished}
    if plan.scheduler.kind == "pbt":  # it works without a searcher: all its trials exist from the beginning
        common["starts"] = starts = list(iter(files.trials.next, None))
        space["trial"] = tune.grid_search(starts)
        searched = {}
    tuner = tune.Tuner(
        tune.with_resources(run_trial, own),
        param_space=space,
        tune_config=tune.TuneConfig(
            **searched,
            scheduler=scheduler,
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_TUNE,
            storage_path=str(files.path),
            failure_config=tune.FailureConfig(max_failures=MAX_PROCESS_DEATHS),
            callbacks=[monitor],
            stop=_StopOnError(monitor),
            verbose=0,
        ),
    )
    with environment(_SETTINGS), _signals_and_logging_kept():
        try:
            tuner.fit()
        except Exception as error:
            if monitor.error is None:
                raise ClusterError(f"Ray Tune gave the sweep up: {error}") from error
    if monitor.error is not None:
        raise monitor.error
    if files.trials.unfinished or files.trials.running:
        raise KeyboardInterrupt  # Tune takes it, ends its trials, and returns


class _TrialSearcher(Searcher):
    """Gives Tune one trial after the other."""

    def __init__(self, trials: SweepTrials) -> None:
        super().__init__()
        self._trials = trials

    def suggest(self, trial_id: str) -> Any:
        trial = self._trials.next()
        return Searcher.FINISHED if trial is None else {"trial": trial}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: what has ended is read from the trials' folders."""

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def save_to_dir(self, *_: Any, **__: Any) -> None:
        """Nothing: the trials' folders have its state."""


class _TrialMonitor(TrialProgressCallback):
    """Stores trials that end, in place of Tune's callback that prints them.

    An error is kept and ends the sweep; Tune by itself would go on.
    """

    def __init__(self, files: SweepFiles, progress: Callable[[TrialRow], None]) -> None:
        super().__init__()
        self._files = files
        self._progress = progress
        self.error: BaseException | None = None

    def __reduce__(self) -> tuple[type, tuple]:
        return tune.Callback, ()  # Tune stores a copy that is never read, and `progress` may be anything

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        """Nothing: a trial reports into its folder."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended(trial, "stopped", "by the scheduler")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        cause = getattr(trial.get_error(), "cause", trial.get_error())
        if isinstance(cause, ClusterError):
            self.error = cause
            return
        self._ended(trial, "failed", f"its process died more than {MAX_PROCESS_DEATHS} times: {cause}")

    def _ended(self, trial: Trial, status: Any, reason: str) -> None:
        index = trial_setting(trial.config, trial.trial_id)["index"]
        if self._files.trials.folder(index).row() is None:
            self._files.trials.folder(index).end(status, reason)
        row = self._files.trials.ended(index)
        assert row is not None
        try:
            self._files.write()
            self._progress(row)
        except BaseException as error:  # noqa: BLE001  raised again when Tune has ended its trials
            self.error = error


class _StopOnError(tune.Stopper):
    """Ends the sweep when `monitor` has an error."""

    def __init__(self, monitor: _TrialMonitor) -> None:
        self._monitor = monitor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._monitor.error is not None


def _tune_scheduler(plan: ParameterSweep) -> TrialScheduler:
    how = plan.scheduler
    goal: dict[str, Any] = {"time_attr": "epoch", "metric": plan.metric, "mode": plan.mode}
    if how.kind == "none":
        return FIFOScheduler()
    if how.kind == "asha":
        # Half an epoch less, so that no trial is stopped at its last epoch.
        return ASHAScheduler(
            **goal,
            max_t=how.max_epochs - 0.5,  # type: ignore[arg-type]
            grace_period=how.grace_epochs,
            reduction_factor=how.reduction,
            stop_last_trials=False,
        )
    space, rng = plan.space(), np.random.default_rng(plan.seed)

    def clipped(config: dict[str, Any]) -> dict[str, Any]:
        parameters = config["trial"]["parameters"]
        for name, dimension in space.dimensions.items():
            parameters[name] = dimension.clip(parameters[name])
        return config

    draws = {
        name: list(d.values) if isinstance(d, ChoiceDimension) else partial(d.sample, rng)
        for name, d in space.dimensions.items()
    }
    return PopulationBasedTraining(
        **goal,
        perturbation_interval=how.perturb_epochs,
        hyperparam_mutations={"trial": {"parameters": draws}},
        custom_explore_fn=clipped,
        log_config=False,
    )


def _replay_ended_trials(scheduler: TrialScheduler, trials: SweepTrials) -> None:
    """Report the trials that have ended to a new scheduler, as if it had run them."""
    if not isinstance(scheduler, ASHAScheduler):
        return
    metric = scheduler.metric
    no_controller: Any = None  # the controller, which this kind of scheduler has no need of
    for index in sorted(trials.rows):
        trial: Any = SimpleNamespace(trial_id=f"ended-{index}")
        scheduler.on_trial_add(no_controller, trial)
        for report in trials.folder(index).reports():
            if metric in report:
                scheduler.on_trial_result(no_controller, trial, report)


def _trial_resources(resources: TrialResources) -> tuple[dict[str, float], int | None]:
    """Return what a trial's own process asks of Ray, and how many trials may run at once.

    A trial that trains on workers holds nothing itself. If more of them ran than can have all their workers, they would
    wait for each other for ever.
    """
    available = ray.cluster_resources()
    workers = max(resources.workers, 1)
    needs = {"CPU": resources.cpus * workers, "GPU": resources.gpus * workers}
    largest = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, number in needs.items():
        if available.get(kind, 0) < number:
            raise SweepRefused(
                f"A trial needs {number:g} {kind}s, and the cluster has {available.get(kind, 0):g}. Give a trial"
                " less, or start more machines."
            )
        one = number / workers
        most = max((node.get(kind, 0) for node in largest), default=0)
        if most < one:
            raise SweepRefused(
                f"A process of a trial needs {one:g} {kind}s of one machine, and the largest of the cluster has"
                f" {most:g}. Give a trial less."
            )
    room = min(int(available[kind] / number) for kind, number in needs.items() if number)
    if resources.workers:
        return {"cpu": 0, "memory": _LEAST_MEMORY_BYTES}, min(room, resources.at_once or room)
    return {"cpu": resources.cpus, "gpu": resources.gpus}, resources.at_once


@contextmanager
def _signals_and_logging_kept() -> Iterator[None]:
    """Restore the signal handlers and the logging that Tune changes."""
    of_tune = logging.getLogger("ray.tune")
    level = of_tune.level
    of_tune.setLevel(logging.CRITICAL)
    main = threading.current_thread() is threading.main_thread()
    taken = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGUSR1)} if main else {}
    try:
        yield
    finally:
        of_tune.setLevel(level)
        for number, handler in taken.items():
            signal.signal(number, handler)
