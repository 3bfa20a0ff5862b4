"""The table of parameters: one row for each value that differs between compartments, a column a model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """Where the values of a row come from.

    Attributes
    ----------
    parameter : str
        Full name of the free parameter, empty for a constant.
    value : float
        The constant.
    distribution : str
        Python expression in ``value`` and ``distance``, empty for the value itself.
    distance_um : float
        From the middle of the soma.
    """

    parameter: str = ""
    value: float = math.nan
    distribution: str = ""
    distance_um: float = 0.0


@dataclass
class RowTable:
    """Rows by what they come from; equal ones are one."""

    numbers: dict[Row, int] = field(default_factory=dict)

    def number(self, row: Row) -> int:
        """Return the number of a row, a new one if it is not there yet."""
        return self.numbers.setdefault(row, len(self.numbers))

    def values(self, parameters: Sequence[str], values: np.ndarray) -> np.ndarray:
        """Return the table of shape (rows, n) for parameter sets of shape (n, P)."""
        columns = dict(zip(parameters, values.T, strict=True))
        return np.stack([_row(row, columns, len(values)) for row in self.numbers])


def _row(row: Row, columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    given = columns[row.parameter] if row.parameter else np.full(n, row.value)
    if not row.distribution:
        return given
    # `bluepyopt_distribution` let arithmetic and the names of these functions pass, nothing else.
    names = {"math": np, "value": given, "distance": row.distance_um}
    text = row.distribution.format(value="value", distance="distance")
    return np.broadcast_to(eval(text, {"__builtins__": {}}, names), (n,))


def rows_of_parameters(
    parameters: Sequence[Any], cell: Any, distances_um: Mapping[tuple[Any, int], float]
) -> dict[tuple[Any, int, str], Row]:
    """Return (section, segment, NEURON's name) -> row, as BluePyOpt's parameters set them one by one.

    Parameters
    ----------
    parameters : sequence of bluepyopt parameters
    cell : hoc object
        The standing cell, for its lists of sections.
    distances_um : mapping
        (section, segment) -> distance from the middle of the soma.
    """
    found: dict[tuple[Any, int, str], Row] = {}
    for parameter in parameters:
        if not hasattr(parameter, "locations"):
            continue
        distribution = getattr(parameter.value_scaler, "distribution", "")
        for place in parameter.locations:
            for section in getattr(cell, place.seclist_name):
                for j in range(section.nseg):
                    found[section, j, parameter.param_name] = Row(
                        parameter="" if parameter.frozen else parameter.name,
                        value=parameter.value if parameter.frozen else 0.0,
                        distribution=distribution,
                        distance_um=distances_um[section, j] if distribution else 0.0,
                    )
    return found
