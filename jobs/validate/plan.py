"""``neurofleet plan`` of a validation: what it runs, and how long the first model takes here."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

from jobs.errors import UsageError
from jobs.populations.models import refuse_missing_models
from jobs.progress import duration
from jobs.validate.inputs import read_validations
from jobs.validate.spec import ValidateSpec


def print_validate_plan(spec: ValidateSpec, folder: Path) -> None:
    """Print cells, models, unseen targets, stimuli and core-hours.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    from rich.console import Console
    from rich.table import Table

    refuse_missing_models(spec, folder)
    validations, notes = read_validations(spec, folder)
    table = Table(title=spec.name)
    table.add_column("cell")
    for name in ("models", "trained targets", "unseen targets", "stimuli"):
        table.add_column(name, justify="right")
    for one in validations:
        table.add_row(
            one.cell,
            str(len(one.population)),
            str(len(one.population.model.targets.targets)),
            str(len(one.generalisation.targets) if one.generalisation else 0),
            str(len(one.stimuli)),
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    each = _seconds(spec, validations[0])
    models = sum(len(one.population) for one in validations)
    console.print(
        f"{models} models, about {each * models / 3600:.3g} core-hours ({duration(each * models)} on one"
        f" core): the best model of {validations[0].cell} takes {duration(each)}.",
        soft_wrap=True,
    )


def _seconds(spec: ValidateSpec, validation: object) -> float:
    """Run the first model in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.validate.plan"],
        input=pickle.dumps((spec, validation)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"the model cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_first() -> None:
    """Print the seconds of the best model of the validation on standard input (ours, from above)."""
    from neurosim.validation.measure import ValidationMeasure

    spec, one = pickle.load(sys.stdin.buffer)
    model = one.population.model
    run = ValidationMeasure(model, one.generalisation, tuple(one.stimuli), spec.max_steps).build()
    started = time.perf_counter()
    run(one.population.values[0])
    print("\n", time.perf_counter() - started)


if __name__ == "__main__":
    _time_first()
