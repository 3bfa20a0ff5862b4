"""Filters of the last frames: linear, bilinear and nonlinear dynamics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learners.neuprint.dynamics.prediction import DynamicsModel, Prediction, heads, limited, prediction_of
from learners.neuprint.sessions import Window
from learners.neuprint.settings import Settings

_START_SD = 0.1


def n_inputs(settings: Settings, n_covariates: int) -> int:
    """Return how many inputs a filter has: see `filter_inputs`."""
    return settings.lags + n_covariates * (settings.lags + 1) + 1


def filter_inputs(activity: Tensor, covariates: Tensor, lags: int) -> Tensor:
    """Return what a filter sees at each step: past activity, covariates of now and before, and 1.

    Before the first step everything was 0.

    Parameters
    ----------
    activity : Tensor, shape (rows, steps)
    covariates : Tensor, shape (rows, steps, n_covariates)

    Returns
    -------
    Tensor, shape (rows, steps, inputs)
        ``lags`` past values, the latest first; then for each covariate its present value and ``lags``
        past ones; then 1.
    """
    rows, steps = activity.shape
    past = nn.functional.pad(activity, (lags, 0)).unfold(1, lags + 1, 1)[:, :, :-1].flip(2)
    padded = nn.functional.pad(covariates, (0, 0, lags, 0))
    around = padded.unfold(1, lags + 1, 1).flip(3).flatten(2)
    return torch.cat([past, around, activity.new_ones(rows, steps, 1)], 2)


class Filter(DynamicsModel):
    """A filter for each neuron, which Phi chooses: affine in Phi.

    Bilinear: the filter of a neuron is w0 + W Phi. Linear: Phi changes nothing but the constant, as in the
    paper's additive form, where Phi is one input more; with `mean_form` inputs are averaged instead of
    summed and weights start between -1 and 1, as in the released code.

    Parameters
    ----------
    settings : Settings
    n_covariates : int
    """

    def __init__(self, settings: Settings, n_covariates: int) -> None:
        super().__init__()
        inputs = n_inputs(settings, n_covariates)
        outputs = 2 if settings.loss == "nll" else 1
        self.lags = settings.lags
        self.is_bilinear = settings.dynamics == "bilinear"
        self.filter_penalty = settings.filter_penalty
        self.scale = 1.0
        if settings.mean_form and not self.is_bilinear:
            self.scale = 1.0 / (inputs + settings.phi)
        reach = inputs if self.is_bilinear else 1
        if self.scale == 1.0:
            self.base = nn.Parameter(torch.zeros(outputs, inputs))
            self.by_phi = nn.Parameter(_START_SD * torch.randn(outputs, reach, settings.phi))
        else:
            self.base = nn.Parameter(2 * torch.rand(outputs, inputs) - 1)
            self.by_phi = nn.Parameter(2 * torch.rand(outputs, reach, settings.phi) - 1)

    def weights(self, phi: Tensor) -> Tensor:
        """Return the filters of neurons, (outputs, neurons, inputs), from their Phi (neurons, phi)."""
        chosen = torch.einsum("odk,nk->ond", self.by_phi, phi)
        if not self.is_bilinear:
            chosen = nn.functional.pad(chosen, (self.base.shape[1] - 1, 0))
        return self.scale * (self.base[:, None] + chosen)

    def design(self) -> tuple[Tensor, Tensor]:
        """Return (w0, W) of the filter w0 + W Phi of the mean: (inputs,) and (inputs, phi)."""
        base, by_phi = self.base[0], self.by_phi[0]
        if not self.is_bilinear:
            by_phi = nn.functional.pad(by_phi, (0, 0, len(base) - 1, 0))
        return self.scale * base, self.scale * by_phi

    def penalty(self) -> Tensor | float:
        return self.filter_penalty * (self.base.square().sum() + self.by_phi.square().sum())

    def forward(self, window: Window, phi: Tensor) -> Prediction:
        inputs = filter_inputs(window.activity, window.covariates, self.lags)
        outputs = torch.einsum("rsd,ord->ors", inputs, self.weights(phi))
        return Prediction(outputs[0], limited(outputs[1]) if len(outputs) == 2 else None)


class NonlinearFilter(DynamicsModel):
    """Past, covariates and Phi through a layer of rectified units with a linear read-out.

    The paper averages rectified products without a read-out. That form cannot predict below 0, and leaves a
    Phi of zero where it is, since its gradient is 0 there.
    """

    def __init__(self, settings: Settings, n_covariates: int) -> None:
        super().__init__()
        self.lags = settings.lags
        self.of_inputs = nn.Linear(n_inputs(settings, n_covariates), settings.hidden)
        self.of_phi = nn.Linear(settings.phi, settings.hidden, bias=False)
        self.heads = heads(settings.hidden, settings.loss)

    def forward(self, window: Window, phi: Tensor) -> Prediction:
        inputs = filter_inputs(window.activity, window.covariates, self.lags)
        return prediction_of(self.heads(torch.relu(self.of_inputs(inputs) + self.of_phi(phi)[:, None])))
