"""The fast search without generations: every result changes at once what is asked for next."""

from __future__ import annotations

import random

import numpy as np

from neurosim.evolution.fast import FastConfig
from neurosim.evolution.polish import BasinPolish, bounded_cost
from neurosim.evolution.space import ParameterSpace
from neurosim.evolution.steady_population import SteadyPopulation
from neurosim.evolution.strategy import AskTell
from neurosim.evolution.variation import uniform_genes, vary
from neurosim.evolution.warm_start import fill_missing


class SteadyConfig(FastConfig):
    """As `FastConfig`; `offspring` is the size of the population, `initial` how many are drawn before it
    breeds.
    """


class SteadyStrategy(AskTell):
    """Steady-state IBEA, then CMA-ES that is told whatever arrives, both in the unit cube of the axes.

    The search is (mu + 1): an arrival joins the population and the worst of it leaves; who is asked for next
    descends from those present. CMA-ES draws from the distribution of the moment and is told as soon as a
    generation's worth of results has arrived, whichever draw they are from, so it never waits; where it
    begins, and begins again, is as in `FastStrategy`. (On a test problem with 64 under way this left a tenth
    of the cost that steady IBEA alone did, and one CMA-ES with the usual small generations was better than
    larger ones and than several side by side.)

    Everything is a function of the seed and of the sequence of asks and tells: the same sequence, as a run
    records it, leads to the same individuals.

    Parameters
    ----------
    config : SteadyConfig
    space : ParameterSpace
    seed : int
    warm_start : ndarray, shape (k, P), optional
        First individuals, NaN where unknown.

    Attributes
    ----------
    asked : int
        Individuals asked for so far.
    """

    def __init__(
        self, config: SteadyConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
    ) -> None:
        super().__init__(space, config.planned_evaluations)
        self.config = config
        self.asked = 0
        self._initial = config.initial_for(len(space))
        self._warm = np.empty((0, len(space)))
        if warm_start is not None:
            self._warm = warm_start[: int(config.warm_share * self._initial)]
        self._random = random.Random(seed)
        self._population = SteadyPopulation(config.offspring_for(len(space)), len(space))
        self._lower, self._upper = [0.0] * len(space), [1.0] * len(space)
        self._polish: BasinPolish | None = None
        self._polish_hears_from = 0
        self._heard: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def phase(self) -> str:
        return "search" if self._polish is None else "polish"

    @property
    def open(self) -> bool:
        """Whether there is more to ask for."""
        nothing_left = self._polish is not None and self._polish.exhausted
        return self.asked < self.config.evaluations and not nothing_left

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to ask for, and everything asked for was told."""
        return not self.open and self.evaluations == self.asked

    def ask(self) -> np.ndarray:
        """Return a further individual to evaluate, however many are under way.

        Returns
        -------
        ndarray, shape (P,)
            Raw parameter values in the order of `space.names`.

        Raises
        ------
        RuntimeError
            There is nothing more to ask for.
        """
        if not self.open:
            raise RuntimeError("there is nothing more to ask for")
        number, self.asked = self.asked, self.asked + 1
        if self._polish is not None:
            return self.space.from_unit(self._polish.run.ask())
        if number >= self._initial and self._population.full:
            parents = [self._population.draw(self._random) for _ in range(2)]
            return self.space.from_unit(np.array(vary(parents, self._lower, self._upper, self._random)[0]))
        drawn = self.space.from_unit(np.array(uniform_genes(self._lower, self._upper, self._random)))
        return fill_missing(self._warm[number], drawn, self.space) if number < len(self._warm) else drawn

    def tell(self, asked: int, parameters: np.ndarray, scores: np.ndarray) -> None:
        """Take in one result.

        Parameters
        ----------
        asked : int
            The number of the ask that it answers, counted from 0; the caller answers each once.
        parameters : ndarray, shape (P,)
        scores : ndarray, shape (M,)
            Lower is better; failed evaluations already carry their penalty.

        Raises
        ------
        ValueError
            An ask that was not made, scores that are not finite, or parameters outside the bounds.
        """
        if not 0 <= asked < self.asked:
            raise ValueError(f"told the result of ask {asked}; {self.asked} were made, counted from 0")
        parameters, scores = np.array(parameters, np.float64)[None], np.array(scores, np.float64)[None]
        if parameters.shape != (1, len(self.space)):
            raise ValueError(f"told parameters of shape {parameters.shape[1:]}, asked ({len(self.space)},)")
        self._check_told(parameters, scores)
        self.archive.update(parameters, scores, self.evaluations)
        self.evaluations += 1
        unit = self.space.to_unit(parameters)
        if self._polish is None:
            self._population.add(unit[0], scores[0])
            if self.evaluations >= max(self._initial, self.config.switch * self.config.evaluations):
                models = self.space.to_unit(self.candidates(self.archive.size))
                size = self.config.polish_population_for(len(self.space))
                self._polish = BasinPolish(models, self.config.polish_sigma, size, self._random)
        elif asked >= self._polish_hears_from and not self._polish.exhausted:
            self._tell_polish(self._polish, unit, bounded_cost(scores))

    def _tell_polish(self, polish: BasinPolish, unit: np.ndarray, cost: np.ndarray) -> None:
        self._heard.append((unit, cost))
        if len(self._heard) < polish.population:
            return
        told, self._heard = self._heard, []
        runs = polish.runs
        polish.tell(np.concatenate([unit for unit, _ in told]), np.concatenate([cost for _, cost in told]))
        if polish.runs > runs:  # what is still under way would draw the new run back into the basin it leaves
            self._polish_hears_from = self.asked
