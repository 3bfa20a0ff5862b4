"""Search spaces from plain data, as a job file has them.

``lr: {log_uniform: [1e-4, 1e-1]}``, ``steps: {integer: [1, 5]}``, ``dropout: {uniform: [0, 0.5]}``,
``width: [64, 128, 256]`` or ``width: {choice: [64, 128, 256]}``; anything else is a fixed value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofleet.cluster.cluster_errors import ClusterError

Parameters = dict[str, Any]


class SearchSpaceRefused(ClusterError):
    """A search space with faults; all are told, one in a line."""

    exit_code = 2


@dataclass(frozen=True)
class ChoiceDimension:
    """One of some values."""

    values: tuple[Any, ...]

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    def clip(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class RangeDimension:
    """A number from low to high, both included; whole, or by its logarithm.

    Attributes
    ----------
    low, high : float
    whole, log : bool
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def sample(self, rng: np.random.Generator) -> Any:
        if self.whole:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if self.log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def clip(self, value: Any) -> Any:
        """The nearest value in the range."""
        nearest = min(max(value, self.low), self.high)
        return round(nearest) if self.whole else float(nearest)


Dimension = ChoiceDimension | RangeDimension


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, and what is fixed.

    Attributes
    ----------
    dimensions : dict
    fixed : dict
    """

    dimensions: dict[str, Dimension]
    fixed: Parameters

    def sample(self, rng: np.random.Generator) -> Parameters:
        """Parameters drawn at random."""
        return {name: d.sample(rng) for name, d in self.dimensions.items()} | self.fixed

    def grid(self) -> list[Parameters]:
        """All combinations, the last name changing fastest.

        Raises
        ------
        SearchSpaceRefused
            If a range is searched.
        """
        if ranges := [name for name, d in self.dimensions.items() if isinstance(d, RangeDimension)]:
            raise SearchSpaceRefused(
                f"A grid needs a list of values for every parameter; {', '.join(ranges)} has a range. List"
                " its values, or use the method random or optuna."
            )
        values = [d.values for d in self.dimensions.values() if isinstance(d, ChoiceDimension)]
        return [
            dict(zip(self.dimensions, combination, strict=True)) | self.fixed
            for combination in itertools.product(*values)
        ]


def parse_space(data: Mapping[str, Any]) -> SearchSpace:
    """Read a search space.

    Raises
    ------
    SearchSpaceRefused
        With a sentence for every fault.
    """
    dimensions: dict[str, Dimension] = {}
    fixed: Parameters = {}
    faults = []
    for name, value in data.items():
        if not isinstance(value, list | tuple | dict):
            fixed[name] = value
            continue
        try:
            dimensions[name] = _dimension(value)
        except ValueError as error:
            faults.append(f"search.{name}: {error}")
    if faults:
        raise SearchSpaceRefused("\n".join(faults))
    return SearchSpace(dimensions, fixed)


def _dimension(value: Any) -> Dimension:
    if not isinstance(value, dict):
        return _choice(value)
    if len(value) != 1 or (kind := next(iter(value))) not in _KINDS:
        raise ValueError(
            f"one of {', '.join(_KINDS)} was expected, with its values, as in {{uniform: [0, 1]}}; it has"
            f" {', '.join(map(str, value)) or 'nothing'}"
        )
    content = value[kind]
    return _choice(content) if kind == "choice" else _range(kind, content)


_KINDS = ("uniform", "log_uniform", "integer", "choice")


def _choice(values: Any) -> ChoiceDimension:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"a list of values was expected, it has {values!r}")
    return ChoiceDimension(tuple(values))


def _range(kind: str, content: Any) -> RangeDimension:
    numbers = int if kind == "integer" else (int, float)
    if (
        not isinstance(content, list | tuple)
        or len(content) != 2
        or not all(isinstance(x, numbers) and not isinstance(x, bool) for x in content)
    ):
        what = "whole numbers" if kind == "integer" else "numbers"
        # YAML takes 1e-4, without a point, for a text.
        hint = "; write 1.0e-4 for 1e-4" if any(isinstance(x, str) for x in _listed(content)) else ""
        raise ValueError(f"{kind} takes two {what}, the lowest and the highest; it has {content!r}{hint}")
    low, high = content
    if not low < high or not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"{kind} goes from the lower number to the higher; it has {low} and {high}")
    if kind == "log_uniform" and low <= 0:
        raise ValueError(f"log_uniform takes numbers above 0; its lowest is {low}")
    return RangeDimension(low, high, whole=kind == "integer", log=kind == "log_uniform")


def _listed(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list | tuple) else [content]
