"""The fast search: IBEA with small generations on log axes, then CMA-ES from inside the basin it found."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from neurosim.errors import InputError
from neurosim.evolution.ibea import select_parents
from neurosim.evolution.polish import BasinPolish, bounded_cost
from neurosim.evolution.space import ParameterSpace
from neurosim.evolution.strategy import Strategy
from neurosim.evolution.variation import uniform_genes, vary
from neurosim.evolution.warm_start import fill_missing

SHORT = 3000  # a budget below this cannot afford a long search and wide generations


@dataclass(frozen=True)
class FastConfig:
    """How a budget of evaluations is spent.

    Parameters
    ----------
    evaluations : int
        The whole budget; never exceeded.
    offspring : int, optional
        Individuals per generation of the search; by default 4 per parameter, from 16 to 64.
    initial : int
        Individuals of its first generation, at most an eighth of the budget.
    switch_fraction : float, optional
        Share of the budget after which CMA-ES takes over; by default 0.3, and 0.2 of a budget below 3000.
    polish_population : int, optional
        Individuals per generation of CMA-ES; by default 2 per parameter, from 16 to 32, and from 8 to
        16 with a budget below 3000.
    polish_sigma : float
        First standard deviation of CMA-ES in units of the axes.
    warm_share : float
        Largest share of the first generation that a warm start may take.
    """

    evaluations: int = 6000
    offspring: int | None = None
    initial: int = 256
    switch_fraction: float | None = None
    polish_population: int | None = None
    polish_sigma: float = 0.1
    warm_share: float = 0.75

    def __post_init__(self) -> None:
        sizes = [size for size in (self.offspring, self.polish_population) if size is not None]
        if min([*sizes, self.initial, self.evaluations]) < 4:
            raise InputError(
                "evolution: expected at least 4 individuals in each generation, found "
                f"{self.evaluations} evaluations, offspring {self.offspring}, initial {self.initial} and "
                f"polish_population {self.polish_population}."
            )
        if not (0 < self.switch <= 1 and 0 < self.polish_sigma < 1 and 0 <= self.warm_share <= 1):
            raise InputError(
                "evolution: expected switch_fraction, polish_sigma and warm_share between 0 and 1, found "
                f"{self.switch:g}, {self.polish_sigma:g} and {self.warm_share:g}."
            )

    @property
    def switch(self) -> float:
        """Share of the budget after which CMA-ES takes over."""
        if self.switch_fraction is not None:
            return self.switch_fraction
        return 0.2 if self.evaluations < SHORT else 0.3

    @property
    def planned_evaluations(self) -> int:
        return self.evaluations

    def offspring_for(self, parameters: int) -> int:
        """Individuals per generation of the search of so many parameters."""
        return self.offspring or min(64, max(16, 4 * parameters))

    def polish_population_for(self, parameters: int) -> int:
        """Individuals per generation of CMA-ES."""
        least, most = (8, 16) if self.evaluations < SHORT else (16, 32)
        return self.polish_population or min(most, max(least, 2 * parameters))

    def initial_for(self, parameters: int) -> int:
        """Individuals of the first generation.

        Raises
        ------
        InputError
            The budget does not reach so far.
        """
        initial = max(self.offspring_for(parameters), min(self.initial, self.evaluations // 8))
        if initial > self.evaluations:
            raise InputError(
                f"evolution: expected a budget of at least one generation ({initial} individuals), "
                f"found {self.evaluations} evaluations; raise evaluations or lower offspring."
            )
        return initial


class FastStrategy(Strategy):
    """IBEA, then CMA-ES on the bounded sum of the objectives, both in the unit cube of the space's axes.

    CMA-ES begins at the best model so far. When it has shrunk to a point or stalls, it begins again at the
    best model that the search has left in another basin; if there is none, the strategy is finished before
    its budget.

    Parameters
    ----------
    warm_start : ndarray, shape (k, P), optional
        First individuals, NaN where unknown. The rest of the first generation stays what it is without
        them.
    """

    def __init__(
        self, config: FastConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
    ) -> None:
        super().__init__(space, config.planned_evaluations)
        self.config = config
        self._warm_start = warm_start
        self._random = random.Random(seed)
        self._offspring = config.offspring_for(len(space))
        self._population = config.polish_population_for(len(space))
        self._initial = config.initial_for(len(space))
        self._lower, self._upper = [0.0] * len(space), [1.0] * len(space)
        self._parents = np.empty((0, len(space)))
        self._parent_scores: np.ndarray | None = None
        self._polish: BasinPolish | None = None

    @property
    def phase(self) -> str:
        return "search" if self._polish is None else "polish"

    @property
    def finished(self) -> bool:
        nothing_left = self._polish is not None and self._polish.exhausted
        return nothing_left or self.evaluations + self._next_size > self.config.evaluations

    @property
    def _next_size(self) -> int:
        if self._polish is not None:
            return self._population
        return self._initial if self._parent_scores is None else self._offspring

    def _propose(self) -> np.ndarray:
        if self._polish is not None:
            return self.space.from_unit(np.array([self._polish.run.ask() for _ in range(self._population)]))
        if self._parent_scores is not None:
            children = vary(self._parents.tolist(), self._lower, self._upper, self._random)
            return self.space.from_unit(np.array(children))
        drawn = [uniform_genes(self._lower, self._upper, self._random) for _ in range(self._initial)]
        start = self.space.from_unit(np.array(drawn))
        if self._warm_start is not None:
            warm = self._warm_start[: int(self.config.warm_share * len(start))]
            start[: len(warm)] = fill_missing(warm, start[: len(warm)], self.space)
        return start

    def _learn(self, parameters: np.ndarray, scores: np.ndarray) -> None:
        unit = self.space.to_unit(parameters)
        if self._polish is None:
            self._select(unit, scores)
            if self.evaluations + self._offspring > self.config.switch * self.config.evaluations:
                models = self.space.to_unit(self.candidates(self.archive.size))
                self._polish = BasinPolish(models, self.config.polish_sigma, self._population, self._random)
        else:
            self._polish.tell(unit, bounded_cost(scores))

    def _select(self, unit: np.ndarray, scores: np.ndarray) -> None:
        if self._parent_scores is not None:
            unit = np.concatenate([self._parents, unit])
            scores = np.concatenate([self._parent_scores, scores])
        chosen = select_parents(scores, self._offspring, self._random)
        self._parents, self._parent_scores = unit[chosen], scores[chosen]
