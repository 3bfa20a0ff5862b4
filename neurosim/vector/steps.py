"""How long the steps of the vector engine are, and which voltages it keeps."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neurosim.protocols import StepProtocol


@dataclass(frozen=True)
class Steps:
    """Steps of each individual by itself, as its voltage bends.

    Between its shortest and its longest, a step is as long as lets no compartment's voltage leave a straight
    line by more than `largest_bend_mV`, and at most half as long again as the one before. It ends where the
    current changes, and begins there as the shortest.

    Attributes
    ----------
    tick_ms : float
        What times are counted in.
    order : {1, 2, 3}
        1 for backward Euler and 2 for the states half a step beside the voltage, as NEURON's ``secondorder``
        0 and 2. 3 goes to the new voltage in two stages (the diagonally implicit scheme of Alexander 1977,
        SIAM J Numer Anal 14:1006, with gamma = 1 - 1/sqrt(2)) where 2 extrapolates: a conductance that is
        large for the step then makes no voltage ring.
    shortest, longest : int
        In ticks, from the beginning of the stimulus until `near_ms` after it.
    shortest_away, longest_away : int
        In ticks, at all other times.
    near_ms : float
    largest_bend_mV : float
    record_near, record_away : int
        Ticks from one recorded voltage to the next.
    """

    tick_ms: float
    order: int
    shortest: int = 1
    longest: int = 1
    shortest_away: int = 1
    longest_away: int = 1
    near_ms: float = 0.0
    largest_bend_mV: float = 0.0
    record_near: int = 1
    record_away: int = 1

    def ticks(self, time_ms: float) -> int:
        """Return the tick nearest to a time."""
        return round(time_ms / self.tick_ms)

    def recorded(self, protocol: "StepProtocol") -> np.ndarray:
        """Return the ticks at which the voltage of a protocol is kept, its first and its last included."""
        start, end = self.ticks(protocol.start_ms), self.ticks(protocol.duration_ms)
        away = self.record_away
        begin = min(max(start - 1, 0) // away * away, end)
        stop = min(-(-self.ticks(protocol.stop_ms + self.near_ms) // away) * away, end)
        parts = [
            np.arange(first, last, every)
            for first, last, every in ((0, begin, away), (begin, stop, self.record_near), (stop, end, away))
        ]
        return np.concatenate([*parts, [end]]).astype(np.int64)


def fixed_steps(dt_ms: float, order: int, record_every: int = 1) -> Steps:
    """Return steps that are all alike, of which each so-manieth is recorded."""
    return Steps(dt_ms, order, record_near=record_every, record_away=record_every)


_OF_A_SEARCH = Steps(
    tick_ms=0.00625,
    order=3,
    shortest=4,
    longest=48,
    shortest_away=16,  # one that spikes throughout would hold up the others
    longest_away=800,
    near_ms=100.0,
    largest_bend_mV=0.005,
    record_near=16,  # 0.1 ms, which eFEL interpolates to
    record_away=80,
)


def search_steps(chains: bool) -> Steps:
    """Return the steps of a search; a chain of states, such as NaV's, opens faster than other gates."""
    return replace(_OF_A_SEARCH, shortest=1) if chains else _OF_A_SEARCH
