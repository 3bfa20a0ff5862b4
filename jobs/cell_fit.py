"""One subject through its stages: seeds side by side, the winner's bounds handed on, halls of fame pooled."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cluster.outcome import Outcome, Task
from cluster.schemas import HallOfFameRows
from jobs.deadline import Deadline
from jobs.models import write_best_model
from jobs.search import Search, SearchState, best_values
from jobs.spec import FitSpec
from jobs.subjects import Problem, Subject

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.store import RunStore


class CellFit:
    """The fit of one subject; it goes on from whatever the store holds.

    Parameters
    ----------
    subject : Subject
    spec : FitSpec
    folder : Path
        Where the job file's relative paths start.
    store : RunStore
    """

    def __init__(self, subject: Subject, spec: FitSpec, folder: "Path", store: "RunStore") -> None:
        self.subject = subject
        self._spec = spec
        self._folder = folder
        self._store = store
        self._winner: Mapping[str, float] | None = None
        self._number = 0
        self._searches: dict[tuple, Search] = {}
        self._states: list[SearchState] = []
        self.finished = False

    def start(self) -> list[Task]:
        """Return the first evaluations to do; none when all is stored already."""
        return self._open_stage()

    def take(self, key: tuple, individual: int, outcome: Outcome) -> list[Task]:
        """Take in one outcome and return the evaluations that can now be done."""
        search = self._searches[key]
        if not search.take(individual, outcome):
            return []
        if not search.finished:
            return search.next_tasks()
        return self._close_stage_if_done()

    def states(self) -> list[SearchState]:
        """Return what a display shows: every search so far, and those of the stages to come."""
        started = {state.stage for state in self._states}
        coming = [
            SearchState(self.subject.id, stage.name, seed, stage.search.planned_evaluations)
            for stage in self.subject.stages
            if stage.name not in started
            for seed in stage.seeds
        ]
        return self._states + coming

    def _open_stage(self) -> list[Task]:
        stage = self.subject.stages[self._number]
        problem = self.subject.problem(self._number, self._winner)
        deadline = Deadline(self._spec.deadline_s)
        last = self._number == len(self.subject.stages) - 1
        searches = [
            Search(
                self.subject.id,
                stage,
                seed,
                problem,
                self._store,
                hall_of_fame=self._spec.evolution.hall_of_fame,
                deadline=deadline,
                max_steps=self._spec.max_steps,
                warm_start=self._warm_start(problem) if last else None,
            )
            for seed in stage.seeds
        ]
        self._searches = {(self.subject.id, stage.name, search.seed): search for search in searches}
        self._store.append_event(
            "stage started",
            cell=self.subject.id,
            stage=stage.name,
            seeds=list(stage.seeds),
            planned_evaluations=stage.planned_evaluations,
            bounds={
                name: [low, high]
                for name, low, high in zip(problem.names, problem.lower, problem.upper, strict=True)
            },
        )
        self._states += [search.state for search in searches]
        tasks = [task for search in searches if not search.finished for task in search.next_tasks()]
        return tasks or self._close_stage_if_done()

    def _warm_start(self, problem: Problem) -> np.ndarray | None:
        """Return models of other cells as first individuals of the last stage."""
        if self._spec.warm_start is None:
            return None
        from neurosim.evolution import ParameterSpace, read_warm_start

        space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
        return read_warm_start(self._folder / self._spec.warm_start, space, exclude_cell=self.subject.id)

    def _close_stage_if_done(self) -> list[Task]:
        if not all(search.finished for search in self._searches.values()):
            return []
        halls = [search.hall_of_fame() for search in self._searches.values()]
        best = min(halls, key=lambda hall: hall.totals[0])
        self._winner = best_values(best)
        stage = self.subject.stages[self._number].name
        self._store.append_event(
            "stage finished",
            cell=self.subject.id,
            stage=stage,
            seed=int(best.seeds[0]),
            total=float(best.totals[0]),
            parameters=dict(self._winner),
        )
        self._number += 1
        if self._number < len(self.subject.stages):
            return self._open_stage()
        for hall in halls:
            self._store.write_hall_of_fame(hall, int(hall.seeds[0]))
        together = pooled(halls)
        self._store.write_hall_of_fame(together, "pooled")
        write_best_model(self.subject, together, self._store)
        self.finished = True
        return []


def pooled(halls: list[HallOfFameRows]) -> HallOfFameRows:
    """Return all halls of fame of one cell as one, best first; equal totals by seed, then by rank."""
    totals = np.concatenate([hall.totals for hall in halls])
    order = np.argsort(totals, kind="stable")
    first = halls[0]

    def together(name: str) -> np.ndarray:
        return np.concatenate([getattr(hall, name) for hall in halls])[order]

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
    )
