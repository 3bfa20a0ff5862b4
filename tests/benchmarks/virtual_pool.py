"""The pool's own scheduling on virtual time: hosts are entries in a heap, and evaluations take no time."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from neurofleet.cluster.pool.host_worker import ENGINES_KEPT
from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.pool.schedule import TOP_UP_BELOW_S, Scheduler, Work

EXCHANGE_S = 0.006
"""From an outcome until the host has its next batch, as the benchmark of the pool measures it."""


class _VirtualHost:
    """A host: what it has to do, which engines it has built, when it is done with the task at work."""

    def __init__(self) -> None:
        self.waiting: deque[Work] = deque()
        self.at_work: Work | None = None
        self.built: list[str] = []
        self.since = 0.0


class VirtualPool:
    """What a `neurofleet.jobs.fit.campaign.Campaign` asks of a pool, on hosts that do not exist.

    Placement is `neurofleet.cluster.pool.schedule.Scheduler`, as in the pool. What is made up: durations, time to build
    an engine, and a constant time for an exchange between driver and host.

    Parameters
    ----------
    hosts : int
    seconds : callable
        Duration of a task.
    build_s : float
        Time to build an engine on a host.
    """

    def __init__(self, hosts: int, seconds: Callable[[EvaluationTask], float], build_s: float) -> None:
        self.hosts = hosts
        self.now = 0.0
        self.busy_s = 0.0
        self.build_s = 0.0
        self.done = 0
        self._seconds = seconds
        self._one_build_s = build_s
        self._scheduler: Scheduler[int] = Scheduler()
        self._hosts = [_VirtualHost() for _ in range(hosts)]
        self.spread = True
        self._events: list[tuple[float, int, int]] = []
        self._numbers = itertools.count()
        self._order = itertools.count()
        self._ids: set[Hashable] = set()
        for number in range(hosts):
            self._scheduler.join(number, "node")

    @property
    def idle(self) -> int:
        self._assign()
        return self._scheduler.idle

    def submit(self, task: EvaluationTask) -> None:
        assert task.id not in self._ids
        self._ids.add(task.id)
        self._scheduler.submit(Work(next(self._numbers), task))

    def withdraw(self, engine: str) -> int:
        raise NotImplementedError("virtual evaluations do not fail")

    def forget(self, engine: str) -> None:
        self._scheduler.forget(engine)

    def completed(self, timeout_s: float) -> list[tuple[Any, Outcome]]:
        """Go on to the next moment at which evaluations end; return those."""
        self._assign()
        if not self._events:
            assert not self._ids, "tasks wait and no host takes them"
            return []
        done = []
        self.now = self._events[0][0]
        while self._events and self._events[0][0] <= self.now:
            _, _, number = heapq.heappop(self._events)
            done.append(self._finish(number))
        return done

    @property
    def utilisation(self) -> float:
        """Part of the hosts' time so far that went into evaluations."""
        return self.busy_s / (self.hosts * self.now)

    def _finish(self, number: int) -> tuple[Any, Outcome]:
        host = self._hosts[number]
        work, host.at_work = host.at_work, None
        assert work is not None
        seconds = self._seconds(work.task)
        self.busy_s += seconds
        self.done += 1
        self._scheduler.done(number, work.number, seconds)
        self._ids.discard(work.task.id)
        if host.waiting:
            self._begin(number, 0.0)
        if self._scheduler.busy(number) and self._scheduler.load_s(number) < TOP_UP_BELOW_S:
            host.waiting.extend(self._scheduler.next_batch(number, self.spread))
        return work.task.id, Outcome("ok", seconds=seconds)

    def _assign(self) -> None:
        for number, batch in self._scheduler.assign_idle(self.spread):
            self._hosts[number].waiting.extend(batch)
            self._begin(number, EXCHANGE_S)

    def _begin(self, number: int, delay_s: float) -> None:
        host = self._hosts[number]
        host.at_work = work = host.waiting.popleft()
        engine = work.task.engine.key
        if engine not in host.built:
            delay_s += self._one_build_s
            self.build_s += self._one_build_s
            self._scheduler.queue.record_build(engine, self._one_build_s)
        host.built = [key for key in host.built if key != engine][1 - ENGINES_KEPT :] + [engine]
        ends = self.now + delay_s + self._seconds(work.task)
        heapq.heappush(self._events, (ends, next(self._order), number))
