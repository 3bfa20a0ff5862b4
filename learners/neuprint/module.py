"""Training of a dynamics and of the Phi of training neurons, as a Lightning module."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from learners.neuprint.dynamics.choice import dynamics_for
from learners.neuprint.dynamics.filters import Filter
from learners.neuprint.dynamics.moments import Moments
from learners.neuprint.dynamics.prediction import Prediction, entry_losses
from learners.neuprint.dynamics.transformer import BandedTransformer
from learners.neuprint.masking import hide
from learners.neuprint.sessions import Window
from learners.neuprint.settings import Settings

PHI_START_SD = 0.1
_WARM_UP = 0.1

Batch = Window | Moments


class NeuprintModule(pl.LightningModule):
    """f, and one table of Phi for all distinct neurons, fitted together by predicting activity.

    The loss is summed over the entries that count and divided by their number; to it come penalties of the
    sizes of Phi and of filters. Logs ``train_loss`` and ``val_loss`` without penalties, and ``val_r2``: one
    minus squared error over squared activity, on the entries of the validation frames, which are the same for
    every dynamics.

    Parameters
    ----------
    settings : Settings
    n_neurons : int
        Distinct neurons: rows of the table of Phi.
    n_covariates : int
    """

    def __init__(self, settings: Settings, n_neurons: int, n_covariates: int) -> None:
        super().__init__()
        self.settings = settings
        self.dynamics = dynamics_for(settings, n_covariates)
        self.phi = nn.Parameter(PHI_START_SD * torch.randn(n_neurons, settings.phi))
        self.val_loss = MeanMetric()
        self.val_error = MeanMetric()
        self.val_square = MeanMetric()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        phi = self.phi[batch.neurons]
        if isinstance(batch, Moments):
            loss = self._filter_errors(batch, phi).sum() / batch.n_targets
        elif isinstance(self.dynamics, BandedTransformer) and self.settings.hiding == "random":
            shown, hidden = hide(batch.activity, self.settings.mask_share)
            targets = batch.targets & hidden
            predicted = self.dynamics.predict(shown, shown, batch.covariates, phi, targets)
            losses = entry_losses(predicted, batch.activity[targets])
            loss = losses.sum() / max(len(losses), 1)
        else:
            predicted = self.dynamics(batch, phi)
            loss = _summed(entry_losses(predicted, batch.activity), batch.targets) / batch.n_targets
        self.log(
            "train_loss",
            loss.detach(),
            on_epoch=True,
            on_step=False,
            sync_dist=True,
            batch_size=max(round(batch.n_targets), 1),
        )
        size = self.settings.phi_penalty * phi.square().sum() / batch.n_rows
        return loss + size + self.dynamics.penalty()

    def validation_step(self, batch: Batch, _: int) -> None:
        phi = self.phi[batch.neurons]
        if isinstance(batch, Moments):
            n, square = batch.count.sum(), batch.square.sum()
            error = total = self._filter_errors(batch, phi).sum()
        else:
            predicted = self.dynamics(batch, phi)
            n = batch.targets.sum().float()
            square = _summed(batch.activity.square(), batch.targets)
            total = _summed(entry_losses(predicted, batch.activity), batch.targets)
            error = _summed(entry_losses(Prediction(predicted.mean), batch.activity), batch.targets)
        if n > 0:
            self.val_loss.update(total / n, n)
            self.val_error.update(error / n, n)
            self.val_square.update(square / n, n)

    def on_validation_epoch_end(self) -> None:
        r2 = 1.0 - self.val_error.compute() / self.val_square.compute()
        found = {"val_loss": self.val_loss.compute(), "val_r2": r2}
        for metric in (self.val_loss, self.val_error, self.val_square):
            metric.reset()
        self.log_dict(found, on_epoch=True, sync_dist=True)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_norm_(self.dynamics.parameters(), self.settings.clip_norm)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        groups: list[dict[str, Any]] = [
            {"params": list(self.dynamics.parameters()), "lr": settings.learning_rate},
            {"params": [self.phi], "lr": settings.phi_rate},
        ]
        optimizer = torch.optim.Adam(groups)
        if settings.schedule == "constant":
            return optimizer
        n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(one_cycle, n_steps=n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _filter_errors(self, batch: Moments, phi: Tensor) -> Tensor:
        assert isinstance(self.dynamics, Filter)
        return batch.errors(self.dynamics.weights(phi)[0])


def one_cycle(step: int, n_steps: int) -> float:
    """Return which part of its peak the learning rate has: up over a tenth of the steps, down by a cosine."""
    up = (step + 1) / max(_WARM_UP * n_steps, 1.0)
    return min(up, 1.0) * 0.5 * (1.0 + math.cos(math.pi * min(step / n_steps, 1.0)))


def _summed(values: Tensor, counted: Tensor) -> Tensor:
    return values.masked_fill(~counted, 0.0).sum()
