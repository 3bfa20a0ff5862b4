"""What one host does: it takes tasks, has its engines evaluate them, returns outcomes, and logs.

Nothing here uses Ray. A thread of its own works through the tasks, so the host goes on while the driver is busy.

Its log is lines of JSON on standard error, which Ray keeps in the worker's log file on its machine. Of what an engine
prints, only the end is logged, and of evaluations that went well only now and then: an engine that prints without end
does not fill the disk.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neurofleet.cluster.log_records import OURS, AboutLogger, JsonLine, is_kept
from neurofleet.cluster.pool.child_processes import EngineDied, EngineNotBuilt, EngineProcess
from neurofleet.cluster.pool.outcome import Outcome

PRINTED_EVERY_S = 60.0

_logger = logging.getLogger("neurofleet.cluster.pool.hosts")


def log_to_standard_error(run: str) -> None:
    """Have this process log there until it ends: our own records, and warnings of anything else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine(run))
    handler.addFilter(is_kept)
    logging.getLogger().addHandler(handler)
    logging.getLogger(OURS).setLevel(logging.INFO)
    logging.captureWarnings(True)


class HostLog:
    """The log of a host."""

    def __init__(self) -> None:
        self._next_printed = 0.0

    def built(self, engine: str, seconds: float, printed: str) -> None:
        """An engine was built; `printed` is what it printed meanwhile."""
        _logger_about({}).info("engine built", engine=engine, seconds=round(seconds, 3), **_printed_field(printed))

    def not_built(self, engine: str, reason: str) -> None:
        """An engine cannot be built here."""
        _logger_about({}).warning("engine not built", engine=engine, reason=reason)

    def ended(self, about: Mapping[str, Any], engine: str, outcome: Outcome, printed: str) -> None:
        """An evaluation ended. One that is ``ok`` and printed nothing is not logged."""
        if not outcome.ok:
            _logger_about(about).warning(
                f"evaluation ended as {outcome.status}",
                engine=engine,
                reason=outcome.reason,
                seconds=round(outcome.seconds, 3),
                **_printed_field(printed),
            )
        elif printed and time.monotonic() >= self._next_printed:
            self._next_printed = time.monotonic() + PRINTED_EVERY_S
            _logger_about(about).info("engine printed", engine=engine, **_printed_field(printed))


def _logger_about(about: Mapping[str, Any]) -> AboutLogger:
    return AboutLogger(_logger, about)


def _printed_field(text: str) -> dict[str, Any]:
    return {"printed": text} if text else {}


ENGINES_KEPT = 2
BUILD_ATTEMPTS = 2
FLUSH_S = 0.1
"""Outcomes wait this long for others to travel with them, unless the host is running out of work."""

STUCK_AFTER_S = 2.0
"""When an evaluation takes longer than this, and than twice what was expected, the host's waiting tasks go back to the
driver, which gives them to other hosts."""


@dataclass(frozen=True)
class Assignment:
    """A task on its way to a host; those with the same batch number may share one call of the engine."""

    number: int
    batch: int
    engine: str
    individual: Any
    deadline_s: float
    expected_s: float
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HostReport:
    """What a host returns to the driver.

    Attributes
    ----------
    outcomes : list of (int, Outcome)
        By task number, in the order they came.
    returned : list of int
        Tasks that were not started and should go elsewhere.
    built : dict
        Engine key -> how many seconds it took to build, since the last report.
    unbuilt : dict
        Engine key -> why it cannot be built here.
    busy_s : float
        Time spent on evaluations since the host began.
    stuck : bool
        Whether the present evaluation takes much longer than expected.
    """

    outcomes: list[tuple[int, Outcome]]
    returned: list[int]
    built: dict[str, float]
    unbuilt: dict[str, str]
    busy_s: float
    stuck: bool


@dataclass
class _CurrentWork:
    """The evaluation under way, of one task or several together, and how long it is expected to take."""

    expected_s: float
    since: float = field(default_factory=time.monotonic)


