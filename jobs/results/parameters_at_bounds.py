"""Which parameters of the best models sit on a bound: a sign that the box, or the model, is too small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.neurosim.evolution import ParameterSpace

NEAR = 0.01  # of the axis
LOWER, UPPER = "lower", "upper"

Bounds = Mapping[str, Sequence[float]]
"""Full parameter name -> (lower, upper)."""


@dataclass(frozen=True)
class OnBound:
    """A parameter of which some models of a hall of fame sit on a bound.

    Attributes
    ----------
    parameter : str
        Full name.
    side : {"lower", "upper"}
    models, of : int
        How many models sit there, and how many there are.
    """

    parameter: str
    side: str
    models: int
    of: int

    def __str__(self) -> str:
        return f"{self.parameter} ({self.side}, {self.models} of {self.of})"


def positions(rows: HallOfFameRows, bounds: Bounds) -> tuple[tuple[str, ...], np.ndarray]:
    """Place models inside the box that was searched.

    Conductances and calcium parameters are placed on a log axis, as the fast strategy searches them.

    Parameters
    ----------
    rows : HallOfFameRows
    bounds : mapping
        Full parameter name -> (lower, upper) of the free parameters.

    Returns
    -------
    names : tuple of str, length P
    unit : ndarray, shape (n, P)
        0 on the lower bound, 1 on the upper.
    """
    names = tuple(name for name in rows.parameter_names if name in bounds)
    if not names:
        return (), np.empty((len(rows), 0))
    columns = [list(rows.parameter_names).index(name) for name in names]
    lower, upper = (np.array([bounds[name][side] for name in names], float) for side in (0, 1))
    space = ParameterSpace.from_bounds(names, lower, upper)
    return names, space.to_unit(rows.parameters[:, columns])


def known_positions(known: Mapping[str, float], names: Sequence[str], bounds: Bounds) -> np.ndarray:
    """Place known values on the axes of `positions`, shape (P,); NaN where none is known, the edge where outside."""
    if not known:
        return np.full(len(names), np.nan)
    lower, upper = (np.array([bounds[name][side] for name in names], float) for side in (0, 1))
    values = np.array([known.get(name, np.nan) for name in names])
    space = ParameterSpace.from_bounds(names, lower, upper)
    return space.to_unit(np.clip(values, lower, upper)[None])[0]


def on_bounds(rows: HallOfFameRows, bounds: Bounds) -> tuple[OnBound, ...]:
    """Return the parameters that sit within 1 % of a bound, those of most models first."""
    names, unit = positions(rows, bounds)
    hits = []
    for name, places in zip(names, unit.T, strict=True):
        for side, there in ((LOWER, places <= NEAR), (UPPER, places >= 1 - NEAR)):
            if there.any():
                hits.append(OnBound(name, side, int(there.sum()), len(rows)))
    return tuple(sorted(hits, key=lambda hit: -hit.models))
