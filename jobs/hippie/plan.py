"""``neurofleet plan`` of HIPPIE's jobs: what they will do, and how long a network takes here."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.hippie.spec import EvaluateSpec, Folded, SweepSpec, TrainSpec
from jobs.progress import duration

if TYPE_CHECKING:
    from jobs.hippie.inputs import Labelled

MEASURED_EPOCHS = 3


def print_plan(spec: Folded, folder: Path) -> None:
    """Print units, classes, folds and the time that networks take in this process, after a few epochs.

    Raises
    ------
    UsageError, LearnerError
        The input cannot be used.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sets = _sets(spec, folder)
    table = Table(title=f"{spec.name}: {spec.folds} folds × {spec.repeats}")
    for name in ("set", "units", "classes", "split"):
        table.add_column(name)
    table.add_column("fine-tunings", justify="right")
    table.add_column("each", justify="right")
    total_s = 0.0
    for name, found in sets.items():
        fits, each_s = _fits(spec), _measured(spec, found)
        total_s += fits * each_s
        split = "random" if found.groups is None else f"{len(set(found.groups))} groups kept apart"
        labelled = int((found.labels >= 0).sum())
        table.add_row(name, f"{labelled:,}", str(len(found.classes)), split, str(fits), f"{each_s:.1f} s")
    console.print(table)
    for name, found in sets.items():
        for note in found.notes:
            console.print(f"{name}: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"Networks take about {duration(total_s)} one after the other; folds are done side by side on"
        " workers. Classical classifiers and pretraining come on top.",
        soft_wrap=True,
        highlight=False,
    )
    if isinstance(spec, SweepSpec):
        from jobs.sweep.run import plan_of

        sweep = plan_of(spec, "jobs.hippie.trial:run", folder, spec.chosen.epochs)
        trials = sweep.number_of_settings() * sweep.repeats
        each_s = _measured(spec, next(iter(sets.values())))
        console.print(f"Before that, {trials} trials: about {duration(trials * each_s)} one by one.")


def _sets(spec: Folded, folder: Path) -> "dict[str, Labelled]":
    from jobs.hippie.evaluate import read_inputs as read_sets
    from jobs.hippie.run import read_inputs

    if isinstance(spec, EvaluateSpec):
        inputs, _ = read_sets(spec, folder)
        return {one.name: found for one, found in zip(spec.sets, inputs.sets, strict=True)}
    assert isinstance(spec, TrainSpec)
    return {spec.name: read_inputs(spec, folder)[0].labelled}


def _fits(spec: Folded) -> int:
    """Return how many times networks are fine-tuned for one set, in whole trainings."""
    from learners.hippie.classical import FOLDS

    has_head, has_best = "head" in spec.methods, "best" in spec.methods
    in_fold = has_head or has_best
    each = int(in_fold) + FOLDS * has_best
    shuffled = spec.shuffles * spec.folds / spec.chosen.members if in_fold else 0
    kept = 1 + FOLDS if isinstance(spec, TrainSpec) else 0
    return round(each * (spec.folds * spec.repeats + 3) + shuffled + kept)


def _measured(spec: Folded, found: "Labelled") -> float:
    """Return the seconds of one fine-tuning in this process."""
    from jobs.hippie.pieces import labelled_rows
    from learners.hippie.networks import fine_tune
    from learners.training import Task, train_here

    ends = []

    def timed(task: Task, name: str, seed: int):
        return train_here(task, name, seed, lambda row: ends.append(time.perf_counter()))

    few = spec.chosen.model_copy(update={"epochs": MEASURED_EPOCHS})
    fine_tune(found.units, found.labels, len(found.classes), labelled_rows(found), few, timed, spec.seed)
    return (ends[-1] - ends[0]) / (MEASURED_EPOCHS - 1) * spec.chosen.epochs
