"""Indicator-based selection (IBEA; Zitzler & Kunzli 2004) in the form that BluePyOpt runs."""

from __future__ import annotations

import random

import numpy as np

KAPPA = 0.05
TOURNAMENT = 4
_BLOCK = 96  # rows compared at a time: keeps the temporary matrices within a core's cache


def ibea_fitness(scores: np.ndarray, kappa: float = KAPPA) -> np.ndarray:
    """Loss in quality of the population that each individual stands for (lower is better).

    With x scaled by the ranges of the population, I(i, j) = max over objectives of (x_j - x_i) and the
    fitness of i is the sum over j != i of exp(-I(i, j) / (kappa max|I|)). Every operation is rounded as
    BluePyOpt's `selIBEA` rounds it, so that even ties fall the same way.

    Parameters
    ----------
    scores : ndarray, shape (n, M)

    Returns
    -------
    ndarray, shape (n,)
    """
    distinct, number = _distinct(np.ascontiguousarray(scores, np.float64))
    indicator = epsilon_indicator(distinct)
    largest = max(indicator.max(), -indicator.min())
    if largest != 0:
        indicator *= -1.0 / (kappa * largest)
        np.exp(indicator, out=indicator)
    if len(distinct) < len(scores):
        indicator = indicator[number].take(number, axis=1)
    return indicator.sum(axis=1) - indicator.diagonal()


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row once, and the number of each row among them: many parents come several times."""
    first: dict[bytes, int] = {}
    same_as = [first.setdefault(row.tobytes(), i) for i, row in enumerate(rows)]
    kept, number = np.unique(same_as, return_inverse=True)
    return rows[kept], number


def epsilon_indicator(scores: np.ndarray) -> np.ndarray:
    """Additive epsilon indicator I of scores (n, M) over the ranges of the population, shape (n, n).

    Row blocks against the columns from the block on: (a - b) / r is exactly -((b - a) / r), so the largest
    difference gives the upper triangle and the smallest, negated, the lower one.
    """
    n = len(scores)
    ranges = scores.max(axis=0) - scores.min(axis=0)
    ranges[ranges == 0] = 1.0
    objectives = np.ascontiguousarray(scores.T)
    indicator = np.empty((n, n))
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        largest = np.full((stop - start, n - start), -np.inf)
        smallest = np.full_like(largest, np.inf)
        difference = np.empty_like(largest)
        for values, scale in zip(objectives, ranges, strict=True):
            np.subtract(values[start:], values[start:stop, None], out=difference)
            difference /= scale
            np.maximum(largest, difference, out=largest)
            np.minimum(smallest, difference, out=smallest)
        indicator[start:stop, start:] = largest
        indicator[stop:, start:stop] = -smallest[:, stop - start :].T
    return indicator


def select_parents(scores: np.ndarray, n_parents: int, rng: random.Random) -> list[int]:
    """Draw parents by tournaments of 4 with replacement.

    No environmental selection goes before it: BluePyOpt's keeps the whole population by default, which leaves
    only its sorting by fitness to be done.

    Parameters
    ----------
    scores : ndarray, shape (n, M)

    Returns
    -------
    list of int, length n_parents
        Rows of `scores`; good ones come several times.
    """
    fitness = ibea_fitness(scores)
    order = np.argsort(fitness, kind="stable").tolist()
    ranked = fitness[order].tolist()
    parents = []
    for _ in range(n_parents):
        entrants = [int(rng.random() * len(order)) for _ in range(TOURNAMENT)]
        parents.append(order[min(entrants, key=ranked.__getitem__)])
    return parents
