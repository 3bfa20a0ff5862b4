"""Many fits over one pool: a few open at a time, none of them holding up another, set aside when they fail."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.store.run_store import POOLED, RunStore
from neurofleet.errors import InputError, JobError, UsageError
from neurofleet.jobs.fit.campaign_state import CELL_FAILED, CELL_FINISHED, LEARNED_FROM, RECORDING_READ, EngineChoice
from neurofleet.jobs.fit.cell_stages import CellFit
from neurofleet.jobs.fit.engine_choice import choices_of
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.fit.fit_problem import Subject
from neurofleet.jobs.fit.input_process import Preparation
from neurofleet.jobs.fit.kept_traces import KeptTraces
from neurofleet.jobs.fit.stage_search import SearchState
from neurofleet.jobs.run_log import fit_logger
from neurofleet.neurosim.evolution import same_cell
from neurofleet.neurosim.recordings.recording_table import RecordingTable

POLL_S = 0.25

OPEN_PER_HOST = 2
"""Open fits per host at most: fits whose engine cannot be built leave hosts idle, and all would be opened."""


class Fit(Protocol):
    """What a campaign asks of a fit. Its tasks' ids are ``((its id, …), individual)``."""

    @property
    def id(self) -> str: ...

    finished: bool
    """Whether nothing is left to search; the few tasks that it hands out then are done whatever is used up."""

    @property
    def to_go(self) -> float:
        """How long it still takes where hosts are plenty, in a unit that all fits share."""

    def start(self) -> list[EvaluationTask]:
        """Return the first evaluations to do."""

    def take(self, key: tuple, individual: int, outcome: Outcome) -> list[EvaluationTask]:
        """Take in one outcome and return the evaluations that can now be done."""


class Evaluator(Protocol):
    """What a campaign asks of the pool."""

    spread: bool

    @property
    def hosts(self) -> int: ...

    @property
    def idle(self) -> int: ...

    def submit(self, task: EvaluationTask) -> None: ...

    def completed(self, timeout_s: float) -> list[tuple[Any, Outcome]]: ...

    def withdraw(self, engine: str) -> int:
        """Drop the tasks of an engine that no host has taken yet; return how many."""

    def forget(self, engine: str) -> None:
        """Free an engine whose tasks are all done."""


class Opener(Protocol):
    """Where fits come from."""

    def open(self, id: str, timeout_s: float) -> Fit | None:
        """Return the fit, None if it is still being prepared after so long."""

    def close(self, fit: Fit) -> None:
        """The fit has no more to do."""

    def set_aside(self, id: str, error: Exception) -> bool:
        """A fit raised `error`. Return whether the campaign goes on without it; if not, it is raised."""


