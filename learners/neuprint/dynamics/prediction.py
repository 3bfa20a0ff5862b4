"""What a dynamics predicts, and how wrong that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from learners.neuprint.sessions import Window

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
