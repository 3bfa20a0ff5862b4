"""Which task goes next: longest guess first, then as they came, in batches of about a second and a half."""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from cluster.outcome import Task

BATCH_S = 1.5
LONGEST_BATCH = 64
FIRST_GUESS_S = 1.0
_REMEMBERED = 64


@dataclass
class Work:
    """A task in the pool.

    Attributes
    ----------
    number : int
        The pool's own name for it.
    task : Task
    losses : int
        How often a host that held it was lost.
    """

    number: int
    task: Task
    losses: int = 0


class WorkQueue:
    """The tasks that wait for a host, by engine."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[float, int, Work]]] = {}
        self._lost: deque[Work] = deque()
        self._seconds: dict[str, deque[float]] = {}
        self._medians: dict[str, float] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._lost) + sum(len(waiting) for waiting in self._waiting.values())

    def add(self, work: Work) -> None:
        """Put a task in. One that was on a lost host is kept apart, to travel alone."""
        if work.losses:
            self._lost.append(work)
            return
        waiting = self._waiting.setdefault(work.task.engine.key, [])
        # Without guesses, first come first served: a moving median must not let one seed overtake another.
        heapq.heappush(waiting, (-(work.task.expected_s or 0.0), next(self._order), work))

    def record(self, engine: str, seconds: float) -> None:
        """Learn from an evaluation how long this engine's take."""
        recent = self._seconds.setdefault(engine, deque(maxlen=_REMEMBERED))
        recent.append(seconds)
        self._medians[engine] = statistics.median(recent)

    def expected_s(self, task: Task) -> float:
        """The submitter's guess, else the running median of the engine."""
        if task.expected_s is not None:
            return task.expected_s
        return self._medians.get(task.engine.key, FIRST_GUESS_S)

    def has_lost(self, barred: Collection[str]) -> bool:
        """Whether `take_lost` would find something."""
        return any(work.task.engine.key not in barred for work in self._lost)

    def take_lost(self, barred: Collection[str]) -> Work | None:
        """One task that was lost before, for a host that has nothing else to do."""
        for index, work in enumerate(self._lost):
            if work.task.engine.key not in barred:
                del self._lost[index]
                return work
        return None

    def take(self, engine: str | None, barred: Collection[str], on: dict[str, int], hosts: int) -> list[Work]:
        """The next batch for a host.

        Parameters
        ----------
        engine : str or None
            The one it has at work; it gets another only when there is nothing for this one.
        barred : collection of str
            Engines that cannot be built there.
        on : dict
            Engine -> how many hosts are at it. The engine with most work for each of them comes first.
        hosts : int
            How many hosts share what is left: the last batches are small, so that they finish together.
        """
        left_s = {
            key: len(waiting) * self._medians.get(key, FIRST_GUESS_S)
            for key, waiting in self._waiting.items()
            if waiting and key not in barred
        }
        if not left_s:
            return []
        if engine not in left_s:
            engine = max(left_s, key=lambda key: left_s[key] / (1 + on.get(key, 0)))
        batch_s = min(BATCH_S, left_s[engine] / (2 * max(hosts, 1)))
        waiting, expected_s = self._waiting[engine], 0.0
        batch: list[Work] = []
        while waiting and len(batch) < LONGEST_BATCH:
            work = waiting[0][2]
            expected_s += self.expected_s(work.task)
            if batch and expected_s > batch_s:
                break
            batch.append(heapq.heappop(waiting)[2])
        return batch

    def remove_engine(self, engine: str) -> list[Work]:
        """Take out all tasks of an engine."""
        lost = [work for work in self._lost if work.task.engine.key == engine]
        self._lost = deque(work for work in self._lost if work.task.engine.key != engine)
        return lost + [work for _, _, work in self._waiting.pop(engine, [])]
