"""Sobol indices by polynomial chaos: a polynomial surrogate by least squares, whose variance is known.

Also by uncertainpy 1.2.3 itself, for whoever has it installed; it is no dependency.
"""

import collections
import collections.abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations_with_replacement
from math import comb
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.sobol_indices import (
    Indices,
    SensitivityProblem,
    check_runs,
    empty_indices,
    reason_for_none,
)

ORDER = 4
LEAST_SHARE_OF_RUNS = 0.75
"""Share of the runs that must be usable: with half of them the surrogate would follow single runs."""

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
MOST_PARAMETERS = len(PRIMES) + 1


def number_of_terms(parameters: int, order: int = ORDER) -> int:
    """Return how many terms a polynomial of a total order has: 210 for 6 parameters, 1,001 for 10."""
    return comb(parameters + order, order)


def design(problem: SensitivityProblem, order: int = ORDER) -> np.ndarray:
    """Return the nodes where the model is to be run, shape (2 N_terms + 2, P).

    A Hammersley set: Halton's sequence, from the element after its largest prime on, and a regular grid for
    the last parameter; the nodes that chaospy, and so uncertainpy, would use.

    Raises
    ------
    InputError
        With more than 16 parameters, which would need 9,692 runs and more.
    """
    from scipy.stats.qmc import Halton

    if len(problem) > MOST_PARAMETERS:
        raise InputError(
            f"parameters: expected at most {MOST_PARAMETERS}, found {len(problem)}, for which "
            f"{2 * number_of_terms(len(problem), order) + 2:,} runs would be needed. Choose fewer."
        )
    runs = 2 * number_of_terms(len(problem), order) + 2
    sequence = Halton(len(problem) - 1, scramble=False)
    sequence.fast_forward(PRIMES[len(problem) - 2] + 1)
    grid = np.arange(1, runs + 1) / (runs + 1)
    return problem.values(np.column_stack([sequence.random(runs), grid]))


def exponents(parameters: int, order: int = ORDER) -> np.ndarray:
    """Return the degree of each term in each parameter, shape (N_terms, P); the constant is first."""
    degrees = np.zeros((number_of_terms(parameters, order), parameters), dtype=int)
    chosen = (c for n in range(order + 1) for c in combinations_with_replacement(range(parameters), n))
    for degree, variables in zip(degrees, chosen, strict=True):
        np.add.at(degree, list(variables), 1)
    return degrees


