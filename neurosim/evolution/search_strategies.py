"""The search strategies, and how they are made from a configuration.

`paper` is IBEA over the raw parameters, as BluePyOpt runs it. `fast` is IBEA with small generations on log axes, then
ensemble Kalman inversion of signed deviations, then CMA-ES from inside the basin that was found; where nothing has a
sign, IBEA and CMA-ES alone. `steady` is IBEA and CMA-ES without generations. `nsga2`, `spea2` and `nsga3` are small
generations on log axes to the end, with the selection of DEAP; `mo-cma-es` is multi-objective CMA-ES to the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.evolution.ask_tell import AskTell, Strategy
from neurofleet.neurosim.evolution.cma_es import BasinSearch, bounded_cost
from neurofleet.neurosim.evolution.diverse_selection import DEFAULT_TOLERANCE
from neurofleet.neurosim.evolution.ibea_selection import SteadyPopulation, select_parents, uniform_genes, vary
from neurofleet.neurosim.evolution.multi_objective_cma_es import MultiObjectiveCMAES
from neurofleet.neurosim.evolution.parameter_space import ParameterSpace
from neurofleet.neurosim.evolution.pareto_selection import Selector, select_pareto
from neurofleet.neurosim.evolution.residual_search import KalmanSearch
from neurofleet.neurosim.evolution.spreading import spread_out
from neurofleet.neurosim.evolution.warm_start import fill_missing


@dataclass(frozen=True)
class PaperConfig:
    """The published numbers: 512 offspring, 200 generations in the active stage (50 in the others).

    `generations` counts the initial population, as BluePyOpt's `max_ngen` does. `warm_share` is the largest
    share of that population that a warm start may take. `tolerance` is that of `FastConfig`; the published scheme
    has none.
    """

    offspring: int = 512
    generations: int = 200
    warm_share: float = 0.75
    tolerance: float = 0.0

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
        super().__init__(space, config.planned_evaluations, config.tolerance)
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
        start = np.array([uniform_genes(self._lower, self._upper, self._random) for _ in range(self.config.offspring)])
        if self._warm_start is not None:
            warm = self._warm_start[: int(self.config.warm_share * len(start))]
            start[: len(warm)] = fill_missing(warm, start[: len(warm)], self.space)
        return start

    def _learn(self, parameters: np.ndarray, scores: np.ndarray, residuals: np.ndarray) -> None:
        if self._parent_scores is None:
            self._parents, self._parent_scores = parameters, scores
            return
        population = np.concatenate([self._parents, parameters])
        population_scores = np.concatenate([self._parent_scores, scores])
        chosen = select_parents(population_scores, self.config.offspring, self._random)
        self._parents, self._parent_scores = population[chosen], population_scores[chosen]


SPREAD_FROM = 32  # models of which variants are made
SHORT = 3000  # evaluations; below it, the search is shorter and generations of CMA-ES are smaller


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
        Share of the budget after which CMA-ES takes over from IBEA where nothing has a sign; by default 0.3, and 0.2 of
        a budget below 3000.
    polish_population : int, optional
        Individuals per generation after IBEA; by default 2 per parameter, from 16 to 32, and from 8 to 16 with a budget
        below 3000.
    polish_sigma : float
        First standard deviation of CMA-ES in units of the axes.
    warm_share : float
        Largest share of the first generation that a warm start may take.
    tolerance : float
        By how many standard deviations of the recording the mean score of a model may be above the best one's for it to
        be as good: among these, the candidates are those that differ most. 0: the candidates are the best.
    spread_share : float, optional
        Share of the budget that at last goes to models that differ from those found and are as good; by default 0.25,
        and 0 of a budget below 3000 or without a tolerance.
    residual_share : float, optional
        Share of the budget after which CMA-ES takes over from the search that learns from residuals; by default 0.6,
        and of a budget below 3000 what `spread_share` leaves.
    patience : int
        Evaluations after which a search that learns from residuals has found what it can, if the median cost of its
        ensemble has not fallen by 1 %. (The best model may stay the best for longer while the others become better.)
        Another one then begins, with new random individuals and IBEA, if it can have at least five times as many.
    """

    evaluations: int = 6000
    offspring: int | None = None
    initial: int = 256
    switch_fraction: float | None = None
    polish_population: int | None = None
    polish_sigma: float = 0.1
    warm_share: float = 0.75
    tolerance: float = DEFAULT_TOLERANCE
    spread_share: float | None = None
    residual_share: float | None = None
    patience: int = 160

    def __post_init__(self) -> None:
        sizes = [size for size in (self.offspring, self.polish_population) if size is not None]
        if min([*sizes, self.initial, self.evaluations]) < 4:
            raise InputError(
                "evolution: expected at least 4 individuals in each generation, found "
                f"{self.evaluations} evaluations, offspring {self.offspring}, initial {self.initial} and "
                f"polish_population {self.polish_population}."
            )
        shares = (self.warm_share, self.spread, self.residual_end / self.evaluations)
        if not (0 < self.switch <= 1 and 0 < self.polish_sigma < 1 and 0 <= min(shares) and max(shares) <= 1):
            raise InputError(
                "evolution: expected switch_fraction, polish_sigma, warm_share, spread_share and residual_share from 0 "
                f"to 1, found {', '.join(f'{share:g}' for share in (self.switch, self.polish_sigma, *shares))}."
            )

    @property
    def switch(self) -> float:
        """Share of the budget after which CMA-ES takes over from IBEA where nothing has a sign."""
        if self.switch_fraction is not None:
            return self.switch_fraction
        return 0.2 if self.evaluations < SHORT else 0.3

    @property
    def spread(self) -> float:
        """Share of the budget for models that differ from those found."""
        if self.spread_share is not None:
            return self.spread_share
        return 0.25 if self.tolerance and self.evaluations >= SHORT else 0.0

    @property
    def residual_start(self) -> float:
        """Evaluations after which the search that learns from residuals takes over from IBEA."""
        return min(0.25 * self.evaluations, 300.0)

    @property
    def residual_end(self) -> float:
        """Evaluations after which CMA-ES takes over from the search that learns from residuals."""
        share = self.residual_share
        if share is None:
            share = 1.0 - self.spread if self.evaluations < SHORT else 0.6
        return share * self.evaluations

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
        smallest = self.smallest_budget(parameters)
        if smallest > self.evaluations:
            raise InputError(
                f"evolution: expected a budget of at least one generation ({smallest} individuals), "
                f"found {self.evaluations} evaluations; raise evaluations or lower offspring."
            )
        return max(smallest, min(self.initial, self.evaluations // 8))

    def smallest_budget(self, parameters: int) -> int:
        """Evaluations that one generation of a search of so many parameters takes."""
        return self.offspring_for(parameters)


_GAIN = 0.01  # part of its cost by which an ensemble is better
_ROUND = 5  # patiences that a search needs to find what it can


class FastStrategy(Strategy):
    """IBEA, a search that learns from signed residuals, then CMA-ES, all in the unit cube of the space's axes.

    When the search that learns from residuals has settled, it begins again with new random individuals and IBEA. CMA-ES
    minimises the bounded sum of the objectives from the best model so far. When it has shrunk to a point or stalls, it
    begins again at the best model that the search has left in another basin; if there is none, the strategy is finished
    before its budget. The last share of the budget (`FastConfig.spread_share`) is spent on variants of models that are
    as good as the best and differ most, as `spread_out` makes them.

    Without residuals, or where none has a sign when IBEA is to end, CMA-ES follows IBEA. A search whose first
    generation was told without residuals never learns from them: one that an earlier version began, and whose
    generations were stored without, goes on as it was.

    Parameters
    ----------
    warm_start : ndarray, shape (k, P), optional
        First individuals, NaN where unknown. The rest of the first generation stays what it is without
        them.
    """

    learns_from_residuals = True

    def __init__(
        self, config: FastConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
    ) -> None:
        super().__init__(space, config.planned_evaluations, config.tolerance)
        self.config = config
        self._warm_start = warm_start
        self._random = random.Random(seed)
        self._generator = np.random.default_rng(seed)
        self._offspring = config.offspring_for(len(space))
        self._population = config.polish_population_for(len(space))
        self._initial = config.initial_for(len(space))
        self._lower, self._upper = [0.0] * len(space), [1.0] * len(space)
        self._parents = np.empty((0, len(space)))
        self._polish: BasinSearch | None = None
        self._polish_began = 0
        self._spread_end: int | None = None
        self._begin_round()

    def _begin_round(self) -> None:
        """Begin with random individuals."""
        self._learner = KalmanSearch(self._generator)
        self._round_began, self._learning = self.evaluations, False
        self._parent_scores: np.ndarray | None = None
        self._lowest, self._lowest_at = np.inf, 0

    @property
    def phase(self) -> str:
        if self._spread_end is not None:
            return "spread"
        if self._polish is not None:
            return "polish"
        return "residuals" if self._learning else "search"

    @property
    def finished(self) -> bool:
        if self._spread_end is not None:
            return self.evaluations + self._next_size > self._spread_end
        nothing_left = self._polish is not None and self._polish.exhausted
        return nothing_left or self.evaluations + self._next_size > self.config.evaluations

    @property
    def judged_from(self) -> int:
        """After it has begun again, it is judged at the ends of such searches, and from the beginning of CMA-ES on.

        A search with new random individuals comes close to the best model of those before it late, if it does.
        """
        if not self._round_began:
            return 0
        if self._polish is not None:
            return self._polish_began
        return 0 if self.evaluations == self._round_began else self.evaluations

    @property
    def _next_size(self) -> int:
        if self._polish is not None or self._learning:
            return self._population
        return self._initial if self._parent_scores is None else self._offspring

    def tell(self, parameters: np.ndarray, scores: np.ndarray, residuals: np.ndarray | None = None) -> None:
        if self.generation == 0 and residuals is None:
            self.learns_from_residuals = False
        super().tell(parameters, scores, residuals)

    def _propose(self) -> np.ndarray:
        if self._spread_end is not None:
            good = self.space.to_unit(self.candidates(SPREAD_FROM))
            return self.space.from_unit(spread_out(good, self._population, self._random))
        if self._polish is not None:
            return self.space.from_unit(np.array([self._polish.run.ask() for _ in range(self._population)]))
        if self._learning:
            return self.space.from_unit(self._learner.ask(self._population))
        if self._parent_scores is not None:
            children = vary(self._parents.tolist(), self._lower, self._upper, self._random)
            return self.space.from_unit(np.array(children))
        drawn = [uniform_genes(self._lower, self._upper, self._random) for _ in range(self._initial)]
        start = self.space.from_unit(np.array(drawn))
        if self._warm_start is not None:
            warm = self._warm_start[: int(self.config.warm_share * len(start))]
            start[: len(warm)] = fill_missing(warm, start[: len(warm)], self.space)
        return start

    def _learn(self, parameters: np.ndarray, scores: np.ndarray, residuals: np.ndarray) -> None:
        unit, costs = self.space.to_unit(parameters), bounded_cost(scores)
        if self._spread_end is not None:
            return
        if self._polish is not None:
            self._polish.tell(unit, costs)
            self._begin_spread_when_due()
            return
        if self.learns_from_residuals:
            self._learner.add(unit, scores, residuals, costs)
        if self._learning:
            self._go_on_learning()
            return
        self._select(unit, scores)
        has_signs = self.learns_from_residuals and bool(self._learner.signed.any())
        config, begun, told = self.config, self._round_began, self.evaluations
        if has_signs or begun:
            self._learning = told + self._offspring > begun + config.residual_start
        elif told + self._offspring > config.switch * config.evaluations:
            self._begin_polish()

    def _go_on_learning(self) -> None:
        config, left, cost = self.config, self.config.residual_end - self.evaluations, self._learner.median_cost
        if cost < (1 - _GAIN) * self._lowest:
            self._lowest, self._lowest_at = cost, self.evaluations
        if left < self._population and not self.finished:
            self._learning = False
            self._begin_polish()
        elif self.evaluations - self._lowest_at >= config.patience and left >= _ROUND * config.patience:
            self._warm_start = None
            self._begin_round()

    def _begin_polish(self) -> None:
        models = self.space.to_unit(self._best_models())
        self._polish = BasinSearch(models, self.config.polish_sigma, self._population, self._random)
        self._polish_began = self.evaluations

    def _begin_spread_when_due(self) -> None:
        assert self._polish is not None
        spread = int(self.config.spread * self.config.evaluations)
        if spread and (
            self._polish.exhausted or self.evaluations + self._population > self.config.evaluations - spread
        ):
            self._spread_end = min(self.evaluations + spread, self.config.evaluations)

    def _select(self, unit: np.ndarray, scores: np.ndarray) -> None:
        if self._parent_scores is not None:
            unit = np.concatenate([self._parents, unit])
            scores = np.concatenate([self._parent_scores, scores])
        chosen = select_parents(scores, self._offspring, self._random)
        self._parents, self._parent_scores = unit[chosen], scores[chosen]


@dataclass(frozen=True)
class ParetoConfig(FastConfig):
    """As `FastConfig`, with another selection of parents until the end of the budget.

    Parameters
    ----------
    selector : {"nsga2", "spea2", "nsga3"}
    """

    selector: Selector = "nsga2"
    switch_fraction: float | None = 1.0


class ParetoStrategy(FastStrategy):
    """NSGA-II, SPEA2 or NSGA-III with DEAP's own selection, and the axes, generations and variation of `FastStrategy`.

    Parameters
    ----------
    config : ParetoConfig
    space : ParameterSpace
    seed : int
    warm_start : ndarray, shape (k, P), optional
    """

    learns_from_residuals = False

    def __init__(
        self, config: ParetoConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
    ) -> None:
        super().__init__(config, space, seed, warm_start)
        self._selector = config.selector
        self._survivors = np.empty((0, len(space)))

    def _learn(self, parameters: np.ndarray, scores: np.ndarray, residuals: np.ndarray) -> None:
        unit = np.concatenate([self._survivors, self.space.to_unit(parameters)])
        if self._parent_scores is not None:
            scores = np.concatenate([self._parent_scores, scores])
        kept, parents = select_pareto(scores, self._offspring, self._selector, self._random)
        self._parents = unit[parents]
        self._survivors, self._parent_scores = unit[kept], scores[kept]


class MultiObjectiveCMAESConfig(FastConfig):
    """As `FastConfig`. `offspring` is the number of parents too, `polish_sigma` their first standard deviation."""


class MultiObjectiveCMAESStrategy(FastStrategy):
    """Multi-objective CMA-ES from the best of the random individuals of `FastStrategy` on, in the same unit cube.

    Parameters
    ----------
    config : MultiObjectiveCMAESConfig
    space : ParameterSpace
    seed : int
    warm_start : ndarray, shape (k, P), optional
    """

    learns_from_residuals = False
    _search: MultiObjectiveCMAES | None = None

    def _propose(self) -> np.ndarray:
        if self._search is None:
            return super()._propose()
        return self.space.from_unit(self._search.ask(self._random))

    def _learn(self, parameters: np.ndarray, scores: np.ndarray, residuals: np.ndarray) -> None:
        unit = self.space.to_unit(parameters)
        if self._search is None:
            self._search = MultiObjectiveCMAES(unit, scores, self._offspring, self.config.polish_sigma)
        else:
            self._search.tell(unit, scores)
        self._parent_scores = scores


class SteadyConfig(FastConfig):
    """As `FastConfig`. `offspring` is the size of the population, `initial` the number of random individuals
    before the first offspring.
    """


class SteadyStrategy(AskTell):
    """Steady-state IBEA, then CMA-ES that is told results as they arrive, both in the unit cube of the axes.

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
        super().__init__(space, config.planned_evaluations, config.tolerance)
        self.config = config
        self.asked = 0
        self._initial = config.initial_for(len(space))
        self._warm = np.empty((0, len(space)))
        if warm_start is not None:
            self._warm = warm_start[: int(config.warm_share * self._initial)]
        self._random = random.Random(seed)
        self._population = SteadyPopulation(config.offspring_for(len(space)), len(space))
        self._lower, self._upper = [0.0] * len(space), [1.0] * len(space)
        self._polish: BasinSearch | None = None
        self._first_of_polish_run = 0
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

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

    def tell(self, number: int, parameters: np.ndarray, scores: np.ndarray) -> None:
        """Tell one result.

        Parameters
        ----------
        number : int
            The number of the ask that it answers, counted from 0; the caller answers each once.
        parameters : ndarray, shape (P,)
        scores : ndarray, shape (M,)
            Lower is better; failed evaluations already carry their penalty.

        Raises
        ------
        ValueError
            An ask that was not made, scores that are not finite, or parameters outside the bounds.
        """
        if not 0 <= number < self.asked:
            raise ValueError(f"told the result of ask {number}; {self.asked} were made, counted from 0")
        parameters, scores = np.array(parameters, np.float64)[None], np.array(scores, np.float64)[None]
        if parameters.shape != (1, len(self.space)):
            raise ValueError(f"told parameters of shape {parameters.shape[1:]}, asked ({len(self.space)},)")
        self._check_results(parameters, scores)
        self.archive.update(parameters, scores, self.evaluations)
        self.evaluations += 1
        unit = self.space.to_unit(parameters)
        if self._polish is None:
            self._population.add(unit[0], scores[0])
            if self.evaluations >= max(self._initial, self.config.switch * self.config.evaluations):
                models = self.space.to_unit(self._best_models())
                size = self.config.polish_population_for(len(self.space))
                self._polish = BasinSearch(models, self.config.polish_sigma, size, self._random)
        elif number >= self._first_of_polish_run and not self._polish.exhausted:
            self._update_polish(self._polish, unit, bounded_cost(scores))

    def _update_polish(self, polish: BasinSearch, unit: np.ndarray, cost: np.ndarray) -> None:
        self._waiting.append((unit, cost))
        if len(self._waiting) < polish.population:
            return
        results, self._waiting = self._waiting, []
        runs = polish.runs
        polish.tell(np.concatenate([unit for unit, _ in results]), np.concatenate([cost for _, cost in results]))
        if polish.runs > runs:  # results still under way belong to the basin that this run leaves
            self._first_of_polish_run = self.asked


def make_strategy(
    config: PaperConfig | FastConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
) -> Strategy:
    """Start the search that `config` describes.

    Parameters
    ----------
    config : PaperConfig or FastConfig
    space : ParameterSpace
    seed : int
    warm_start : ndarray, shape (k, P), optional
        First individuals in the order of `space.names`, NaN where unknown, as `read_warm_start` returns them.

    Raises
    ------
    ValueError
        `warm_start` does not have one column per parameter.
    """
    warm_start = _checked_warm_start(warm_start, space)
    if isinstance(config, PaperConfig):
        return PaperStrategy(config, space, seed, warm_start)
    if isinstance(config, ParetoConfig):
        return ParetoStrategy(config, space, seed, warm_start)
    if isinstance(config, MultiObjectiveCMAESConfig):
        return MultiObjectiveCMAESStrategy(config, space, seed, warm_start)
    return FastStrategy(config, space, seed, warm_start)


def make_steady_strategy(
    config: SteadyConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
) -> SteadyStrategy:
    """Start a search without generations; parameters and errors as of `make_strategy`."""
    return SteadyStrategy(config, space, seed, _checked_warm_start(warm_start, space))


def _checked_warm_start(warm_start: np.ndarray | None, space: ParameterSpace) -> np.ndarray | None:
    if warm_start is not None:
        warm_start = np.array(warm_start, np.float64)
        if warm_start.ndim != 2 or warm_start.shape[1] != len(space):
            raise ValueError(f"warm_start of shape {warm_start.shape}, expected (individuals, {len(space)})")
    return warm_start
