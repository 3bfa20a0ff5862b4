"""The run of a HIPPIE sweep: trials, then a training with the best setting."""

from dataclasses import replace
from pathlib import Path

from jobs.carrying_out import Opened, carry_out
from jobs.hippie.pretraining import methods_of
from jobs.hippie.run import read_inputs, train_model
from jobs.hippie.spec import SweepSpec
from jobs.sweep.run import plan_of, run_trials
from jobs.train.folder import DESCRIPTION

SEEN = (
    "The sweep has compared its trials on some of the units that the scores below are of: these are a little"
    " too good, by as much as there was to choose from. An evaluation on other units is free of that."
)


def run_sweep(spec: SweepSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Run a sweep with everything kept in `out`, or go on with it there; raises as `carry_out` does.

    Finished trials are not run again. The folder becomes that of the best setting's model.
    """
    carry_out(
        spec,
        folder,
        out,
        lambda: read_inputs(spec, folder),
        lambda run: _sweep(run, folder, address, cpus),
        DESCRIPTION,
    )


def _sweep(run: Opened, folder: Path, address: str | None, cpus: int | None) -> None:
    spec = run.spec
    plan = plan_of(spec, "jobs.hippie.trial:run", folder, spec.chosen.epochs)
    swept = run_trials(spec, plan, run.out, run.console, address, cpus)
    best = spec.with_settings(swept.parameters)
    has_pool = run.inputs.pool is not None
    outdated = methods_of(spec, has_pool)[1]
    notes = [note for note in run.notes if note not in outdated] + methods_of(best, has_pool)[1]
    train_model(replace(run, spec=best, notes=[*notes, SEEN]), folder, address, cpus)
