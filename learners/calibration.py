"""Calibration of class probabilities: temperature, calibration errors, margin and entropy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from scipy.special import entr, log_softmax, softmax

from neurofleet.errors import LearnerError, TrainingFailed

BINS = 15
SMALLEST_PROBABILITY = 1e-12
TEMPERATURE_RANGE = (0.05, 20.0)


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose top probability lies in (low, high]; the means are None in an empty bin."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it changed on the validation samples.

    Attributes
    ----------
    temperature : float
        Logits are divided by it; 1 is "as trained".
    n : int
        Validation samples it was fitted on.
    nll_before, nll_after : float
        Mean negative log-likelihood (nats) at temperature 1 and at `temperature`.
    ece_before, ece_after : float
        Expected calibration error (15 equal-width bins) at both.
    determined : bool
        Whether the samples determine the temperature. It stays 1 when all of them are predicted right,
        for then ever smaller temperatures are ever more likely; and it ends at 0.05 or 20.
    """

    temperature: float = 1.0
    n: int = 0
    nll_before: float = math.nan
    nll_after: float = math.nan
    ece_before: float = math.nan
    ece_after: float = math.nan
    determined: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON; what was never measured is None."""
        entries = asdict(self)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in entries.items()}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` wrote."""
        return cls(**cast(Any, {k: math.nan if v is None else v for k, v in entries.items()}))


UNCALIBRATED = Calibration()


def calibrated_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the softmax (n, K) over all classes of `logits` (n, K) divided by the temperature."""
    if not temperature > 0:
        raise LearnerError(f"A temperature is above 0, found {temperature!r}.")
    return softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, true_index: np.ndarray) -> Calibration:
    """Find the temperature that makes the validation labels most likely (Guo et al. 2017).

    L-BFGS on log T, which keeps T positive, from T = 1. `logits` must be as the model gives them, divided
    by nothing. For an ensemble, give the log of its mean probabilities (`log_probabilities`).

    Parameters
    ----------
    logits : (n, K) array
        Logits or log-probabilities of validation samples, never of test samples.
    true_index : (n,) int array
        Their classes.

    Raises
    ------
    LearnerError
        When there is no sample, or a class is out of range.
    TrainingFailed
        When a value is not finite.
    """
    from scipy.optimize import minimize

    logits = np.asarray(logits, dtype=np.float64)
    true_index = _checked(logits, true_index)
    if not np.isfinite(logits).all():
        raise TrainingFailed(
            "The network's answers for the validation cells are NaN or infinite: its training has not converged."
            " Lower `learning_rate`, and look for extreme values in the reference."
        )
    rows = np.arange(len(logits))
    chosen = logits[rows, true_index]

    def loss(log_t: np.ndarray) -> tuple[float, np.ndarray]:
        inverse = math.exp(-float(log_t[0]))
        expected = (softmax(logits * inverse, axis=1) * logits).sum(axis=1)
        value = -log_softmax(logits * inverse, axis=1)[rows, true_index].mean()
        return float(value), np.array([inverse * float((chosen - expected).mean())])

    bounds = tuple(math.log(limit) for limit in TEMPERATURE_RANGE)
    log_t, determined = 0.0, False
    if (logits.argmax(axis=1) != true_index).any():
        start, options = np.zeros(1), {"maxiter": 50}
        optimum = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[bounds], options=options)
        log_t = float(optimum.x[0])
        determined = min(abs(log_t - bound) for bound in bounds) > 1e-6
    before, after = calibrated_probabilities(logits), calibrated_probabilities(logits, math.exp(log_t))
    return Calibration(
        temperature=math.exp(log_t),
        n=len(logits),
        nll_before=negative_log_likelihood(before, true_index),
        nll_after=negative_log_likelihood(after, true_index),
        ece_before=expected_calibration_error(before, true_index),
        ece_after=expected_calibration_error(after, true_index),
        determined=determined,
    )


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return the log of probabilities, those below 1e-12 counted as 1e-12."""
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY))


def negative_log_likelihood(probabilities: np.ndarray, true_index: np.ndarray) -> float:
    """Return the mean of -log p(true class) in nats; probabilities below 1e-12 count as 1e-12."""
    true_index = _checked(probabilities, true_index)
    return float(-log_probabilities(probabilities)[np.arange(len(true_index)), true_index].mean())


def reliability_table(probabilities: np.ndarray, true_index: np.ndarray, bins: int = BINS) -> list[ReliabilityBin]:
    """Return mean top probability against accuracy in equal-width bins of the top probability."""
    true_index = _checked(probabilities, true_index)
    top = np.asarray(probabilities).max(axis=1)
    return reliability_bins(top, np.asarray(probabilities).argmax(axis=1) == true_index, bins)


def reliability_bins(top: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[ReliabilityBin]:
    """Return the same from the top probability of each sample (n,) and whether it is right (n,)."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    table = []
    for number in range(bins):
        inside = bin_of == number
        n = int(inside.sum())
        mean, accuracy = (float(top[inside].mean()), float(right[inside].mean())) if n else (None, None)
        table.append(ReliabilityBin(float(edges[number]), float(edges[number + 1]), n, mean, accuracy))
    return table


def expected_calibration_error(probabilities: np.ndarray, true_index: np.ndarray, bins: int = BINS) -> float:
    """Return the mean of |accuracy - top probability| over equal-width bins, weighted by their samples."""
    table = reliability_table(probabilities, true_index, bins)
    gaps = [b.n * abs(b.accuracy - b.mean_probability) for b in table if b.accuracy is not None]  # type: ignore
    return sum(gaps) / len(true_index)


def margin(probabilities: np.ndarray) -> np.ndarray:
    """Return the distance (n,) between the largest and the second largest probability."""
    ordered = np.partition(np.asarray(probabilities), -2, axis=1)
    return ordered[:, -1] - ordered[:, -2]


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy (n,) in nats, from 0 (sure) to log K (all classes alike)."""
    return entr(np.asarray(probabilities, dtype=np.float64)).sum(axis=1)


def _checked(probabilities: np.ndarray, true_index: np.ndarray) -> np.ndarray:
    true_index = np.asarray(true_index)
    shape = np.shape(probabilities)
    if len(shape) != 2 or shape[0] != len(true_index) or shape[0] == 0:
        raise LearnerError(
            f"Expected a row of class values for each of the {len(true_index)} labels, at least one;"
            f" found an array of shape {shape}."
        )
    if true_index.min() < 0 or true_index.max() >= shape[1]:
        raise LearnerError(
            f"Expected class indices from 0 to {shape[1] - 1}, found {true_index.min()} to {true_index.max()}."
        )
    return true_index
