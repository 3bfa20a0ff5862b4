"""Sobol indices as all routes give them, and the features that have none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurosim.errors import InputError

VARIES_ABOVE = 1e-9
"""A feature whose values differ by a smaller share of the largest does not vary."""


@dataclass(frozen=True, eq=False)
class Indices:
    """Sobol indices of features (F) to parameters (P).

    Attributes
    ----------
    features, parameters : tuple of str
    first, total : ndarray, shape (F, P)
        Share of a feature's variance that a parameter causes alone, and with all its interactions. NaN for a
        feature that has none.
    first_low, first_high, total_low, total_high : ndarray, shape (F, P)
        Bounds of the 95 % interval; NaN where the route gives none.
    runs, left_out : ndarray of int, shape (F,)
        Runs that were used, and those without the feature.
    surrogate_error : ndarray, shape (F,)
        Leave-one-out error of the surrogate as a share of the feature's variance; NaN without a surrogate.
    orders : ndarray of int, shape (F,)
        Total order of the surrogate; 0 without one.
    reasons : tuple of (str or None), length F
        Why a feature has no indices.
    """

    features: tuple[str, ...]
    parameters: tuple[str, ...]
    first: np.ndarray
    total: np.ndarray
    first_low: np.ndarray
    first_high: np.ndarray
    total_low: np.ndarray
    total_high: np.ndarray
    runs: np.ndarray
    left_out: np.ndarray
    surrogate_error: np.ndarray
    orders: np.ndarray
    reasons: tuple[str | None, ...]


def empty_indices(
    features: Sequence[str], parameters: Sequence[str], usable: np.ndarray, reasons: Sequence[str | None]
) -> Indices:
    """Return indices that are all NaN, to be filled in for the features without a reason.

    Parameters
    ----------
    features, parameters : sequence of str
    usable : ndarray of bool, shape (N, F)
        The runs that each feature is computed from.
    reasons : sequence of (str or None), length F
    """
    shape = (len(features), len(parameters))
    first, total, *bounds = (np.full(shape, np.nan) for _ in range(6))
    runs = usable.sum(axis=0)
    error = np.full(len(features), np.nan)
    return Indices(
        tuple(features),
        tuple(parameters),
        first,
        total,
        *bounds,
        runs,
        len(usable) - runs,
        error,
        np.zeros(len(features), dtype=int),
        tuple(reasons),
    )


def why_none(values: np.ndarray, runs: int, share: float) -> str | None:
    """Return why a feature has no indices; None where it has.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Of the runs that can be used.
    runs : int
        All runs of the design.
    share : float
        Of these that must be usable.
    """
    if len(values) < share * runs:
        return f"only {len(values)} of {runs} runs have it, {int(np.ceil(share * runs))} are needed"
    if np.ptp(values) <= VARIES_ABOVE * np.abs(values).max():
        return f"it does not vary: {values.mean():.6g} in all {len(values)} runs"
    return None


def checked_runs(nodes: np.ndarray, values: np.ndarray, features: Sequence[str], parameters: int) -> None:
    """Raise InputError unless nodes, shape (N, P), and values, shape (N, F), belong together."""
    if nodes.shape != (len(values), parameters) or values.shape != (len(nodes), len(features)):
        raise InputError(
            f"expected nodes of shape (N, {parameters}) and values of shape (N, {len(features)}), found "
            f"{nodes.shape} and {values.shape}."
        )