class Campaign:
    """Works through fits in order.

    The next fit is opened when those that are open leave hosts without work: while one waits for the last evaluations
    of a generation, its hosts work for others. No more fits are open than the hosts need, so the first ones finish
    early. Once all are open, the last to finish decides when the campaign is over: then fits with more left to do go
    first.

    Parameters
    ----------
    ids : iterable of str
        In the order in which they are opened.
    opener : Opener
    pool : Evaluator
    may_go_on : callable
        Called before evaluations are submitted; once it returns False, those under way are finished and nothing else
        is begun.
    on_outcome : callable
        Called with each outcome.
    """

    def __init__(
        self,
        ids: Iterable[str],
        opener: Opener,
        pool: Evaluator,
        may_go_on: Callable[[], bool] = lambda: True,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.waiting = deque(ids)
        self.open: dict[str, Fit] = {}
        self.stopped = False
        self._opener = opener
        self._pool = pool
        self._may_go_on = may_go_on
        self._on_outcome = on_outcome
        self._left: dict[str, int] = {}
        self._engines: dict[str, set[str]] = {}
        self._under_way = 0

    def run(self, on_poll: Callable[[], None] = lambda: None) -> None:
        """Run all fits; `on_poll` is called a few times a second."""
        with threadpool_limits(1):  # the matrices of a search are so small that threads only wait for each other
            while True:
                self._open_more()
                if not self._under_way and (not self.waiting or self.stopped):
                    return
                for (key, individual), outcome in self._pool.completed(POLL_S):
                    self._on_outcome(outcome)
                    self._take(key, individual, outcome)
                on_poll()

    def _open_more(self) -> None:
        self._pool.spread = not self.waiting
        while self.waiting and self._wants_work() and not self._stop():
            id = self.waiting[0]
            try:
                fit = self._opener.open(id, 0.0 if self._under_way else POLL_S)
            except Exception as error:  # noqa: BLE001  the opener says which of them it takes, or raises it
                self._set_aside(id, error)
                self.waiting.popleft()
                continue
            if fit is None:
                return
            self.waiting.popleft()
            self._pool.spread = not self.waiting
            self.open[id], self._left[id], self._engines[id] = fit, 0, set()
            self._hand_in(id, fit.start)

    def _wants_work(self) -> bool:
        """Whether the fits that are open leave hosts without work."""
        if len(self.open) >= OPEN_PER_HOST * self._pool.hosts:
            return False
        return self._under_way < self._pool.hosts or self._pool.idle > 0

    def _take(self, key: tuple, individual: int, outcome: Outcome) -> None:
        id = key[0]
        self._count(id, -1)
        if (fit := self.open.get(id)) is not None:
            self._hand_in(id, lambda: fit.take(key, individual, outcome))
        else:
            self._close_if_done(id)

    def _hand_in(self, id: str, produce: Callable[[], list[EvaluationTask]]) -> None:
        try:
            tasks = produce()
        except Exception as error:  # noqa: BLE001  the opener says which of them it takes, or raises it
            self._set_aside(id, error)
            del self.open[id]
            tasks = []
            for engine in self._engines[id]:
                self._count(id, -self._pool.withdraw(engine))
        if tasks and not self.open[id].finished and self._stop():
            tasks = []
        if tasks and not self.waiting:
            rank = -round(self.open[id].to_go)
            tasks = [replace(task, rank=rank) for task in tasks]
        for task in tasks:
            self._engines[id].add(task.engine.key)
            self._pool.submit(task)
        self._count(id, len(tasks))
        self._close_if_done(id)

    def _count(self, id: str, tasks: int) -> None:
        self._under_way += tasks
        self._left[id] += tasks

    def _close_if_done(self, id: str) -> None:
        if self._left[id]:
            return
        del self._left[id]
        for engine in self._engines.pop(id):
            self._pool.forget(engine)
        if (fit := self.open.pop(id, None)) is not None:
            self._opener.close(fit)

    def _set_aside(self, id: str, error: Exception) -> None:
        if not self._opener.set_aside(id, error):
            raise error

    def _stop(self) -> bool:
        self.stopped = self.stopped or not self._may_go_on()
        return self.stopped


TEACHERS = 16
"""The last stage of a cell starts from the models of so many finished cells at most, the latest ones."""


def finished_cells(store: "RunStore") -> dict[str, dict]:
    """Return cell -> its "cell finished" event, of those whose pooled hall of fame is there."""
    there = {cell for cell, seed in store.halls_of_fame() if seed == POOLED}
    events = [event for event in store.read_events() if event["event"] == CELL_FINISHED]
    return {event["cell"]: event for event in events if event["cell"] in there}


class Fits:
    """Opens and closes the fits of a campaign.

    Parameters
    ----------
    shown_choices : iterable of EngineChoice
        Those that were printed when the run began; others are logged as warnings when a cell is opened.
    cells : collection of str, optional
        Those of the campaign, where other drivers have other cells of the run; by default all.

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
        shown_choices: Iterable[EngineChoice] = (),
        cells: Collection[str] | None = None,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._store = store
        self._preparation = preparation
        self._hosts = hosts
        self._shown_choices = set(shown_choices)
        self._past: dict[str, list[SearchState]] = {}
        self._open: dict[str, CellFit] = {}
        self._kept = KeptTraces()
        self._learnt: dict[str, Sequence[str]] = {}
        self._recordings_read: dict[str, dict[str, Any]] = {}
        self.finished = {cell: event for cell, event in finished_cells(store).items() if cells is None or cell in cells}
        self.failed: dict[str, str] = {}
        for event in store.read_events():
            if LEARNED_FROM in event:
                self._learnt.setdefault(event["cell"], event[LEARNED_FROM])
            if event["event"] == RECORDING_READ:
                self._recordings_read[event["cell"]] = event
        self._begun_with = set(self.finished)
        begun = {key.cell for key in store.stored() if cells is None or key.cell in cells}
        self._stored_s = {cell: store.spent_seconds(cell) for cell in begun - self._begun_with}

    def open(self, id: str, timeout_s: float) -> Fit | None:
        subject = self._preparation.take(id, timeout_s)
        if subject is None:
            return None
        for warning in subject.warnings:
            fit_logger(cell=id).warning(warning)
        if subject.recording_table is not None:
            self._log_recording(id, subject.recording_table)
        self._log_engines(subject)
        fit = CellFit(subject, self._spec, self._folder, self._store, self._kept, self._teachers, self._hosts)
        self._open[id] = fit
        return fit

    def _log_recording(self, id: str, table: RecordingTable) -> None:
        log = fit_logger(cell=id)
        log.info(table.summary)
        for note in table.notes:
            log.info("%s: %s", table.file, note)
        told = {"cell": id, **table.facts()}
        if not told.items() <= self._recordings_read.get(id, {}).items():  # a resumed run has told it already
            self._store.append_event(RECORDING_READ, **told)

    def _log_engines(self, subject: Subject) -> None:
        log = fit_logger(cell=subject.id)
        for _, stage, choice in choices_of([subject]):
            new = choice not in self._shown_choices and self._spec.engine == "auto"
            log_line = log.warning if new and choice.engine == "neuron" else log.info
            log_line("engine %s (%s)", choice.engine, choice.reason, stage=stage)
            self._shown_choices.add(choice)

    def close(self, fit: Fit) -> None:
        """The fit is finished, or stopped for now."""
        done = self._open.pop(fit.id)
        self._past[fit.id] = done.states()
        self._kept.drop(fit.id)
        if done.summary:
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
            self._kept.drop(id)
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
        for id, event in self.finished.items():
            spent[id] = event["core_seconds"]
        for id, seconds in self._stored_s.items():  # more than was read again of a cell that is not open
            spent[id] = max(spent.get(id, 0.0), seconds)
        return sum(spent.values())

    def _teachers(self, subject: Subject) -> Sequence[str]:
        """The finished cells that a cell learns from: as recorded, if its last stage has begun before."""
        if subject.id in self._learnt or not self._spec.evolution.learns:
            return self._learnt.get(subject.id, ())
        alike = [id for id, event in self.finished.items() if event["recipe"] == subject.kind]
        return [id for id in alike if not same_cell(id, subject.id)][-TEACHERS:]


class Budget:
    """What a campaign may use: core-hours of evaluations in all, and hours since it was started.

    Of the core-hours, each of several drivers has an equal part.

    Attributes
    ----------
    reached : str
        Which limit was reached, in words; empty before.
    """

    def __init__(self, spec: FitSpec, fits: Fits, parts: int = 1) -> None:
        self._spec = spec
        self._parts = parts
        self._fits = fits
        self._begun = time.monotonic()
        self.reached = ""

    def allows(self) -> bool:
        """Whether further evaluations may begin."""
        core, wall = self._spec.max_core_hours, self._spec.max_wall_hours
        if core is not None and self._fits.core_seconds >= 3600 * core / self._parts:
            self.reached = f"max_core_hours: {core:g}"
        elif wall is not None and time.monotonic() - self._begun >= 3600 * wall:
            self.reached = f"max_wall_hours: {wall:g}"
        return not self.reached
