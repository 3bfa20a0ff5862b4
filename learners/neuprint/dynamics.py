"""Models of how a neuron goes on, given its past, what happens around it, and who it is (Phi)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.session_tensors import Window

_EPS = 1e-5
LOG_VARIANCE_LIMIT = 10.0


@dataclass(frozen=True)
class Prediction:
    """Activity as a dynamics expects it at each step.

    Attributes
    ----------
    mean : Tensor, shape (rows, steps)
    log_variance : Tensor, shape (rows, steps), or None
        None for dynamics that are trained by the squared error.
    """

    mean: Tensor
    log_variance: Tensor | None = None


class DynamicsModel(nn.Module):
    """f: predicts each step of a window from the steps before it, from covariates, and from Phi."""

    def forward(self, window: Window, phi: Tensor) -> Prediction:
        """Predict every step, each as if its own activity were not known.

        Parameters
        ----------
        phi : Tensor, shape (rows, phi)
        """
        raise NotImplementedError

    def penalty(self) -> Tensor | float:
        """Return what is added to the training loss for the weights' size."""
        return 0.0


def entry_losses(prediction: Prediction, activity: Tensor) -> Tensor:
    """Return the loss of each entry, (rows, steps).

    The squared error, or with a log-variance the Gaussian negative log-likelihood
    ½[log 2π + v + (x - mu)² / (e^v + 1e-5)].
    """
    error = (prediction.mean - activity).square()
    if prediction.log_variance is None:
        return error
    v = prediction.log_variance
    return 0.5 * (math.log(2 * math.pi) + v + error / (v.exp() + _EPS))


def heads(inputs: int, loss: Literal["mse", "nll"]) -> nn.Linear:
    """Return the layer to the mean, and to the log-variance where the loss asks for it."""
    return nn.Linear(inputs, 2 if loss == "nll" else 1)


def prediction_of(outputs: Tensor) -> Prediction:
    """Return what `heads` gave, with 1 or 2 numbers in the last dimension, as a prediction."""
    if outputs.shape[-1] == 1:
        return Prediction(outputs[..., 0])
    return Prediction(outputs[..., 0], limited(outputs[..., 1]))


def limited(log_variance: Tensor) -> Tensor:
    """Keep log-variances where their exponential is harmless."""
    return torch.clamp(log_variance, -LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)


_START_SD = 0.1


def n_inputs(settings: NeuprintSettings, n_covariates: int) -> int:
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
    settings : NeuprintSettings
    n_covariates : int
    """

    def __init__(self, settings: NeuprintSettings, n_covariates: int) -> None:
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

    def __init__(self, settings: NeuprintSettings, n_covariates: int) -> None:
        super().__init__()
        self.lags = settings.lags
        self.of_inputs = nn.Linear(n_inputs(settings, n_covariates), settings.hidden)
        self.of_phi = nn.Linear(settings.phi, settings.hidden, bias=False)
        self.heads = heads(settings.hidden, settings.loss)

    def forward(self, window: Window, phi: Tensor) -> Prediction:
        inputs = filter_inputs(window.activity, window.covariates, self.lags)
        return prediction_of(self.heads(torch.relu(self.of_inputs(inputs) + self.of_phi(phi)[:, None])))


class Recurrent(DynamicsModel):
    """A gated recurrent unit that sees at each step the activity one step before, covariates and Phi."""

    def __init__(self, settings: NeuprintSettings, n_covariates: int) -> None:
        super().__init__()
        self.gru = nn.GRU(1 + n_covariates + settings.phi, settings.hidden, batch_first=True)
        self.heads = heads(settings.hidden, settings.loss)

    def forward(self, window: Window, phi: Tensor) -> Prediction:
        before = nn.functional.pad(window.activity[:, :-1], (1, 0))
        repeated = phi[:, None].expand(-1, before.shape[1], -1)
        hidden, _ = self.gru(torch.cat([before[..., None], window.covariates, repeated], 2))
        return prediction_of(self.heads(hidden))


class BandedTransformer(DynamicsModel):
    """One pre-norm encoder layer in which each step attends to itself and the `context` - 1 steps before.

    Because there is one layer, a prediction depends on nothing outside its band. Therefore every step of a
    window can be predicted at once as if only it were hidden: its query and its own key come from the
    hidden step, all other keys from the steps as they are. Positions are offsets of keys and values by
    lag, for within a band nothing but the lag matters.

    Trained that way, too, or with entries hidden at random (`neurofleet.learners.neuprint.dynamics_training`).
    """

    def __init__(self, settings: NeuprintSettings, n_covariates: int) -> None:
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
        self, seen: Tensor, now: Tensor, covariates: Tensor, phi: Tensor, targets: Tensor | None = None
    ) -> Prediction:
        """Predict every step, or only the target entries.

        Parameters
        ----------
        seen : Tensor, shape (rows, steps)
            Activity as the steps after it see it.
        now : Tensor, shape (rows, steps)
            Activity as the step itself sees it: hidden where it is to be predicted.
        covariates : Tensor, shape (rows, steps, n_covariates)
        phi : Tensor, shape (rows, phi)
        targets : Tensor of bool, shape (rows, steps), optional
            The prediction then is of these entries, one after the other, and saves most of the work.
        """
        steps = seen.shape[1]
        repeated = phi[:, None].expand(-1, steps, -1)
        others = self.of_others(torch.cat([covariates, repeated], 2))
        current = self.dropout(others + self.of_activity(now[..., None]))
        attended = self._attention(current, seen, others)
        if targets is not None:
            current, attended = current[targets], attended[targets]
        mixed = current + self.dropout(self.attended(attended))
        mixed = mixed + self.dropout(self.feed_forward(self.before_forward(mixed)))
        return prediction_of(self.heads(self.before_heads(mixed)))

    def _attention(self, current: Tensor, seen: Tensor, others: Tensor) -> Tensor:
        rows, steps, width = current.shape
        normed = self.before_attention(current)
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
        lag_number = torch.arange(self.context, device=current.device)
        absent = lag_number[None] > torch.arange(steps, device=current.device)[:, None]
        score = (score / math.sqrt(width / self.n_heads)).masked_fill(absent[:, None], -math.inf)
        share = score.softmax(3)
        mixed = torch.einsum("rshl,lhd->rshd", share, value_by_lag)
        for value, weight in zip(values, share.unbind(3), strict=True):
            mixed = mixed + weight[..., None] * value
        return mixed.flatten(2)


MODELS: dict[str, type[DynamicsModel]] = {
    "linear": Filter,
    "bilinear": Filter,
    "nonlinear": NonlinearFilter,
    "gru": Recurrent,
    "transformer": BandedTransformer,
}


def dynamics_for(settings: NeuprintSettings, n_covariates: int) -> DynamicsModel:
    """Return the untrained dynamics that the settings ask for."""
    return MODELS[settings.dynamics](settings, n_covariates)
