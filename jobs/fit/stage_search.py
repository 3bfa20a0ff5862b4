"""The search of one stage with one seed: tasks for the pool, rows to store, finalists, hall of fame."""

import abc
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from neurofleet.cluster.pool.outcome import EngineSpec, EvaluationTask, Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import Evaluations, HallOfFameRows
from neurofleet.errors import ClusterError, JobError
from neurofleet.jobs.fit.campaign_state import FINAL, EngineChoice
from neurofleet.jobs.fit.engines import (
    ModelTraces,
    engine_spec,
    residuals_of,
    scores_of,
    task_deadline_s,
    vector_spec,
)
from neurofleet.jobs.fit.fit_problem import Problem, StagePlan
from neurofleet.jobs.run_log import fit_logger
from neurofleet.neurosim.cells.fit_model import MAX_SCORE, FitModel
from neurofleet.neurosim.evolution import HallOfFame, HallOfFameEntry, ParameterSpace, make_strategy, total_scores
from neurofleet.neurosim.evolution.ask_tell import AskTell
from neurofleet.neurosim.evolution.diverse_selection import median_distance, tolerated_total

GENERATION_STORED = "generation stored"
"""The message of a generation in the log; loggers get its fields."""

START_S = 300.0
RECENT = 2048
ENOUGH = 64
PERCENTILE = 95.0
FLOOR_S = 5.0
FLOOR_MEDIANS = 5.0


class Deadline:
    """Wall-clock limit of one evaluation.

    ``auto`` starts at 300 s and, learnt anew every 64 evaluations, follows the 95th percentile of the last
    ones, but never falls below 5 s or five times their median: a stage whose evaluations all last about the
    same would otherwise lose one in twenty for nothing.
    """

    def __init__(self, deadline_s: float | Literal["auto"]) -> None:
        self._given = None if deadline_s == "auto" else float(deadline_s)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._learnt_s = START_S
        self._learnt = 0

    def fresh(self) -> "Deadline":
        """Return one that has learnt nothing yet."""
        return Deadline("auto" if self._given is None else self._given)

    def learn(self, seconds: float) -> None:
        """Take in how long an evaluation lasted."""
        if self._given is None:
            self._recent.append(seconds)
            self._learnt += 1
            if self._learnt % ENOUGH == 0:
                median, high = np.percentile(self._recent, [50.0, PERCENTILE])
                self._learnt_s = min(START_S, max(FLOOR_S, FLOOR_MEDIANS * float(median), float(high)))

    @property
    def seconds(self) -> float:
        """The limit for evaluations that start now."""
        return self._learnt_s if self._given is None else self._given


FIRST_FINALISTS = 1.5
"""Models of a seed that are scored again at first, for each that its hall of fame holds."""

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
        See `neurofleet.cluster.pool.outcome.EvaluationTask`.
    """

    deadline: Deadline
    max_steps: int | None = None
    patience: int | None = None
    share: str = ""
    weight: float = 1.0
    rank: int = 0

    def task(
        self,
        id: tuple,
        engine: EngineSpec,
        individual: np.ndarray,
        deadline: Deadline,
        about: Mapping[str, Any],
    ) -> EvaluationTask:
        """Return an evaluation that is to be done; `about` is for the host's log."""
        return EvaluationTask(
            id,
            engine,
            individual,
            task_deadline_s(engine, deadline.seconds),
            share=self.share,
            weight=self.weight,
            rank=self.rank,
            about=about,
        )


KeepTraces = Callable[[np.ndarray, ModelTraces], None]
"""Is given the parameters of each finalist, shape (P,), with what it did."""


@dataclass
class SearchState:
    """What a display shows of a search; `seconds` were spent on its evaluations.

    Of the planned evaluations, of those done and of the seconds, `finalists`, `final_evaluated` and `final_seconds`
    are of the models that are scored again.
    """

    cell: str
    stage: str
    seed: int
    planned: int
    finalists: int = 0
    final_evaluated: int = 0
    final_seconds: float = 0.0
    phase: str = "waiting"
    generation: int = 0
    evaluated: int = 0
    replayed: int = 0
    seconds: float = 0.0
    best: float = np.inf
    median: float = np.inf
    outcomes: Counter = field(default_factory=Counter)
    finished: bool = False
    choice: EngineChoice | None = None


