"""The trials of a sweep, whatever the learner: run side by side, each a training with scores to compare it by."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.sweeps.parameter_sweep import ParameterSweep, SweepScheduler, TrialResources
from neurofleet.cluster.sweeps.ray_tune import sweep
from neurofleet.cluster.sweeps.trial_records import TrialRow
from neurofleet.cluster.training.lightning_training import Training, TrainingResult
from neurofleet.cluster.training.trainer import train
from neurofleet.jobs.learners.learner_job import SweepKeys

TRIALS = "trials"
SHARED_GPU = 0.25
"""What of a GPU a trial gets: these models are small beside one."""


def run_sweep_trials(
    spec: SweepKeys, plan: "ParameterSweep", out: Path, console: "Console", address: str | None, cpus: int | None
) -> Any:
    """Run a sweep's trials with all that is kept of them in `out`; finished ones are not run again.

    Returns
    -------
    neurofleet.cluster.sweeps.parameter_sweep.SweepResult
    """
    where = (out / TRIALS).absolute()
    number = plan.number_of_settings() * plan.repeats
    done = 0

    def tell(row: "TrialRow") -> None:
        nonlocal done
        done += 1
        console.print(f"trial {done} of {number}: {described(row)}", soft_wrap=True, highlight=False)

    with connect(address, None if address else cpus):
        swept = sweep(plan, where, resources_of(spec), tell)
    what = _listed(swept.parameters) or "the job's settings"
    console.print(
        f"Best of {len(swept.rows)} trials: {plan.metric} {swept.score:.4f} with {what} ({swept.trial})."
        " Training it again …",
        soft_wrap=True,
        highlight=False,
    )
    return swept


def plan_of(spec: SweepKeys, factory: str, folder: Path, max_epochs: int) -> "ParameterSweep":
    """Return what the trials are, as `neurofleet.cluster.sweeps.parameter_sweep` takes it.

    Parameters
    ----------
    factory : str
        What runs a trial, ``module:function``; its payload holds ``spec`` and ``folder``.
    folder : Path
        Of the job file.
    """
    trials = spec.trials
    metric, mode = spec.watched
    return ParameterSweep(
        factory=factory,
        payload={"spec": spec.model_dump(mode="json"), "folder": str(folder.resolve())},
        search=spec.search,
        metric=metric,
        mode=mode,
        method=trials.method,
        settings=trials.number,
        repeats=trials.repeats,
        seed=spec.seed,
        scheduler=SweepScheduler(
            trials.scheduler, max_epochs, trials.grace_epochs, trials.reduction, trials.perturb_epochs
        ),
        time_limit_s=trials.time_limit_s,
    )


def resources_of(spec: SweepKeys) -> "TrialResources":
    """Return what a trial works with; a part of a GPU where the cluster has any and the job says nothing."""
    import ray

    gpus = spec.trials.gpus
    if gpus is None:
        gpus = SHARED_GPU if ray.cluster_resources().get("GPU") and not spec.workers else 0.0
    workers = spec.workers[1] if isinstance(spec.workers, tuple) else spec.workers or 0
    return TrialResources(spec.trials.cpus, gpus, workers, spec.trials.at_once)


def described(row: "TrialRow") -> str:
    """Return a trial in one line."""
    scores = ", ".join(f"{name} {value:.4f}" for name, value in sorted(row.scores.items()))
    ended = row.status if row.status == "done" else f"{row.status} ({row.error})"
    return f"{_listed(row.parameters)} seed {row.seed}: {scores} after {row.epochs} epochs, {ended}"


def _listed(parameters: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in parameters.items()
    )


Report = Callable[[Mapping[str, Any]], None]


def train_trial(
    spec: SweepKeys,
    task: Any,
    payload: dict[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    folder: Path,
    report: Report,
) -> "TrainingResult":
    """Train a task that is written in `folder`.

    Parameters
    ----------
    payload : dict
        As the task's ``write`` returned it.
    parameters : mapping
        The trial's settings: a population that borrows settings goes on with other ones.
    report : callable
        Is told each epoch's metrics; does not return when the trial is to be stopped.
    """
    changeable = {"changes": dict(parameters)} if spec.trials.scheduler == "pbt" else {}
    return train(
        Training(f"{type(task).__module__}:build", payload, seed, changeable),
        folder,
        max_epochs=task.epochs(),
        workers=spec.workers or 0,
        precision=spec.precision,
        loggers=spec.loggers,
        progress=report,
    )


def trial_scores(spec: SweepKeys, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what trials of a sweep can be compared by, of the last epoch's metrics."""
    return {name: metrics[name] for name, _ in spec.metrics.values()}
