"""Sobol indices by uncertainpy 1.2.3 itself, for whoever has it installed; it is no dependency.

Its requirements pin matplotlib below 3.2 and it subclasses ``collections.MutableMapping``, which Python no
longer has. The name is lent to it while it is imported, and taken back.
"""

import collections
import collections.abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from neurosim.errors import InputError
from neurosim.sensitivity.indices import Indices, checked_runs, empty_indices, why_none
from neurosim.sensitivity.polynomial_chaos import ENOUGH, ORDER
from neurosim.sensitivity.problem import Problem

VERSION = "1.2.3"
NEEDS = ("chaospy", "seaborn", "six", "tqdm")
"""Beyond what this project needs itself."""

PERCENTILE_SAMPLES = 100  # of percentiles, which uncertainpy computes in any case
SAME = 1e-9


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
                f"`engine: uncertainpy` needs uncertainpy {VERSION}, which cannot be imported ({error})."
                f" Install it without its pins: pip install --no-deps uncertainpy=={VERSION}, then"
                f" pip install {' '.join(NEEDS)}. Or leave `engine` out: polynomial-chaos gives the same"
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
    problem: Problem, nodes: np.ndarray, values: np.ndarray, features: Sequence[str], order: int = ORDER
) -> Indices:
    """Return the Sobol indices of features by uncertainpy's polynomial chaos with point collocation.

    uncertainpy asks for its nodes one after the other and is answered from `values`. Each parameter is
    handed to it as a number from -1 to 1: its polynomials are not normalised, and in the units of a small
    conductance its least squares would drop the higher ones.

    Parameters
    ----------
    problem : Problem
    nodes : ndarray, shape (N, P)
        As `neurosim.sensitivity.polynomial_chaos.design` gives them.
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
    checked_runs(nodes, values, features, len(problem))
    usable = np.isfinite(values)
    reasons = [why_none(y[ok], len(y), ENOUGH) for y, ok in zip(values.T, usable.T, strict=True)]
    found = empty_indices(features, problem.parameters, usable, reasons)
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
        found.orders[columns] = order
        found.first[columns], found.total[columns] = first.T, total.T
    return found


def _by_uncertainpy(points: np.ndarray, values: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first-order and total indices, both of shape (P, features), of one vector-valued result."""
    import chaospy
    import uncertainpy
    from uncertainpy.core.uncertainty_calculations import UncertaintyCalculations

    names = [f"p{i}" for i in range(points.shape[1])]
    answers = iter(zip(points, values, strict=True))

    def measured(**asked: float) -> tuple[None, np.ndarray]:
        point, value = next(answers)
        if not np.allclose([asked[name] for name in names], point, rtol=0, atol=SAME):
            raise InputError(
                "uncertainpy asked for other nodes than chaospy's Hammersley set. Another version of chaospy"
                " than 4.3 may be installed; use `engine: polynomial-chaos`."
            )
        return None, value

    model = uncertainpy.Model(run=measured, labels=["", ""], logger_level=None)
    parameters = uncertainpy.Parameters({name: chaospy.Uniform(-1, 1) for name in names})
    calculations = UncertaintyCalculations(model, parameters, CPUs=None, logger_level=None)
    told = calculations.polynomial_chaos(
        method="collocation", polynomial_order=order, nr_pc_mc_samples=PERCENTILE_SAMPLES
    )[model.name]
    return np.asarray(told.sobol_first), np.asarray(told.sobol_total)
