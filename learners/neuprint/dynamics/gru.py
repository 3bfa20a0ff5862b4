"""Recurrent dynamics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learners.neuprint.dynamics.prediction import DynamicsModel, Prediction, heads, prediction_of
from learners.neuprint.sessions import Window
from learners.neuprint.settings import Settings


class Recurrent(DynamicsModel):
    """A gated recurrent unit that sees at each step the activity one step before, covariates and Phi."""

    def __init__(self, settings: Settings, n_covariates: int) -> None:
        super().__init__()
        self.gru = nn.GRU(1 + n_covariates + settings.phi, settings.hidden, batch_first=True)
        self.heads = heads(settings.hidden, settings.loss)

    def forward(self, window: Window, phi: Tensor) -> Prediction:
        before = nn.functional.pad(window.activity[:, :-1], (1, 0))
        repeated = phi[:, None].expand(-1, before.shape[1], -1)
        hidden, _ = self.gru(torch.cat([before[..., None], window.covariates, repeated], 2))
        return prediction_of(self.heads(hidden))