class HostWorker:
    """Evaluates tasks, one batch after the other.

    Parameters
    ----------
    memory_limit_mb : int or None
        What one evaluation may allocate beyond the built engine.
    build_limit_s : float
        How long an engine may take to be built.
    """

    def __init__(self, memory_limit_mb: int | None, build_limit_s: float) -> None:
        self._memory_limit_mb = memory_limit_mb
        self._build_limit_s = build_limit_s
        self._log = HostLog()
        self._changed = threading.Condition()
        self._recipes: dict[str, Callable[[], tuple[str, bytes]]] = {}
        self._engines: dict[str, EngineProcess] = {}
        self._built: dict[str, float] = {}
        self._unbuilt: dict[str, str] = {}
        self._waiting: deque[Assignment] = deque()
        self._current: _CurrentWork | None = None
        self._outcomes: list[tuple[int, Outcome]] = []
        self._returned: list[int] = []
        self._busy_s = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="host-worker", daemon=True)
        self._thread.start()

    def add_engine(self, key: str, recipe: Callable[[], tuple[str, bytes]]) -> None:
        """Make an engine known. `recipe` is called when it is first needed: factory, pickled payload."""
        with self._changed:
            self._recipes.setdefault(key, recipe)

    def forget_engine(self, key: str) -> None:
        """End an engine of which no task will come any more."""
        with self._changed:
            self._recipes.pop(key, None)
            self._unbuilt.pop(key, None)
        self._drop_engine(key)

    def exchange(self, assignments: Sequence[Assignment], wait_s: float) -> HostReport:
        """Take new tasks, and return the outcomes there are.

        Waits for outcomes up to `wait_s`, but no longer than `FLUSH_S` once there are some, and not at all
        when there is nothing more to do.
        """
        begun = time.monotonic()
        with self._changed:
            self._waiting.extend(assignments)
            self._changed.notify_all()
            while True:
                elapsed_s = time.monotonic() - begun
                something = bool(self._outcomes or self._returned)
                out_of_work = not self._waiting and (something or self._current is None)
                if out_of_work or elapsed_s >= wait_s or (something and elapsed_s >= FLUSH_S):
                    break
                self._changed.wait((FLUSH_S if something else wait_s) - elapsed_s)
            stuck = self._is_stuck()
            if stuck:
                self._returned += [assignment.number for assignment in self._waiting]
                self._waiting.clear()
            report = HostReport(self._outcomes, self._returned, self._built, dict(self._unbuilt), self._busy_s, stuck)
            self._outcomes, self._returned, self._built = [], [], {}
            return report

    def close(self) -> None:
        """End all engines."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            engines = list(self._engines.values())
            self._engines.clear()
        for engine in engines:
            engine.kill()
        self._thread.join()
        for engine in engines:
            engine.close()

    def _is_stuck(self) -> bool:
        if self._current is None:
            return False
        return time.monotonic() - self._current.since > max(STUCK_AFTER_S, 2 * self._current.expected_s)

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._evaluate(batch)
        except BaseException:  # noqa: BLE001  without this thread the host is useless; the pool replaces it
            traceback.print_exc()
            os._exit(1)

    def _next_batch(self) -> list[Assignment]:
        """Wait for tasks; those of one batch if their engine takes them together, else one."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if self._closing:
                return []
            batch = [self._waiting.popleft()]
            self._current = _CurrentWork(batch[0].expected_s)
        engine = self._engine(batch[0].engine)
        with self._changed:
            if engine is not None and engine.isolation == "batch":
                while self._waiting and self._waiting[0].batch == batch[0].batch:
                    batch.append(self._waiting.popleft())
        return batch

    def _evaluate(self, batch: list[Assignment]) -> None:
        pending, together = deque(batch), True
        crashed: set[int] = set()
        while pending:
            engine = self._engine(pending[0].engine)
            if engine is None:
                self._give_back(list(pending))
                return
            group = list(pending) if together else [pending[0]]
            self._start(group)
            individuals = [assignment.individual for assignment in group]
            deadlines_s = [assignment.deadline_s for assignment in group]
            try:
                for outcome in engine.run(individuals, deadlines_s, self._memory_limit_mb):
                    if outcome is None:
                        together = False
                        break
                    if outcome.status == "crash" and pending[0].number not in crashed:
                        # It may have been a signal from outside. What crashes by itself does so again.
                        crashed.add(pending[0].number)
                        together = False
                        continue
                    self._finish(pending.popleft(), outcome, engine.take_printed())
                    if pending:
                        self._start(list(pending)[:1])
            except EngineDied as error:
                self._drop_engine(pending[0].engine if pending else group[0].engine)
                if pending:
                    self._finish(pending.popleft(), Outcome("lost", str(error)))
        with self._changed:
            self._current = None
            self._changed.notify_all()

    def _start(self, assignments: Sequence[Assignment]) -> None:
        with self._changed:
            self._current = _CurrentWork(sum(assignment.expected_s for assignment in assignments))

    def _finish(self, assignment: Assignment, outcome: Outcome, printed: str = "") -> None:
        self._log.ended(assignment.about, assignment.engine, outcome, printed)
        with self._changed:
            self._outcomes.append((assignment.number, outcome))
            self._busy_s += outcome.seconds
            self._current = None
            self._changed.notify_all()

    def _give_back(self, assignments: list[Assignment]) -> None:
        """Return tasks whose engine cannot be built here, also those that wait."""
        with self._changed:
            unbuilt = assignments[0].engine
            waiting, self._waiting = self._waiting, deque()
            for assignment in [*assignments, *waiting]:
                if assignment.engine == unbuilt:
                    self._returned.append(assignment.number)
                else:
                    self._waiting.append(assignment)
            self._current = None
            self._changed.notify_all()

    def _engine(self, key: str) -> EngineProcess | None:
        """The engine, built now if it is not there; None if it cannot be built."""
        attempts = 0
        while key not in self._engines:
            if key in self._unbuilt:
                return None
            while len(self._engines) >= ENGINES_KEPT:
                self._drop_engine(next(iter(self._engines)))
            attempts += 1
            try:
                self._build(key)
            except EngineNotBuilt as error:
                self._set_unbuilt(key, str(error))
            except EngineDied as error:
                if attempts == BUILD_ATTEMPTS:
                    self._set_unbuilt(key, f"while it was built, {error}")
        self._engines[key] = self._engines.pop(key)  # the least recently used is first
        return self._engines[key]

    def _set_unbuilt(self, key: str, reason: str) -> None:
        self._unbuilt[key] = reason
        self._log.not_built(key, reason)

    def _build(self, key: str) -> None:
        begun = time.monotonic()
        factory, payload = self._recipes[key]()
        engine = EngineProcess(factory, payload)
        with self._changed:
            if self._closing:
                engine.close()
                raise EngineNotBuilt("the pool is closing")
            self._engines[key] = engine
        try:
            engine.wait_built(self._build_limit_s)
        except (EngineNotBuilt, EngineDied):
            self._drop_engine(key)
            raise
        seconds = time.monotonic() - begun
        self._log.built(key, seconds, engine.take_printed())
        with self._changed:
            self._built[key] = seconds

    def _drop_engine(self, key: str) -> None:
        with self._changed:
            engine = self._engines.pop(key, None)
        if engine is not None:
            engine.close()
