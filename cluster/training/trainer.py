"""Train any Lightning module, here or on a Ray cluster, with its metrics logged as it goes.

Loggers are TensorBoard, Weights & Biases and MLflow.

See `neurofleet.cluster.training.lightning_training` for what is trained and how its data are divided.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from neurofleet.cluster.training.checkpoints import CheckpointFiles
from neurofleet.cluster.training.lightning_training import (
    CHECKPOINTS,
    BestEpoch,
    EpochRow,
    FitSettings,
    Training,
    TrainingResult,
)
from neurofleet.errors import ClusterError


def train(
    training: Training,
    folder: str | Path,
    *,
    max_epochs: int,
    workers: int | tuple[int, int] = 0,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    precision: str | None = None,
    gradient_clip_norm: float | None = None,
    best: BestEpoch | None = None,
    cpus_per_worker: int = 1,
    storage: str | None = None,
    loggers: Sequence[str] = ("tensorboard",),
    max_failures: int = 3,
    progress: Callable[[EpochRow], None] = lambda row: None,
) -> TrainingResult:
    """Train, or go on where an earlier call with the same folder was interrupted.

    After each epoch there is a checkpoint in ``folder/checkpoints``; the last two, and the best, are kept.
    A worker that is lost is replaced, and training goes on from the last epoch. Where the training had
    finished already, this returns at once.

    Parameters
    ----------
    training : Training
    folder : str or Path
        On this machine.
    max_epochs : int
        A finished training can be given more and goes on.
    workers : int or (int, int)
        0 trains in this process, without Ray. N trains on N workers, (a, b) on a to b of them, as many as there is room
        for; this process must then be connected to Ray.
    accelerator : {'auto', 'cpu', 'gpu'}
        By default a GPU for every worker where there are any, else CPUs.
    precision : str, optional
        As Lightning has them. By default ``bf16-mixed`` on GPUs that know it, and ``32-true`` elsewhere.
    gradient_clip_norm : float, optional
    best : BestEpoch, optional
        Keep the best epoch's checkpoint as well, and stop when there is no better one for long.
    cpus_per_worker : int
        Those that load data, and on a CPU its threads, included.
    storage : str, optional
        Where all machines of the cluster can write, a path or a URI of `pyarrow.fs`, if they cannot write to `folder`.
        The final checkpoint is copied to `folder`.
    loggers : sequence of {'tensorboard', 'wandb', 'mlflow'}
        Where else the metrics of each epoch are logged. TensorBoard's files are in ``folder/tensorboard``.
    max_failures : int
        How often lost workers are replaced before the training has failed.
    progress : callable
        Called with each epoch's row, in this thread, when its checkpoint is written. An exception of it ends the
        training, which can be resumed.

    Raises
    ------
    ClusterError
        If the cluster has no room for the training, the folder holds another one, or workers were lost too often.
        Exceptions of the factory or the module are raised as they are.
    KeyboardInterrupt
        Ctrl-C. The epochs that were finished are kept.
    """
    folder = Path(folder).absolute()
    storage_path = storage if storage and "://" in storage else str(Path(storage or folder).absolute())
    files = CheckpointFiles(f"{storage_path.rstrip('/')}/{CHECKPOINTS}")
    files.sweep()
    last = files.last(training)
    if last is None or not (last.state.stopped or last.state.epochs >= max_epochs):
        history = last.state.history if last else []
        settings = FitSettings(files.root, max_epochs, accelerator, precision, gradient_clip_norm, best)
        with open_loggers(loggers, folder, history) as log:

            def on_epoch(row: EpochRow) -> None:
                log(row)
                progress(row)

            if workers == 0:
                from neurofleet.cluster.training.training_process import LightningFit  # loads Lightning, but no Ray

                LightningFit(training, settings, on_epoch).run()
            else:
                from neurofleet.cluster.training.training_workers import fit_on_ray  # loads Ray, but no Lightning

                fit_on_ray(training, settings, on_epoch, len(history), workers, cpus_per_worker, max_failures)
        last = files.last(training)
    if last is None:
        raise ClusterError(f"max_epochs={max_epochs} was given; a training has at least one epoch.")
    return last.state.result(files, folder / CHECKPOINTS)


TENSORBOARD = "tensorboard"
PACKAGE_OF = {TENSORBOARD: "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""Logger, which is also what is imported -> the package. `mlflow` itself would replace pyarrow."""

_PROJECT = "neurofleet"


class MetricLogger(Protocol):
    """What is used of Lightning's loggers."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Store the metrics of an epoch."""

    def finalize(self, status: str) -> None:
        """End with ``success`` or ``failed``."""


@contextmanager
def open_loggers(
    names: Sequence[str], folder: Path, history: Sequence[EpochRow]
) -> Iterator[Callable[[EpochRow], None]]:
    """Yield a function that logs an epoch's row with every logger.

    TensorBoard's files are written anew from the history, so each epoch is in them once, also after interruptions.

    Parameters
    ----------
    names : sequence of {'tensorboard', 'wandb', 'mlflow'}
    folder : Path
    history : sequence of dict
        The epochs that are done already.

    Raises
    ------
    ClusterError
        If one is unknown, or its package is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loggers = {name: _open_logger(name, folder) for name in names}
    if TENSORBOARD in loggers:
        for row in history:
            _log_row([loggers[TENSORBOARD]], row)
    status = "failed"
    try:
        yield lambda row: _log_row(loggers.values(), row)
        status = "success"
    finally:
        for logger in loggers.values():
            logger.finalize(status)


def _log_row(loggers: Iterable[MetricLogger], row: EpochRow) -> None:
    metrics = {name: value for name, value in row.items() if name != "epoch"}
    for logger in loggers:
        logger.log_metrics(metrics, row["epoch"])


def _open_logger(name: str, folder: Path) -> MetricLogger:
    if name not in _LOGGERS:
        raise ClusterError(f"{name!r} is not a logger that is known here. There are: {', '.join(_LOGGERS)}.")
    if missing := missing_packages([name]):
        raise ClusterError(f"The logger {name} needs a package that is not installed: pip install {' '.join(missing)}.")
    return _LOGGERS[name](folder)


def missing_packages(loggers: Iterable[str]) -> list[str]:
    """Return what is to be installed for some of the loggers, as pip calls it."""
    return [PACKAGE_OF[name] for name in loggers if importlib.util.find_spec(name) is None]


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in (folder / TENSORBOARD).glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder / TENSORBOARD))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finalize(self, status: str) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases, the same one when the training goes on."""

    def __init__(self, folder: Path) -> None:
        run_id = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        import wandb

        self._run = wandb.init(
            project=_PROJECT, name=folder.name, id=run_id, resume="allow", dir=folder, reinit="create_new"
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "success" else 1)


def _mlflow(folder: Path) -> MetricLogger:
    from lightning.pytorch.loggers import MLFlowLogger

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    logger = MLFlowLogger(experiment_name=_PROJECT, run_name=folder.name, tracking_uri=uri)
    _ = logger.experiment  # connects now, and not after the first epoch
    return logger


_LOGGERS: dict[str, Callable[[Path], MetricLogger]] = {
    TENSORBOARD: _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _mlflow,
}
