"""Functions whose Sobol indices are known, of parameters about ±10 % of some value."""

import numpy as np

from neurofleet.neurosim.studies.sobol_indices import SensitivityProblem


def ishigami(unit: np.ndarray, a: float = 7.0, b: float = 0.1) -> np.ndarray:
    """Return the Ishigami function; its angles span the unit cube, shape (N, 3)."""
    x = np.pi * (2 * unit - 1)
    return np.sin(x[:, 0]) + a * np.sin(x[:, 1]) ** 2 + b * x[:, 2] ** 4 * np.sin(x[:, 0])


def ishigami_indices(a: float = 7.0, b: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return its first-order and total indices (Ishigami & Homma 1990)."""
    first = np.array([0.5 * (1 + b * np.pi**4 / 5) ** 2, a**2 / 8, 0.0])
    together = b**2 * np.pi**8 * (1 / 18 - 1 / 50)
    variance = first.sum() + together
    return first / variance, (first + [together, 0, together]) / variance


def g_function(unit: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return Sobol's g-function of points of the unit cube, shape (N, P)."""
    return np.prod((np.abs(4 * unit - 2) + a) / (1 + a), axis=1)


def g_indices(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return its first-order and total indices."""
    parts = 1 / (3 * (1 + a) ** 2)
    variance = np.prod(1 + parts) - 1
    return parts / variance, parts * np.prod(1 + parts) / (1 + parts) / variance


def smooth(unit: np.ndarray) -> np.ndarray:
    """Return a polynomial of degree 3 in the first two and the last of P parameters."""
    return (1 + unit[:, 0] ** 2) * (2 + unit[:, 1]) + 0.5 * unit[:, -1] * unit[:, 0]


def problem_of(parameters: int) -> SensitivityProblem:
    """Return a problem with centres of all sizes, one of them negative."""
    centres = np.array([1e-5, -80.0, 2.5, 1e-2, 0.3, 150.0])[:parameters]
    return SensitivityProblem(tuple(f"p{i}" for i in range(parameters)), tuple(centres.tolist()))
