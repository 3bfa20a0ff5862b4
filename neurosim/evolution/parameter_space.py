"""The free parameters of a search: names, bounds, and linear or logarithmic axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofleet.errors import InputError

LOG_FLOOR = 1e-4
"""A log axis starts at this share of the upper bound unless the lower bound is higher."""

WIDE = 100.0
"""Bounds with this ratio of upper to lower are searched on a log axis whatever their name."""

_CONDUCTANCE = re.compile(r"^g\w*bar(_|$)")


def log_axes(names: Sequence[str], lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return which parameters are searched on a log axis, from their names and bounds.

    Active conductances (`gbar_NaTa_t.axon`, and BluePyOpt's `gNaTa_tbar_NaTa_t`), gamma and decay of the
    calcium pool: good values are often a small share of the upper bound. Passive parameters and Ih are linear
    once an earlier stage has narrowed their bounds; bounds that still span two decades (`g_pas` and Ih in the
    stage that first searches them) are logarithmic too. Whatever has a negative lower bound is linear.

    Returns
    -------
    ndarray of bool, shape (P,)
    """

    def wants_log(name: str) -> bool:
        base = name.split(".")[0]
        if base == "gbar_Ih" or base.endswith("bar_Ih"):
            return False
        return bool(_CONDUCTANCE.match(base)) or base.startswith(("gamma_", "decay_"))

    lower, upper = np.asarray(lower, float), np.asarray(upper, float)
    wide = (lower > 0) & (upper >= WIDE * lower)
    positive = (lower >= 0) & (upper > 0)
    return (np.array([wants_log(name) for name in names], bool) | wide) & positive


@dataclass(frozen=True, eq=False)
class ParameterSpace:
    """Names, bounds and axes of the free parameters of one stage.

    Parameters
    ----------
    names : tuple of str, length P
        Full names, `gbar_NaTa_t.axon`.
    lower, upper : ndarray, shape (P,)
        Bounds in the parameters' own units, lower < upper.
    log : ndarray of bool, shape (P,)
        Axes that the `fast` strategy searches logarithmically, from the larger of the lower bound and 1e-4 of
        the upper bound. The `paper` strategy does not look at it.

    Raises
    ------
    InputError
        Bounds that are not finite or not in order, a name twice, or a log axis that reaches below zero.
    """

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    log: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for field, kind in (("lower", np.float64), ("upper", np.float64), ("log", np.bool_)):
            values = np.array(getattr(self, field), kind)
            if values.shape != (len(self.names),):
                raise InputError(
                    f"Parameter space: {field} has shape {values.shape}, expected one value for each of the "
                    f"{len(self.names)} parameters."
                )
            values.flags.writeable = False
            object.__setattr__(self, field, values)
        if not self.names:
            raise InputError("Parameter space: no free parameter; free at least one to run an evolution.")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise InputError(f"Parameter space: {', '.join(twice)} listed more than once; keep one of each.")
        for name, low, high, log in zip(self.names, self.lower, self.upper, self.log, strict=True):
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise InputError(
                    f"Parameter {name}: bounds [{low:g}, {high:g}], expected a finite lower bound below a "
                    "finite upper bound; freeze the parameter instead if it has one value."
                )
            if log and low < 0:
                raise InputError(
                    f"Parameter {name}: a log axis cannot start below zero, found bounds "
                    f"[{low:g}, {high:g}]; raise the lower bound or use a linear axis."
                )

    @classmethod
    def from_bounds(cls, names: Sequence[str], lower: np.ndarray, upper: np.ndarray) -> ParameterSpace:
        """Space with the axes that `log_axes` chooses by name."""
        return cls(tuple(names), lower, upper, log_axes(names, lower, upper))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def _axis(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of every axis, in log units where it is logarithmic."""
        start = np.where(self.log, np.maximum(self.lower, LOG_FLOOR * self.upper), self.lower)
        ends = np.stack([start, self.upper])
        ends[:, self.log] = np.log(ends[:, self.log])
        return ends[0], ends[1]

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Map raw values (..., P) onto the unit cube of the axes; what lies outside is clipped to it."""
        start, end = self._axis
        coordinates = np.array(values, np.float64)
        with np.errstate(divide="ignore"):
            coordinates[..., self.log] = np.log(np.maximum(coordinates[..., self.log], 0.0))
        return np.clip((coordinates - start) / (end - start), 0.0, 1.0)

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Map points (..., P) of the unit cube to raw values inside the bounds."""
        start, end = self._axis
        values = start + np.asarray(unit, np.float64) * (end - start)
        values[..., self.log] = np.exp(values[..., self.log])
        return np.clip(values, self.lower, self.upper)
