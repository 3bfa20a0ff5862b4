"""Proposals from the signed deviations of features: what a parameter changes is learnt from what was evaluated."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

MISSING_SCORE = 250.0  # of a feature that the model does not have, and of a failed evaluation
_LINEAR_UP_TO = 20.0  # standard deviations, from which on a residual counts with its logarithm
_MISSING = 60.0  # what a missing feature counts, in place of standard deviations
_ENSEMBLE = 64  # models
_DAMPING = (-2.0, 0.3)  # decades about the mean variance of the targets
_NOISE = 0.5  # of the targets in a step, in roots of its damping
_JITTER = 0.15  # of a proposal, in standard deviations of the ensemble


def residual_columns(scores: np.ndarray, residuals: np.ndarray, signed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals as the search uses them, and which features are missing, both of shape (n, M).

    Large residuals are compressed: beyond 20 they grow with their logarithm. Of an objective without a sign, the score
    is the residual, which a least-squares search can use as well, though it cannot tell the two sides of the target
    apart. A missing feature has NaN.

    Parameters
    ----------
    scores, residuals : ndarray, shape (n, M)
        As `Strategy.tell` takes them.
    signed : ndarray of bool, shape (M,)
        Objectives of which some model has had a residual. There, a model without one lacks the feature, whatever its
        score: penalties differ.
    """
    unsigned = np.isnan(residuals)
    missing = unsigned & (signed | (scores >= MISSING_SCORE))
    values = np.where(unsigned, scores, residuals)
    size = np.minimum(np.abs(values), MISSING_SCORE)
    far = np.maximum(size / _LINEAR_UP_TO, 1.0)
    squashed = np.sign(values) * (np.minimum(size, _LINEAR_UP_TO) + _LINEAR_UP_TO * np.log(far))
    return np.where(missing, np.nan, squashed), missing


class KalmanSearch:
    """Ensemble Kalman inversion (Iglesias et al. 2013) of the best models, as an optimiser.

    It keeps the best models in the unit cube of the axes with their residuals, needs no evaluations of its own for a
    Jacobian, and draws from the generator that it is given, and from nothing else. A member U with targets G proposes
    U + K (noise - G), where K = C_ug (C_gg + a)^-1 is made of the ensemble's covariances; better members propose more.
    The damping a is drawn anew for each generation, over two decades, up to twice the mean variance of the targets.

    Parameters
    ----------
    generator : numpy.random.Generator
    size : int
        Of the ensemble.

    Attributes
    ----------
    unit : ndarray, shape (n, P)
    signed : ndarray of bool, shape (M,)
        Objectives of which a model so far, kept or not, has had a residual.
    """

    def __init__(self, generator: np.random.Generator, size: int = _ENSEMBLE) -> None:
        self._size, self._random = size, generator
        self.unit = np.empty((0, 0))
        self.signed = np.zeros(1, bool)
        self._scores, self._residuals = np.empty((0, 0)), np.empty((0, 0))
        self._costs = np.empty(0)

    def add(self, unit: np.ndarray, scores: np.ndarray, residuals: np.ndarray, costs: np.ndarray) -> None:
        """Take in models (n, P) with their scores and residuals, (n, M), and costs, (n,)."""
        self.signed = self.signed | np.isfinite(residuals).any(axis=0)
        if len(self._costs):
            unit = np.concatenate([self.unit, unit])
            scores, residuals = np.concatenate([self._scores, scores]), np.concatenate([self._residuals, residuals])
            costs = np.concatenate([self._costs, costs])
        _, first = np.unique(unit, axis=0, return_index=True)
        kept = first[np.lexsort((first, costs[first]))][: self._size]
        self.unit, self._scores, self._residuals, self._costs = unit[kept], scores[kept], residuals[kept], costs[kept]

    @property
    def median_cost(self) -> float:
        """Of the models that are kept."""
        return float(np.median(self._costs))

    def ask(self, n: int) -> np.ndarray:
        """Return new individuals, shape (n, P), in the unit cube."""
        with threadpool_limits(1):  # the products of several threads depend on their number
            return self._proposals(n)

    def _proposals(self, n: int) -> np.ndarray:
        unit, targets = self.unit, self._targets()
        du, dg = unit - unit.mean(axis=0), targets - targets.mean(axis=0)
        freedom = max(len(unit) - 1, 1)
        c_ug, c_gg = du.T @ dg / freedom, dg.T @ dg / freedom
        damping = np.diag(c_gg).mean() * 10.0 ** self._random.uniform(*_DAMPING) + 1e-12
        gain = np.linalg.solve(c_gg + damping * np.eye(len(c_gg)), c_ug.T)
        members = (len(unit) * self._random.random(n) ** 2).astype(int)  # the best quarter proposes half of the models
        noise = _NOISE * np.sqrt(damping) * self._random.standard_normal((n, len(c_gg)))
        jitter = _JITTER * du.std(axis=0) * self._random.standard_normal((n, unit.shape[1]))
        return _reflected(unit[members] + (noise - targets[members]) @ gain + jitter)

    def _targets(self) -> np.ndarray:
        """Return what is to become zero, shape (k, T): residuals, and of features that some lack, which are missing.

        A missing residual is taken as the mean of the others, so that it tells nothing of its size.
        """
        residuals, missing = residual_columns(self._scores, self._residuals, self.signed)
        there = ~missing
        known = np.where(there, residuals, 0.0)
        means = known.sum(axis=0) / np.maximum(there.sum(axis=0), 1)
        lacking = missing.any(axis=0)
        return np.concatenate([np.where(there, known, means), _MISSING * missing[:, lacking]], axis=1)


def _reflected(unit: np.ndarray) -> np.ndarray:
    """Return points with what lies outside of the unit cube reflected at its faces."""
    folded = np.mod(unit, 2.0)
    return np.where(folded > 1.0, 2.0 - folded, folded)
