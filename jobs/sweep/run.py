"""The run of a sweep: trials, then the best setting trained again, scored and kept."""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.sweep.spec import METRICS, SweepSpec
from jobs.train.run import Opened, carry_out, train_model

if TYPE_CHECKING:
    from cluster.sweeps import Resources, Sweep
    from cluster.trial_table import TrialRow

TRIALS = "trials"
SHARED_GPU = 0.25
"""What of a GPU a trial gets: SIMS models are small beside one."""


def run_sweep(spec: SweepSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Run a sweep with everything kept in `out`, or go on with it there; raises as `carry_out` does.

    Finished trials are not run again. The folder becomes that of the best setting's model.
    """
    carry_out(spec, folder, out, lambda run: _sweep(run, folder, address, cpus))


def _sweep(run: Opened, folder: Path, address: str | None, cpus: int | None) -> None:
    import pyarrow.parquet as pq

    from cluster.session import connect
    from cluster.sweeps import sweep
    from jobs.sweep.stability import stability_table

    assert isinstance(run.spec, SweepSpec)
    spec = run.spec
    plan = plan_of(spec, folder, run.inputs.final.rows("train").size)
    where = (run.out / TRIALS).absolute()
    number = plan.number_of_settings() * plan.repeats
    done = 0

    def tell(row: "TrialRow") -> None:
        nonlocal done
        done += 1
        run.console.print(f"trial {done} of {number}: {described(row)}", soft_wrap=True, highlight=False)

    with connect(address, None if address else cpus):
        swept = sweep(plan, where, resources_of(spec), tell)
    what = _listed(swept.parameters) or "the job's settings"
    run.console.print(
        f"Best of {len(swept.rows)} trials: {plan.metric} {swept.score:.4f} with {what} ({swept.trial})."
        " Training it again …",
        soft_wrap=True,
        highlight=False,
    )
    if spec.trials.repeats > 1:
        alike = [row for row in swept.rows if row.status == "done" and row.parameters == swept.parameters]
        table = stability_table([where / row.trial for row in alike], run.inputs.reference.cells.genes)
        pq.write_table(table, run.out / "stability.parquet")
    best = spec.model_copy(update={"settings": spec.settings | swept.parameters})
    train_model(Opened(best, run.inputs, run.notes, run.out, run.console), address, cpus)


def plan_of(spec: SweepSpec, folder: Path, n_training_cells: int) -> "Sweep":
    """Return what the trials are, as `cluster.sweeps` takes it."""
    from cluster.sweeps import Scheduler, Sweep

    trials = spec.trials
    metric, mode = METRICS[trials.metric]
    return Sweep(
        factory="jobs.sweep.trial:run",
        payload={"spec": spec.model_dump(mode="json"), "folder": str(folder.resolve())},
        search=spec.search,
        metric=metric,
        mode=mode,
        method=trials.method,
        settings=trials.number,
        repeats=trials.repeats,
        seed=spec.seed,
        scheduler=Scheduler(
            trials.scheduler,
            spec.chosen.epochs_for(n_training_cells),
            trials.grace_epochs,
            trials.reduction,
            trials.perturb_epochs,
        ),
        time_limit_s=trials.time_limit_s,
    )


def resources_of(spec: SweepSpec) -> "Resources":
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
