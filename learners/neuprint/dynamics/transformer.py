"""Attention to the last few steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from learners.neuprint.dynamics.prediction import DynamicsModel, Prediction, heads, prediction_of
from learners.neuprint.sessions import Window
from learners.neuprint.settings import Settings


class BandedTransformer(DynamicsModel):
    """One pre-norm encoder layer in which each step attends to itself and the `context` - 1 steps before.

    Because there is one layer, a prediction depends on nothing outside its band. Therefore every step of a
    window can be predicted at once as if only it were hidden: its query and its own key come from the
    hidden step, all other keys from the steps as they are. Positions are offsets of keys and values by
    lag, for within a band nothing but the lag matters.

    Trained that way, too, or with entries hidden at random (`learners.neuprint.masking`).
    """

    def __init__(self, settings: Settings, n_covariates: int) -> None:
        super().__init__()
        width = settings.hidden
        self.context = settings.context
        self.n_heads = settings.heads
        self.of_activity = nn.Linear(1, width, bias=False)
        self.of_others = nn.Linear(n_covariates + settings.phi, width)
        self.before_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.by_lag = nn.Parameter(0.1 * torch.randn(settings.context, 2 * width))
        self.attended = nn.Linear(width, width)
        self.before_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, settings.feed_forward),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.feed_forward, width),
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.before_heads = nn.LayerNorm(width)
        self.heads = heads(width, settings.loss)

    def forward(self, window: Window, phi: Tensor) -> Prediction:
        hidden = torch.zeros_like(window.activity)
        return self.predict(window.activity, hidden, window.covariates, phi)

    def predict(
        self, seen: Tensor, now: Tensor, covariates: Tensor, phi: Tensor, wanted: Tensor | None = None
    ) -> Prediction:
        """Predict every step, or only the entries that are wanted.

        Parameters
        ----------
        seen : Tensor, shape (rows, steps)
            Activity as the steps after it see it.
        now : Tensor, shape (rows, steps)
            Activity as the step itself sees it: hidden where it is to be predicted.
        covariates : Tensor, shape (rows, steps, n_covariates)
        phi : Tensor, shape (rows, phi)
        wanted : Tensor of bool, shape (rows, steps), optional
            The prediction then is of these entries, one after the other, and saves most of the work.
        """
        steps = seen.shape[1]
        repeated = phi[:, None].expand(-1, steps, -1)
        others = self.of_others(torch.cat([covariates, repeated], 2))
        own = self.dropout(others + self.of_activity(now[..., None]))
        heard = self._attention(own, seen, others)
        if wanted is not None:
            own, heard = own[wanted], heard[wanted]
        mixed = own + self.dropout(self.attended(heard))
        mixed = mixed + self.dropout(self.feed_forward(self.before_forward(mixed)))
        return prediction_of(self.heads(self.before_heads(mixed)))

    def _attention(self, own: Tensor, seen: Tensor, others: Tensor) -> Tensor:
        rows, steps, width = own.shape
        normed = self.before_attention(own)
        past = self.before_attention(self.dropout(others + self.of_activity(seen[..., None])))
        query = self.query(normed).view(rows, steps, self.n_heads, -1)
        reach = self.context - 1
        keys, values = [], []
        of_past = nn.functional.pad(self.key_value(past), (0, 0, reach, 0))
        for lag in range(self.context):
            source = self.key_value(normed) if lag == 0 else of_past[:, reach - lag : reach - lag + steps]
            key, value = source.unflatten(2, (2, self.n_heads, -1)).unbind(2)
            keys.append(key)
            values.append(value)
        key_by_lag, value_by_lag = self.by_lag.unflatten(1, (2, self.n_heads, -1)).unbind(1)
        score = torch.stack([(query * key).sum(3) for key in keys], 3)
        score = score + torch.einsum("rshd,lhd->rshl", query, key_by_lag)
        lag_number = torch.arange(self.context, device=own.device)
        absent = lag_number[None] > torch.arange(steps, device=own.device)[:, None]
        score = (score / math.sqrt(width / self.n_heads)).masked_fill(absent[:, None], -math.inf)
        share = score.softmax(3)
        mixed = torch.einsum("rshl,lhd->rshd", share, value_by_lag)
        for value, weight in zip(values, share.unbind(3), strict=True):
            mixed = mixed + weight[..., None] * value
        return mixed.flatten(2)
