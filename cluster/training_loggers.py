"""Others who are told a training's metrics: TensorBoard, and whom the user names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cluster.errors import ClusterError
from cluster.training import Row

TENSORBOARD = "tensorboard"
_PROJECT = "neurofleet"


class MetricLogger(Protocol):
    """What is asked of Lightning's loggers."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Store the metrics of an epoch."""

    def finalize(self, status: str) -> None:
        """End with ``success`` or ``failed``."""


@contextmanager
def open_loggers(
    names: Sequence[str], folder: Path, history: Sequence[Row]
) -> Iterator[Callable[[Row], None]]:
    """Give a function that tells every logger an epoch's row.

    TensorBoard's files are written anew from the history, so that each epoch is in them once, whatever was
    interrupted.

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
    loggers = {name: _open(name, folder) for name in names}
    if TENSORBOARD in loggers:
        for row in history:
            _log([loggers[TENSORBOARD]], row)
    status = "failed"
    try:
        yield lambda row: _log(loggers.values(), row)
        status = "success"
    finally:
        for logger in loggers.values():
            logger.finalize(status)


def _log(loggers: Iterable[MetricLogger], row: Row) -> None:
    metrics = {name: value for name, value in row.items() if name != "epoch"}
    for logger in loggers:
        logger.log_metrics(metrics, row["epoch"])


def _open(name: str, folder: Path) -> MetricLogger:
    if name not in _MAKERS:
        raise ClusterError(f"{name!r} is no logger known here. There are: {', '.join(_MAKERS)}.")
    try:
        return _MAKERS[name](folder)
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"The logger {name} needs a package that is not installed: pip install {name}."
        ) from error


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
        import wandb

        run_id = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=_PROJECT, name=folder.name, id=run_id, resume="allow", dir=folder, reinit="create_new"
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "success" else 1)


def _mlflow(folder: Path) -> MetricLogger:
    from lightning.pytorch.loggers import MLFlowLogger

    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    logger = MLFlowLogger(experiment_name=_PROJECT, run_name=folder.name, tracking_uri=place)
    _ = logger.experiment  # connects now, and not after the first epoch
    return logger


_MAKERS: dict[str, Callable[[Path], MetricLogger]] = {
    TENSORBOARD: _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _mlflow,
}
