"""What each host does next. It knows no Ray and no clock: the pool tells it what happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cluster.outcome import Task
from cluster.work_queue import Work, WorkQueue
from cluster.workbench import ENGINES_KEPT

Name = TypeVar("Name", bound=Hashable)

TOP_UP_BELOW_S = 0.5
"""A host with less expected work than this gets its next batch while it still works."""


@dataclass
class _Load:
    """A host as the scheduler sees it; `held` are the engines it has built, the latest last."""

    node: str
    tasks: dict[int, tuple[Work, float]] = field(default_factory=dict)
    expected_s: float = 0.0
    held: list[str] = field(default_factory=list)
    at: str | None = None
    alone: bool = False
    stuck: bool = False


class Scheduler(Generic[Name]):
    """Hands out batches of tasks to hosts, and keeps account of who holds what.

    Hosts go by any hashable name of the caller's.
    """

    def __init__(self) -> None:
        self.queue = WorkQueue()
        self._hosts: dict[Name, _Load] = {}
        self._at: Counter[str] = Counter()
        self._unbuilt_on: dict[str, set[str]] = {}
        self._held_tasks = 0
        self._idle: dict[Name, None] = {}
        self._idle_holders: dict[str, dict[Name, None]] = {}

    @property
    def waiting(self) -> int:
        """Tasks that no host has."""
        return len(self.queue)

    @property
    def running(self) -> int:
        """Tasks that hosts have."""
        return self._held_tasks

    @property
    def idle(self) -> int:
        """Hosts that have nothing to do."""
        return len(self._idle)

    def join(self, host: Name, node: str) -> None:
        """A host is there and has nothing to do."""
        self._hosts[host] = _Load(node)
        self._set_idle(host, True)

    def leave(self, host: Name) -> list[Work]:
        """A host is gone; return what it had."""
        if host not in self._hosts:
            return []
        self._set_idle(host, False)
        load = self._hosts.pop(host)
        self._move(load, None)
        self._held_tasks -= len(load.tasks)
        works = [work for work, _ in load.tasks.values()]
        for work in works:
            self.queue.refund(work)
        return works

    def submit(self, work: Work) -> None:
        """A task waits for a host."""
        self.queue.add(work)

    def forget(self, engine: str) -> None:
        """No task of an engine will come any more."""
        self.queue.forget(engine)
        self._unbuilt_on.pop(engine, None)
        self._idle_holders.pop(engine, None)
        for load in self._hosts.values():
            if engine in load.held:
                load.held.remove(engine)

    def set_stuck(self, host: Name, stuck: bool) -> None:
        """Whether what a host is at takes much longer than expected: nobody should count on it then."""
        load = self._hosts[host]
        at = load.at
        self._move(load, None)
        load.stuck = stuck
        self._move(load, at)

    def tasks(self, host: Name) -> list[Task]:
        """The tasks that a host has."""
        return [work.task for work, _ in self._hosts[host].tasks.values()]

    def busy(self, host: Name) -> bool:
        """Whether a host has tasks."""
        return bool(self._hosts[host].tasks)

    def load_s(self, host: Name) -> float:
        """The expected time of the tasks that a host has."""
        return self._hosts[host].expected_s

    def done(self, host: Name, number: int, seconds: float) -> Work:
        """A host has evaluated a task, in so many seconds."""
        work = self._release(host, number)
        self.queue.record(work, seconds)
        return work

    def give_back(self, host: Name, number: int) -> Work:
        """A host has not evaluated a task, and has it no more."""
        work = self._release(host, number)
        self.queue.refund(work)
        return work

    def bar(self, engine: str, node: str) -> None:
        """An engine cannot be built on a node: its hosts get no tasks of it."""
        self._unbuilt_on.setdefault(engine, set()).add(node)

    def feed(self, spread: bool) -> Iterator[tuple[Name, list[Work]]]:
        """Give work to hosts that have nothing to do: first to those that hold its engine, then to others.

        Parameters
        ----------
        spread : bool
            Whether an engine is built on a further host as soon as that saves time at all. If not, only when
            the host will have work for several times as long as the build takes.
        """
        yield from self._feed_any(spread, lambda: self.queue.has_lost(()))
        for engine in self.queue.in_turn(self._idle_holders, self._at):
            for host in list(self._idle_holders.get(engine, ())):
                if not self.queue.has(engine):
                    break
                if batch := self.next_batch(host, spread):
                    yield host, batch
        yield from self._feed_any(spread, lambda: self.queue.attracts(self._at, spread))

    def _feed_any(self, spread: bool, wanted: Callable[[], bool]) -> Iterator[tuple[Name, list[Work]]]:
        """Try hosts in turn, while any is wanted; of those that are alike one, if it takes nothing."""
        refused: set[tuple[str, ...]] = set()
        for host in list(self._idle):
            if not wanted():
                return
            load = self._hosts[host]
            kind = (load.node, *load.held)
            if kind in refused:
                continue
            if batch := self.next_batch(host, spread):
                yield host, batch
            else:
                refused.add(kind)

    def next_batch(self, host: Name, spread: bool) -> list[Work]:
        """What a host should be given now, in addition to what it has; often nothing."""
        load = self._hosts[host]
        barred = {engine for engine, nodes in self._unbuilt_on.items() if load.node in nodes}
        if not load.tasks:
            load.alone = False
            if (lost := self.queue.take_lost(barred)) is not None:
                load.alone = True  # if it is what brings hosts down, it takes nothing else with it
                self._give(host, load, [lost])
                return [lost]
        elif self.queue.has_lost(barred):
            return []  # let it run dry: a task that was lost waits for a host to itself
        if load.alone or load.stuck or load.expected_s >= TOP_UP_BELOW_S:
            return []
        batch = self.queue.take(load.held, barred, self._at, len(self._hosts), spread)
        self._give(host, load, batch)
        return batch

    def _give(self, host: Name, load: _Load, batch: list[Work]) -> None:
        if not batch:
            return
        self._set_idle(host, False)
        for work in batch:
            expected_s = self.queue.expected_s(work.task)
            load.tasks[work.number] = (work, expected_s)
            load.expected_s += expected_s
        self._held_tasks += len(batch)
        engine = batch[-1].task.engine.key
        self._move(load, engine)
        load.held = [key for key in load.held if key != engine][1 - ENGINES_KEPT :] + [engine]

    def _release(self, host: Name, number: int) -> Work:
        load = self._hosts[host]
        work, expected_s = load.tasks.pop(number)
        self._held_tasks -= 1
        load.expected_s = load.expected_s - expected_s if load.tasks else 0.0
        if not load.tasks:
            self._move(load, None)
            self._set_idle(host, True)
        return work

    def _set_idle(self, host: Name, idle: bool) -> None:
        if idle == (host in self._idle):
            return
        if idle:
            self._idle[host] = None
        else:
            del self._idle[host]
        for engine in self._hosts[host].held:
            holders = self._idle_holders.setdefault(engine, {})
            if idle:
                holders[host] = None
            else:
                holders.pop(host, None)
                if not holders:
                    del self._idle_holders[engine]

    def _move(self, load: _Load, engine: str | None) -> None:
        """Note which engine a host is at; one that is stuck counts for none."""
        if load.at is not None and not load.stuck:
            self._at[load.at] -= 1
            if not self._at[load.at]:
                del self._at[load.at]
        if engine is not None and not load.stuck:
            self._at[engine] += 1
        load.at = engine
