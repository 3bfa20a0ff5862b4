"""Lightning callbacks of a training: seeds, history, the best epoch, early stopping, checkpoints."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from neurofleet.cluster.cluster_errors import ClusterError
from neurofleet.cluster.training.checkpoints import STATE_KEY, CheckpointFiles, CheckpointState, safely_loaded
from neurofleet.cluster.training.data_division import DataDivision
from neurofleet.cluster.training.lightning_training import EpochRow


class EpochSeeds(pl.Callback):
    """Begins each epoch with the randomness that is its own.

    Parameters
    ----------
    division : DataDivision
    """

    def __init__(self, division: DataDivision) -> None:
        self._division = division

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._division.epoch = trainer.current_epoch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            # Once more: loading the first batch has drawn numbers, how many depends on the loader.
            self._division.seed_epoch()


def early_stopping(best: Sequence[Any] | None) -> list[pl.Callback]:
    """Lightning's early stopping, if there is a patience: what ends training for want of a better epoch."""
    if best is None or best[2] is None:
        return []
    metric, mode, patience = best
    # Not strict: the keeper, called next, says what there is instead.
    return [
        pl.callbacks.EarlyStopping(
            metric, mode=mode, patience=patience, min_delta=0.0, strict=False, check_on_train_epoch_end=True
        )
    ]


class NewOptimizerSettings(pl.Callback):
    """Gives restored optimisers the settings that the module has now, in place of the checkpoint's."""

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        fresh = _optimizers(pl_module.configure_optimizers())
        for state, optimizer in zip(checkpoint["optimizer_states"], fresh, strict=True):
            for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
                saved.update({name: value for name, value in group.items() if name != "params"})


def _optimizers(configured: Any) -> list[torch.optim.Optimizer]:
    """The optimisers in what a module's ``configure_optimizers`` may return."""
    match configured:
        case torch.optim.Optimizer():
            return [configured]
        case {"optimizer": optimizer}:
            return [optimizer]
        case ([*optimizers], [*_]):
            return optimizers
        case list() | tuple():
            return [optimizer for part in configured for optimizer in _optimizers(part)]
    return []


class EpochRecorder(pl.callbacks.Checkpoint):
    """Keeps each epoch's row of the history and its checkpoint, and tells of it.

    Lightning calls this kind of callback after all others, so that their states in the checkpoint are those
    of the epoch's end.

    Parameters
    ----------
    files : CheckpointFiles
    state : CheckpointState
        As the last checkpoint left it.
    best : (metric, mode, patience), optional
    tell : callable
        Is called in the process of rank 0 with an epoch's row.
    """

    def __init__(
        self,
        files: CheckpointFiles,
        state: CheckpointState,
        best: Sequence[Any] | None,
        tell: Callable[[EpochRow], None],
    ) -> None:
        self._files = files
        self._state = state
        self._best = best
        self._tell = tell
        self._begun = 0.0
        self._checked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._state.history:
            _step_plateau_schedulers(trainer, pl_module, self._state.history[-1])
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = time.monotonic()
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        row = {"epoch": trainer.current_epoch + 1, "seconds": now - self._begun, **metrics}
        self._state.history.append(row)
        improved = self._best is not None and self._is_best(row, *self._best[:2])
        self._state.stopped = trainer.should_stop
        self._save(trainer, improved)
        self._begun = now
        if trainer.is_global_zero:
            self._tell(row)

    def _is_best(self, row: EpochRow, metric: str, mode: str) -> bool:
        if metric not in row:
            logged = ", ".join(name for name in row if name not in ("epoch", "seconds")) or "nothing"
            raise ClusterError(
                f"The best epoch is to be the one with the {mode} of {metric!r}, which the module does not"
                f" log. It logs: {logged}."
            )
        score = row[metric]
        better = score < self._state.best_score if mode == "min" else score > self._state.best_score
        if math.isnan(score) or (self._state.best_epoch and not better):
            return False
        self._state.best_epoch, self._state.best_score = row["epoch"], score
        return True

    def _save(self, trainer: pl.Trainer, improved: bool) -> None:
        with tempfile.TemporaryDirectory(prefix="nf-checkpoint-") as folder:
            path = Path(folder) / "checkpoint.ckpt"
            trainer.save_checkpoint(path)
            if not trainer.is_global_zero:
                return
            content = path.read_bytes()
        if not self._checked:
            safely_loaded(content, "The checkpoint of this module")
            self._checked = True
        self._files.save(self._state.epochs, content, improved)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[STATE_KEY] = asdict(self._state)


def _step_plateau_schedulers(trainer: pl.Trainer, module: pl.LightningModule, row: EpochRow) -> None:
    """Step the schedulers that watch a metric for the last finished epoch.

    Lightning does so at the very end of an epoch, after the checkpoint is written, and not again after it
    is loaded.
    """
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.interval == "epoch" and row["epoch"] % config.frequency == 0:
            value = row.get(config.monitor or "val_loss")
            if value is not None:
                module.lr_scheduler_step(config.scheduler, torch.tensor(value))
