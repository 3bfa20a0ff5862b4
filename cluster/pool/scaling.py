"""What a pool asks of a cluster that can grow: how many CPUs it could use now, and no more when its work is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

LET_GO_AFTER_S = 120.0
"""Machines take minutes to start: what is not needed for less than this is kept."""


def request_cpus(count: int) -> None:
    """Have the cluster's autoscaler provide so many CPUs, those in use included; without one nothing happens."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{"CPU": 1}] * count)


class ClusterScaling:
    """Follows the number of hosts that a pool could use, quickly up and slowly down.

    A request stays with the cluster until another one is made, also when this process has ended: `close` it.

    Parameters
    ----------
    max_hosts : int
        The most to ask for.
    request : callable
        Given a number of CPUs.
    clock : callable
        Seconds.

    Attributes
    ----------
    hosts : int
        How many the pool should keep at most.
    """

    def __init__(
        self,
        max_hosts: int,
        request: Callable[[int], None] = request_cpus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_hosts = max_hosts
        self._request = request
        self._clock = clock
        self._needed_at = clock()
        self._requested: int | None = None
        self.hosts = max_hosts

    def update(self, useful: int) -> None:
        """Take in how many hosts would have work now."""
        useful, now = max(1, min(useful, self._max_hosts)), self._clock()
        first = self._requested is None
        if first or useful >= self.hosts or now - self._needed_at >= LET_GO_AFTER_S:
            self.hosts, self._needed_at = useful, now
        self._ask(self.hosts)

    def close(self) -> None:
        """Ask for nothing any more."""
        if self._requested:
            self._ask(0)

    def _ask(self, count: int) -> None:
        if count == self._requested:
            return
        try:
            self._request(count)
        except Exception as error:  # noqa: BLE001  a cluster that does not answer is noticed by the pool itself
            logger.warning("the cluster could not be asked for %d CPUs: %s", count, error)
            return
        self._requested = count
