"""CMA-ES inside one basin: the second half of the `fast` search."""

from __future__ import annotations

import math

import numpy as np

LINEAR_UP_TO = 20.0
_NARROWEST = 0.05  # an axis starts with at least this share of the mean spread
_CONVERGED_WIDTH = 1e-3  # of an axis: no objective notices less
_STALLED_GAIN = 0.01  # relative gain below which a run has stalled


def bounded_cost(scores: np.ndarray) -> np.ndarray:
    """Sum of the objectives (n, M), each growing only with its logarithm above 20.

    One hopeless objective must not drown the others, and far from any good model, where all are hopeless, the
    way down must still be seen.

    Returns
    -------
    ndarray, shape (n,)
    """
    above = np.maximum(scores / LINEAR_UP_TO, 1.0)
    return (np.minimum(scores, LINEAR_UP_TO) + LINEAR_UP_TO * np.log(above)).sum(axis=1)


class Polish:
    """One CMA-ES run in the unit cube.

    Parameters
    ----------
    start : ndarray, shape (P,)
        Where it begins.
    around : ndarray, shape (k, P)
        Good models; their spread along each axis gives the diagonal starting covariance.
    sigma : float
        Root mean square of the starting standard deviations, in units of the cube.
    population : int
        Individuals per generation.
    seed : int
    """

    def __init__(
        self, start: np.ndarray, around: np.ndarray, sigma: float, population: int, seed: int
    ) -> None:
        from cmaes import CMA

        spread = around.std(axis=0)
        spread = np.maximum(spread, max(_NARROWEST * math.sqrt((spread**2).mean()), 1e-12))
        self._cma = CMA(
            mean=start.astype(np.float64),
            sigma=sigma,
            bounds=np.tile([0.0, 1.0], (len(start), 1)),
            seed=seed,
            population_size=population,
            cov=np.diag(spread**2 / (spread**2).mean()),
        )
        self._best_costs: list[float] = []
        self.start = start.copy()

    @property
    def centre(self) -> np.ndarray:
        """Mean of the distribution, shape (P,)."""
        return self._cma.mean.copy()

    def ask(self) -> np.ndarray:
        return np.array([self._cma.ask() for _ in range(self._cma.population_size)])

    def tell(self, unit: np.ndarray, costs: np.ndarray) -> None:
        self._cma.tell(list(zip(unit, costs.tolist(), strict=True)))
        self._best_costs.append(min(costs.min(), self._best_costs[-1] if self._best_costs else np.inf))

    @property
    def settled(self) -> bool:
        """Whether going on is pointless: the distribution has shrunk to a point, or the best has stalled."""
        width = self._cma._sigma * np.sqrt(np.diag(self._cma._C))
        if width.max() < _CONVERGED_WIDTH or self._cma.should_stop():
            return True
        patience = 10 + math.ceil(30 * self._cma.dim / self._cma.population_size)
        if len(self._best_costs) <= patience:
            return False
        before, now = self._best_costs[-1 - patience], self._best_costs[-1]
        return before - now < _STALLED_GAIN * before
