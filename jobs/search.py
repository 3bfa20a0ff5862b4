"""The search of one stage with one seed: ask, have evaluated, tell, store; taken up where the store ends."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.outcome import EngineSpec, Outcome, Task
from cluster.schemas import Evaluations, HallOfFameRows
from jobs.deadline import Deadline
from jobs.engines import engine_spec, scores_of
from jobs.errors import JobError
from jobs.log import fit_logger
from jobs.subjects import Problem, StagePlan
from neurosim.fit_model import MAX_SCORE

if TYPE_CHECKING:
    from cluster.store import RunStore

FINAL = "_final"
FINALISTS = 32
IMPROVEMENT = 0.01
"""The part of the best total by which it has to fall, for a search with patience to count it as better."""


@dataclass(frozen=True)
class Limits:
    """What every evaluation of a job is bounded by, and its part of the hosts.

    Attributes
    ----------
    deadline : Deadline
    max_steps : int or None
    patience : int or None
        A search ends when its best total has not fallen by `IMPROVEMENT` in so many evaluations.
    share : str
    weight : float
    rank : int
        See `cluster.outcome.Task`.
    """

    deadline: Deadline
    max_steps: int | None = None
    patience: int | None = None
    share: str = ""
    weight: float = 1.0
    rank: int = 0

    def task(self, id: tuple, engine: EngineSpec, individual: np.ndarray, about: Mapping[str, Any]) -> Task:
        """Return an evaluation that is to be done; `about` is for the host's log."""
        return Task(
            id,
            engine,
            individual,
            self.deadline.seconds,
            share=self.share,
            weight=self.weight,
            rank=self.rank,
            about=about,
        )


@dataclass
class SearchState:
    """What a display shows of a search; `seconds` were spent on its evaluations."""

    cell: str
    stage: str
    seed: int
    planned: int
    phase: str = "waiting"
    generation: int = 0
    evaluated: int = 0
    replayed: int = 0
    seconds: float = 0.0
    best: float = np.inf
    median: float = np.inf
    outcomes: Counter = field(default_factory=Counter)
    finished: bool = False


@dataclass
class _Generation:
    """A generation under way."""

    number: int
    stage: str
    engine: EngineSpec
    parameters: np.ndarray
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(self.parameters)


