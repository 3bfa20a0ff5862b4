"""Selection by Pareto dominance, as DEAP does it.

NSGA-II (Deb et al. 2002), SPEA2 (Zitzler et al. 2001) and NSGA-III (Deb and Jain 2014).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np

Selector = Literal["nsga2", "spea2", "nsga3"]


def select_pareto(scores: np.ndarray, size: int, selector: Selector, rng: random.Random) -> tuple[list[int], list[int]]:
    """Select who survives, and draw parents from them.

    Survivors are those of DEAP's `selNSGA2`, `selSPEA2` or `selNSGA3`. Parents win tournaments of two: for NSGA-II
    those of DEAP's `selTournamentDCD` (dominance, then crowding distance), for SPEA2 the one that the selection ranks
    higher. For NSGA-III all survivors are parents, in random pairs.

    Parameters
    ----------
    scores : ndarray, shape (n, M)
        Lower is better.
    size : int
        Survivors, at most n, and parents.
    selector : {"nsga2", "spea2", "nsga3"}
    rng : random.Random
        All draws follow from it; the generators of `random` and `numpy.random` are left as they were.

    Returns
    -------
    survivors, parents : list of int
        Rows of `scores`; good parents come several times, except with NSGA-III.
    """
    from deap import tools  # loads its whole toolbox; only these strategies need it

    if selector == "nsga3":
        scores = scores - scores.min(axis=0)  # DEAP takes the ideal point from its intercepts, which count from there
    individual = individual_class(scores.shape[1])
    population = [individual(values, row=row) for row, values in enumerate(scores.tolist())]
    if selector == "nsga3":
        points = reference_points(scores.shape[1], size)
        with numpy_drawing_from(rng):
            survivors = tools.selNSGA3(population, size, points, nd="standard")  # "log" fails with one objective
        kept = [entrant.row for entrant in survivors]
        return kept, rng.sample(kept, size)
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
def reference_points(objectives: int, population: int) -> np.ndarray:
    """Return the reference points of NSGA-III whose number is closest, as a ratio, to that of the population.

    Axes divided in p parts give C(objectives + p - 1, p) points. With fewer parts than objectives all of them are at
    the edges, where some objectives count for nothing: a second layer, of as many parts or fewer, then lies half as far
    from the centre, as Deb and Jain have it.

    Returns
    -------
    ndarray, shape (n, objectives)
    """
    from deap import tools

    parts = range(1, population + 1)
    one_layer = [(p,) for p in parts if p >= objectives]
    two_layers = [(p, inner) for p in parts if p < objectives for inner in range(1, p + 1)]

    def distance(layers: tuple[int, ...]) -> float:
        return abs(math.log(sum(math.comb(objectives + p - 1, p) for p in layers) / population))

    layers = min([*one_layer, *two_layers], key=distance)
    made = [tools.uniform_reference_points(objectives, p, scale) for p, scale in zip(layers, (1.0, 0.5), strict=False)]
    return np.concatenate(made)


@cache
def individual_class(objectives: int) -> Any:
    """Return the class of individuals with so many scores, lower is better, that DEAP's functions take."""
    from deap import base

    class Fitness(base.Fitness):
        weights = (-1.0,) * objectives

    class Individual(list):
        """Genes, where they matter, with scores; `row` is its place among those that are selected from."""

        def __init__(self, values: Sequence[float] = (), genes: Sequence[float] = (), row: int = 0) -> None:
            super().__init__(genes)
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


@contextmanager
def numpy_drawing_from(rng: random.Random) -> Iterator[None]:
    """Let the generator of `numpy.random`, from which DEAP draws, follow from this one; restored afterwards."""
    before = np.random.get_state()  # noqa: NPY002 - DEAP has no other
    np.random.seed(rng.getrandbits(32))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
