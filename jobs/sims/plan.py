"""``neurofleet plan`` of a training or a sweep: what it will do, and how long an epoch takes here."""

import time
from pathlib import Path

from jobs.progress import duration
from jobs.sims.inputs import Inputs, read_inputs
from jobs.sims.spec import TrainSpec

MEASURED_STEPS = 10


def print_train_plan(spec: TrainSpec, folder: Path) -> None:
    """Print cells, genes, split, epochs and the time they take in this process, after a few measured steps.

    Raises
    ------
    UsageError, LearnerError
        The input cannot be used.
    """
    from rich.console import Console
    from rich.table import Table

    from jobs.sims.run import epochs_in_all

    console = Console()
    inputs = read_inputs(spec, folder)
    n_cells, n_genes = inputs.reference.cells.shape
    n_classes = len(inputs.labels.classes)
    table = Table(title=f"{spec.name}: {n_cells:,} cells × {n_genes:,} genes, {n_classes} classes")
    for name in ("split", "training", "validation", "test"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for number, split in enumerate(inputs.splits, 1):
        counts = [f"{len(split.rows(role)):,}" for role in ("train", "validation", "test")]
        table.add_row(f"fold {number}" if len(inputs.splits) > 1 else "all", *counts)
    console.print(table)
    for note in (*inputs.notes, *inputs.final.notes):
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    epochs = epochs_in_all(spec, inputs)
    step_s, steps = _measured(spec, inputs)
    console.print(
        f"{epochs} epochs of {steps} steps in all trainings. A step takes {1000 * step_s:.0f} ms in this"
        f" process: about {duration(epochs * steps * step_s)}, baselines not counted.",
        soft_wrap=True,
        highlight=False,
    )
    if spec.kind == "sweep":
        from jobs.sims.spec import SweepSpec
        from jobs.sims.sweep import trials_of

        assert isinstance(spec, SweepSpec)
        sweep = trials_of(spec, folder, len(inputs.final.rows("train")))
        trials, each = sweep.number_of_settings() * sweep.repeats, sweep.scheduler.max_epochs
        console.print(
            f"Before that, {trials} trials of up to {each} epochs: about"
            f" {duration(trials * each * steps * step_s)} one by one; what is searched may change it.",
            soft_wrap=True,
            highlight=False,
        )


def _measured(spec: TrainSpec, inputs: Inputs) -> tuple[float, int]:
    """Return seconds of a step, and how many an epoch has."""
    import numpy as np

    from learners.training import train_here

    rows = inputs.final.rows("train")
    few = rows[: MEASURED_STEPS * spec.chosen.batch_size]
    settings = spec.chosen.model_copy(update={"epochs": 2, "most_steps": None})
    if settings.schedule == "plateau":
        settings = settings.model_copy(update={"schedule": "one-cycle"})
    task = inputs.reference.task(few, np.array([], dtype=np.int64), settings)
    ends = [time.perf_counter()]
    train_here(task, "plan", spec.seed, lambda row: ends.append(time.perf_counter()))
    steps = max(len(few) // settings.batch_size, 1)
    return (ends[-1] - ends[-2]) / steps, max(len(rows) // settings.batch_size, 1)
