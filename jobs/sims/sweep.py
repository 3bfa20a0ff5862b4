"""The run of a SIMS sweep: trials, then the best setting trained again, scored and kept."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.carrying_out import Opened, carry_out
from jobs.sims.run import read_with_notes, train_model
from jobs.sims.spec import SweepSpec
from jobs.sweep.run import TRIALS, plan_of, run_trials
from jobs.train.folder import DESCRIPTION

if TYPE_CHECKING:
    from cluster.sweeps import Sweep


def run_sweep(spec: SweepSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Run a sweep with everything kept in `out`, or go on with it there; raises as `carry_out` does.

    Finished trials are not run again. The folder becomes that of the best setting's model.
    """
    carry_out(
        spec,
        folder,
        out,
        lambda: read_with_notes(spec, folder),
        lambda run: _sweep(run, folder, address, cpus),
        DESCRIPTION,
    )


def trials_of(spec: SweepSpec, folder: Path, n_training_cells: int) -> "Sweep":
    """Return what the trials are."""
    return plan_of(spec, "jobs.sims.trial:run", folder, spec.chosen.epochs_for(n_training_cells))


def _sweep(run: Opened, folder: Path, address: str | None, cpus: int | None) -> None:
    import pyarrow.parquet as pq

    from jobs.sims.stability import stability_table

    spec = run.spec
    plan = trials_of(spec, folder, run.inputs.final.rows("train").size)
    swept = run_trials(spec, plan, run.out, run.console, address, cpus)
    if spec.trials.repeats > 1:
        where = (run.out / TRIALS).absolute()
        alike = [row for row in swept.rows if row.status == "done" and row.parameters == swept.parameters]
        table = stability_table([where / row.trial for row in alike], run.inputs.reference.cells.genes)
        pq.write_table(table, run.out / "stability.parquet")
    best = spec.with_settings(swept.parameters)
    train_model(replace(run, spec=best), address, cpus)
