"""The published search: IBEA over the raw parameters, as BluePyOpt runs it."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from neurosim.errors import InputError
from neurosim.evolution.ibea import select_parents
from neurosim.evolution.space import ParameterSpace
from neurosim.evolution.strategy import Strategy
from neurosim.evolution.variation import uniform_genes, vary
from neurosim.evolution.warm_start import fill_missing


@dataclass(frozen=True)
class PaperConfig:
    """The published numbers: 512 offspring, 200 generations in the active stage (50 in the others).

    `generations` counts the initial population, as BluePyOpt's `max_ngen` does. `warm_share` is the largest
    share of that population that a warm start may take.
    """

    offspring: int = 512
    generations: int = 200
    warm_share: float = 0.75

    def __post_init__(self) -> None:
        if self.offspring < 2 or self.generations < 1 or not 0 <= self.warm_share <= 1:
            raise InputError(
                "evolution: expected offspring of at least 2, at least 1 generation and a warm share from "
                f"0 to 1, found {self.offspring}, {self.generations} and {self.warm_share:g}."
            )

    @property
    def planned_evaluations(self) -> int:
        return self.offspring * self.generations


class PaperStrategy(Strategy):
    """IBEA with crossover and mutation of every offspring.

    Generation by generation the same individuals as
    `bluepyopt.deapext.optimisations.DEAPOptimisation(seed=seed, offspring_size=offspring)`, bit for bit, if
    the scores are the same; but with a random generator of its own, which nothing else can disturb.

    Parameters
    ----------
    warm_start : ndarray, shape (k, P), optional
        First individuals, NaN where unknown. The rest of the initial population stays what it is without
        them.
    """

    phase = "evolution"

    def __init__(
        self, config: PaperConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
    ) -> None:
        super().__init__(space, config.planned_evaluations)
        self.config = config
        self._warm_start = warm_start
        self._random = random.Random(seed)
        self._lower, self._upper = space.lower.tolist(), space.upper.tolist()
        self._parents = np.empty((0, len(space)))
        self._parent_scores: np.ndarray | None = None

    @property
    def finished(self) -> bool:
        return self.generation >= self.config.generations

    def _propose(self) -> np.ndarray:
        if self._parent_scores is not None:
            return np.array(vary(self._parents.tolist(), self._lower, self._upper, self._random))
        start = np.array(
            [uniform_genes(self._lower, self._upper, self._random) for _ in range(self.config.offspring)]
        )
        if self._warm_start is not None:
            warm = self._warm_start[: int(self.config.warm_share * len(start))]
            start[: len(warm)] = fill_missing(warm, start[: len(warm)], self.space)
        return start

    def _learn(self, parameters: np.ndarray, scores: np.ndarray) -> None:
        if self._parent_scores is None:
            self._parents, self._parent_scores = parameters, scores
            return
        population = np.concatenate([self._parents, parameters])
        population_scores = np.concatenate([self._parent_scores, scores])
        chosen = select_parents(population_scores, self.config.offspring, self._random)
        self._parents, self._parent_scores = population[chosen], population_scores[chosen]
