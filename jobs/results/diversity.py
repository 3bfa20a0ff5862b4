"""How different the models of a hall of fame are, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.jobs.results.parameters_at_bounds import Bounds, positions
from neurofleet.neurosim.evolution import Spread, spread_of

SHOWN = 3


@dataclass(frozen=True)
class Diversity:
    """How different the models of a hall of fame are, and how good.

    Attributes
    ----------
    spread : Spread
    parameters : tuple of str
        In the order of `spread.by_parameter`.
    median_total : float
        Of all models.
    """

    spread: Spread
    parameters: tuple[str, ...]
    median_total: float

    @property
    def widest(self) -> list[tuple[str, float]]:
        """Parameters with their standard deviations as a share of their axes, the largest first."""
        return sorted(zip(self.parameters, self.spread.by_parameter, strict=True), key=lambda named: -named[1])


def diversity_of(hall: HallOfFameRows, bounds: Bounds) -> Diversity | None:
    """Return how different the models of a hall of fame are on the axes of the last stage; None of a single one."""
    names, unit = positions(hall, bounds)
    if len(hall) < 2 or not names:
        return None
    return Diversity(spread_of(unit), names, float(np.median(hall.totals)))


def models_in_words(diversity: Diversity) -> str:
    """Return in one line how many models there are, and how many of them differ."""
    spread = diversity.spread
    how = f"near-copies of {spread.distinct}" if spread.copies else f"{spread.distinct} of them distinct"
    percent = f"{100 * spread.median_distance:.2g}"
    return f"{spread.models} models, {how}; parameters of two models differ by {percent} % of their bounds (median)"


def diversity_lines(diversity: Diversity) -> list[str]:
    """Return the measures of a population, and the parameters that vary most and least."""
    spread = diversity.spread
    widest = diversity.widest
    lines = [
        f"hall of fame: {models_in_words(diversity)}, {100 * spread.near_share:.2g} % of pairs are near-copies;"
        f" the {len(diversity.parameters)} parameters vary along about {spread.effective_dimensions:.2g} independent"
        f" directions; median total {diversity.median_total:.4g}"
    ]
    if len(widest) > 2 * SHOWN:
        lines.append(f"vary most: {_shares(widest[:SHOWN])}; least: {_shares(widest[-SHOWN:])} of their bounds")
    return lines


def _shares(named: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {share:.2g}" for name, share in named)
