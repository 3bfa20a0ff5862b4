"""The deadline of an evaluation: given, or learnt from the evaluations before it."""

from collections import deque
from typing import Literal

import numpy as np

START_S = 300.0
RECENT = 2048
ENOUGH = 64
PERCENTILE = 95.0
FLOOR_S = 5.0
FLOOR_MEDIANS = 5.0


class Deadline:
    """Wall-clock limit of one evaluation.

    ``auto`` starts at 300 s and, learnt anew every 64 evaluations, follows the 95th percentile of the last
    ones, but never falls below 5 s or five times their median: a stage whose evaluations all last about the
    same would otherwise lose one in twenty for nothing.
    """

    def __init__(self, deadline_s: float | Literal["auto"]) -> None:
        self._given = None if deadline_s == "auto" else float(deadline_s)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._learnt_s = START_S
        self._learnt = 0

    def anew(self) -> "Deadline":
        """Return one that has learnt nothing yet."""
        return Deadline("auto" if self._given is None else self._given)

    def learn(self, seconds: float) -> None:
        """Take in how long an evaluation lasted."""
        if self._given is None:
            self._recent.append(seconds)
            self._learnt += 1
            if self._learnt % ENOUGH == 0:
                median, high = np.percentile(self._recent, [50.0, PERCENTILE])
                self._learnt_s = min(START_S, max(FLOOR_S, FLOOR_MEDIANS * float(median), float(high)))

    @property
    def seconds(self) -> float:
        """The limit for evaluations that start now."""
        return self._learnt_s if self._given is None else self._given
