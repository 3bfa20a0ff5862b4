"""Train any Lightning module, here or on a Ray cluster, with its metrics logged as it goes.

See `neurofleet.cluster.training.lightning_training` for what is trained and how its data are divided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from neurofleet.cluster.metric_loggers import LoggedRun, open_loggers
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
    logged: LoggedRun | None = None,
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
    loggers : sequence of {'tensorboard', 'csv', 'mlflow', 'wandb'}
        Where else the metrics of each epoch are logged: ``folder/tensorboard``, ``folder/metrics.csv``, and see
        `neurofleet.cluster.metric_loggers`.
    logged : LoggedRun, optional
        What loggers are told of the training; by default the name of its folder.
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
        run = logged or LoggedRun(folder, folder, folder.name)
        with open_loggers(loggers, run, [_metrics(row) for row in history]) as log:

            def on_epoch(row: EpochRow) -> None:
                log(*_metrics(row), "")
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


def _metrics(row: EpochRow) -> tuple[dict[str, float], int]:
    return {name: value for name, value in row.items() if name != "epoch"}, row["epoch"]
