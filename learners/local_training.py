"""Train a task in this process, without a cluster."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import lightning.pytorch as pl
import torch


class TrainingTask(Protocol):
    """A training that a learner describes: what is trained, on what, and for how long."""

    def module(self) -> pl.LightningModule:
        """Return what is trained."""

    def data(self, seed: int) -> pl.LightningDataModule:
        """Return its data; `seed` decides their order."""

    def epochs(self) -> int:
        """Return after how many epochs training ends."""


def train_here(
    task: TrainingTask, name: str, seed: int, progress: Callable[[dict[str, float]], None] = lambda row: None
) -> Mapping[str, torch.Tensor]:
    """Train a task's module and return its state.

    Parameters
    ----------
    progress : callable
        Is told each epoch's metrics.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(seed, verbose=False)
    module, data = task.module(), task.data(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            max_epochs=task.epochs(),
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[_Epochs(data, progress)],
        )
        trainer.fit(module, data)
    return module.cpu().state_dict()


class _Epochs(pl.Callback):
    def __init__(self, data: pl.LightningDataModule, progress: Callable[[dict[str, float]], None]) -> None:
        self._set_epoch = getattr(data, "set_epoch", lambda epoch: None)
        self._progress = progress

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._progress({name: float(value) for name, value in trainer.callback_metrics.items()})
