"""``neurofleet plan`` of NeuPRINT's jobs: what they will do, and how long fitting a dynamics takes here."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.neuprint.evaluations import OF_PHI
from jobs.neuprint.inputs import Inputs, epochs_of, read_inputs
from jobs.neuprint.spec import EvaluateSpec, NeuprintSpec, SweepSpec
from jobs.progress import duration

if TYPE_CHECKING:
    from learners.neuprint.settings import Settings
    from learners.neuprint.task import Task

MEASURED_EPOCHS = 2
MEASURED_STEPS = 5


def print_plan(spec: NeuprintSpec, folder: Path) -> None:
    """Print animals, neurons, classes, splits, and the time that a dynamics and its Phi take in this process.

    Raises
    ------
    UsageError, LearnerError
        The input cannot be used.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    inputs, notes = read_inputs(spec, folder)
    recordings = inputs.recordings
    animals = recordings.labels("animal")
    table = Table(title=f"{spec.name}: {spec.split}, {len(inputs.splits)} splits")
    for name in ("animal", "sessions", "frames", "neurons", f"with {spec.label}"):
        table.add_column(name, justify="left" if name == "animal" else "right")
    for animal in recordings.animals:
        own = [one for one in recordings.recordings if one.animal == animal]
        labelled = int(((animals == animal) & (inputs.classes != "")).sum())
        frames = f"{sum(one.n_frames for one in own):,}"
        table.add_row(animal, str(len(own)), frames, f"{int((animals == animal).sum()):,}", f"{labelled:,}")
    console.print(table)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    for note in notes:
        say(note)
    say(f"{len(inputs.counts)} classes: {', '.join(f'{name} {n}' for name, n in inputs.counts.items())}.")
    fits = len(inputs.splits) + (not isinstance(spec, EvaluateSpec))
    total_s = 0.0
    for name, settings in inputs.settings.items():
        epochs = epochs_of(inputs, settings, spec.mode)
        steps, epoch_s, phi_s = _measured(inputs, settings, spec.seed)
        each_s = epochs * epoch_s + phi_s
        total_s += fits * each_s
        seen = ", ".join(settings.seen) or "the own past alone"
        say(
            f"{name}: {settings.dynamics} of {seen}; {epochs} epoch{'s' if epochs > 1 else ''} of {steps}"
            f" steps, {epoch_s:.2g} s each in this process, then"
            f" {phi_s:.2g} s for the Phi of all neurons; {fits} times: about {duration(fits * each_s)}."
        )
    baselines = [name for name in spec.methods if name not in OF_PHI]
    if baselines:
        say(
            f"Probes and {', '.join(baselines)} come on top, {len(inputs.splits)} times each; the run says"
            " how long they take once one of each is done."
        )
    if isinstance(spec, SweepSpec):
        from jobs.neuprint.sweep import FACTORY
        from jobs.sweep.run import plan_of

        sweep = plan_of(spec, FACTORY, folder, epochs)
        trials = sweep.number_of_settings() * sweep.repeats
        say(
            f"Before that, {trials} trials of up to {epochs} epochs: about"
            f" {duration(trials * epochs * epoch_s)} one by one; what is searched may change it."
        )


def _measured(inputs: Inputs, settings: "Settings", seed: int) -> tuple[int, float, float]:
    """Return the steps of an epoch, its seconds, and those of inferring the Phi of all neurons."""
    from learners.neuprint.dynamics.choice import dynamics_for
    from learners.neuprint.inference import infer_phi
    from learners.neuprint.sessions import sessions_of
    from learners.neuprint.task import Task

    recordings = inputs.recordings
    neurons = np.arange(len(recordings.neurons))
    steps, step_s = _steps(Task(recordings, neurons, settings), seed)
    sessions = sessions_of(recordings, settings)
    dynamics = dynamics_for(settings, len(sessions[0].names))
    measured = settings.inference_steps if settings.is_quadratic else MEASURED_STEPS
    started = time.perf_counter()
    infer_phi(dynamics, sessions, neurons, settings.model_copy(update={"inference_steps": measured}), seed)
    return steps, steps * step_s, (time.perf_counter() - started) * settings.inference_steps / measured


def _steps(task: "Task", seed: int) -> tuple[int, float]:
    """Return how many steps an epoch has, and the seconds of one, from an epoch of a few neurons."""
    from dataclasses import replace

    from learners.neuprint.batches import MOMENT_STEPS, Place, TrainingWindows
    from learners.training import train_here

    settings, sessions = task.settings, task.sessions
    short = settings.model_copy(update={"epochs": MEASURED_EPOCHS, "least_steps": 0})
    if settings.is_quadratic:
        task, steps = replace(task, settings=short), MOMENT_STEPS
        measured = steps
    else:
        every = [np.arange(len(session.numbers)) for session in sessions]
        steps = len(TrainingWindows(sessions, every, settings, Place(), seed))
        few = sessions[0].numbers[: settings.batch_neurons]
        task = replace(task, train_neurons=few, settings=short)
        rows = [np.flatnonzero(np.isin(one.numbers, few)) for one in task.sessions]
        measured = len(TrainingWindows(task.sessions, rows, settings, Place(), seed))
    ends: list[float] = []
    train_here(task, "plan", seed, lambda row: ends.append(time.perf_counter()))
    return steps, (ends[-1] - ends[-2]) / measured
