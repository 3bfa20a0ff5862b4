"""The search of one stage with one seed without generations: each outcome is told as it arrives."""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import Evaluations
from neurofleet.errors import JobError
from neurofleet.jobs.fit.fit_problem import Problem, StagePlan
from neurofleet.jobs.fit.stage_search import Generation, KeepTraces, Limits, StageSearch
from neurofleet.neurosim.evolution import ParameterSpace, SteadyConfig, make_steady_strategy

SMALLEST_BLOCK = 32


@dataclass(frozen=True)
class _Arrival:
    """An evaluation that came back."""

    asked: int
    in_flight: int
    parameters: np.ndarray
    outcome: Outcome


class SteadySearch(StageSearch):
    """One stage of one cell with one seed, `in_flight` evaluations of it always under way.

    What it asks for depends on the order in which outcomes arrive, and so on the machines: a second run finds
    other models. The order is recorded. Evaluations are stored as they arrived, in blocks of about as many
    as are under way (row i of generation g is the i-th arrival of block g), each with the number of its ask
    (`asked`) and how many were under way when it arrived (`in_flight`); which asks came before which arrivals
    follows from these two. A new `SteadySearch` on the same store leads its strategy through the stored
    arrivals, hands in again what was under way then, and goes on, with another `in_flight` if it likes.

    The ids of its tasks are ``((cell, stage, seed), number of the ask)``, those of the finalists
    ``((cell, stage, seed), rank)``.

    Parameters
    ----------
    cell : str
    stage : StagePlan
        Its `search` is a `SteadyConfig`.
    seed : int
    problem : Problem
    store : RunStore
    in_flight : int
        Evaluations to keep under way.
    hall_of_fame : int
        Models to keep.
    limits : Limits
    warm_start : ndarray, shape (k, P), optional
    keep_traces : callable, optional

    Attributes
    ----------
    in_flight : int
        May be changed at any time; holds from the next arrival on.
    replayed_unlike : int
        Stored evaluations whose parameters are not, to the last bit, what the replay asked for: 0, unless
        the run began on a machine that rounds otherwise, or its files were changed.
    """

    def __init__(
        self,
        cell: str,
        stage: StagePlan,
        seed: int,
        problem: Problem,
        store: "RunStore",
        *,
        in_flight: int,
        hall_of_fame: int,
        limits: Limits,
        warm_start: np.ndarray | None = None,
        keep_traces: KeepTraces | None = None,
    ) -> None:
        space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
        search = cast("SteadyConfig", stage.search)
        self._strategy = make_steady_strategy(search, space, seed, warm_start)
        super().__init__(cell, stage, seed, problem, store, self._strategy, hall_of_fame, limits, keep_traces)
        self.in_flight = in_flight
        self.replayed_unlike = 0
        self._under_way: dict[int, np.ndarray] = {}
        self._block: list[_Arrival] = []
        self._block_starts: list[int] = []
        self._replay()

    def take(self, individual: int, outcome: Outcome) -> list[EvaluationTask]:
        """Take in one outcome; return the evaluations to be done in its place."""
        if self._current is not None:
            return super().take(individual, outcome)
        in_flight, parameters = len(self._under_way), self._under_way.pop(individual)
        self._block.append(_Arrival(individual, in_flight, parameters, outcome))
        self._count_outcome(self.stage.name, outcome.status, outcome.seconds)
        self._tell_strategy(individual, parameters, self._scores(outcome))
        asked = self._top_up()
        if self._searched or len(self._block) >= max(SMALLEST_BLOCK, self.in_flight):
            rows = self._block_rows()
            self._block = []
            self._store_generation(self.stage.name, rows)
        return self.start() if self._searched else self._tasks(asked)

    # -- inside

    @property
    def _wants_more(self) -> bool:
        return self._strategy.open and not self._is_flat

    @property
    def _searched(self) -> bool:
        return not self._wants_more and not self._under_way

    def _search_tasks(self) -> list[EvaluationTask]:
        self._top_up()
        return self._tasks(sorted(self._under_way))

    def _top_up(self) -> range:
        """Ask until enough are under way; return the numbers of the asks."""
        first = self._strategy.asked
        while len(self._under_way) < self.in_flight and self._wants_more:
            self._ask()
        self.state.phase = self._strategy.phase
        return range(first, self._strategy.asked)

    def _ask(self) -> None:
        number = self._strategy.asked
        self._under_way[number] = self._strategy.ask()

    def _tasks(self, numbers: range | list[int]) -> list[EvaluationTask]:
        about = self._about(self.stage.name)
        return [self._task(number, self._engine, self._under_way[number], about) for number in numbers]

    def _tell_strategy(self, asked: int, parameters: np.ndarray, scores: np.ndarray) -> None:
        self._strategy.tell(asked, parameters, scores)
        self._note_best()

    def _block_rows(self) -> Evaluations:
        block = Generation(
            number=len(self._block_starts),
            stage=self.stage.name,
            engine=self._engine,
            parameters=np.array([arrival.parameters for arrival in self._block]),
            outcomes={i: arrival.outcome for i, arrival in enumerate(self._block)},
        )
        return replace(
            self._rows(block),
            asked=np.array([arrival.asked for arrival in self._block]),
            in_flight=np.array([arrival.in_flight for arrival in self._block]),
        )

    def _learn(self, rows: Evaluations) -> None:
        """Take note of a block; its evaluations were told one by one."""
        self._block_starts.append(self._strategy.evaluations - len(rows))
        self._note_generation(rows)

    def _place(self, generation: int, individual: int) -> tuple[int, int]:
        block = int(np.searchsorted(self._block_starts, generation, side="right")) - 1
        return block, generation - self._block_starts[block]  # the archive of the strategy counts arrivals

    def _replay_generation(self, rows: Evaluations) -> None:
        if rows.asked is None or rows.in_flight is None or tuple(rows.parameter_names) != self.problem.names:
            raise JobError(
                f"{self._name()}: generation {rows.generation} in the run folder should have the columns "
                "that a steady search of these parameters writes, and has others. The folder was written "
                "by another version or with another mode; finish it with that one, or start in a new folder."
            )
        arrivals = zip(rows.asked.tolist(), rows.in_flight.tolist(), strict=True)
        for i, (asked, in_flight) in enumerate(arrivals):
            while len(self._under_way) < in_flight and self._wants_more:
                self._ask()
            if len(self._under_way) != in_flight or asked not in self._under_way:
                raise JobError(
                    f"{self._name()}: individual {i} of generation {rows.generation} in the run folder "
                    f"should answer one of the {len(self._under_way)} asks that are open in its replay; it "
                    f"answers ask {asked}, with {in_flight} open. A file was changed, or the folder was "
                    "written by another version; finish it with that one, or start in a new folder."
                )
            if not np.array_equal(self._under_way.pop(asked), rows.parameters[i]):
                self.replayed_unlike += 1
            self._tell_strategy(asked, rows.parameters[i], rows.scores[i])
        self._learn(rows)
