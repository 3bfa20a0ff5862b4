"""What is trained and what results: a Lightning module's factory, the best epoch, the result.

What is trained is named by a factory, ``package.module:function``, and a payload of plain JSON. On every worker the
function is called with the payload and returns a `LightningModule` and a `LightningDataModule`; nothing else is sent to
a worker.

Data are divided over the workers as follows. The *batch size is that of the whole training*, whatever the number of
workers:

- A `DataLoader` over a dataset that is indexed by number is divided here. The data module makes it as for one process,
  with the whole batch size and any sampler. The batches of an epoch are drawn from the seed and the epoch alone; of W
  workers, each takes every W-th sample of each batch. The last batch joins the one before it if it would leave a worker
  fewer than two samples.
- Anything else (a `DataLoader` over an `IterableDataset`, or another iterable) is divided by the data module, which
  reads ``self.trainer.global_rank`` and ``self.trainer.world_size`` and gives batches of the whole batch size divided
  by the latter, the same number of them on every worker.
- If the data module has a method ``set_epoch(epoch)``, it is called before the first batch of each epoch. Epochs are
  counted from 0.

Before each epoch, the generators of torch, numpy and Python are seeded from the seed, the epoch and the worker's rank.
An epoch then does not depend on what ran before it in the same process, and a training that was killed and resumed
gives the same result as an undisturbed one. A module logs the metrics of an epoch with
``self.log(..., on_epoch=True, sync_dist=True)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurofleet.errors import ClusterError

if TYPE_CHECKING:
    import torch

EpochRow = dict[str, Any]
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
        Of everything random: the module's first weights, the order of the data, dropout.
    changeable : mapping
        The part of the payload that may change when training goes on. The optimisers then get the settings (learning
        rate, weight decay, …) that the module makes of it, and keep the rest of their state.
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
        """The training as text, for checkpoints; see `continues`."""
        return json.dumps([self.factory, dict(self.payload), self.seed], sort_keys=True)

    def continues(self, fingerprint: str) -> bool:
        """Whether this training can go on from the checkpoints of the one with this fingerprint.

        The factory does not count: it names a function of the program, which another version may have elsewhere.
        """
        return json.loads(fingerprint)[1:] == json.loads(self.fingerprint)[1:]


@dataclass(frozen=True)
class BestEpoch:
    """Which epoch is the best, and when to stop early.

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
class FitSettings:
    """What a process of a training needs to know beside the training itself; see `train` for the values.

    Attributes
    ----------
    checkpoints : str
        Their folder, a path or a URI.
    max_epochs : int
    accelerator : {'auto', 'cpu', 'gpu'}
    precision : str or None
    gradient_clip_norm : float or None
    best : BestEpoch or None
    """

    checkpoints: str
    max_epochs: int
    accelerator: str
    precision: str | None
    gradient_clip_norm: float | None
    best: BestEpoch | None


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes
    ----------
    checkpoint : Path
        Lightning's, of the best epoch if the training had a `BestEpoch`, else of the last.
    epoch : int
        The epoch of the checkpoint, counted from 1.
    epochs : int
        How many were trained.
    metrics : dict
        The metrics of `epoch`.
    history : list of dict
        One row for each epoch, see `EpochRow`.
    stopped_early : bool
        Whether training ended for lack of a better epoch.
    """

    checkpoint: Path
    epoch: int
    epochs: int
    metrics: dict[str, float]
    history: list[EpochRow]
    stopped_early: bool

    def weights(self) -> dict[str, torch.Tensor]:
        """The module's state, on the CPU."""
        import torch

        return torch.load(self.checkpoint, map_location="cpu", weights_only=True)["state_dict"]
