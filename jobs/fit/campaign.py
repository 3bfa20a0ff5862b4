"""Many fits over one pool: a few open at a time, none of them holding up another."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from cluster.outcome import Outcome, Task

POLL_S = 0.25

OPEN_PER_HOST = 2
"""More fits are never open, however many hosts are idle: those that cannot build an engine always are."""


class Fit(Protocol):
    """What a campaign asks of a fit. Its tasks' ids are ``((its id, …), individual)``."""

    @property
    def id(self) -> str: ...

    @property
    def to_go(self) -> float:
        """How long its way still is when hosts are no matter, in any unit that all fits have in common."""

    def start(self) -> list[Task]:
        """Return the first evaluations to do."""

    def take(self, key: tuple, individual: int, outcome: Outcome) -> list[Task]:
        """Take in one outcome and return the evaluations that can now be done."""


class Evaluator(Protocol):
    """What a campaign asks of the pool."""

    spread: bool

    @property
    def hosts(self) -> int: ...

    @property
    def idle(self) -> int: ...

    def submit(self, task: Task) -> None: ...

    def completed(self, timeout_s: float) -> list[tuple[Any, Outcome]]: ...

    def withdraw(self, engine: str) -> int:
        """Drop the tasks of an engine that no host has; return how many."""

    def forget(self, engine: str) -> None:
        """Let go of an engine whose tasks are all done."""


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

    Fits are opened one after the other, whenever those that are open leave hosts without work: while one
    waits for the last evaluations of a generation, its hosts work for others. So many are open as the hosts
    need and no more, and the first come to their end early. Once all are open, it is the last to end that
    decides when the campaign is over: then fits get hosts in proportion to what they have to go.

    Parameters
    ----------
    ids : iterable of str
        In the order in which they are opened.
    opener : Opener
    pool : Evaluator
    may_go_on : callable
        Asked before new evaluations are handed in; when it says no, those under way are finished and nothing
        else is begun.
    took : callable
        Called with each outcome.
    """

    def __init__(
        self,
        ids: Iterable[str],
        opener: Opener,
        pool: Evaluator,
        may_go_on: Callable[[], bool] = lambda: True,
        took: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.waiting = deque(ids)
        self.open: dict[str, Fit] = {}
        self.stopped = False
        self._opener = opener
        self._pool = pool
        self._may_go_on = may_go_on
        self._took = took
        self._left: dict[str, int] = {}
        self._engines: dict[str, set[str]] = {}
        self._under_way = 0

    def run(self, watch: Callable[[], None] = lambda: None) -> None:
        """Do it all. `watch` is called a few times a second."""
        while True:
            self._open_more()
            if not self._under_way and (not self.waiting or self.stopped):
                return
            for (key, individual), outcome in self._pool.completed(POLL_S):
                self._took(outcome)
                self._take(key, individual, outcome)
            watch()

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

    def _hand_in(self, id: str, produce: Callable[[], list[Task]]) -> None:
        try:
            tasks = produce()
        except Exception as error:  # noqa: BLE001  the opener says which of them it takes, or raises it
            self._set_aside(id, error)
            del self.open[id]
            tasks = []
            for engine in self._engines[id]:
                self._count(id, -self._pool.withdraw(engine))
        if tasks and self._stop():
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
