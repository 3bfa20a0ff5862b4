"""Means of Sobol indices over cells and models, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9_999


@dataclass(frozen=True)
class Average:
    """The mean of an index.

    Attributes
    ----------
    mean, low, high : float
        With the bounds of a 95 % percentile bootstrap; those are NaN where there is one value alone.
    spread : float
        Standard deviation of what was averaged, NaN where there is one value alone.
    cells, models : int
        With such an index.
    """

    mean: float
    low: float
    high: float
    spread: float
    cells: int
    models: int


def average(index: Sequence[float] | np.ndarray, cells: Sequence[str], seed: int = 0) -> Average:
    """Return the mean of an index, every cell counted once; resampled are cells, of one cell its models.

    Parameters
    ----------
    index : array-like, shape (n,)
        Of each model; NaN where it has none.
    cells : sequence of str, length n
        To which each model belongs.
    seed : int
        Of the bootstrap.
    """
    from scipy.stats import bootstrap

    values, labels = np.asarray(index, np.float64), np.asarray(cells)
    has = np.isfinite(values)
    values, labels = values[has], labels[has]
    names = np.unique(labels)
    if not len(names):
        return Average(*(np.nan,) * 4, 0, 0)
    averaged = values if len(names) == 1 else np.array([values[labels == name].mean() for name in names])
    low = high = spread = np.nan
    if len(averaged) > 1:
        spread = float(averaged.std(ddof=1))
        rng = np.random.default_rng(seed)
        found = bootstrap((averaged,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng)
        low, high = map(float, found.confidence_interval)
    return Average(float(averaged.mean()), low, high, spread, len(names), len(values))
