"""One process of a training, alone or one of several workers.

`LightningFit` sets up Lightning's trainer. Its callbacks, below, seed each epoch, keep the history, find the best
epoch, stop early, and write checkpoints.
"""

from __future__ import annotations

import importlib
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning

from neurofleet.cluster.training.checkpoints import STATE_KEY, CheckpointFiles, CheckpointState, safely_loaded
from neurofleet.cluster.training.data_division import DataDivision, seed_everything
from neurofleet.cluster.training.lightning_training import BestEpoch, EpochRow, FitSettings, Training
from neurofleet.errors import ClusterError
from neurofleet.scratch import scratch_folder

SINGLE_DEVICE: Mapping[str, Any] = {"devices": 1}


class LightningFit:
    """A training in this process, set up to go on from its last checkpoint.

    Parameters
    ----------
    training : Training
    settings : FitSettings
    on_epoch : callable
        Called with an epoch's row when its checkpoint is written, in the process of rank 0.
    strategy : mapping
        Lightning's settings for this process among the others.

    Raises
    ------
    Exception
        What the factory raises.
    """

    def __init__(
        self,
        training: Training,
        settings: FitSettings,
        on_epoch: Callable[[EpochRow], None],
        strategy: Mapping[str, Any] = SINGLE_DEVICE,
    ) -> None:
        self._files = CheckpointFiles(settings.checkpoints)
        self._last = self._files.last(training)
        state = self._last.state if self._last else CheckpointState(training.fingerprint, [])
        changed = self._last is not None and state.changeable != training.changeable
        state.changeable = dict(training.changeable)
        seed_everything(training.seed)
        self._module, self._data = _build_module_and_data(training)
        accelerator = _accelerator(settings.accelerator)
        precision: Any = settings.precision or _precision(accelerator)
        with _quiet():
            self._trainer = pl.Trainer(
                max_epochs=settings.max_epochs,
                accelerator=accelerator,
                precision=precision,
                gradient_clip_val=settings.gradient_clip_norm,
                callbacks=[
                    EpochSeeds(division := DataDivision(training.seed, state.epochs)),
                    *early_stopping(settings.best),
                    *([NewOptimizerSettings()] if changed else []),
                    EpochRecorder(self._files, state, settings.best, on_epoch),
                ],
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                **strategy,
            )
        division.apply(self._data, self._trainer)

    @property
    def epochs_done(self) -> int:
        """How many epochs the last checkpoint holds."""
        return self._last.state.epochs if self._last else 0

    def run(self) -> None:
        """Train to the end.

        Raises
        ------
        Exception
            What the module raises.
        KeyboardInterrupt
        """
        with scratch_folder() as here, _quiet(), _interrupts_passed_up():
            path = self._files.fetch(self._last.name, here) if self._last else None
            self._trainer.fit(
                self._module,
                datamodule=self._data,
                ckpt_path=path,
                weights_only=True if path else None,
            )


def _build_module_and_data(training: Training) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    module, _, function = training.factory.partition(":")
    match getattr(importlib.import_module(module), function)({**training.payload, **training.changeable}):
        case (pl.LightningModule() as made, pl.LightningDataModule() as data):
            return made, data
        case other:
            raise ClusterError(
                f"{training.factory} should return a LightningModule and a LightningDataModule of"
                f" lightning.pytorch; it returned {other!r:.200}."
            )


def _accelerator(requested: str) -> str:
    if requested == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    if requested == "gpu" and not torch.cuda.is_available():
        raise ClusterError("A GPU was requested, and torch sees none here. Use accelerator: cpu, or auto.")
    return requested


def _precision(accelerator: str) -> str:
    return "bf16-mixed" if accelerator == "gpu" and torch.cuda.is_bf16_supported() else "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's messages and tips off the terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", r".*treespec, LeafSpec.*")  # Lightning uses what torch is about to remove
        # About loaders with a length and about empty ones; both are meant here.
        warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\.data")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _interrupts_passed_up() -> Iterator[None]:
    """Turn the exit that Lightning makes of Ctrl-C, after which it ignores the next, back into a KeyboardInterrupt."""
    on_sigint = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, on_sigint)
            raise KeyboardInterrupt from None
        raise


class EpochSeeds(pl.Callback):
    """Seeds all generators at the start of each epoch.

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


def early_stopping(best: BestEpoch | None) -> list[pl.Callback]:
    """Return Lightning's callback for early stopping, if there is a patience."""
    if best is None or best.patience is None:
        return []
    # Not strict about a missing metric: EpochRecorder, called next, raises an error that lists those there are.
    return [
        pl.callbacks.EarlyStopping(
            best.metric,
            mode=best.mode,
            patience=best.patience,
            min_delta=0.0,
            strict=False,
            check_on_train_epoch_end=True,
        )
    ]


class NewOptimizerSettings(pl.Callback):
    """Gives restored optimisers the module's present settings in place of the checkpoint's."""

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
    """Stores each epoch's row and checkpoint, and calls `on_epoch`.

    It is a `Checkpoint`, which Lightning calls after all other callbacks: their states in the checkpoint are then those
    of the end of the epoch.

    Parameters
    ----------
    files : CheckpointFiles
    state : CheckpointState
        As the last checkpoint left it.
    best : BestEpoch, optional
    on_epoch : callable
        Called with an epoch's row in the process of rank 0.
    """

    def __init__(
        self,
        files: CheckpointFiles,
        state: CheckpointState,
        best: BestEpoch | None,
        on_epoch: Callable[[EpochRow], None],
    ) -> None:
        self._files = files
        self._state = state
        self._best = best
        self._on_epoch = on_epoch
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
        improved = self._best is not None and self._is_best(row, self._best.metric, self._best.mode)
        self._state.stopped = trainer.should_stop
        self._save(trainer, improved)
        self._begun = now
        if trainer.is_global_zero:
            self._on_epoch(row)

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
        with scratch_folder() as folder:
            path = folder / "checkpoint.ckpt"
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
    """Step the schedulers that follow a metric for the last finished epoch.

    Lightning does so at the very end of an epoch, after the checkpoint is written, and not again when that is loaded.
    """
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.interval == "epoch" and row["epoch"] % config.frequency == 0:
            value = row.get(config.monitor or "val_loss")
            if value is not None:
                module.lr_scheduler_step(config.scheduler, torch.tensor(value))
