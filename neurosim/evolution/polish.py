"""CMA-ES inside one basin: the second half of the `fast` search."""

from __future__ import annotations

import numpy as np

COST_CAP = 20.0
_LEAK = 1e-3
_NARROWEST = 0.05


def bounded_cost(scores: np.ndarray) -> np.ndarray:
    """Sum over the objectives (n, M) of min(z, 20): one hopeless objective must not drown the others.

    A thousandth of what lies above 20 still counts, so that models with the same hopeless objectives are told
    apart.

    Returns
    -------
    ndarray, shape (n,)
    """
    capped = np.minimum(scores, COST_CAP)
    return (capped + _LEAK * (scores - capped)).sum(axis=1)


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
    """

    def __init__(
        self, start: np.ndarray, around: np.ndarray, sigma: float, population: int, seed: int
    ) -> None:
        from cmaes import CMA

        spread = np.maximum(around.std(axis=0), 1e-12)
        spread = np.maximum(spread / np.sqrt((spread**2).mean()), _NARROWEST)
        self._cma = CMA(
            mean=start.astype(np.float64),
            sigma=sigma,
            bounds=np.tile([0.0, 1.0], (len(start), 1)),
            seed=seed,
            population_size=population,
            cov=np.diag(spread**2 / (spread**2).mean()),
        )
        self.start = start.copy()

    def ask(self) -> np.ndarray:
        return np.array([self._cma.ask() for _ in range(self._cma.population_size)])

    def tell(self, unit: np.ndarray, costs: np.ndarray) -> None:
        self._cma.tell(list(zip(unit, costs.tolist(), strict=True)))
