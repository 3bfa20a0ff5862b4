"""``neurofleet plan`` of a sensitivity analysis: how many runs, and how long they take here."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

from jobs.errors import UsageError
from jobs.progress import duration
from jobs.sensitivity.inputs import Subject, read_subjects
from jobs.sensitivity.run import parts_of
from jobs.sensitivity.spec import SensitivitySpec

MEASURED_RUNS = 3


def print_sensitivity_plan(spec: SensitivitySpec, folder: Path) -> None:
    """Print cells, models, parameters, runs and core-hours, after a few runs of each cell's first model.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    from rich.console import Console
    from rich.table import Table

    subjects, notes = read_subjects(spec, folder)
    table = Table(title=f"{spec.name}: Sobol indices of {len(spec.features)} features")
    table.add_column("cell")
    for name in ("models", "parameters", "protocol", "runs", "s each", "core-h"):
        table.add_column(name, justify="right")
    total_s = 0.0
    for subject in subjects:
        runs = sum(part.size for part in parts_of(spec, [subject]))
        each_s = _seconds_each(subject)
        total_s += runs * each_s
        table.add_row(
            subject.cell,
            str(len(subject.population)),
            str(len(subject.parameters)),
            subject.protocol.name,
            f"{runs:,}",
            f"{each_s:.3g}",
            f"{runs * each_s / 3600:.3g}",
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    if spec.engine == "uncertainpy":
        console.print("uncertainpy then takes minutes for each model on top, on the driver.", soft_wrap=True)
    console.print(
        f"About {total_s / 3600:.3g} core-hours ({duration(total_s)} on one core), from {MEASURED_RUNS} "
        "runs of the first model of each cell.",
        soft_wrap=True,
    )


def _seconds_each(subject: Subject) -> float:
    """Run the first model in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.sensitivity.plan"],
        input=pickle.dumps((subject.measure, subject.population.values[0])),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"cell {subject.cell} cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_runs() -> None:
    """Print the mean seconds of runs of the model on standard input (ours, from above)."""
    measure, values = pickle.load(sys.stdin.buffer)
    run = measure.build()
    started = time.perf_counter()
    for _ in range(MEASURED_RUNS):
        run(values)
    print("\n", (time.perf_counter() - started) / MEASURED_RUNS)


if __name__ == "__main__":
    _time_runs()
