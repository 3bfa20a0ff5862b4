"""Training of SIMS networks, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from learners.cells.stream import CellBatch
from learners.sims.network import Inputs, Networks, mean_log_probabilities
from learners.sims.pretraining import start_from
from learners.sims.settings import Settings
from learners.sims.tabnet import mask_entropy

_WARM_UP = 0.25
_START = 1 / 25
_END = 1e-4
_PLATEAU_FACTOR = 0.75
_PLATEAU_PATIENCE = 20
_SKIP_RATE = 0.1


class SimsModule(pl.LightningModule):
    """Members trained side by side on the same batches, each by its own loss.

    A batch is a `CellBatch` of log-normalised values of the genes used, and the cells' class numbers.
    Logs ``train_loss``, ``val_loss``, ``val_accuracy`` and ``val_macro_f1``.

    Parameters
    ----------
    inputs : Inputs
    class_weights : Tensor, shape (classes,)
        Weights of the cross-entropy, from the training cells.
    settings : Settings
    start : mapping, optional
        Pretrained encoders.

    References
    ----------
    The SIMS paper, methods; Arik and Pfister, AAAI 2021, section 3 for the sparsity term.
    """

    class_weights: Tensor
    n_averaged: Tensor

    def __init__(
        self,
        inputs: Inputs,
        class_weights: Tensor,
        settings: Settings,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        n_classes = len(class_weights)
        self.networks = Networks(inputs, n_classes, settings)
        if start is not None:
            start_from(self.networks, start)
        self.averaged = deepcopy(self.networks).requires_grad_(False) if settings.average_decay else None
        self.register_buffer("n_averaged", torch.tensor(0))
        self.register_buffer("class_weights", class_weights.float())
        self.val_accuracy = MulticlassAccuracy(n_classes, average="micro")
        self.val_macro_f1 = MulticlassF1Score(n_classes, average="macro")

    @property
    def best(self) -> Networks:
        """The networks that are validated and kept: with averaged weights where these are kept."""
        return self.networks if self.averaged is None else self.averaged

    def training_step(self, batch: tuple[CellBatch, Tensor], _: int) -> Tensor:
        cells, labels = batch
        logits, steps = self.networks(cells.dense())
        total = torch.stack(
            [
                self._loss(one, labels) + self.settings.sparsity * mask_entropy(taken)
                for one, taken in zip(logits, steps, strict=True)
            ]
        ).sum()
        self.log("train_loss", total / len(logits), on_epoch=True, on_step=False, batch_size=len(labels))
        for weights in self._skips:
            total = total + self.settings.skip_penalty * weights.square().sum()
        return total

    def validation_step(self, batch: tuple[CellBatch, Tensor], _: int) -> None:
        cells, labels = batch
        log_probabilities = mean_log_probabilities(self.best(cells.dense())[0])
        loss = nn.functional.nll_loss(log_probabilities, labels)
        self.val_accuracy(log_probabilities, labels)
        self.val_macro_f1(log_probabilities, labels)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(labels), sync_dist=True)
        self.log("val_accuracy", self.val_accuracy, on_epoch=True, batch_size=len(labels))
        self.log("val_macro_f1", self.val_macro_f1, on_epoch=True, batch_size=len(labels))

    def on_fit_start(self) -> None:
        self._parameters_of = [list(member.parameters()) for member in self.networks.members]
        self._skips = [p for name, p in self.networks.named_parameters() if name.endswith("skip.weight")]
        if self.averaged is not None:
            self._kept = _floats(self.averaged)
            self._new = _floats(self.networks)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        if self.averaged is None:
            return
        count = int(self.n_averaged)
        share = min((1.0 + count) / (10.0 + count), self.settings.average_decay)
        torch._foreach_lerp_(self._kept, self._new, 1.0 - share)
        self.n_averaged.add_(1)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        for parameters in self._parameters_of:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        skips = [p for n, p in self.networks.named_parameters() if ".skip." in n]
        others = [p for n, p in self.networks.named_parameters() if ".skip." not in n]
        groups: list[dict[str, Any]] = [{"params": others, "lr": settings.learning_rate}]
        if skips:
            groups.append({"params": skips, "lr": settings.learning_rate * _SKIP_RATE})
        optimizer = torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=True)
        if settings.schedule == "one-cycle":
            n_steps = int(self.trainer.estimated_stepping_batches)
            schedule: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(one_cycle, n_steps=n_steps))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.float(), labels, self.class_weights)


@torch.no_grad()
def set_exact_statistics(networks: Networks, batches: list[Tensor]) -> None:
    """Set the batch norms' running statistics to those of cells, with no gene masked.

    Parameters
    ----------
    batches : list of Tensor, shape (cells, genes used)
        As large as memory allows; with one batch the statistics are exact.
    """
    norms = [layer for layer in networks.modules() if isinstance(layer, nn.BatchNorm1d)]
    ghosts = [layer for layer in networks.modules() if hasattr(layer, "virtual_batch_size")]
    momenta, pieces = [norm.momentum for norm in norms], [ghost.virtual_batch_size for ghost in ghosts]
    networks.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for ghost in ghosts:
        ghost.training = True
        ghost.virtual_batch_size = max(len(batch) for batch in batches)
    for batch in batches:
        networks(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for ghost, size in zip(ghosts, pieces, strict=True):
        ghost.virtual_batch_size = size
    networks.eval()


def one_cycle(step: int, n_steps: int) -> float:
    """Return which part of its peak the learning rate has at a step, counted from 0.

    Up from 1/25 over the first quarter and down to almost nothing, both along half a cosine; as torch's
    OneCycleLR, which cannot be asked for trainings of a few steps.
    """
    peak, last = max(_WARM_UP * n_steps - 1, 1e-9), max(n_steps - 1, 1e-9)
    if step <= peak:
        low, done = _START, step / peak
    else:
        low, done = _START * _END, 1.0 - min((step - peak) / max(last - peak, 1e-9), 1.0)
    return low + (1.0 - low) * 0.5 * (1.0 - math.cos(math.pi * done))


def _floats(networks: Networks) -> list[Tensor]:
    """Return all weights and running statistics, always in the same order."""
    state = [*networks.parameters(), *networks.buffers()]
    return [tensor.detach() for tensor in state if tensor.is_floating_point()]
