"""``neurofleet plan`` of a sample: how long its draws take here, after a few of them."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

from jobs.carrying_out import refuse_missing
from jobs.errors import UsageError
from jobs.progress import duration
from jobs.sample.inputs import Sampling, read_samplings
from jobs.sample.spec import SampleSpec

MEASURED_DRAWS = 24
LIMIT_S = 40.0


def print_sample_plan(spec: SampleSpec, folder: Path) -> None:
    """Print cells, parameters, targets, draws and core-hours.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    from rich.console import Console
    from rich.table import Table

    refuse_missing(spec, folder)
    samplings, notes = read_samplings(spec, folder)
    table = Table(title=f"{spec.name}: {spec.draws:,} draws a cell")
    table.add_column("cell")
    for name in ("parameters", "targets", "protocols", "s each", "core-h"):
        table.add_column(name, justify="right")
    total = 0.0
    for sampling in samplings:
        each = _seconds_each(sampling, spec)
        total += each * spec.draws
        table.add_row(
            sampling.cell,
            str(len(sampling.design.space)),
            str(len(sampling.model.targets.targets)),
            str(len(sampling.model.targets.protocols)),
            f"{each:.3g}",
            f"{each * spec.draws / 3600:.3g}",
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"About {total / 3600:.3g} core-hours ({duration(total)} on one core), from the mean of the first "
        f"{MEASURED_DRAWS} draws.",
        soft_wrap=True,
    )


def _seconds_each(sampling: Sampling, spec: SampleSpec) -> float:
    """Run the first draws in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.sample.plan"],
        input=pickle.dumps((sampling, spec)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"cell {sampling.cell} cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_draws() -> None:
    """Print the mean seconds of the first draws of the sampling on standard input (ours, from above)."""
    from neurosim.budget import BudgetExceeded
    from neurosim.sampling import SampleMeasure
    from neurosim.warm import IncompleteRun

    sampling, spec = pickle.load(sys.stdin.buffer)
    run = SampleMeasure(sampling.model, spec.within_z, spec.stop_early, spec.max_steps).build()
    seconds = []
    for values in sampling.design.rows(0, min(MEASURED_DRAWS, spec.draws)):
        started = time.perf_counter()
        try:
            run(values)
        except (BudgetExceeded, IncompleteRun):
            pass  # its time counts like any other
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > LIMIT_S:
            break
    print("\n", sum(seconds) / len(seconds))


if __name__ == "__main__":
    _time_draws()
