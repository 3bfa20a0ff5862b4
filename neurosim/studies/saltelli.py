"""Sobol indices by Saltelli's sampling: no surrogate, but many runs; a check with confidence intervals."""

from collections.abc import Sequence

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.sobol_indices import (
    Indices,
    SensitivityProblem,
    check_runs,
    empty_indices,
    reason_for_none,
)

ENOUGH = 0.5
"""Share of the sampled points that must be usable."""

RESAMPLES = 1000


def number_of_runs(points: int, parameters: int) -> int:
    """Return how many runs are needed: each point, its partner, and one for each parameter."""
    return points * (parameters + 2)


def design(problem: SensitivityProblem, points: int, seed: int = 0) -> np.ndarray:
    """Return the nodes where the model is to be run, shape (points (P + 2), P).

    Parameters
    ----------
    problem : SensitivityProblem
    points : int
        Of the Sobol sequence; a power of two.
    seed : int
        Of its scrambling.

    Raises
    ------
    InputError
        When `points` is no power of two.
    """
    from SALib.sample import sobol

    if points < 2 or points & (points - 1):
        raise InputError(
            "expected a power of two of points, such as 128 or 1024, which a Sobol sequence needs to be"
            f" even, found {points}."
        )
    return sobol.sample(_described(problem), points, calc_second_order=False, seed=seed)


def saltelli(
    problem: SensitivityProblem, nodes: np.ndarray, values: np.ndarray, features: Sequence[str], seed: int = 0
) -> Indices:
    """Return the Sobol indices of features by SALib's estimators, with 95 % bootstrap intervals.

    Parameters
    ----------
    problem : SensitivityProblem
    nodes : ndarray, shape (points (P + 2), P)
        As `design` gives them.
    values : ndarray, shape (points (P + 2), F)
        Features at the nodes; NaN where a run failed or has no such feature. The point to which such a run
        belongs is left out whole.
    features : sequence of str, length F
    seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        When the arrays do not belong together.
    """
    from SALib.analyze import sobol

    check_runs(nodes, values, features, len(problem))
    together = len(problem) + 2
    if len(nodes) % together:
        raise InputError(f"expected {together} runs for each point, found {len(nodes)} runs.")
    whole = np.isfinite(values).reshape(-1, together, len(features)).all(axis=1)
    usable = np.repeat(whole, together, axis=0)
    reasons = [reason_for_none(y[ok], len(y), ENOUGH) for y, ok in zip(values.T, usable.T, strict=True)]
    indices = empty_indices(features, problem.parameters, usable, reasons)
    for f, reason in enumerate(reasons):
        if reason is None:
            result = sobol.analyze(
                _described(problem),
                values[usable[:, f], f],
                calc_second_order=False,
                num_resamples=RESAMPLES,
                seed=seed + 1,  # SALib takes 0 for no seed
            )
            for kind, index, low, high in (
                ("S1", indices.first, indices.first_low, indices.first_high),
                ("ST", indices.total, indices.total_low, indices.total_high),
            ):
                index[f] = result[kind]
                low[f], high[f] = result[kind] - result[f"{kind}_conf"], result[kind] + result[f"{kind}_conf"]
    return indices


def _described(problem: SensitivityProblem) -> dict:
    return {
        "num_vars": len(problem),
        "names": list(problem.parameters),
        "bounds": problem.bounds.tolist(),
    }