@dataclass
class Generation:
    """A generation under way."""

    number: int
    stage: str
    engine: EngineSpec
    parameters: np.ndarray
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(self.parameters)


class StageSearch(abc.ABC):
    """One stage of one cell with one seed.

    The parts of a search that are done generation by generation, whatever its strategy does: the finalists,
    which are scored again more tightly, and for some the search itself.

    Parameters
    ----------
    cell : str
    stage : StagePlan
    seed : int
    problem : Problem
    store : RunStore
    strategy : AskTell
    hall_of_fame : int
        Models to keep.
    limits : Limits
    keep_traces : callable, optional
        By default, finalists have scores alone.
    """

    def __init__(
        self,
        cell: str,
        stage: StagePlan,
        seed: int,
        problem: Problem,
        store: "RunStore",
        strategy: "AskTell",
        hall_of_fame: int,
        limits: Limits,
        keep_traces: KeepTraces | None = None,
    ) -> None:
        self.cell, self.stage, self.seed, self.problem = cell, stage, seed, problem
        self._store = store
        self._limits = limits
        self._log = fit_logger(cell=cell, stage=stage.name, seed=seed)
        self._ask_tell = strategy
        self._size = hall_of_fame
        self._engine = self._search_engine()
        self._keep_traces = keep_traces
        self._final_engine = None
        if (final := problem.final_model_of(stage.engine)) is not None:
            name, traces = f"{cell}-{stage.name}{FINAL}", keep_traces is not None
            self._final_engine = engine_spec(name, final, limits.max_steps, traces=traces)
        # What the search learns of its evaluations holds for finalists only where they have the same engine.
        self._final_deadline = limits.deadline if stage.engine == "neuron" else limits.deadline.fresh()
        again = stage.finalists if self._final_engine else 0
        self._hall_of_fame = HallOfFame(max(again, hall_of_fame), strategy.archive.tolerance)
        self._current: Generation | None = None
        self._finals: list[Evaluations] = []
        self._scored_again = False
        self._mark, self._marked_at = np.inf, 0
        planned = stage.search.planned_evaluations + again
        self.state = SearchState(cell, stage.name, seed, planned, again, choice=stage.choice)

    # -- what the fit calls

    @property
    def finished(self) -> bool:
        """Whether the hall of fame is complete."""
        return self._searched and (self._final_engine is None or self._scored_again)

    def start(self) -> list[EvaluationTask]:
        """Return the first evaluations to do; none when all is stored already."""
        if self.finished:
            return []
        if not self._searched:
            return self._search_tasks()
        assert self._final_engine is not None
        self.state.phase = "finalists"
        number = len(self._finals)
        return self._begin(Generation(number, self.stage.name + FINAL, self._final_engine, self._finalists()))

    def take(self, individual: int, outcome: Outcome) -> list[EvaluationTask]:
        """Take in one outcome; return the evaluations that can now be done, none while others are awaited."""
        current = self._current
        assert current is not None
        if isinstance(outcome.value, ModelTraces) and self._keep_traces is not None:
            self._keep_traces(current.parameters[individual], outcome.value)
            outcome = replace(outcome, value=outcome.value.scores.copy())  # free of the memory that it arrived in
        current.outcomes[individual] = outcome
        self._count_outcome(current.stage, outcome.status, outcome.seconds)
        if not current.complete:
            return []
        self._current = None
        self._store_generation(current.stage, self._rows(current))
        return self.start()

    @property
    def space(self) -> ParameterSpace:
        """What is searched."""
        return self._ask_tell.space

    def hall_of_fame(self) -> HallOfFameRows:
        """Return the models to keep, best first, with their fixed parameters."""
        kept = self._hall_of_fame.most_different(self._size, self.space)
        return self._models([self._hall_of_fame.entries[i] for i in kept])

    def models(self) -> HallOfFameRows:
        """Return all models that a hall of fame can be chosen from, as `hall_of_fame` returns them."""
        return self._models(self._hall_of_fame.entries)

    def _models(self, entries: Sequence[HallOfFameEntry]) -> HallOfFameRows:
        found = [(entry.generation, entry.individual) for entry in entries]
        searched = None
        if self._final_engine is not None:  # finalists are models of the archive, which knows where they were found
            archive = {entry.parameters.tobytes(): entry for entry in self._ask_tell.archive.entries}
            searched = [archive[entry.parameters.tobytes()] for entry in entries]
            found = [self._place(entry.generation, entry.individual) for entry in searched]
        names = (*self.problem.names, *self.problem.fixed)
        fixed = np.array(list(self.problem.fixed.values()), dtype=np.float64)
        return HallOfFameRows(
            cell=self.cell,
            seeds=np.full(len(entries), self.seed),
            generations=np.array([generation for generation, _ in found]),
            individuals=np.array([individual for _, individual in found]),
            parameter_names=names,
            objective_names=self.problem.objectives,
            parameters=np.array([np.concatenate([entry.parameters, fixed]) for entry in entries]),
            scores=np.array([entry.scores for entry in entries]),
            totals=np.array([entry.total for entry in entries]),
            search_scores=None if searched is None else np.array([entry.scores for entry in searched]),
            search_totals=None if searched is None else np.array([entry.total for entry in searched]),
        )

    def merge_generations(self) -> None:
        """Make one file of the stored generations of the search, which is finished."""
        try:
            self._store.merge_generations(self.cell, self.stage.name, self.seed)
        except ClusterError as error:
            self._log.warning("the generations stay files of their own: %s", error)

    # -- what each search does in its own way

    @property
    @abc.abstractmethod
    def _searched(self) -> bool:
        """Whether only the finalists are left to be done."""

    @abc.abstractmethod
    def _search_tasks(self) -> list[EvaluationTask]:
        """Return the next evaluations of the search."""

    @abc.abstractmethod
    def _learn(self, rows: Evaluations) -> None:
        """Take in a generation that is stored."""

    @abc.abstractmethod
    def _replay_generation(self, rows: Evaluations) -> None:
        """Lead the strategy through a stored generation."""

    def _place(self, generation: int, individual: int) -> tuple[int, int]:
        """Return the stored generation, and the row in it, of a model that the archive numbers like this."""
        return generation, individual

    # -- for them

    @property
    def _is_flat(self) -> bool:
        patience, since = self._limits.patience, max(self._marked_at, self._ask_tell.judged_from)
        return patience is not None and self._ask_tell.evaluations - since >= patience

    def _name(self) -> str:
        return f"cell {self.cell}, stage {self.stage.name}, seed {self.seed}"

    def _begin(self, generation: Generation) -> list[EvaluationTask]:
        self._current = generation
        about = self._about(generation.stage) | {"generation": generation.number}
        numbered = enumerate(generation.parameters)
        return [self._task(i, generation.engine, row, about) for i, row in numbered]

    def _about(self, stage: str) -> dict[str, Any]:
        return {"cell": self.cell, "stage": stage, "seed": self.seed}

    def _task(
        self, number: int, engine: EngineSpec, parameters: np.ndarray, about: Mapping[str, Any]
    ) -> EvaluationTask:
        id = ((self.cell, self.stage.name, self.seed), number)
        return self._limits.task(id, engine, parameters, self._deadline(about["stage"]), about)

    def _deadline(self, stage: str) -> Deadline:
        return self._limits.deadline if stage == self.stage.name else self._final_deadline

    def _search_engine(self) -> EngineSpec:
        name, model = f"{self.cell}-{self.stage.name}", self.problem.model
        if self.stage.engine == "neuron":
            return engine_spec(name, model, self._limits.max_steps)
        assert isinstance(model, FitModel)
        return vector_spec(name, model)

    def _store_generation(self, stage: str, rows: Evaluations) -> None:
        """Store a generation of the search or its finalists, and take it in."""
        self._store.write_generation(self.cell, stage, self.seed, rows)
        is_search = stage == self.stage.name
        if is_search:
            self._learn(rows)
        else:
            self._learn_finalists(rows)
        self._log.info(
            GENERATION_STORED,
            stage=stage,
            generation=rows.generation,
            evaluations=len(rows),
            not_ok=sum(status != "ok" for status in rows.statuses),
            timeouts=sum(status == "timeout" for status in rows.statuses),
            best=self.state.best if is_search else float(np.min(rows.totals)),  # finalists have scores of their own
            median=self.state.median,
            diversity=median_distance(self.space.to_unit(rows.parameters)),
        )

    def _replay(self) -> None:
        """Take in all that is stored."""
        for rows in self._store.read_generations(self.cell, self.stage.name, self.seed):
            if self._searched:
                raise JobError(
                    f"{self._name()}: the run folder holds generation {rows.generation}, and the search "
                    "ended before it. Remove the later generations, or start in a new folder."
                )
            self._check_objectives(self.stage.name, rows)
            self._replay_generation(rows)
            self._count(self.stage.name, rows)
        if self._searched and self._final_engine is not None:
            for rows in self._store.read_generations(self.cell, self.stage.name + FINAL, self.seed):
                self._check_objectives(self.stage.name + FINAL, rows)
                self._learn_finalists(rows)
                self._count(self.stage.name + FINAL, rows)

    def _check_objectives(self, stage: str, rows: Evaluations) -> None:
        stored, expected = tuple(rows.objective_names), self.problem.objectives
        if stored == expected:
            return
        only = {
            "only there": [name for name in stored if name not in expected],
            "only here": [name for name in expected if name not in stored],
        }
        differ = "; ".join(f"{where} {', '.join(names[:5])}" for where, names in only.items() if names)
        raise JobError(
            f"{self._name()}: generation {rows.generation} of {stage} in the run folder has {len(stored)} objectives, "
            f"this program scores {len(expected)} ({differ or 'in another order'}). The recording or the recipe was "
            "read by another version; finish the run with that one, or start in a new folder."
        )

    def _note_best(self) -> None:
        """Look at the best total after the strategy was told something."""
        self.state.best = float(self._ask_tell.archive.entries[0].total)
        if self.state.best < (1 - IMPROVEMENT) * self._mark:
            self._mark, self._marked_at = self.state.best, self._ask_tell.evaluations

    def _note_generation(self, rows: Evaluations) -> None:
        """Keep and look at a generation that is stored and told."""
        if self._final_engine is None:
            self._hall_of_fame.update(rows.parameters, rows.scores, rows.generation)
        if rows.generation == 0:
            self._check_first(rows)
        self.state.generation = rows.generation + 1
        self._show(rows)

    def _count_outcome(self, stage: str, status: str, seconds: float) -> None:
        self.state.outcomes[status] += 1
        self.state.evaluated += 1
        self.state.seconds += seconds
        if stage != self.stage.name:
            self.state.final_evaluated += 1
            self.state.final_seconds += seconds
        self._deadline(stage).learn(seconds)

    def _scores(self, outcome: Outcome) -> np.ndarray:
        """Return the scores of an outcome, shape (M,); the penalty where it is not ok."""
        objectives = self.problem.objectives
        return scores_of(outcome.value, objectives) if outcome.ok else np.full(len(objectives), MAX_SCORE)

    def _residuals(self, outcome: Outcome) -> np.ndarray:
        """Return the residuals of an outcome as they are stored, shape (M,); NaN where it is not ok."""
        objectives = self.problem.objectives
        found = residuals_of(outcome.value, objectives) if outcome.ok else np.full(len(objectives), np.nan)
        return found.astype(np.float32).astype(np.float64)

    def _rows(self, done: Generation) -> Evaluations:
        outcomes = [done.outcomes[i] for i in range(len(done.parameters))]
        scores = np.array([self._scores(outcome) for outcome in outcomes])
        signed = self._ask_tell.learns_from_residuals
        return Evaluations(
            generation=done.number,
            parameter_names=self.problem.names,
            objective_names=self.problem.objectives,
            parameters=done.parameters,
            scores=scores,
            totals=total_scores(scores),
            statuses=[o.status for o in outcomes],
            reasons=[o.reason for o in outcomes],
            seconds=np.array([o.seconds for o in outcomes]),
            residuals=np.array([self._residuals(outcome) for outcome in outcomes]) if signed else None,
        )

    # -- inside

    def _learn_finalists(self, rows: Evaluations) -> None:
        self._hall_of_fame.update(rows.parameters, rows.scores, rows.generation)
        self._finals.append(rows)
        self._scored_again = not len(self._finalists())
        self._show(rows)

    def _finalists(self) -> np.ndarray:
        """Return the models that are scored again next, shape (n, P), none when the hall of fame is settled.

        First these are half as many again as it holds, then all others. It is settled when as many as it holds are as
        good as the best, or better than any of the others would be with the largest gain that was seen.
        """
        most = self.stage.finalists
        if not self._finals:
            return self._ask_tell.candidates(min(most, math.ceil(FIRST_FINALISTS * self._size)))
        parameters = np.concatenate([rows.parameters for rows in self._finals])
        totals = np.concatenate([rows.totals for rows in self._finals])
        scored = {row.tobytes() for row in parameters}
        others = [row for row in self._ask_tell.candidates(most) if row.tobytes() not in scored]
        others = others[: most - len(parameters)]  # not all of few candidates are among many
        if not others:
            return np.empty((0, len(self.space)))
        archive = self._ask_tell.archive
        searched = {entry.parameters.tobytes(): entry.total for entry in archive.entries}
        gain = max(searched[row.tobytes()] - total for row, total in zip(parameters, totals.tolist(), strict=True))
        limit = max(
            tolerated_total(totals.min(), len(self.problem.objectives), archive.tolerance),
            min(searched[row.tobytes()] for row in others) - gain,
        )
        settled = np.sum(totals <= limit) >= self._size
        return np.empty((0, len(self.space))) if settled else np.array(others)

    def _show(self, rows: Evaluations) -> None:
        self.state.median = float(np.median(rows.totals))
        self.state.finished = self.finished

    def _count(self, stage: str, rows: Evaluations) -> None:
        self.state.replayed += len(rows)
        for status, seconds in zip(rows.statuses, np.asarray(rows.seconds).tolist(), strict=True):
            self._count_outcome(stage, status, seconds)

    def _check_first(self, rows: Evaluations) -> None:
        """Stop early when the model, and not bad luck, fails."""
        failed = Counter(
            f"{status}: {reason}" for status, reason in zip(rows.statuses, rows.reasons, strict=True) if status != "ok"
        )
        if failed.total() * 2 > len(rows):
            shown = "; ".join(f"{reason} ({count} of {len(rows)})" for reason, count in failed.most_common(5))
            crashed = any(reason.startswith(("crash", "error")) for reason in failed)
            mechanisms = f" {self.problem.mechanisms_told}." if crashed and self.problem.mechanisms_told else ""
            raise JobError(
                f"{self._name()}: more than half of the first generation failed: {shown}. The search was "
                "stopped, because the model or the limits (deadline_s, max_steps, memory_limit_mb) are at "
                f"fault rather than single parameter sets.{mechanisms} Fix that and start in a new folder."
            )


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
    keep_traces : callable, optional
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
        keep_traces: KeepTraces | None = None,
    ) -> None:
        space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
        self._strategy = make_strategy(stage.search, space, seed, warm_start)
        super().__init__(cell, stage, seed, problem, store, self._strategy, hall_of_fame, limits, keep_traces)
        self._replay()

    @property
    def _searched(self) -> bool:
        return self._strategy.finished or self._is_flat

    def _search_tasks(self) -> list[EvaluationTask]:
        number, individuals = self._strategy.generation, self._strategy.ask()
        self.state.phase = self._strategy.phase
        return self._begin(Generation(number, self.stage.name, self._engine, individuals))

    def _learn(self, rows: Evaluations) -> None:
        self._strategy.tell(rows.parameters, rows.scores, rows.residuals)
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