class Search:
    """One stage of one cell with one seed.

    Everything that it knows is a function of the seed and of the stored generations: a new `Search` on the
    same store leads its strategy through them and goes on with the generation that is missing.

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
        from neurosim.evolution import HallOfFame, ParameterSpace, make_strategy

        space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
        self.cell, self.stage, self.seed, self.problem = cell, stage, seed, problem
        self._store = store
        self._limits = limits
        self._log = fit_logger(cell=cell, stage=stage.name, seed=seed)
        self._strategy = make_strategy(stage.search, space, seed, warm_start)
        self._hall_of_fame = HallOfFame(hall_of_fame)
        self._engine = engine_spec(f"{cell}-{stage.name}", problem.model, limits.max_steps)
        self._final_engine = (
            None
            if problem.final_model is None
            else engine_spec(f"{cell}-{stage.name}{FINAL}", problem.final_model, limits.max_steps)
        )
        self._current: _Generation | None = None
        self._scored_again = False
        self._mark, self._marked_at = np.inf, 0
        planned = stage.search.planned_evaluations + (self._finalists() if self._final_engine else 0)
        self.state = SearchState(cell, stage.name, seed, planned)
        self._replay()

    # -- what the fit calls

    @property
    def finished(self) -> bool:
        """Whether the hall of fame is complete."""
        return self._searched and (self._final_engine is None or self._scored_again)

    def start(self) -> list[Task]:
        """Return the first evaluations to do; none when all is stored already."""
        return [] if self.finished else self._next_tasks()

    def take(self, individual: int, outcome: Outcome) -> list[Task]:
        """Take in one outcome; when that completes a generation, store it and return the next one."""
        current = self._current
        assert current is not None
        current.outcomes[individual] = outcome
        self._count_outcome(outcome.status, outcome.seconds)
        if not current.complete:
            return []
        rows = self._rows(current)
        self._store.write_generation(self.cell, current.stage, self.seed, rows)
        self._current = None
        self._learn(current.stage, rows)
        self._log.info(
            "generation stored",
            stage=current.stage,
            generation=rows.generation,
            evaluations=len(rows),
            not_ok=sum(status != "ok" for status in rows.statuses),
            best=self.state.best,
            median=self.state.median,
        )
        return self.start()

    def hall_of_fame(self) -> HallOfFameRows:
        """Return the best models, best first, with their fixed parameters."""
        entries = self._hall_of_fame.entries
        found: Sequence = (
            entries  # where each was found: finalists are numbered as the archive they came from
        )
        if self._final_engine is not None:
            found = [self._strategy.archive.entries[entry.individual] for entry in entries]
        names = (*self.problem.names, *self.problem.fixed)
        fixed = np.array(list(self.problem.fixed.values()), dtype=np.float64)
        return HallOfFameRows(
            cell=self.cell,
            seeds=np.full(len(entries), self.seed),
            generations=np.array([entry.generation for entry in found]),
            individuals=np.array([entry.individual for entry in found]),
            parameter_names=names,
            objective_names=self.problem.objectives,
            parameters=np.array([np.concatenate([entry.parameters, fixed]) for entry in entries]),
            scores=np.array([entry.scores for entry in entries]),
            totals=np.array([entry.total for entry in entries]),
        )

    # -- inside

    @property
    def _searched(self) -> bool:
        return self._strategy.finished or self._is_flat

    @property
    def _is_flat(self) -> bool:
        patience = self._limits.patience
        return patience is not None and self._strategy.evaluations - self._marked_at >= patience

    def _next_tasks(self) -> list[Task]:
        if self._searched:
            assert self._final_engine is not None
            finalists = self._strategy.candidates(self._finalists())
            self._current = _Generation(0, self.stage.name + FINAL, self._final_engine, finalists)
            self.state.phase = "finalists"
        else:
            self._current = _Generation(
                self._strategy.generation, self.stage.name, self._engine, self._strategy.ask()
            )
            self.state.phase = self._strategy.phase
        limits, engine = self._limits, self._current.engine
        key = (self.cell, self.stage.name, self.seed)
        about = {
            "cell": self.cell,
            "stage": self._current.stage,
            "seed": self.seed,
            "generation": self._current.number,
        }
        return [
            limits.task((key, i), engine, values, about) for i, values in enumerate(self._current.parameters)
        ]

    def _finalists(self) -> int:
        """Return how many of the best are scored again: up to 32, and not more than a tenth of the search."""
        return max(self._hall_of_fame.size, min(FINALISTS, self._strategy.planned_evaluations // 10))

    def _replay(self) -> None:
        """Lead the strategy through the generations that are stored."""
        for rows in self._store.read_generations(self.cell, self.stage.name, self.seed):
            if self._searched:
                raise JobError(
                    f"{self._name()}: the run folder holds generation {rows.generation}, and the search "
                    "ended before it. Remove the later generations, or start in a new folder."
                )
            asked = self._strategy.ask()
            if rows.parameters.shape != asked.shape or tuple(rows.parameter_names) != self.problem.names:
                raise JobError(
                    f"{self._name()}: generation {rows.generation} in the run folder has "
                    f"{len(rows)} individuals of {len(rows.parameter_names)} parameters, this program asks "
                    f"for {asked.shape[0]} of {asked.shape[1]}. The folder was written by another version; "
                    "finish it with that one, or start in a new folder."
                )
            self._learn(self.stage.name, rows)
            self._count(rows)
        if self._searched and self._final_engine is not None:
            for rows in self._store.read_generations(self.cell, self.stage.name + FINAL, self.seed):
                self._learn(self.stage.name + FINAL, rows)
                self._count(rows)

    def _count(self, rows: Evaluations) -> None:
        self.state.replayed += len(rows)
        for status, seconds in zip(rows.statuses, rows.seconds.tolist(), strict=True):
            self._count_outcome(status, seconds)

    def _count_outcome(self, status: str, seconds: float) -> None:
        self.state.outcomes[status] += 1
        self.state.evaluated += 1
        self.state.seconds += seconds
        self._limits.deadline.learn(seconds)

    def _rows(self, done: _Generation) -> Evaluations:
        from neurosim.evolution import total_scores

        objectives = self.problem.objectives
        outcomes = [done.outcomes[i] for i in range(len(done.parameters))]
        scores = np.array(
            [
                scores_of(o.value, objectives) if o.ok else np.full(len(objectives), MAX_SCORE)
                for o in outcomes
            ]
        )
        return Evaluations(
            generation=done.number,
            parameter_names=self.problem.names,
            objective_names=objectives,
            parameters=done.parameters,
            scores=scores,
            totals=total_scores(scores),
            statuses=[o.status for o in outcomes],
            reasons=[o.reason for o in outcomes],
            seconds=np.array([o.seconds for o in outcomes]),
        )

    def _learn(self, stage: str, rows: Evaluations) -> None:
        final = stage != self.stage.name
        if final:
            self._hall_of_fame.update(rows.parameters, rows.scores, 0)
            self._scored_again = True
        else:
            self._strategy.tell(rows.parameters, rows.scores)
            if self._final_engine is None:
                self._hall_of_fame.update(rows.parameters, rows.scores, rows.generation)
            if rows.generation == 0:
                self._check_first(rows)
            best = self._strategy.archive.entries[0].total
            if best < (1 - IMPROVEMENT) * self._mark:
                self._mark, self._marked_at = best, self._strategy.evaluations
        self.state.generation = self._strategy.generation
        self.state.best = float(self._strategy.archive.entries[0].total)
        self.state.median = float(np.median(rows.totals))
        self.state.finished = self.finished

    def _check_first(self, rows: Evaluations) -> None:
        """Stop early when the model, and not bad luck, fails."""
        failed = Counter(
            f"{status}: {reason}"
            for status, reason in zip(rows.statuses, rows.reasons, strict=True)
            if status != "ok"
        )
        if failed.total() * 2 > len(rows):
            shown = "; ".join(f"{reason} ({count} of {len(rows)})" for reason, count in failed.most_common(5))
            raise JobError(
                f"{self._name()}: more than half of the first generation failed: {shown}. The search was "
                "stopped, because the model or the limits (deadline_s, max_steps, memory_limit_mb) are at "
                "fault rather than single parameter sets. Mend that and start in a new folder."
            )

    def _name(self) -> str:
        return f"cell {self.cell}, stage {self.stage.name}, seed {self.seed}"


def best_values(rows: HallOfFameRows) -> Mapping[str, float]:
    """Return the parameter values of the best model."""
    return dict(zip(rows.parameter_names, (float(v) for v in rows.parameters[0]), strict=True))
