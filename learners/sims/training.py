"""Train a task in this process, without a cluster."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from learners.sims.task import SimsData, Task


def train_here(
    task: Task, name: str, seed: int, progress: Callable[[dict[str, float]], None] = lambda row: None
) -> Mapping[str, torch.Tensor]:
    """Train a task's module and return its state.

    Parameters
    ----------
    progress : callable
        Is told each epoch's metrics.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(seed, verbose=False)
    module, data = task.module(), SimsData(task, seed)
    trainer = pl.Trainer(
        max_epochs=task.epochs(),
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_Epochs(data, progress)],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(module, data)
    return module.cpu().state_dict()


class _Epochs(pl.Callback):
    def __init__(self, data: SimsData, progress: Callable[[dict[str, float]], None]) -> None:
        self._data = data
        self._progress = progress

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._data.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._progress({name: float(value) for name, value in trainer.callback_metrics.items()})
