"""The trials of a sweep, whatever the learner."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.sweep.spec import Sweeping

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.sweeps import Resources, Sweep
    from cluster.trial_table import TrialRow

TRIALS = "trials"
SHARED_GPU = 0.25
"""What of a GPU a trial gets: these models are small beside one."""


def run_trials(
    spec: Sweeping, plan: "Sweep", out: Path, console: "Console", address: str | None, cpus: int | None
) -> Any:
    """Run a sweep's trials with all that is kept of them in `out`; finished ones are not run again.

    Returns
    -------
    cluster.sweeps.Swept
    """
    from cluster.session import connect
    from cluster.sweeps import sweep

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


def plan_of(spec: Sweeping, factory: str, folder: Path, max_epochs: int) -> "Sweep":
    """Return what the trials are, as `cluster.sweeps` takes it.

    Parameters
    ----------
    factory : str
        What runs a trial, ``module:function``; its payload holds ``spec`` and ``folder``.
    folder : Path
        Of the job file.
    """
    from cluster.sweeps import Scheduler, Sweep

    trials = spec.trials
    metric, mode = spec.watched
    return Sweep(
        factory=factory,
        payload={"spec": spec.model_dump(mode="json"), "folder": str(folder.resolve())},
        search=spec.search,
        metric=metric,
        mode=mode,
        method=trials.method,
        settings=trials.number,
        repeats=trials.repeats,
        seed=spec.seed,
        scheduler=Scheduler(
            trials.scheduler, max_epochs, trials.grace_epochs, trials.reduction, trials.perturb_epochs
        ),
        time_limit_s=trials.time_limit_s,
    )


def resources_of(spec: Sweeping) -> "Resources":
    """Return what a trial works with; a part of a GPU where the cluster has any and the job says nothing."""
    import ray

    from cluster.sweeps import Resources

    gpus = spec.trials.gpus
    if gpus is None:
        gpus = SHARED_GPU if ray.cluster_resources().get("GPU") and not spec.workers else 0.0
    workers = spec.workers[1] if isinstance(spec.workers, tuple) else spec.workers or 0
    return Resources(spec.trials.cpus, gpus, workers, spec.trials.at_once)


def described(row: "TrialRow") -> str:
    """Return a trial in one line."""
    scores = ", ".join(f"{name} {value:.4f}" for name, value in sorted(row.scores.items()))
    ended = row.status if row.status == "done" else f"{row.status} ({row.error})"
    return f"{_listed(row.parameters)} seed {row.seed}: {scores} after {row.epochs} epochs, {ended}"


def _listed(parameters: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in parameters.items()
    )
