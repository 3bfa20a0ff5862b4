"""The fits of a job: opened from its cells, learning from each other, set aside when they fail."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import JobError, UsageError
from jobs.fit.campaign import Fit
from jobs.fit.cell_fit import CELL_FINISHED, LEARNED_FROM, CellFit
from jobs.fit.engine_choice import choices_of
from jobs.fit.preparation import Preparation
from jobs.fit.spec import FitSpec
from jobs.fit.stage_search import SearchState
from jobs.fit.subjects import EngineChoice, Subject
from jobs.log import fit_logger
from neurosim.errors import InputError

if TYPE_CHECKING:
    from cluster.store import RunStore

CELL_FAILED = "cell failed"
TEACHERS = 16
"""A cell learns from at most so many of those that were finished before it, the latest ones."""


def finished_cells(store: "RunStore") -> dict[str, dict]:
    """Return cell -> its "cell finished" event, of those whose pooled hall of fame is there."""
    from cluster.store import POOLED

    there = {cell for cell, seed in store.halls_of_fame() if seed == POOLED}
    events = [event for event in store.read_events() if event["event"] == CELL_FINISHED]
    return {event["cell"]: event for event in events if event["cell"] in there}


class Fits:
    """Opens and closes the fits of a campaign.

    Parameters
    ----------
    told : iterable of EngineChoice
        Those that the user was told of when the run began; others are warned of when a cell is opened.

    Attributes
    ----------
    finished : dict
        Cell -> its "cell finished" event, also of earlier starts of the run.
    failed : dict
        Cell -> reason.
    """

    def __init__(
        self,
        spec: FitSpec,
        folder: Path,
        store: "RunStore",
        preparation: Preparation,
        hosts: int = 1,
        told: Iterable[EngineChoice] = (),
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._store = store
        self._preparation = preparation
        self._hosts = hosts
        self._told = set(told)
        self._past: dict[str, list[SearchState]] = {}
        self._open: dict[str, CellFit] = {}
        self._learnt: dict[str, Sequence[str]] = {}
        self.finished = finished_cells(store)
        self.failed: dict[str, str] = {}
        for event in store.read_events():
            if LEARNED_FROM in event:
                self._learnt.setdefault(event["cell"], event[LEARNED_FROM])
        self._begun_with = set(self.finished)
        begun = {key.cell for key in store.stored()}
        self._stored_s = {cell: store.spent_seconds(cell) for cell in begun - self._begun_with}

    def open(self, id: str, timeout_s: float) -> Fit | None:
        subject = self._preparation.take(id, timeout_s)
        if subject is None:
            return None
        for warning in subject.warnings:
            fit_logger(cell=id).warning(warning)
        self._tell_engines(subject)
        fit = CellFit(subject, self._spec, self._folder, self._store, self._teachers, self._hosts)
        self._open[id] = fit
        return fit

    def _tell_engines(self, subject: Subject) -> None:
        log = fit_logger(cell=subject.id)
        for _, stage, choice in choices_of([subject]):
            new = choice not in self._told and self._spec.engine == "auto"
            say = log.warning if new and choice.engine == "neuron" else log.info
            say("engine %s (%s)", choice.engine, choice.reason, stage=stage)
            self._told.add(choice)

    def close(self, fit: Fit) -> None:
        """The fit is finished, or stopped for now."""
        done = self._open.pop(fit.id)
        self._past[fit.id] = done.states()
        if done.finished:
            self.finished[fit.id] = done.summary

    def set_aside(self, id: str, error: Exception) -> bool:
        """Record why a cell's fit is given up; other errors than those of the cell end the campaign."""
        if not isinstance(error, JobError | InputError | UsageError):
            return False
        reason = str(error) if isinstance(error, JobError) else f"cell {id}: {error}"
        self.failed[id] = reason
        self._store.append_event(CELL_FAILED, cell=id, reason=reason)
        fit_logger(cell=id).warning("set aside: %s", reason)
        if (fit := self._open.pop(id, None)) is not None:
            self._past[id] = fit.states()
        return True

    @property
    def open_cells(self) -> set[str]:
        """The cells whose fits are under way."""
        return set(self._open)

    @property
    def active(self) -> int:
        """How many searches (a cell's stage with one seed) are under way."""
        states = [state for fit in self._open.values() for state in fit.states()]
        return sum(state.phase != "waiting" and not state.finished for state in states)

    @property
    def states(self) -> dict[str, list[SearchState]]:
        """Cell -> its searches, of all cells that were opened since the start."""
        return self._past | {id: fit.states() for id, fit in self._open.items()}

    @property
    def core_seconds(self) -> float:
        """Time spent on all stored evaluations of the run, and on those of this start."""
        spent = {id: sum(state.seconds for state in states) for id, states in self.states.items()}
        for id in self._begun_with:
            spent[id] = self.finished[id]["core_seconds"]
        for id, seconds in self._stored_s.items():  # more than was read again of a cell that is not open
            spent[id] = max(spent.get(id, 0.0), seconds)
        return sum(spent.values())

    def _teachers(self, subject: Subject) -> Sequence[str]:
        """The finished cells that a cell learns from: as recorded, if its last stage has begun before."""
        if subject.id in self._learnt or not self._spec.evolution.learns:
            return self._learnt.get(subject.id, ())
        from neurosim.evolution import same_cell

        alike = [id for id, event in self.finished.items() if event["recipe"] == subject.kind]
        return [id for id in alike if not same_cell(id, subject.id)][-TEACHERS:]


class Budget:
    """What a campaign may use: core-hours of evaluations in all, and hours since it was started.

    Attributes
    ----------
    reached : str
        Which limit was reached, in words; empty before.
    """

    def __init__(self, spec: FitSpec, fits: Fits) -> None:
        self._spec = spec
        self._fits = fits
        self._begun = time.monotonic()
        self.reached = ""

    def allows(self) -> bool:
        """Whether further evaluations may begin."""
        core, wall = self._spec.max_core_hours, self._spec.max_wall_hours
        if core is not None and self._fits.core_seconds >= 3600 * core:
            self.reached = f"max_core_hours: {core:g}"
        elif wall is not None and time.monotonic() - self._begun >= 3600 * wall:
            self.reached = f"max_wall_hours: {wall:g}"
        return not self.reached
