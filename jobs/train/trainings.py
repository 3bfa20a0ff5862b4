"""The trainings that a job is made of, each resumable, and how far they are."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.interruption import raise_if_asked
from jobs.progress import duration
from jobs.train.spec import TrainSpec

if TYPE_CHECKING:
    import torch

    from learners.sims.task import Task

LINE_S = 10.0


class Trainings:
    """Trains one task after the other, in this process or on workers of a cluster.

    Parameters
    ----------
    spec : TrainSpec
    folder : Path
        Where each training has a folder of its own.
    sources : mapping
        What opens the cells again.
    workers : int or (int, int)
        0 trains in this process.
    epochs : int
        Of all trainings together, as far as known beforehand; for the estimate of what is left.
    console : Console
    """

    def __init__(
        self,
        spec: TrainSpec,
        folder: Path,
        sources: Mapping[str, Any],
        workers: int | tuple[int, int],
        epochs: int,
        console: Console,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._sources = sources
        self._workers = workers
        self._epochs = epochs
        self._console = console
        self._done = 0
        self._seconds = 0.0
        self._told = 0.0
        self.history: list[dict[str, Any]] = []

    def __call__(self, task: "Task", name: str, seed: int) -> "Mapping[str, torch.Tensor]":
        """Train a task, or take up where an earlier run of the job has left it."""
        from cluster.training import Best, Training, train

        settings, folder = task.settings, self._folder / name
        payload = task.write(folder, self._sources, seed)
        validated = len(task.validation_rows) > 0
        done = self._done
        trained = train(
            Training("learners.sims.task:build", payload, seed),
            folder,
            max_epochs=task.epochs(),
            workers=self._workers,
            precision=self._spec.precision,
            best=Best("val_accuracy", "max", settings.patience) if settings.patience and validated else None,
            loggers=self._spec.loggers,
            progress=lambda row: self._tell(name, task.epochs(), row),
        )
        self._done = done + task.epochs()
        self.history += [{"training": name, **row} for row in trained.history]
        return trained.weights()

    def _tell(self, name: str, epochs: int, row: Mapping[str, Any]) -> None:
        raise_if_asked()
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
                ("val_macro_f1", "macro-F1"),
            )
            if key in row
        )
        left = max(self._epochs - self._done, 0) * self._seconds / max(self._done, 1)
        self._console.print(
            f"{name}: epoch {row['epoch']} of {epochs} · {scores} · about {duration(left)} left",
            soft_wrap=True,
        )
