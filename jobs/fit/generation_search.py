"""The search of one stage with one seed, generation by generation: ask, evaluate, tell, store."""

import numpy as np

from neurofleet.cluster.pool.outcome import EvaluationTask
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import Evaluations
from neurofleet.errors import JobError
from neurofleet.jobs.fit.fit_problem import Problem, StagePlan
from neurofleet.jobs.fit.stage_search import Generation, Limits, StageSearch
from neurofleet.neurosim.evolution import ParameterSpace, make_strategy


class GenerationSearch(StageSearch):
    """One stage of one cell with one seed, generation by generation.

    Everything that it knows is a function of the seed and of the stored generations: a new `Search` on the
    same store replays them and goes on with the next generation.

    Parameters
    ----------
    cell : str
    stage : StagePlan
    seed : int
    problem : Problem
    store : RunStore
    hall_of_fame : int
        Models to keep.
    limits : Limits
    warm_start : ndarray, shape (k, P), optional
    """

    def __init__(
        self,
        cell: str,
        stage: StagePlan,
        seed: int,
        problem: Problem,
        store: "RunStore",
        *,
        hall_of_fame: int,
        limits: Limits,
        warm_start: np.ndarray | None = None,
    ) -> None:
        space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
        self._strategy = make_strategy(stage.search, space, seed, warm_start)
        super().__init__(cell, stage, seed, problem, store, self._strategy, hall_of_fame, limits)
        self._replay()

    @property
    def _searched(self) -> bool:
        return self._strategy.finished or self._is_flat

    def _search_tasks(self) -> list[EvaluationTask]:
        number, individuals = self._strategy.generation, self._strategy.ask()
        self.state.phase = self._strategy.phase
        return self._begin(Generation(number, self.stage.name, self._engine, individuals))

    def _learn(self, rows: Evaluations) -> None:
        self._strategy.tell(rows.parameters, rows.scores)
        self._note_best()
        self._note_generation(rows)

    def _replay_generation(self, rows: Evaluations) -> None:
        individuals = self._strategy.ask()
        if rows.parameters.shape != individuals.shape or tuple(rows.parameter_names) != self.problem.names:
            raise JobError(
                f"{self._name()}: generation {rows.generation} in the run folder has "
                f"{len(rows)} individuals of {len(rows.parameter_names)} parameters, this program asks "
                f"for {individuals.shape[0]} of {individuals.shape[1]}. The folder was written by another version; "
                "finish it with that one, or start in a new folder."
            )
        self._learn(rows)
