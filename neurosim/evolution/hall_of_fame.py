"""The best models that an evolution has seen."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np


def total_scores(scores: np.ndarray) -> np.ndarray:
    """Sum the objectives (n, M) of each individual from left to right, as BluePyOpt does.

    Returns
    -------
    ndarray, shape (n,)
        Equal to BluePyOpt's summed fitness to the last bit, which numpy's own (pairwise) sum is not.
    """
    return np.array([sum(row) for row in np.asarray(scores, np.float64).tolist()], np.float64)


@dataclass(frozen=True, eq=False)
class HallOfFameEntry:
    """One evaluated model: where it came from (`generation`, `individual`) and what it scored."""

    total: float
    generation: int
    individual: int
    parameters: np.ndarray
    scores: np.ndarray

    @property
    def rank_key(self) -> tuple[float, int, int]:
        return self.total, self.generation, self.individual


class HallOfFame:
    """The `size` best distinct parameter vectors by the plain sum of their objectives.

    Equal totals are ordered by (generation, individual), so what the hall holds does not depend on the order
    in which generations are shown to it. Without such ties its entries are those of DEAP's `HallOfFame` under
    BluePyOpt's weighted sum (which orders ties newest first).
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a hall of fame holds at least one model, not {size}")
        self.size = size
        self._entries: list[HallOfFameEntry] = []
        self._held: dict[bytes, HallOfFameEntry] = {}

    @property
    def entries(self) -> tuple[HallOfFameEntry, ...]:
        """Best first."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def update(self, parameters: np.ndarray, scores: np.ndarray, generation: int) -> None:
        """Show it a generation: parameters (n, P) and scores (n, M), row = individual."""
        parameters, scores = np.asarray(parameters, np.float64), np.asarray(scores, np.float64)
        for individual, total in enumerate(total_scores(scores).tolist()):
            if len(self) == self.size and total > self._entries[-1].total:
                continue
            self._insert(
                HallOfFameEntry(
                    total, generation, individual, parameters[individual].copy(), scores[individual].copy()
                )
            )

    def _insert(self, entry: HallOfFameEntry) -> None:
        key = _key(entry)
        held = self._held.get(key)
        if held is not None:
            if held.rank_key <= entry.rank_key:
                return
            self._entries.remove(held)
        self._held[key] = entry
        bisect.insort(self._entries, entry, key=lambda item: item.rank_key)
        for worst in self._entries[self.size :]:
            del self._held[_key(worst)]
        del self._entries[self.size :]


def _key(entry: HallOfFameEntry) -> bytes:
    """The same for equal parameters, also for 0.0 and -0.0."""
    return (entry.parameters + 0.0).tobytes()
