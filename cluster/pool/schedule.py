"""Which task goes next, and to which host; nothing here knows Ray or a clock.

The queue is fair between shares, prefers engines that a host has built, and hands out batches of a second and a half.
Where an engine evaluates several individuals in the time of one (`EngineSpec.lanes`), a batch is a full multiple of
that number while enough tasks wait, however long it takes.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from neurofleet.cluster.pool.host_worker import ENGINES_KEPT
from neurofleet.cluster.pool.outcome import EvaluationTask

BATCH_S = 1.5
LONGEST_BATCH = 128
FIRST_GUESS_S = 1.0
FIRST_BUILD_GUESS_S = 1.0
_REMEMBERED = 64

HELP_WORTH = 16.0
"""While there is other work, a further host builds an engine only if its tasks will keep it busy for this many times
as long as the build takes."""

BUILD_WORTH = 20.0
"""Before fairness between shares may send a host to another engine, it works with the present one for this many times
as long as a build takes: at most a twentieth of the hosts' time goes into builds."""


@dataclass
class Work:
    """A task in the pool.

    Attributes
    ----------
    number : int
        The pool's own name for it.
    task : EvaluationTask
    losses : int
        How often a host that held it was lost.
    charged_s : float
        What its share was charged when a host took it.
    avoided : collection
        Hosts that should not get it: when its last host was lost, they were on the same node, which may be gone.
    """

    number: int
    task: EvaluationTask
    losses: int = 0
    charged_s: float = 0.0
    avoided: Collection[Hashable] = ()


@dataclass
class _Share:
    """What gets hosts' time in proportion to its weight. `served` is the time it has had, in s, by its weight."""

    weight: float
    served: float = 0.0
    waiting: int = 0


@dataclass
class _EngineQueue:
    """The tasks that wait for one engine; `guessed_s` is the expected time of those that came with a guess."""

    share: _Share
    rank: int
    since: int
    heap: list[tuple[float, int, Work]] = field(default_factory=list)
    guessed_s: float = 0.0
    unguessed: int = 0

    def push(self, number: int, work: Work) -> None:
        guess = work.task.expected_s
        # Without guesses, first come first served: a moving median must not let one seed overtake another.
        heapq.heappush(self.heap, (-(guess or 0.0), number, work))
        self._count(guess, 1)

    def pop(self) -> Work:
        work = heapq.heappop(self.heap)[2]
        self._count(work.task.expected_s, -1)
        return work

    def _count(self, guess: float | None, sign: int) -> None:
        if guess is None:
            self.unguessed += sign
        else:
            self.guessed_s += sign * guess


