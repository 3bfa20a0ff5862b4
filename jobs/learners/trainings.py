"""The trainings that a job is made of, each resumable, and the printing of their progress."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from neurofleet.cluster.training.lightning_training import BestEpoch, Training
from neurofleet.cluster.training.trainer import train
from neurofleet.jobs.interruption import raise_if_interrupted
from neurofleet.jobs.learners.learner_job import LearnerSpec
from neurofleet.jobs.progress import duration

if TYPE_CHECKING:
    import torch

LINE_S = 10.0


class Trainings:
    """Trains one task after the other, in this process or on workers of a cluster.

    A task has `epochs`, and `build` in its module makes it again from what it has written.

    Parameters
    ----------
    spec : LearnerSpec
    folder : Path
        Where each training has a folder of its own.
    write : callable
        Is given a task, a folder and a seed; writes the task there and returns the payload of `build`.
    best : callable
        Is given a task and says which epoch to keep; None keeps the last.
    workers : int or (int, int)
        0 trains in this process.
    epochs : int
        Of all trainings together, as far as known beforehand; for the estimate of what is left.
    console : Console
    """

    def __init__(
        self,
        spec: LearnerSpec,
        folder: Path,
        write: Callable[[Any, Path, int], dict[str, Any]],
        best: "Callable[[Any], BestEpoch | None]",
        workers: int | tuple[int, int],
        epochs: int,
        console: Console,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._write = write
        self._best = best
        self._workers = workers
        self._epochs = epochs
        self._console = console
        self._done = 0
        self._seconds = 0.0
        self._told = 0.0
        self.history: list[dict[str, Any]] = []

    def __call__(self, task: Any, name: str, seed: int) -> "Mapping[str, torch.Tensor]":
        """Train a task, or take up where an earlier run of the job has left it."""
        folder = self._folder / name
        payload = self._write(task, folder, seed)
        done = self._done
        trained = train(
            Training(f"{type(task).__module__}:build", payload, seed),
            folder,
            max_epochs=task.epochs(),
            workers=self._workers,
            precision=self._spec.precision,
            best=self._best(task),
            loggers=self._spec.loggers,
            progress=lambda row: self._tell(name, task.epochs(), row),
        )
        self._done = done + task.epochs()
        self.history += [{"training": name, **row} for row in trained.history]
        return trained.weights()

    def _tell(self, name: str, epochs: int, row: Mapping[str, Any]) -> None:
        raise_if_interrupted()
        self._done += 1
        self._seconds += row["seconds"]
        now = time.monotonic()
        if now - self._told < LINE_S and row["epoch"] < epochs:
            return
        self._told = now
        scores = " · ".join(
            f"{label} {row[key]:.3f}"
            for key, label in (
                ("train_loss", "training loss"),
                ("val_loss", "validation loss"),
                ("val_accuracy", "accuracy"),
                ("val_balanced_accuracy", "balanced accuracy"),
                ("val_macro_f1", "macro-F1"),
                ("val_r2", "R²"),
            )
            if key in row
        )
        left = max(self._epochs - self._done, 0) * self._seconds / max(self._done, 1)
        self._console.print(
            f"{name}: epoch {row['epoch']} of {epochs} · {scores} · about {duration(left)} left",
            soft_wrap=True,
        )
