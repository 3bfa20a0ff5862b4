"""CMA-ES in one basin after the other: what the `fast` and `steady` searches end with."""

from __future__ import annotations

import math
import random
from functools import cache

import numpy as np

LINEAR_UP_TO = 20.0
_NARROWEST = 0.05  # an axis starts with at least this share of the mean spread
_CONVERGED_WIDTH = 1e-3  # of an axis: no objective notices less
_STALLED_GAIN = 0.01  # relative gain below which a run has stalled
_BASIN = 60  # number of best models that represent the basin in which CMA-ES starts
_OTHER_BASIN = 0.1  # root mean square distance per axis from which on a model lies in another basin


def bounded_cost(scores: np.ndarray) -> np.ndarray:
    """Sum of the objectives (n, M), each growing only with its logarithm above 20.

    A single very bad objective must not outweigh all others; and far from good models, where all are very bad,
    the sum must still decrease towards them.

    Returns
    -------
    ndarray, shape (n,)
    """
    above = np.maximum(scores / LINEAR_UP_TO, 1.0)
    return (np.minimum(scores, LINEAR_UP_TO) + LINEAR_UP_TO * np.log(above)).sum(axis=1)


@cache
def _sampler_class() -> type:
    """Return `cmaes.CMA` in the unit cube, which draws the same individuals at half the cost."""
    from cmaes import CMA  # loads scipy.stats, seconds on a busy machine; only a search needs it

    class Sampler(CMA):
        _scaled: tuple[np.ndarray, np.ndarray] | None = None  # the axes, and the axes by their lengths

        def _sample_solution(self) -> np.ndarray:
            axes, lengths = self._eigen_decomposition()
            if self._scaled is None or self._scaled[0] is not axes:
                self._scaled = axes, axes.dot(np.diag(lengths))
            return self._mean + self._sigma * self._scaled[1].dot(self._rng.randn(self._n_dim))

        def _is_feasible(self, param: np.ndarray) -> bool:
            values = param.tolist()  # so few that an array's own functions take longer
            return min(values) >= 0.0 and max(values) <= 1.0

    return Sampler


class CMAESRun:
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

    def __init__(self, start: np.ndarray, around: np.ndarray, sigma: float, population: int, seed: int) -> None:
        spread = around.std(axis=0)
        spread = np.maximum(spread, max(_NARROWEST * math.sqrt((spread**2).mean()), 1e-12))
        self._cma = _sampler_class()(
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
        """Draw one individual, shape (P,)."""
        return self._cma.ask()

    def tell(self, unit: np.ndarray, costs: np.ndarray) -> None:
        """Tell a generation, (population, P), and its costs, (population,)."""
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


class BasinSearch:
    """Improves the best model by CMA-ES; when that run has settled, the best one that lies in another basin.

    Parameters
    ----------
    models : ndarray, shape (k, P)
        What the search has left, best first, in the unit cube.
    sigma, population
        As `CMAESRun` takes them.
    rng : random.Random

    Attributes
    ----------
    run : CMAESRun
        The run under way.
    runs : int
        Runs begun so far.
    exhausted : bool
        Whether no model is left in another basin.
    """

    def __init__(self, models: np.ndarray, sigma: float, population: int, rng: random.Random) -> None:
        self._left = models
        self._sigma, self._random = sigma, rng
        self.population = population
        self.runs = 0
        self.exhausted = False
        self._begin(models[:_BASIN])

    def tell(self, unit: np.ndarray, costs: np.ndarray) -> None:
        """Tell a generation of the current run, (population, P), and its costs, (population,)."""
        self.run.tell(unit, costs)
        if not self.run.settled:
            return
        for visited in (self.run.start, self.run.centre):
            distance = np.sqrt(((self._left - visited) ** 2).mean(axis=1))
            self._left = self._left[distance > _OTHER_BASIN]
        if len(self._left):
            distance = ((self._left - self._left[0]) ** 2).sum(axis=1)
            self._begin(self._left[np.argsort(distance, kind="stable")[:_BASIN]])
        else:
            self.exhausted = True

    def _begin(self, around: np.ndarray) -> None:
        self.run = CMAESRun(self._left[0], around, self._sigma, self.population, self._random.getrandbits(32))
        self.runs += 1
