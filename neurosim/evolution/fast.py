"""The fast search: IBEA with small generations on log axes, then CMA-ES from inside the basin it found."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from neurosim.errors import InputError
from neurosim.evolution.ibea import select_parents
from neurosim.evolution.polish import Polish, bounded_cost
from neurosim.evolution.space import ParameterSpace
from neurosim.evolution.strategy import Strategy
from neurosim.evolution.variation import uniform_genes, vary
from neurosim.evolution.warm_start import fill_missing


@dataclass(frozen=True)
class FastConfig:
    """How a budget of evaluations is spent.

    Parameters
    ----------
    evaluations : int
        The whole budget; never exceeded.
    offspring : int
        Individuals per generation of the search.
    initial : int
        Individuals of its first generation, at most an eighth of the budget.
    switch_fraction : float
        Share of the budget after which CMA-ES takes over.
    polish_population, polish_sigma
        Individuals per generation of CMA-ES, and its first standard deviation in units of the axes.
    warm_share : float
        Largest share of the first generation that a warm start may take.
    """

    evaluations: int = 6000
    offspring: int = 64
    initial: int = 256
    switch_fraction: float = 0.3
    polish_population: int = 32
    polish_sigma: float = 0.1
    warm_share: float = 0.75

    def __post_init__(self) -> None:
        if (
            self.evaluations < self.offspring + self.polish_population
            or min(self.offspring, self.polish_population) < 4
        ):
            raise InputError(
                "evolution: expected room for one generation of the search and one of CMA-ES, each of at least 4 "
                f"individuals, found {self.evaluations} evaluations, {self.offspring} offspring and "
                f"{self.polish_population} individuals in CMA-ES; raise evaluations."
            )
        if not (0 < self.switch_fraction <= 1 and 0 < self.polish_sigma < 1 and 0 <= self.warm_share <= 1):
            raise InputError(
                "evolution: expected switch_fraction, polish_sigma and warm_share between 0 and 1, found "
                f"{self.switch_fraction:g}, {self.polish_sigma:g} and {self.warm_share:g}."
            )

    @property
    def planned_evaluations(self) -> int:
        return self.evaluations


class FastStrategy(Strategy):
    """IBEA, then CMA-ES, both in the unit cube of the space's axes."""

    def __init__(
        self, config: FastConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
    ) -> None:
        super().__init__(space, config.planned_evaluations)
        self.config = config
        self._warm_start = warm_start
        self._random = random.Random(seed)
        self._lower, self._upper = [0.0] * len(space), [1.0] * len(space)
        self._parents = np.empty((0, len(space)))
        self._parent_scores: np.ndarray | None = None
        self._polish: Polish | None = None

    @property
    def phase(self) -> str:
        return "search" if self._polish is None else "polish"

    @property
    def _generation_size(self) -> int:
        if self._polish is not None:
            return self.config.polish_population
        if self._parent_scores is not None:
            return self.config.offspring
        return max(self.config.offspring, min(self.config.initial, self.config.evaluations // 8))

    @property
    def finished(self) -> bool:
        return self.evaluations + self._generation_size > self.config.evaluations

    def _propose(self) -> np.ndarray:
        if self._polish is not None:
            return self.space.from_unit(self._polish.ask())
        if self._parent_scores is not None:
            children = vary(self._parents.tolist(), self._lower, self._upper, self._random)
            return self.space.from_unit(np.array(children))
        size = self._generation_size
        start = self.space.from_unit(
            np.array([uniform_genes(self._lower, self._upper, self._random) for _ in range(size)])
        )
        if self._warm_start is not None:
            warm = self._warm_start[: int(self.config.warm_share * size)]
            start[: len(warm)] = fill_missing(warm, start[: len(warm)], self.space)
        return start

    def _learn(self, parameters: np.ndarray, scores: np.ndarray) -> None:
        unit = self.space.to_unit(parameters)
        if self._polish is not None:
            self._polish.tell(unit, bounded_cost(scores))
            return
        if self._parent_scores is not None:
            unit = np.concatenate([self._parents, unit])
            scores = np.concatenate([self._parent_scores, scores])
        chosen = select_parents(scores, self.config.offspring, self._random)
        self._parents, self._parent_scores = unit[chosen], scores[chosen]
        if self.evaluations + self.config.offspring > self.config.switch_fraction * self.config.evaluations:
            best = self.space.to_unit(self.candidates(60))
            self._polish = Polish(
                best[0],
                best,
                self.config.polish_sigma,
                self.config.polish_population,
                self._random.getrandbits(32),
            )
