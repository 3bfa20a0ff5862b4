"""The run of a NeuPRINT sweep: trials, then the best setting trained again, scored and kept."""

from dataclasses import replace
from pathlib import Path

from jobs.carrying_out import Opened, carry_out
from jobs.neuprint.inputs import epochs_of, read_inputs
from jobs.neuprint.run import train_model
from jobs.neuprint.spec import SweepSpec
from jobs.sweep.run import plan_of, run_trials
from jobs.train.folder import DESCRIPTION

FACTORY = "jobs.neuprint.trial:run"
SEEN = (
    "The sweep has compared its trials by how well they predict the last frames of the first split's training"
    " neurons. No class was read for that, so the scores are those of settings that were given beforehand."
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
    plan = plan_of(spec, FACTORY, folder, epochs_of(run.inputs, spec.chosen, spec.mode))
    swept = run_trials(spec, plan, run.out, run.console, address, cpus)
    best = spec.with_settings(swept.parameters)
    inputs = replace(run.inputs, settings={"phi": best.chosen})
    train_model(replace(run, spec=best, inputs=inputs, notes=[*run.notes, SEEN]), address, cpus)
