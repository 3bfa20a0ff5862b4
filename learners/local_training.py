"""Train a task in this process, without a cluster."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch

from neurofleet.errors import TrainingFailed
from neurofleet.learners.progress import StepProgress, logger

SHOWN_METRICS = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_accuracy": "accuracy",
    "val_balanced_accuracy": "balanced accuracy",
    "val_macro_f1": "macro-F1",
    "val_r2": "R²",
}
"""What modules log -> what it is called in progress."""


class TrainingTask(Protocol):
    """A training that a learner describes: what is trained, on what, and for how long."""

    def module(self) -> pl.LightningModule:
        """Return what is trained."""

    def data(self, seed: int) -> pl.LightningDataModule:
        """Return its data; `seed` decides their order."""

    def epochs(self) -> int:
        """Return after how many epochs training ends."""


class Train(Protocol):
    """How tasks are trained: in this process (`train_here`, `TrainHere`), or on a cluster."""

    def __call__(self, task: Any, name: str, seed: int) -> Mapping[str, torch.Tensor]:
        """Return the state of the task's module after training; `name` tells trainings apart."""


@runtime_checkable
class TrainsAhead(Train, Protocol):
    """Trainings that another process can do meanwhile."""

    def ahead(self, task: Any, name: str, seed: int) -> Callable[[], object] | None:
        """Return what does a training in any process, so that a call then finds it done; None where none may.

        It can be pickled.
        """


@dataclass(frozen=True)
class Prefixed:
    """Trains as another does, with a prefix before the names of trainings."""

    train: Train
    prefix: str

    def __call__(self, task: Any, name: str, seed: int) -> Mapping[str, torch.Tensor]:
        """Return the state of the task's module after training."""
        return self.train(task, self.prefix + name, seed)

    def ahead(self, task: Any, name: str, seed: int) -> Callable[[], object] | None:
        """See `TrainsAhead`."""
        return self.train.ahead(task, self.prefix + name, seed) if isinstance(self.train, TrainsAhead) else None


def train_here(
    task: TrainingTask, name: str, seed: int, progress: Callable[[dict[str, float]], None] = lambda metrics: None
) -> Mapping[str, torch.Tensor]:
    """Train a task's module and return its state.

    Parameters
    ----------
    progress : callable
        Is called with each epoch's metrics.

    Raises
    ------
    TrainingFailed
        As `without_nan` does.
    KeyboardInterrupt
        Ctrl-C.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(seed, verbose=False)
    module, data = task.module(), task.data(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            max_epochs=task.epochs(),
            accelerator="gpu" if torch.cuda.is_available() else "cpu",  # Metal has no sparse matrices
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[_Epochs(data, progress)],
        )
        with _interruptible(trainer):
            trainer.fit(module, data)
    return without_nan(module.cpu().state_dict(), name)


def without_nan(weights: Mapping[str, torch.Tensor], name: str) -> Mapping[str, torch.Tensor]:
    """Return the weights of the training `name`.

    Raises
    ------
    TrainingFailed
        If one is NaN: every answer of such a network is.
    """
    lost = [key for key, values in weights.items() if values.is_floating_point() and bool(values.isnan().any())]
    if lost:
        raise TrainingFailed(
            f"{name}: the training has diverged: weights of the network are NaN ({', '.join(lost[:3])}). Lower"
            " `learning_rate`, and look for extreme values in the input."
        )
    return weights


@contextmanager
def _interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Turn what Lightning makes of Ctrl-C, an exit that also ignores the next one, back into KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise


class TrainHere:
    """Trains one task after the other in this process, and logs its progress: see `neurofleet.learners.progress`.

    Parameters
    ----------
    epochs : int, optional
        Of all trainings to come together, where that is known: the time left is then that of all of them.
    """

    def __init__(self, epochs: int | None = None) -> None:
        self._epochs = epochs
        self._steps: StepProgress | None = None

    def __call__(self, task: TrainingTask, name: str, seed: int) -> Mapping[str, torch.Tensor]:
        """Train a task, and return the state of its module."""
        epochs, done = task.epochs(), 0
        if self._epochs is not None and self._steps is None:
            self._steps = StepProgress(self._epochs)  # its clock starts with the first training
        steps = self._steps or StepProgress(epochs, "of this training")

        def progress(metrics: dict[str, float]) -> None:
            nonlocal done
            done += 1
            words = metrics_in_words(metrics)
            steps.done(" · ".join(filter(None, [f"{name}: epoch {done} of {epochs}", words])))

        return train_here(task, name, seed, progress)

    def print(self, line: str) -> None:
        """Say something else that a user is to know."""
        logger.info(line)


def metrics_in_words(metrics: Mapping[str, Any]) -> str:
    """Return the metrics of an epoch for display."""
    return " · ".join(f"{label} {metrics[name]:.3f}" for name, label in SHOWN_METRICS.items() if name in metrics)


class _Epochs(pl.Callback):
    def __init__(self, data: pl.LightningDataModule, progress: Callable[[dict[str, float]], None]) -> None:
        self._set_epoch = getattr(data, "set_epoch", lambda epoch: None)
        self._progress = progress

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._progress({name: float(value) for name, value in trainer.callback_metrics.items()})
