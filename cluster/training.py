"""Train any Lightning module: in this process, or on the workers of a Ray cluster.

What is trained is named by a factory, ``package.module:function``, and a payload of plain JSON. The
function gets the payload on every worker and returns a `LightningModule` and a `LightningDataModule`, so
nothing is sent to a worker but text.

Data are divided over the workers like this. A *batch size is that of the whole training*, whatever the
number of workers:

- A `DataLoader` over a dataset that is indexed by number is divided here. The data module makes it as for
  one process, with the whole batch size and any sampler. The batches of an epoch are drawn from the seed
  and the epoch alone, and each worker takes every so manieth sample of each batch. The last batch joins the
  one before it when it would leave a worker fewer than two samples.
- Anything else (a `DataLoader` over an `IterableDataset`, or an iterable of the data module's own) is divided
  by the data module, which reads ``self.trainer.global_rank`` and ``self.trainer.world_size`` and gives
  batches of the whole batch size divided by the latter, as many on every worker.
- If the data module has a method ``set_epoch(epoch)``, it is called before an epoch's first batch is asked
  for, counted from 0.

Before an epoch, the generators of torch, numpy and Python are seeded from the seed, the epoch and the
worker's rank: an epoch does not depend on what ran before it in the same process, and a training that was
killed and resumed gives what an undisturbed one gives. A module logs its epoch's metrics with
``self.log(..., on_epoch=True, sync_dist=True)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.errors import ClusterError

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]
"""An epoch: ``epoch`` (counted from 1), ``seconds``, and the metrics that the module logged, by name."""

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes
    ----------
    factory : str
        ``package.module:function``, importable on every machine of the cluster.
    payload : mapping
        What the function is called with: plain JSON. Paths in it are absolute.
    seed : int
        Of all that is random: the module's first weights, the order of the data, dropout.
    changeable : mapping
        The part of the payload that may be another when training goes on. The optimisers then get the
        settings (learning rate, weight decay, …) that the module makes of it, and keep the rest.
    """

    factory: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    changeable: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module, _, function = self.factory.partition(":")
        if not module or not function:
            raise ClusterError(
                f"The factory of a training is written package.module:function; {self.factory!r} was given."
            )
        try:
            json.dumps([self.payload, self.changeable])
        except (TypeError, ValueError) as error:
            raise ClusterError(f"The payload of {self.factory} should be plain JSON: {error}.") from error

    @property
    def fingerprint(self) -> str:
        """The training as text: equal for trainings of which one can go on where the other ended."""
        return json.dumps([self.factory, dict(self.payload), self.seed], sort_keys=True)


@dataclass(frozen=True)
class Best:
    """Which epoch is the best, and when there is no hope for a better one.

    Attributes
    ----------
    metric : str
        One that the module logs.
    mode : {'min', 'max'}
    patience : int, optional
        Stop after so many epochs without a better one; never by default.
    """

    metric: str
    mode: Literal["min", "max"]
    patience: int | None = None


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes
    ----------
    checkpoint : Path
        Lightning's, of the best epoch where `best` was asked for, else of the last.
    epoch : int
        The epoch that it is of, counted from 1.
    epochs : int
        How many were trained.
    metrics : dict
        The metrics of `epoch`.
    history : list of dict
        One row for each epoch, see `Row`.
    stopped_early : bool
        Whether there was no better epoch for so long that training ended.
    """

    checkpoint: Path
    epoch: int
    epochs: int
    metrics: dict[str, float]
    history: list[Row]
    stopped_early: bool

    def weights(self) -> dict[str, torch.Tensor]:
        """The module's state, on the CPU."""
        import torch

        return torch.load(self.checkpoint, map_location="cpu", weights_only=True)["state_dict"]


def train(
    training: Training,
    folder: str | Path,
    *,
    max_epochs: int,
    workers: int | tuple[int, int] = 0,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    precision: str | None = None,
    gradient_clip_norm: float | None = None,
    best: Best | None = None,
    cpus_per_worker: int = 1,
    storage: str | None = None,
    loggers: Sequence[str] = ("tensorboard",),
    max_failures: int = 3,
    progress: Callable[[Row], None] = lambda row: None,
) -> Trained:
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
        0 trains in this process, without Ray. N trains on N workers, (a, b) on as many as there is room
        for, from a to b; this process is then connected to Ray.
    accelerator : {'auto', 'cpu', 'gpu'}
        By default a GPU for every worker where there are any, else CPUs.
    precision : str, optional
        As Lightning has them. By default ``bf16-mixed`` on GPUs that know it, and ``32-true`` elsewhere.
    gradient_clip_norm : float, optional
    best : Best, optional
        Keep the best epoch's checkpoint as well, and stop when there is no better one for long.
    cpus_per_worker : int
        Those that load data, and on a CPU its threads, included.
    storage : str, optional
        Where all machines of the cluster can write, a path or a URI of `pyarrow.fs`, when `folder` is not
        such a place. The final checkpoint comes back to `folder`.
    loggers : sequence of {'tensorboard', 'wandb', 'mlflow'}
        Who else is told each epoch's metrics. TensorBoard's files are in ``folder/tensorboard``.
    max_failures : int
        How often lost workers are replaced before the training has failed.
    progress : callable
        Is called with each epoch's row, in this thread, when its checkpoint is written. What it raises ends
        the training, which can be resumed.

    Raises
    ------
    ClusterError
        If the training cannot be placed, the folder holds another one, or workers were lost too often.
        What the factory or the module raises passes as it is.
    KeyboardInterrupt
        Ctrl-C. The epochs that were finished are kept.
    """
    from cluster.training_checkpoints import CheckpointFiles
    from cluster.training_loggers import open_loggers

    folder = Path(folder).absolute()
    place = storage if storage and "://" in storage else str(Path(storage or folder).absolute())
    files = CheckpointFiles(f"{place.rstrip('/')}/{CHECKPOINTS}")
    files.sweep()
    found = files.last(training.fingerprint)
    if found is None or not (found.state.stopped or found.state.epochs >= max_epochs):
        history = found.state.history if found else []
        plan = {
            "factory": training.factory,
            "payload": dict(training.payload),
            "changeable": dict(training.changeable),
            "seed": training.seed,
            "checkpoints": files.root,
            "max_epochs": max_epochs,
            "accelerator": accelerator,
            "precision": precision,
            "gradient_clip_norm": gradient_clip_norm,
            "best": [best.metric, best.mode, best.patience] if best else None,
        }
        with open_loggers(loggers, folder, history) as log:

            def tell(row: Row) -> None:
                log(row)
                progress(row)

            if workers == 0:
                from cluster.training_process import Fit

                Fit(plan, tell).run()
            else:
                from cluster.training_ray import fit_on_ray

                fit_on_ray(plan, tell, len(history), workers, cpus_per_worker, max_failures)
        found = files.last(training.fingerprint)
    if found is None:
        raise ClusterError(f"max_epochs={max_epochs} was given; a training has at least one epoch.")
    return found.state.result(files, folder / CHECKPOINTS)