class WorkQueue:
    """The tasks that wait for a host, by engine.

    Each task belongs to a share. While several shares have work, each gets hosts' time in proportion to its weight; a
    share that had no work for a while does not catch up. Within a share, engines whose tasks have a lower rank go
    first, and the others fill the gaps. A rank below zero is minus the work that an engine has left, and is divided by
    the number of hosts that work with it: hosts spread over such engines in proportion to what each has left, instead
    of all moving from one engine to the next.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _EngineQueue] = {}
        self._shares: dict[str, _Share] = {}
        self._lost: deque[Work] = deque()
        self._seconds: dict[str, deque[float]] = {}
        self._medians: dict[str, float] = {}
        self._builds: deque[float] = deque(maxlen=_REMEMBERED)
        self._build_s: dict[str, float] = {}
        self._order = itertools.count()
        self._served = 0.0
        self._length = 0

    def __len__(self) -> int:
        return len(self._lost) + self._length

    @property
    def batches(self) -> int:
        """The most hosts that could share the tasks."""
        return len(self._lost) + sum(-(-len(q.heap) // q.heap[0][2].task.engine.lanes) for q in self._queues.values())

    def add(self, work: Work) -> None:
        """Put a task in. One whose host was lost is kept apart: it is handed out on its own."""
        if work.losses:
            self._lost.append(work)
            return
        task, number = work.task, next(self._order)
        share = self._shares.setdefault(task.share, _Share(task.weight))
        share.weight = task.weight
        if not share.waiting:
            share.served = max(share.served, self._least_served())
        share.waiting += 1
        self._length += 1
        queue = self._queues.setdefault(task.engine.key, _EngineQueue(share, task.rank, number))
        queue.rank = task.rank  # what an engine has left shrinks, also while its queue is never empty
        queue.push(number, work)

    def record(self, work: Work, seconds: float) -> None:
        """Learn from an evaluation how long this engine's take, and settle what its share was charged."""
        key = work.task.engine.key
        recent = self._seconds.setdefault(key, deque(maxlen=_REMEMBERED))
        recent.append(seconds)
        self._medians.pop(key, None)
        self._charge(work, seconds - work.charged_s)

    def record_build(self, engine: str, seconds: float) -> None:
        """Learn how long a host needs to build an engine."""
        self._builds.append(seconds)
        self._build_s[engine] = seconds

    def refund(self, work: Work) -> None:
        """Take back what the share of a task was charged: no host has worked on it."""
        self._charge(work, -work.charged_s)

    def expected_s(self, task: EvaluationTask) -> float:
        """The submitter's guess, else the running median of the engine."""
        if task.expected_s is not None:
            return task.expected_s
        return self._median_s(task.engine.key)

    def build_s(self, engine: str) -> float:
        """How long a host would need to build an engine: as it took last, else as others took."""
        if engine in self._build_s:
            return self._build_s[engine]
        return statistics.median(self._builds) if self._builds else FIRST_BUILD_GUESS_S

    def has_lost(self, excluded: Collection[str], host: Hashable = None) -> bool:
        """Whether `take_lost` would return a task."""
        return any(work.task.engine.key not in excluded and host not in work.avoided for work in self._lost)

    def take_lost(self, excluded: Collection[str], host: Hashable = None) -> Work | None:
        """Take out a task whose host was lost, for a host that has nothing else to do."""
        for index, work in enumerate(self._lost):
            if work.task.engine.key not in excluded and host not in work.avoided:
                del self._lost[index]
                return work
        return None

    def in_turn(self, engines: Iterable[str], on: Mapping[str, int]) -> list[str]:
        """Return those of some engines that have tasks, the one whose turn it is first."""
        return sorted((key for key in engines if key in self._queues), key=lambda key: self._due(key, on))

    def has(self, engine: str) -> bool:
        """Whether an engine has tasks."""
        return engine in self._queues

    def wants_host(self, on: Mapping[str, int], spread: bool) -> bool:
        """Whether there is an engine that a further host should build."""
        return any(self._is_worth_a_build(engine, on, spread) for engine in self._queues)

    def take(
        self,
        held: Sequence[str],
        excluded: Collection[str],
        on: Mapping[str, int],
        hosts: int,
        spread: bool = True,
    ) -> list[Work]:
        """Take out the next batch for a host; empty when there is none, or none that is worth a build.

        Parameters
        ----------
        held : sequence of str
            The engines it has built. It builds another when these have no work, or when their shares are so far ahead
            of others that a build is worth it (`BUILD_WORTH`).
        excluded : collection of str
            Engines that cannot be built there.
        on : mapping
            Engine -> how many hosts work with it.
        hosts : int
            How many hosts share what is left: the last batches are small, so that all hosts finish together.
        spread : bool
            Whether an engine is built as soon as that saves any time, or only for `HELP_WORTH` times its build.
        """
        engine = self._choose(held, excluded, on, spread)
        if engine is None:
            return []
        queue = self._queues[engine]
        sharing = max(on.get(engine, 0), hosts // len(self._queues), 1)
        batch_s = min(BATCH_S, self._left_s(engine) / (2 * sharing))
        expected_s = 0.0
        batch: list[Work] = []
        while queue.heap and len(batch) < LONGEST_BATCH:
            first = queue.heap[0][2].task
            lanes = first.engine.lanes
            too_long = expected_s + lanes * self.expected_s(first) > batch_s
            if batch and (too_long or len(queue.heap) < lanes):
                break
            for _ in range(min(lanes, len(queue.heap))):
                batch.append(queue.pop())
                this_s = self.expected_s(batch[-1].task)
                expected_s += this_s
                self._served = max(self._served, queue.share.served)
                self._charge(batch[-1], this_s)
        queue.share.waiting -= len(batch)
        self._length -= len(batch)
        if not queue.heap:
            del self._queues[engine]
        return batch

    def remove_engine(self, engine: str) -> list[Work]:
        """Take out all tasks of an engine."""
        lost = [work for work in self._lost if work.task.engine.key == engine]
        self._lost = deque(work for work in self._lost if work.task.engine.key != engine)
        queue = self._queues.pop(engine, None)
        if queue is None:
            return lost
        queue.share.waiting -= len(queue.heap)
        self._length -= len(queue.heap)
        return lost + [work for _, _, work in queue.heap]

    def forget(self, engine: str) -> None:
        """Drop what was learnt of an engine that will not be used again."""
        for learned in (self._seconds, self._medians, self._build_s):
            learned.pop(engine, None)

    def _due(self, engine: str, on: Mapping[str, int]) -> tuple[float, float, int]:
        queue = self._queues[engine]
        rank = queue.rank / (on.get(engine, 0) + 1) if queue.rank < 0 else queue.rank
        return queue.share.served, rank, queue.since

    def _choose(
        self, held: Sequence[str], excluded: Collection[str], on: Mapping[str, int], spread: bool
    ) -> str | None:
        """The engine that a host should work with."""
        built = next(iter(self.in_turn((key for key in held if key not in excluded), on)), None)
        if built is not None:
            share = self._queues[built].share
            ahead_s = (share.served - self._least_served()) * share.weight
            if ahead_s <= BUILD_WORTH * self.build_s(built) * max(on.get(built, 0), 1):
                return built
        paying = (
            key
            for key in self._queues
            if key not in held and key not in excluded and self._is_worth_a_build(key, on, spread)
        )
        unbuilt = min(paying, key=lambda key: self._due(key, on), default=None)
        if built is None or (unbuilt is not None and self._due(unbuilt, on) < self._due(built, on)):
            return unbuilt
        return built

    def _is_worth_a_build(self, engine: str, on: Mapping[str, int], spread: bool) -> bool:
        """Whether the hosts of an engine have so much left to do that a further host should build it."""
        hosts = on.get(engine, 0)
        if not hosts:
            return True
        return self._left_s(engine) / hosts > self.build_s(engine) * (1.0 if spread else HELP_WORTH)

    def _left_s(self, engine: str) -> float:
        queue = self._queues[engine]
        return queue.guessed_s + queue.unguessed * self._median_s(engine)

    def _median_s(self, engine: str) -> float:
        """The running median of an engine: computed when it is asked for, not with each outcome."""
        if engine not in self._medians and engine in self._seconds:
            self._medians[engine] = statistics.median(self._seconds[engine])
        return self._medians.get(engine, FIRST_GUESS_S)

    def _least_served(self) -> float:
        return min((share.served for share in self._shares.values() if share.waiting), default=self._served)

    def _charge(self, work: Work, seconds: float) -> None:
        share = self._shares[work.task.share]
        share.served += seconds / share.weight
        work.charged_s += seconds


Name = TypeVar("Name", bound=Hashable)

TOP_UP_BELOW_S = 0.5
"""A host with less expected work than this gets its next batch while it still works."""


@dataclass
class _HostLoad:
    """A host as the scheduler sees it.

    `held` are the engines it has built, the latest last; `at` is the one it works with; `only_lost` says that it has a
    task whose former host was lost, and gets no other beside it.
    """

    node: str
    tasks: dict[int, tuple[Work, float]] = field(default_factory=dict)
    expected_s: float = 0.0
    held: list[str] = field(default_factory=list)
    at: str | None = None
    only_lost: bool = False
    stuck: bool = False


class Scheduler(Generic[Name]):
    """Hands out batches of tasks to hosts, and keeps account of who holds what.

    Hosts go by any hashable name of the caller's.
    """

    def __init__(self) -> None:
        self.queue = WorkQueue()
        self._hosts: dict[Name, _HostLoad] = {}
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
    def batches(self) -> int:
        """The most hosts that could have work at once: each task on one, or as many as its engine takes together."""
        held = sum(bool(load.tasks) for load in self._hosts.values())
        return held + self.queue.batches

    @property
    def idle(self) -> int:
        """Hosts that have nothing to do."""
        return len(self._idle)

    def join(self, host: Name, node: str) -> None:
        """Add a host, which has nothing to do."""
        self._hosts[host] = _HostLoad(node)
        self._set_idle(host, True)

    def leave(self, host: Name) -> list[Work]:
        """Remove a host; return what it had, which the other hosts of its node should not get."""
        if host not in self._hosts:
            return []
        self._set_idle(host, False)
        load = self._hosts.pop(host)
        self._move(load, None)
        self._held_tasks -= len(load.tasks)
        works = [work for work, _ in load.tasks.values()]
        beside = {name for name, other in self._hosts.items() if other.node == load.node} if works else ()
        for work in works:
            self.queue.refund(work)
            work.avoided = beside
        return works

    def submit(self, work: Work) -> None:
        """Queue a task."""
        self.queue.add(work)

    def forget(self, engine: str) -> None:
        """Forget an engine of which no task will come any more."""
        self.queue.forget(engine)
        self._unbuilt_on.pop(engine, None)
        self._idle_holders.pop(engine, None)
        for load in self._hosts.values():
            if engine in load.held:
                load.held.remove(engine)

    def set_stuck(self, host: Name, stuck: bool) -> None:
        """Note whether a host's evaluation takes much longer than expected: it then counts for no engine."""
        load = self._hosts[host]
        at = load.at
        self._move(load, None)
        load.stuck = stuck
        self._move(load, at)

    def tasks(self, host: Name) -> list[EvaluationTask]:
        """The tasks that a host has."""
        return [work.task for work, _ in self._hosts[host].tasks.values()]

    def busy(self, host: Name) -> bool:
        """Whether a host has tasks."""
        return bool(self._hosts[host].tasks)

    def load_s(self, host: Name) -> float:
        """The expected time of the tasks that a host has."""
        return self._hosts[host].expected_s

    def done(self, host: Name, number: int, seconds: float) -> Work:
        """Note that a host has evaluated a task, in so many seconds."""
        work = self._release(host, number)
        self.queue.record(work, seconds)
        return work

    def give_back(self, host: Name, number: int) -> Work:
        """Note that a host has given a task back unevaluated."""
        work = self._release(host, number)
        self.queue.refund(work)
        return work

    def exclude(self, engine: str, node: str) -> None:
        """Note that an engine cannot be built on a node: the node's hosts get no tasks of it."""
        self._unbuilt_on.setdefault(engine, set()).add(node)

    def assign_idle(self, spread: bool) -> Iterator[tuple[Name, list[Work]]]:
        """Give work to hosts that have nothing to do, first to those that have built its engine.

        Parameters
        ----------
        spread : bool
            Whether an engine is built on a further host as soon as that saves any time. If not, only when the host
            will have work for `HELP_WORTH` times as long as the build takes.
        """
        for host in list(self._idle):
            if not self.queue.has_lost(()):
                break
            if self.queue.has_lost(self._excluded(host), host) and (batch := self.next_batch(host, spread)):
                yield host, batch
        for engine in self.queue.in_turn(self._idle_holders, self._at):
            for host in list(self._idle_holders.get(engine, ())):
                if not self.queue.has(engine):
                    break
                if batch := self.next_batch(host, spread):
                    yield host, batch
        refused: set[tuple[str, ...]] = set()  # if a host takes nothing, those like it are skipped
        for host in list(self._idle):
            if not self.queue.wants_host(self._at, spread):
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
        """Take out what a host should be given now, besides what it has; often nothing."""
        load = self._hosts[host]
        excluded = self._excluded(host)
        if not load.tasks:
            load.only_lost = False
            if (lost := self.queue.take_lost(excluded, host)) is not None:
                load.only_lost = True  # should it be the task that kills hosts, no other is lost with it
                self._give(host, load, [lost])
                return [lost]
        elif self.queue.has_lost(excluded, host):
            return []  # let the host become idle: a task whose host was lost waits for one to itself
        if load.only_lost or load.stuck or load.expected_s >= TOP_UP_BELOW_S:
            return []
        batch = self.queue.take(load.held, excluded, self._at, len(self._hosts), spread)
        self._give(host, load, batch)
        return batch

    def _excluded(self, host: Name) -> set[str]:
        """Return the engines that cannot be built on a host's node."""
        node = self._hosts[host].node
        return {engine for engine, nodes in self._unbuilt_on.items() if node in nodes}

    def _give(self, host: Name, load: _HostLoad, batch: list[Work]) -> None:
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

    def _move(self, load: _HostLoad, engine: str | None) -> None:
        """Note which engine a host works with; one that is stuck counts for none."""
        if load.at is not None and not load.stuck:
            self._at[load.at] -= 1
            if not self._at[load.at]:
                del self._at[load.at]
        if engine is not None and not load.stuck:
            self._at[engine] += 1
        load.at = engine
