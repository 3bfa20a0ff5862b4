"""Proposals from the signed deviations of features: what a parameter changes is learnt from what was evaluated.

Both searches keep evaluated models in the unit cube of the axes with their residuals, need no evaluations of their own
for a Jacobian, and draw from the generator that they are given, and from nothing else.
"""

from __future__ import annotations

import abc

import numpy as np

MISSING_SCORE = 250.0  # of a feature that the model does not have, and of a failed evaluation
_LINEAR_UP_TO = 20.0  # standard deviations, from which on a residual counts with its logarithm
_MISSING = 60.0  # what a missing feature counts, in place of standard deviations
_DAMPING = (-2.0, 0.3)  # decades about the mean variance of the targets
_NOISE = 0.5  # of the targets in a step, in roots of its damping
_JITTER = 0.15  # of a proposal, in standard deviations of the ensemble
_GOOD = 64  # models that steps of a regression start from
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # of the mean squared singular value


def residual_columns(scores: np.ndarray, residuals: np.ndarray, signed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals as the searches use them, and which features are missing, both of shape (n, M).

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


class ResidualSearch(abc.ABC):
    """Evaluated models with their residuals, of which the best `size` are kept.

    Parameters
    ----------
    size : int
    generator : numpy.random.Generator

    Attributes
    ----------
    unit : ndarray, shape (n, P)
    signed : ndarray of bool, shape (M,)
        Objectives of which a model so far, kept or not, has had a residual.
    """

    def __init__(self, size: int, generator: np.random.Generator) -> None:
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

    def _damping(self, covariance: np.ndarray) -> float:
        """Draw the damping of a step: over two decades, up to twice the mean variance of the targets."""
        return float(np.diag(covariance).mean() * 10.0 ** self._random.uniform(*_DAMPING) + 1e-12)

    def _jitter(self, n: int, spread: np.ndarray) -> np.ndarray:
        """Draw what keeps the models apart, (n, P); `spread` is their standard deviation in each parameter."""
        return _JITTER * spread * self._random.standard_normal((n, len(spread)))

    @abc.abstractmethod
    def ask(self, n: int) -> np.ndarray:
        """Return new individuals, shape (n, P), in the unit cube."""


def _reflected(unit: np.ndarray) -> np.ndarray:
    """Return points with what lies outside of the unit cube reflected at its faces."""
    folded = np.mod(unit, 2.0)
    return np.where(folded > 1.0, 2.0 - folded, folded)


class KalmanSearch(ResidualSearch):
    """Ensemble Kalman inversion (Iglesias et al. 2013) of the best models, as an optimiser.

    A member U with targets G proposes U + K (noise - G), where K = C_ug (C_gg + a)^-1 is made of the ensemble's
    covariances. The damping a is drawn anew for each generation, over two decades below the mean variance of the
    targets.
    """

    def ask(self, n: int) -> np.ndarray:
        unit, targets = self.unit, self._targets()
        du, dg = unit - unit.mean(axis=0), targets - targets.mean(axis=0)
        freedom = max(len(unit) - 1, 1)
        c_ug, c_gg = du.T @ dg / freedom, dg.T @ dg / freedom
        damping = self._damping(c_gg)
        gain = np.linalg.solve(c_gg + damping * np.eye(len(c_gg)), c_ug.T)
        members = self._random.integers(len(unit), size=n)
        noise = _NOISE * np.sqrt(damping) * self._random.standard_normal((n, len(c_gg)))
        return _reflected(unit[members] + (noise - targets[members]) @ gain + self._jitter(n, du.std(axis=0)))


class RegressionSearch(ResidualSearch):
    """Levenberg-Marquardt steps of good models, with Jacobians regressed on the models near them.

    The Jacobian of a model is a weighted ridge regression of the targets on the parameters of the models around it; the
    ridge of each target is chosen by generalised cross-validation, so that a target of which the neighbourhood tells
    nothing does not steer. Steps are long in parameters in which good models differ, and damped as in `KalmanSearch`.
    """

    def ask(self, n: int) -> np.ndarray:
        targets, good = self._targets(), min(_GOOD, len(self.unit))
        spread = self.unit[:good].std(axis=0)
        steps = np.array([self._step(int(self._random.integers(good)), targets, spread) for _ in range(n)])
        return _reflected(steps + self._jitter(n, spread))

    def _step(self, base: int, targets: np.ndarray, spread: np.ndarray) -> np.ndarray:
        scaled = self._jacobian(base, targets) * spread
        expected = scaled @ scaled.T
        damping = self._damping(expected)
        aim = _NOISE * np.sqrt(damping) * self._random.standard_normal(targets.shape[1]) - targets[base]
        step = scaled.T @ np.linalg.solve(expected + damping * np.eye(len(aim)), aim)
        return self.unit[base] + spread * step

    def _jacobian(self, base: int, targets: np.ndarray) -> np.ndarray:
        """Return the change of each target with each parameter, shape (T, P)."""
        du = np.delete(self.unit - self.unit[base], base, axis=0)
        distance = np.sqrt((du**2).mean(axis=1))
        width = np.sort(distance)[min(2 * du.shape[1], len(distance) - 1)]
        root = np.exp(-0.25 * (distance / max(width, 1e-9)) ** 2)[:, None]
        dg = root * np.delete(targets - targets[base], base, axis=0)
        left, values, right = np.linalg.svd(root * du, full_matrices=False)
        seen = left.T @ dg
        unseen = np.maximum((dg**2).sum(axis=0) - (seen**2).sum(axis=0), 0.0)
        count, square = float((root**2).sum()), values**2
        lowest, jacobian = np.full(dg.shape[1], np.inf), np.zeros(seen.shape)
        for ridge in np.multiply(_RIDGES, square.mean()):
            kept = square / (square + ridge)
            error = unseen + (((1.0 - kept)[:, None] * seen) ** 2).sum(axis=0)
            error /= max(1.0 - kept.sum() / count, 0.05) ** 2
            jacobian = np.where(error < lowest, (values / (square + ridge))[:, None] * seen, jacobian)
            lowest = np.minimum(lowest, error)
        return jacobian.T @ right
