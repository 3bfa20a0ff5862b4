"""Selection by Pareto dominance, as DEAP does it: NSGA-II (Deb et al. 2002) and SPEA2 (Zitzler et al. 2001)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np

Selector = Literal["nsga2", "spea2"]


def select_pareto(scores: np.ndarray, size: int, selector: Selector, rng: random.Random) -> tuple[list[int], list[int]]:
    """Select who survives, and draw parents from them.

    Survivors are those of DEAP's `selNSGA2` or `selSPEA2`. Parents win tournaments of two: for NSGA-II those of
    DEAP's `selTournamentDCD` (dominance, then crowding distance), for SPEA2 the one that the selection ranks higher.

    Parameters
    ----------
    scores : ndarray, shape (n, M)
        Lower is better.
    size : int
        Survivors, at most n, and parents.
    selector : {"nsga2", "spea2"}
    rng : random.Random
        DEAP draws from it, and from nothing else.

    Returns
    -------
    survivors, parents : list of int
        Rows of `scores`; good parents come several times.
    """
    from deap import tools  # loads its whole toolbox; only these strategies need it

    individual = _individual_class(scores.shape[1])
    population = [individual(row, values) for row, values in enumerate(scores.tolist())]
    with _drawing_from(rng):
        if selector == "nsga2":
            survivors = tools.selNSGA2(population, size)
            drawn = tools.selTournamentDCD(survivors, size - size % 4) + survivors[: size % 4]
            parents = [entrant.row for entrant in drawn]
        else:
            survivors = tools.selSPEA2(population, size)
            ranks = [min(random.randrange(len(survivors)) for _ in range(2)) for _ in range(size)]
            parents = [survivors[rank].row for rank in ranks]
    return [entrant.row for entrant in survivors], parents


@cache
def _individual_class(objectives: int) -> Any:
    from deap import base

    class Fitness(base.Fitness):
        weights = (-1.0,) * objectives

    class Individual:
        """A row of the scores, as DEAP's selectors take it."""

        def __init__(self, row: int, values: list[float]) -> None:
            self.row = row
            self.fitness = Fitness(values)

    return Individual


@contextmanager
def _drawing_from(rng: random.Random) -> Iterator[None]:
    """Let the generator of the `random` module, from which DEAP draws, be this one; restored afterwards."""
    before = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
    finally:
        rng.setstate(random.getstate())
        random.setstate(before)
