"""A question of sensitivity: which parameters are moved, about which values, and how far."""

import math
from dataclasses import dataclass

import numpy as np

from neurosim.errors import InputError

HALF_WIDTH = 0.1
"""Ten per cent to either side of a model. ``uniform(0.1)`` of uncertainpy is half as wide: its 0.1 is the
width of the whole interval."""


@dataclass(frozen=True)
class Problem:
    """Parameters that vary independently and uniformly, each in ``centre ± half_width |centre|``.

    Parameters
    ----------
    parameters : tuple of str, length P
    centres : tuple of float, length P
        The values of the model; negative ones are as good.
    half_width : float
        Relative, above 0 and below 1: a parameter keeps its sign, so that no conductance is negative.

    Raises
    ------
    InputError
        With fewer than two parameters or one named twice, a centre of zero or no number, or a half-width
        that is not between 0 and 1.
    """

    parameters: tuple[str, ...]
    centres: tuple[float, ...]
    half_width: float = HALF_WIDTH

    def __post_init__(self) -> None:
        if not 0 < self.half_width < 1:
            raise InputError(
                f"half_width: expected a share of each value above 0 and below 1, found {self.half_width}. "
                "From 1 on a conductance would become zero or negative; 0.1 means ±10 %."
            )
        if len(self.parameters) < 2:
            raise InputError(
                f"parameters: expected two or more to share the variation between, found "
                f"{', '.join(self.parameters) or 'none'}."
            )
        doubled = sorted({name for name in self.parameters if self.parameters.count(name) > 1})
        if doubled:
            raise InputError(f"parameters: expected each once, found more than one {', '.join(doubled)}.")
        if len(self.centres) != len(self.parameters):
            raise InputError(
                f"expected a value for each of {len(self.parameters)} parameters, found {len(self.centres)}."
            )
        still = [
            name
            for name, centre in zip(self.parameters, self.centres, strict=True)
            if centre == 0 or not math.isfinite(centre)
        ]
        if still:
            raise InputError(
                f"expected values that can be moved by ±{100 * self.half_width:g} %, found zero (or no"
                f" number) for {', '.join(still)}. Leave such parameters out."
            )

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def bounds(self) -> np.ndarray:
        """Lower and upper bound of each parameter, shape (P, 2)."""
        centres = np.asarray(self.centres, np.float64)
        room = self.half_width * np.abs(centres)
        return np.stack([centres - room, centres + room], axis=1)

    def values(self, unit: np.ndarray) -> np.ndarray:
        """Return points of the unit cube, shape (N, P), as values of the parameters."""
        low, high = self.bounds.T
        return low + np.asarray(unit) * (high - low)

    def unit(self, values: np.ndarray) -> np.ndarray:
        """Return values of the parameters, shape (N, P), as points of the unit cube."""
        low, high = self.bounds.T
        return (np.asarray(values) - low) / (high - low)
