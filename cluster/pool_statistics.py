"""What a pool tells about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStatistics:
    """What the pool has done so far.

    Attributes
    ----------
    hosts : int
        Hosts that answer.
    waiting, running : int
        Tasks not yet given to a host, and given but not finished.
    outcomes : dict
        Status -> number of tasks.
    hosts_lost, retried : int
        Hosts that went away, and evaluations begun again because of that.
    busy_s, available_s : float
        Time spent on evaluations that finished, and time that hosts were there, summed over hosts.
    engines_failed : dict
        Engine key -> why it cannot be built.
    """

    hosts: int
    waiting: int
    running: int
    outcomes: dict[str, int]
    hosts_lost: int
    retried: int
    busy_s: float
    available_s: float
    engines_failed: dict[str, str]

    @property
    def utilisation(self) -> float:
        """Busy part of the hosts' time."""
        return self.busy_s / self.available_s if self.available_s else 0.0
