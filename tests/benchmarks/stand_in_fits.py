"""Fits that only wait: generations of evaluations of a given length, with nothing to learn from them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neurofleet.cluster.pool.outcome import EngineSpec, EvaluationTask, Outcome


@dataclass(frozen=True)
class StandInStage:
    """A stage: `seeds` side by side, each with generations of `offspring`, one after the other."""

    seeds: int
    generations: int
    offspring: int


class StandInFit:
    """A fit of several stages, with a barrier after each generation of each seed.

    Parameters
    ----------
    id : str
    rank : int
    stages : sequence of StandInStage
    engine : callable
        Stage number -> engine.
    individual : callable
        EvaluationTask id -> what the engine is given.
    deadline_s : float
    """

    finished = False

    def __init__(
        self,
        id: str,
        rank: int,
        stages: Sequence[StandInStage],
        engine: Callable[[int], EngineSpec],
        individual: Callable[[tuple], Any],
        deadline_s: float,
    ) -> None:
        self.id = id
        self._rank = rank
        self._stages = stages
        self._engine = engine
        self._individual = individual
        self._deadline_s = deadline_s
        self._number = -1
        self._seconds, self._taken = 0.0, 0
        self._generations: dict[int, int] = {}
        self._left: dict[int, int] = {}

    def start(self) -> list[EvaluationTask]:
        self._number += 1
        if self._number == len(self._stages):
            return []
        seeds = range(self._stages[self._number].seeds)
        self._generations = dict.fromkeys(seeds, 0)
        return [task for seed in seeds for task in self._generation(seed)]

    @property
    def to_go(self) -> float:
        done = min(self._generations.values())
        left = sum(stage.generations for stage in self._stages[self._number :]) - done
        return 100 * left * (self._seconds / self._taken if self._taken else 1.0)

    def take(self, key: tuple, individual: int, outcome: Outcome) -> list[EvaluationTask]:
        seed = key[2]
        self._seconds += outcome.seconds
        self._taken += 1
        self._left[seed] -= 1
        if self._left[seed]:
            return []
        self._generations[seed] += 1
        if self._generations[seed] < self._stages[self._number].generations:
            return self._generation(seed)
        done = all(n == self._stages[self._number].generations for n in self._generations.values())
        return self.start() if done else []

    def _generation(self, seed: int) -> list[EvaluationTask]:
        offspring = self._stages[self._number].offspring
        self._left[seed] = offspring
        key = (self.id, self._number, seed, self._generations[seed])
        return [self._task((key, i)) for i in range(offspring)]

    def _task(self, id: tuple) -> EvaluationTask:
        engine = self._engine(self._number)
        return EvaluationTask(id, engine, self._individual(id), self._deadline_s, rank=self._rank)


class StandInSteadyFit:
    """A fit without barriers: so many evaluations are kept under way until `evaluations` are done."""

    finished = False

    def __init__(self, id: str, evaluations: int, under_way: int, engine: EngineSpec, deadline_s: float) -> None:
        self.id = id
        self._numbers = iter(range(evaluations))
        self._under_way = under_way
        self._engine = engine
        self._deadline_s = deadline_s
        self.to_go = 1.0

    def start(self) -> list[EvaluationTask]:
        return self._next(self._under_way)

    def take(self, key: tuple, individual: int, outcome: Outcome) -> list[EvaluationTask]:
        return self._next(1)

    def _next(self, n: int) -> list[EvaluationTask]:
        return [
            EvaluationTask(((self.id,), number), self._engine, None, self._deadline_s)
            for number in itertools.islice(self._numbers, n)
        ]


class StandInOpener:
    """Makes fits by `make`; remembers how many were open at once, and in which order they ended."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make
        self.open_now = self.most_open = 0
        self.closed: list[str] = []

    def open(self, id: str, timeout_s: float) -> Any:
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        return self._make(id)

    def close(self, fit: Any) -> None:
        self.open_now -= 1
        self.closed.append(fit.id)

    def set_aside(self, id: str, error: Exception) -> bool:
        return False
