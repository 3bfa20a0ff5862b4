"""Sobol indices by polynomial chaos: a polynomial surrogate by least squares, whose variance is known.

Point collocation as in Tennøe et al. 2018 (total order 4, twice as many runs as terms and two more, at
Hammersley nodes), with Legendre polynomials that are orthonormal in the interval of each parameter. Their
squared coefficients are the parts of the variance (Sudret 2008), so that nothing has to be integrated.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import comb

import numpy as np

from neurosim.errors import InputError
from neurosim.sensitivity.indices import Indices, checked_runs, empty_indices, why_none
from neurosim.sensitivity.problem import Problem

ORDER = 4
ENOUGH = 0.75
"""Share of the runs that must be usable: with half of them the surrogate would follow single runs."""

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
MOST_PARAMETERS = len(PRIMES) + 1


def number_of_terms(parameters: int, order: int = ORDER) -> int:
    """Return how many terms a polynomial of a total order has: 210 for 6 parameters, 1,001 for 10."""
    return comb(parameters + order, order)


def design(problem: Problem, order: int = ORDER) -> np.ndarray:
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
    found = np.ones((len(unit), len(degrees)))
    for parameter, degree in enumerate(degrees.T):
        found *= legendre[:, parameter, degree]
    return found


def polynomial_chaos(
    problem: Problem, nodes: np.ndarray, values: np.ndarray, features: Sequence[str], order: int = ORDER
) -> Indices:
    """Return the Sobol indices of features by polynomial chaos.

    Parameters
    ----------
    problem : Problem
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
    problem: Problem, nodes: np.ndarray, values: np.ndarray, features: Sequence[str], most: int = ORDER
) -> Indices:
    """Return the Sobol indices by the surrogate that foretells each feature best, of order 1 to `most`.

    Where a feature is not smooth, as one read from a voltage at discrete times, the many terms of a high
    order follow the roughness and give every parameter a part in it. Parameters and result are those of
    `polynomial_chaos`; the order with the smallest leave-one-out error is in ``orders``.
    """
    return _fitted(problem, nodes, values, features, range(1, most + 1))


def _fitted(
    problem: Problem,
    nodes: np.ndarray,
    values: np.ndarray,
    features: Sequence[str],
    orders: Sequence[int],
) -> Indices:
    checked_runs(nodes, values, features, len(problem))
    usable = np.isfinite(values)
    reasons = [why_none(y[ok], len(y), ENOUGH) for y, ok in zip(values.T, usable.T, strict=True)]
    found = empty_indices(features, problem.parameters, usable, reasons)
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
            if found.orders[f] and error >= found.surrogate_error[f]:
                continue
            parts = coefficients[1:] ** 2 / (coefficients[1:] ** 2).sum()
            found.first[f] = parts @ alone[1:]
            found.total[f] = parts @ involved[1:]
            found.surrogate_error[f] = error
            found.orders[f] = order
    return found


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