def basis(unit: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Return the orthonormal polynomials at points of the unit cube, shape (N, N_terms)."""
    order = int(degrees.max())
    legendre = np.polynomial.legendre.legvander(2 * unit - 1, order) * np.sqrt(2 * np.arange(order + 1) + 1)
    values = np.ones((len(unit), len(degrees)))
    for parameter, degree in enumerate(degrees.T):
        values *= legendre[:, parameter, degree]
    return values


def polynomial_chaos(
    problem: SensitivityProblem, nodes: np.ndarray, values: np.ndarray, features: Sequence[str], order: int = ORDER
) -> Indices:
    """Return the Sobol indices of features by polynomial chaos.

    Parameters
    ----------
    problem : SensitivityProblem
    nodes : ndarray, shape (N, P)
        As `design` gives them.
    values : ndarray, shape (N, F)
        Features at the nodes; NaN where a run failed or has no such feature. Those are left out.
    features : sequence of str, length F
    order : int
        Total order of the polynomial.

    Returns
    -------
    Indices
        With the leave-one-out error of the surrogate. A feature that does not vary, or that fewer than three
        quarters of the runs have, has no indices but a reason.

    Raises
    ------
    InputError
        When the arrays do not belong together.
    """
    return _fitted(problem, nodes, values, features, (order,))


def best_order(
    problem: SensitivityProblem, nodes: np.ndarray, values: np.ndarray, features: Sequence[str], most: int = ORDER
) -> Indices:
    """Return the Sobol indices by the surrogate that foretells each feature best, of order 1 to `most`.

    Where a feature is not smooth, as one read from a voltage at discrete times, the many terms of a high
    order follow the roughness and give every parameter a part in it. Parameters and result are those of
    `polynomial_chaos`; the order with the smallest leave-one-out error is in ``orders``.
    """
    return _fitted(problem, nodes, values, features, range(1, most + 1))


def _fitted(
    problem: SensitivityProblem,
    nodes: np.ndarray,
    values: np.ndarray,
    features: Sequence[str],
    orders: Sequence[int],
) -> Indices:
    check_runs(nodes, values, features, len(problem))
    usable = np.isfinite(values)
    reasons = [reason_for_none(y[ok], len(y), LEAST_SHARE_OF_RUNS) for y, ok in zip(values.T, usable.T, strict=True)]
    indices = empty_indices(features, problem.parameters, usable, reasons)
    unit = problem.unit(nodes)
    for order in orders:
        degrees = exponents(len(problem), order)
        polynomials = basis(unit, degrees)
        involved = degrees > 0
        alone = involved & (involved.sum(axis=1, keepdims=True) == 1)
        for f, reason in enumerate(reasons):
            if reason is not None:
                continue
            ok = usable[:, f]
            coefficients, error = _least_squares(polynomials[ok], values[ok, f])
            if indices.orders[f] and error >= indices.surrogate_error[f]:
                continue
            parts = coefficients[1:] ** 2 / (coefficients[1:] ** 2).sum()
            indices.first[f] = parts @ alone[1:]
            indices.total[f] = parts @ involved[1:]
            indices.surrogate_error[f] = error
            indices.orders[f] = order
    return indices


def _least_squares(polynomials: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the coefficients, and the error at each run when left out as a share of the variance."""
    mean, scale = values.mean(), values.std()
    y = (values - mean) / scale
    left, singular, right = np.linalg.svd(polynomials, full_matrices=False)
    projected = left.T @ y
    coefficients = right.T @ (projected / singular)
    leverage = (left**2).sum(axis=1)
    residual = (y - left @ projected) / np.maximum(1 - leverage, np.finfo(float).eps)
    return coefficients, float((residual**2).mean())


UNCERTAINPY_VERSION = "1.2.3"
UNCERTAINPY_NEEDS = ("chaospy", "seaborn", "six", "tqdm")
"""Beyond what this project needs itself."""

PERCENTILE_SAMPLES = 100  # of percentiles, which uncertainpy computes in any case
SAME_VALUE = 1e-9


def load_uncertainpy() -> Any:
    """Import uncertainpy and return it.

    Raises
    ------
    InputError
        When it, or something that it needs, is not installed.
    """
    with _borrowed_name():
        try:
            import uncertainpy
        except ImportError as error:
            raise InputError(
                f"`engine: uncertainpy` needs uncertainpy {UNCERTAINPY_VERSION}, which cannot be imported ({error})."
                f" Install it without its pins: pip install --no-deps uncertainpy=={UNCERTAINPY_VERSION}, then"
                f" pip install {' '.join(UNCERTAINPY_NEEDS)}. Or leave `engine` out: polynomial-chaos gives the same"
                " indices."
            ) from error
    return uncertainpy


@contextmanager
def _borrowed_name() -> Iterator[None]:
    if hasattr(collections, "MutableMapping"):
        yield
        return
    names: Any = collections
    names.MutableMapping = collections.abc.MutableMapping
    try:
        yield
    finally:
        del names.MutableMapping


def uncertainpy_indices(
    problem: SensitivityProblem, nodes: np.ndarray, values: np.ndarray, features: Sequence[str], order: int = ORDER
) -> Indices:
    """Return the Sobol indices of features by uncertainpy's polynomial chaos with point collocation.

    uncertainpy asks for its nodes one after the other and is answered from `values`. Each parameter is
    handed to it as a number from -1 to 1: its polynomials are not normalised, and in the units of a small
    conductance its least squares would drop the higher ones.

    Parameters
    ----------
    problem : SensitivityProblem
    nodes : ndarray, shape (N, P)
        As `neurofleet.neurosim.studies.polynomial_chaos.design` gives them.
    values : ndarray, shape (N, F)
        Features at the nodes; NaN where a run failed or has no such feature.
    features : sequence of str, length F
    order : int
        Total order of the polynomial.

    Returns
    -------
    Indices
        Without the surrogate's error, which uncertainpy does not tell.

    Raises
    ------
    InputError
        When uncertainpy is not installed, the arrays do not belong together, or it asks for other nodes.
    """
    load_uncertainpy()
    check_runs(nodes, values, features, len(problem))
    usable = np.isfinite(values)
    reasons = [reason_for_none(y[ok], len(y), LEAST_SHARE_OF_RUNS) for y, ok in zip(values.T, usable.T, strict=True)]
    indices = empty_indices(features, problem.parameters, usable, reasons)
    alike: dict[bytes, list[int]] = {}  # features with the same runs, which uncertainpy takes as one vector
    for f, reason in enumerate(reasons):
        if reason is None:
            alike.setdefault(usable[:, f].tobytes(), []).append(f)
    points = 2 * problem.unit(nodes) - 1
    for columns in alike.values():
        # Standardised, which indices do not depend on: its variances are differences of squares.
        y = values[:, columns]
        y = (y - np.nanmean(y, axis=0)) / np.nanstd(y, axis=0)
        first, total = _by_uncertainpy(points, y, order)
        indices.orders[columns] = order
        indices.first[columns], indices.total[columns] = first.T, total.T
    return indices


def _by_uncertainpy(points: np.ndarray, values: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first-order and total indices, both of shape (P, features), of one vector-valued result."""
    import uncertainpy
    from uncertainpy.core.uncertainty_calculations import UncertaintyCalculations

    names = [f"p{i}" for i in range(points.shape[1])]
    answers = iter(zip(points, values, strict=True))

    def measured(**node: float) -> tuple[None, np.ndarray]:
        point, value = next(answers)
        if not np.allclose([node[name] for name in names], point, rtol=0, atol=SAME_VALUE):
            raise InputError(
                "uncertainpy asked for other nodes than chaospy's Hammersley set. Another version of chaospy"
                " than 4.3 may be installed; use `engine: polynomial-chaos`."
            )
        return None, value

    import chaospy

    model = uncertainpy.Model(run=measured, labels=["", ""], logger_level=None)
    parameters = uncertainpy.Parameters({name: chaospy.Uniform(-1, 1) for name in names})
    calculations = UncertaintyCalculations(model, parameters, CPUs=None, logger_level=None)
    result = calculations.polynomial_chaos(
        method="collocation", polynomial_order=order, nr_pc_mc_samples=PERCENTILE_SAMPLES
    )[model.name]
    return np.asarray(result.sobol_first), np.asarray(result.sobol_total)
