"""Models for a hall of fame: as good as the recording can tell from the best, and as different as possible.

Models are points in the unit cube of the search's axes (`ParameterSpace.to_unit`). The distance of two models is the
root mean square of their differences over the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEAR = 0.05
"""Models that are closer than this are near-copies of each other."""

DEFAULT_TOLERANCE = 0.25
"""In standard deviations of the recording, on the mean score: twice the standard deviation that the mean score of 25
objectives has when all deviations are the recording's noise."""

OWN_MEAN_SCORE = 0.8
"""Mean score of a model that is the recorded cell itself: the mean of \\|z\\| of a standard normal z."""

_WIDEST = 0.1  # separation at which the choice begins: models that are so different belong to different basins
_NARROWER = 0.9  # step from one separation to the next


def distances(unit: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances of models (n, P) from others (m, P), shape (n, m)."""
    square = (unit**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None] - 2.0 * unit @ others.T
    return np.sqrt(np.maximum(square, 0.0) / unit.shape[1])


def tolerated_total(best: float, objectives: int, tolerance: float) -> float:
    """Return the largest total of a model that the recording cannot tell from the best one.

    Parameters
    ----------
    best : float
        Total of the best model.
    objectives : int
    tolerance : float
        In standard deviations of the recording, on the mean score. A model that is as close to the recording as
        the cell itself would be (a mean score of 0.8) is always as good as the best.
    """
    return objectives * max(best / objectives + tolerance, OWN_MEAN_SCORE)


def select_diverse(
    unit: np.ndarray, totals: np.ndarray, size: int, limit: float, kept: Sequence[int] = ()
) -> np.ndarray:
    """Choose models that are good and different.

    Models with a total up to `limit` are visited from the best to the worst, and chosen where they are at least a
    separation away from all that are chosen already. The separation is the largest, from 0.1 down to `NEAR`, for which
    enough are found. (Where it is below 0.1, no choice of as many models is separated by more than about twice as
    much.) Where fewer models within the limit are no near-copies, the best others that are none follow, and
    near-copies only after them.

    Parameters
    ----------
    unit : ndarray, shape (n, P)
        In the unit cube of the search's axes.
    totals : ndarray, shape (n,)
        Sum of the scores; lower is better.
    size : int
        How many to choose.
    limit : float
        See `tolerated_total`.
    kept : sequence of int
        Models that are chosen whatever their total.

    Returns
    -------
    ndarray of int, shape (min(size, n),)
        Best first; equal totals in the order given. The best model is always among them.
    """
    unit, totals = np.asarray(unit, np.float64), np.asarray(totals, np.float64)
    order = np.argsort(totals, kind="stable")
    size = min(size, len(order))
    if size == 0:
        return order[:0]
    first = list(dict.fromkeys([int(order[0]), *map(int, kept)]))[:size]
    good = order[totals[order] <= limit]
    chosen = first
    separation = _WIDEST
    while len(chosen) < size and separation > NEAR:
        separation = max(NEAR, _NARROWER * separation)
        chosen = _separated(unit, good, first, size, separation)
    for separation in (NEAR, 0.0):
        chosen = _separated(unit, order, chosen, size, separation)
    picked = np.zeros(len(order), bool)
    picked[chosen] = True
    return order[picked[order]]


def select_over_seeds(
    unit: np.ndarray, totals: np.ndarray, seeds: np.ndarray, size: int, objectives: int, tolerance: float
) -> np.ndarray:
    """Choose good and different models from those of several seeds.

    Half of the places are shared equally by the seeds, so that each basin that a seed found is represented, however
    good it is; the others go to models of any seed, as `select_diverse` chooses them.

    Parameters
    ----------
    unit : ndarray, shape (n, P)
        In the unit cube of the search's axes.
    totals : ndarray, shape (n,)
    seeds : ndarray of int, shape (n,)
        Which seed found each.
    size : int
    objectives : int
    tolerance : float
        See `tolerated_total`.

    Returns
    -------
    ndarray of int, shape (min(size, n),)
        Best first.
    """
    found = np.unique(seeds)
    share = max(1, size // (2 * len(found))) if len(found) > 1 else size
    kept: list[int] = []
    for seed in found:
        own = np.flatnonzero(seeds == seed)
        limit = tolerated_total(totals[own].min(), objectives, tolerance)
        kept += own[select_diverse(unit[own], totals[own], share, limit)].tolist()
    return select_diverse(unit, totals, size, tolerated_total(totals.min(), objectives, tolerance), kept)


def _separated(unit: np.ndarray, candidates: np.ndarray, chosen: list[int], size: int, separation: float) -> list[int]:
    """Return `chosen` with the first candidates that are at least `separation` from all chosen before them."""
    chosen = list(chosen)
    nearest = distances(unit[candidates], unit[chosen]).min(axis=1)
    taken = np.isin(candidates, chosen)
    for i, candidate in enumerate(candidates):
        if len(chosen) >= size:
            break
        if not taken[i] and nearest[i] >= separation:
            chosen.append(int(candidate))
            nearest = np.minimum(nearest, distances(unit[candidates], unit[[candidate]])[:, 0])
    return chosen


@dataclass(frozen=True)
class Spread:
    """How different the models of a population are.

    Attributes
    ----------
    models : int
    median_distance : float
        Of all pairs.
    near_share : float
        Share of the pairs that are closer than `NEAR`.
    distinct : int
        Models that are left when of near-copies only the best is kept.
    effective_dimensions : float
        Participation ratio of the variances along the principal axes: 1 for a line, P for a ball in P parameters.
    by_parameter : tuple of float, length P
        Standard deviation of each parameter, as a share of its axis.
    """

    models: int
    median_distance: float
    near_share: float
    distinct: int
    effective_dimensions: float
    by_parameter: tuple[float, ...]

    @property
    def copies(self) -> bool:
        """Whether the population is a few models and their near-copies."""
        return self.models > 1 and 2 * self.distinct <= self.models


def median_distance(unit: np.ndarray) -> float:
    """Return the median distance of all pairs of models, shape (n, P); 0 of a single one."""
    pairs = distances(unit, unit)[np.triu_indices(len(unit), 1)]
    return float(np.median(pairs)) if len(pairs) else 0.0


def spread_of(unit: np.ndarray) -> Spread:
    """Return how different models are, best first, shape (n, P), in the unit cube of the search's axes."""
    unit = np.asarray(unit, np.float64)
    pairs = distances(unit, unit)[np.triu_indices(len(unit), 1)]
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(unit.T, bias=True))).clip(0.0)
    ranks = np.arange(len(unit))
    return Spread(
        models=len(unit),
        median_distance=median_distance(unit),
        near_share=float((pairs < NEAR).mean()) if len(pairs) else 0.0,
        distinct=len(_separated(unit, ranks, [0], len(unit), NEAR)),
        effective_dimensions=float(variances.sum() ** 2 / (variances**2).sum()) if variances.max() > 1e-12 else 0.0,
        by_parameter=tuple(unit.std(axis=0).tolist()),
    )
