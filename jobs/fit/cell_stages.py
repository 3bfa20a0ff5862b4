"""One cell through its stages: the seeds of a stage are searched side by side, the winner's values narrow the bounds
of the next stage, and the halls of fame of the last stage's seeds are pooled.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.errors import JobError
from neurofleet.jobs.fit.campaign_state import CELL_FINISHED, LEARNED_FROM, SCORING, STAGE_FINISHED, STAGE_STARTED
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.fit.fit_problem import VECTOR_REVISION, Problem, StagePlan, Subject
from neurofleet.jobs.fit.hall_of_fame_traces import HallOfFameTraces
from neurofleet.jobs.fit.kept_traces import KeptTraces
from neurofleet.jobs.fit.model_files import write_best_model
from neurofleet.jobs.fit.stage_search import Deadline, GenerationSearch, Limits, SearchState, StageSearch
from neurofleet.jobs.fit.steady_search import SteadySearch
from neurofleet.jobs.fit.uncertain_steps import UNCERTAIN, uncertain_steps
from neurofleet.jobs.run_log import fit_logger
from neurofleet.neurosim.cells.fit_model import MAX_SCORE
from neurofleet.neurosim.evolution import (
    ParameterSpace,
    read_warm_start,
    select_over_seeds,
    warm_start_models,
)
from neurofleet.neurosim.vector.vector_evaluator import LANES


class CellFit:
    """The fit of one subject; it goes on from whatever the store holds.

    Parameters
    ----------
    subject : Subject
    spec : FitSpec
    folder : Path
        Where the job file's relative paths start.
    store : RunStore
    kept : KeptTraces
        For the traces of the last stage's finalists.
    learn_from : callable
        Returns the cells whose halls of fame the last stage starts from, asked when that stage begins.
    hosts : int
        In mode ``steady``, the seeds of a stage keep enough evaluations under way for them.
    """

    def __init__(
        self,
        subject: Subject,
        spec: FitSpec,
        folder: "Path",
        store: "RunStore",
        kept: KeptTraces,
        learn_from: Callable[[Subject], Sequence[str]] = lambda subject: (),
        hosts: int = 1,
    ) -> None:
        self.subject = subject
        self._spec = spec
        self._folder = folder
        self._store = store
        self._kept = kept
        self._learn_from = learn_from
        self._hosts = hosts
        self._winner: Mapping[str, float] | None = None
        self._problem: Problem
        self._number = 0
        self._searches: dict[tuple, StageSearch] = {}
        self._states: list[SearchState] = []
        self._traces: HallOfFameTraces | None = None
        self._total = math.nan
        self.summary: dict[str, Any] = {}
        self.finished = False

    @property
    def id(self) -> str:
        return self.subject.id

    @property
    def to_go(self) -> float:
        """Seconds that its evaluations left would take one after the other, those of its longest seeds."""
        states = self.states()
        seconds = sum(state.seconds for state in states) / max(sum(state.evaluated for state in states), 1)
        left: dict[str, int] = {}
        for state in states:
            ahead = 0 if state.finished else state.planned - state.evaluated
            left[state.stage] = max(left.get(state.stage, 0), ahead)
        return (seconds or 1.0) * sum(left.values())

    def start(self) -> list[EvaluationTask]:
        """Return the first evaluations to do; none when all is stored already."""
        return self._open_stage()

    def take(self, key: tuple, individual: int, outcome: Outcome) -> list[EvaluationTask]:
        """Take in one outcome and return the evaluations that can now be done."""
        if self._traces is not None:
            self._traces.take(individual, outcome)
            return self._finish() if self._traces.complete else []
        search = self._searches[key]
        tasks = search.take(individual, outcome)
        return self._close_stage_if_done() if search.finished else tasks

    def states(self) -> list[SearchState]:
        """Return what a display shows: every search so far, and those of the stages to come."""
        started = {state.stage for state in self._states}
        coming = [stage for stage in self.subject.stages if stage.name not in started]
        return self._states + [state for stage in coming for state in waiting_states(self.id, stage)]

    def _open_stage(self) -> list[EvaluationTask]:
        stage = self.subject.stages[self._number]
        self._problem = problem = self.subject.problem(self._number, self._winner)
        last = self._number == len(self.subject.stages) - 1
        teachers, warm_start = self._warm_start(problem) if last else ((), None)
        limits = self._limits()
        make: Callable[..., StageSearch] = GenerationSearch
        if self._spec.evolution.mode == "steady":
            make = partial(SteadySearch, in_flight=self._in_flight(stage))
        searches = [
            make(
                self.id,
                stage,
                seed,
                problem,
                self._store,
                hall_of_fame=self._spec.evolution.hall_of_fame,
                limits=limits,
                warm_start=warm_start,
                keep_traces=partial(self._kept.put, self.id) if last else None,
            )
            for seed in stage.seeds
        ]
        self._searches = {(self.id, stage.name, search.seed): search for search in searches}
        scoring = problem.scoring(stage.engine)
        self._check_scoring(stage, scoring)
        self._store.append_event(
            STAGE_STARTED,
            cell=self.id,
            stage=stage.name,
            engine=stage.engine,
            engine_reason=stage.choice.reason if stage.choice else "",
            seeds=list(stage.seeds),
            planned_evaluations=stage.planned_evaluations,
            bounds={
                name: [low, high] for name, low, high in zip(problem.names, problem.lower, problem.upper, strict=True)
            },
            steps_pA={name: 1000 * step.amplitude_nA for name, step in problem.steps.items()},
            **({SCORING: scoring} if scoring else {}),
            **({LEARNED_FROM: list(teachers)} if last else {}),
        )
        self._states += [search.state for search in searches]
        tasks = [task for search in searches for task in search.start()]
        return tasks or self._close_stage_if_done()

    def _check_scoring(self, stage: StagePlan, scoring: Mapping[str, float]) -> None:
        """Do not go on with evaluations that were scored in another way."""
        searches = self._searches.values()
        begun = any(search.state.replayed for search in searches)
        if not scoring or not begun or all(search.finished for search in searches):
            return
        recorded = None
        for event in self._store.read_events():
            if (event["event"], event.get("cell"), event.get("stage")) == (STAGE_STARTED, self.id, stage.name):
                recorded = event.get(SCORING, recorded)
        if recorded is None:
            if VECTOR_REVISION in scoring:
                fit_logger(cell=self.id, stage=stage.name).warning(
                    "begun with an earlier version: its later generations are scored a little differently; finalists "
                    "are scored by NEURON all the same"
                )
        elif recorded != scoring:
            keys = [key for key in {**recorded, **scoring} if recorded.get(key) != scoring.get(key)]
            changes = ", ".join(f"{key} was {recorded.get(key)}, is {scoring.get(key)}" for key in keys)
            raise JobError(
                f"cell {self.id}, stage {stage.name}: what is stored was scored in another way: {changes}. Scores of "
                "both are never mixed: finish the run with the version that began it, or start in a new folder."
            )

    def _in_flight(self, stage: StagePlan) -> int:
        """Return how many evaluations a seed keeps under way: full batches for all hosts, and one waiting."""
        lanes = LANES if stage.engine == "vector" else 1
        return math.ceil(max(2 * self._hosts, lanes * (self._hosts + 1)) / len(stage.seeds))

    def _limits(self) -> Limits:
        spec = self._spec
        cells = spec.cells or []
        rank = next((i for i, cell in enumerate(cells) if cell.id == self.id), 0)
        group = cells[rank].group if cells else None
        own_weight = cells[rank].weight if cells else None
        share, weight = "", 1.0
        if group is not None:
            share, weight = f"group {group}", spec.weights.get(group, 1.0)
        elif own_weight is not None:
            share, weight = f"cell {self.id}", own_weight
        return Limits(
            deadline=Deadline(spec.deadline_s),
            max_steps=spec.max_steps,
            patience=spec.evolution.patience,
            share=share,
            weight=weight,
            rank=rank,
        )

    def _warm_start(self, problem: Problem) -> tuple[Sequence[str], np.ndarray | None]:
        """Return the cells that the last stage learns from, and first individuals for it."""
        space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
        models_of = []
        if self._spec.warm_start is not None:
            models_of.append(read_warm_start(self._folder / self._spec.warm_start, space, exclude_cell=self.id))
        teachers = self._learn_from(self.subject)
        halls = [self._store.hall_of_fame_table(cell) for cell in teachers]
        tables = [hall for hall in halls if hall is not None]
        if (models := warm_start_models(tables, space, exclude_cell=self.id)) is not None:
            models_of.append(models)
        return teachers, np.concatenate(models_of) if models_of else None

    def _close_stage_if_done(self) -> list[EvaluationTask]:
        if not all(search.finished for search in self._searches.values()):
            return []
        for search in self._searches.values():
            search.merge_generations()
        halls = [search.hall_of_fame() for search in self._searches.values()]
        best = min(halls, key=lambda hall: hall.totals[0])
        self._winner = best_values(best)
        stage = self.subject.stages[self._number].name
        searched = [search.models() for search in self._searches.values()]
        uncertain = uncertain_steps(self._problem.targets, searched, MAX_SCORE)
        for step in uncertain:
            fit_logger(cell=self.id, stage=stage).warning("%s %s", UNCERTAIN, step)
        self._store.append_event(
            STAGE_FINISHED,
            cell=self.subject.id,
            stage=stage,
            seed=int(best.seeds[0]),
            total=float(best.totals[0]),
            parameters=dict(self._winner),
            uncertain_steps=[asdict(step) for step in uncertain],
        )
        self._number += 1
        if self._number < len(self.subject.stages):
            return self._open_stage()
        for hall in halls:
            self._store.write_hall_of_fame(hall, int(hall.seeds[0]))
        tolerance = self._spec.evolution.kept_within
        if tolerance:
            space = next(iter(self._searches.values())).space
            together = most_different(searched, sum(map(len, halls)), tolerance, space)
        else:
            together = pooled(halls)
        self._store.write_hall_of_fame(together, "pooled")
        write_best_model(self.subject, best_values(together), self._store)
        self._searches = {}
        self.finished = True
        self._total = float(together.totals[0])
        shown = _rows([together], np.zeros(1, int)) if self._spec.quick else together
        self._traces = HallOfFameTraces(self.subject, self._problem, shown, self._store, self._limits(), self._kept)
        return self._traces.tasks() or self._finish()

    def _finish(self) -> list[EvaluationTask]:
        assert self._traces is not None
        self._traces.write()
        self.summary = {
            "recipe": self.subject.kind,
            "total": self._total,
            "evaluations": sum(state.evaluated for state in self._states),
            "core_seconds": round(sum(state.seconds for state in self._states) + self._traces.seconds, 3),
        }
        self._store.append_event(CELL_FINISHED, cell=self.id, **self.summary)
        return []


def waiting_states(cell: str, stage: StagePlan) -> list[SearchState]:
    """Return what a display shows of a stage that has not begun."""
    again = stage.finalists
    planned = stage.search.planned_evaluations + again
    return [SearchState(cell, stage.name, seed, planned, again, choice=stage.choice) for seed in stage.seeds]


def pooled(halls: list[HallOfFameRows]) -> HallOfFameRows:
    """Return all halls of fame of one cell as one, best first; equal totals by seed, then by rank."""
    totals = np.concatenate([hall.totals for hall in halls])
    return _rows(halls, np.argsort(totals, kind="stable"))


def most_different(
    models_of: Sequence[HallOfFameRows], size: int, tolerance: float, space: ParameterSpace
) -> HallOfFameRows:
    """Return `size` models of all seeds together, best first: those as good as the best that differ most.

    Parameters
    ----------
    models_of : sequence of HallOfFameRows
        What each seed has.
    size, tolerance
        See `neurofleet.neurosim.evolution.diverse_selection.select_over_seeds`.
    space : ParameterSpace
        Of the last stage.
    """
    first = models_of[0]
    columns = [list(first.parameter_names).index(name) for name in space.names]
    unit = space.to_unit(np.concatenate([models.parameters[:, columns] for models in models_of]))
    totals = np.concatenate([models.totals for models in models_of])
    seeds = np.concatenate([models.seeds for models in models_of])
    objectives = len(first.objective_names)
    return _rows(models_of, select_over_seeds(unit, totals, seeds, size, objectives, tolerance))


def _rows(halls: Sequence[HallOfFameRows], order: np.ndarray) -> HallOfFameRows:
    """Return rows of all halls of fame together in this order."""
    first = halls[0]

    def together(name: str) -> Any:
        parts = [getattr(hall, name) for hall in halls]
        return None if parts[0] is None else np.concatenate(parts)[order]

    return HallOfFameRows(
        cell=first.cell,
        seeds=together("seeds"),
        generations=together("generations"),
        individuals=together("individuals"),
        parameter_names=first.parameter_names,
        objective_names=first.objective_names,
        parameters=together("parameters"),
        scores=together("scores"),
        totals=together("totals"),
        search_scores=together("search_scores"),
        search_totals=together("search_totals"),
    )


def best_values(rows: HallOfFameRows) -> dict[str, float]:
    """Return full name -> value of the parameters of the best model."""
    return dict(zip(rows.parameter_names, (float(v) for v in rows.parameters[0]), strict=True))
