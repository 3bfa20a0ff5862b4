"""One process of a training: alone, or one of several workers."""

from __future__ import annotations

import importlib
import logging
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning

from neurofleet.cluster.cluster_errors import ClusterError
from neurofleet.cluster.training.checkpoints import CheckpointFiles, CheckpointState
from neurofleet.cluster.training.data_division import DataDivision, seed_everything
from neurofleet.cluster.training.lightning_training import EpochRow, Training
from neurofleet.cluster.training.training_callbacks import (
    EpochRecorder,
    EpochSeeds,
    NewOptimizerSettings,
    early_stopping,
)

SINGLE_DEVICE: Mapping[str, Any] = {"devices": 1}


class LightningFit:
    """A training made ready in this process, to go on from its last checkpoint.

    Parameters
    ----------
    plan : mapping
        As `neurofleet.cluster.training.trainer.train` writes it.
    tell : callable
        Is called with an epoch's row when its checkpoint is written, in the process of rank 0.
    strategy : mapping
        Lightning's settings for this process among the others.

    Raises
    ------
    Exception
        What the factory raises.
    """

    def __init__(
        self, plan: Mapping[str, Any], tell: Callable[[EpochRow], None], strategy: Mapping[str, Any] = SINGLE_DEVICE
    ) -> None:
        training = Training(plan["factory"], plan["payload"], plan["seed"], plan["changeable"])
        self._files = CheckpointFiles(plan["checkpoints"])
        self._found = self._files.last(training.fingerprint)
        state = self._found.state if self._found else CheckpointState(training.fingerprint, [])
        changed = self._found is not None and state.changeable != training.changeable
        state.changeable = dict(training.changeable)
        seed_everything(training.seed)
        self._module, self._data = _build_module_and_data(training)
        accelerator = _accelerator(plan["accelerator"])
        precision: Any = plan["precision"] or _precision(accelerator)
        with _quiet():
            self._trainer = pl.Trainer(
                max_epochs=plan["max_epochs"],
                accelerator=accelerator,
                precision=precision,
                gradient_clip_val=plan["gradient_clip_norm"],
                callbacks=[
                    EpochSeeds(division := DataDivision(training.seed, state.epochs)),
                    *early_stopping(plan["best"]),
                    *([NewOptimizerSettings()] if changed else []),
                    EpochRecorder(self._files, state, plan["best"], tell),
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
        return self._found.state.epochs if self._found else 0

    def run(self) -> None:
        """Train to the end.

        Raises
        ------
        Exception
            What the module raises.
        KeyboardInterrupt
        """
        with tempfile.TemporaryDirectory(prefix="nf-checkpoint-") as here, _quiet(), _interrupts_passed_up():
            path = self._files.bring(self._found.name, Path(here)) if self._found else None
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


def _accelerator(wanted: str) -> str:
    if wanted == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    if wanted == "gpu" and not torch.cuda.is_available():
        raise ClusterError("A GPU was asked for, and torch finds none here. Use accelerator: cpu, or auto.")
    return wanted


def _precision(accelerator: str) -> str:
    return "bf16-mixed" if accelerator == "gpu" and torch.cuda.is_bf16_supported() else "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Lightning says of itself and its tips off the terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", r".*treespec, LeafSpec.*")  # a matter between Lightning and torch
        # Of loaders with a length, which these have on purpose, and of loaders that are empty, likewise.
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
    """Turn Lightning's exit, and its deafness to further Ctrl-C, back into a KeyboardInterrupt."""
    on_sigint = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, on_sigint)
            raise KeyboardInterrupt from None
        raise
