"""The metrics of a campaign for Prometheus: evaluations, their time, hosts, fits and cells, by run.

Ray's agent on the driver's machine exports them, with ``ray_`` before every name. The cell is no tag: each value of a
tag is a time series of its own, and a campaign has hundreds of cells.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Counter, Gauge, Histogram

from neurofleet.cluster.pool.outcome import Outcome, PoolStatistics

UPDATE_S = 5.0
"""Ray's agent takes them every 10 s."""

WINDOW_S = 60.0
"""Utilisation is that of the last minute. Evaluations count when they end, so a shorter time would jump."""

BOUNDARIES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True)
class DeclaredMetric:
    """A metric as it is declared to `ray.util.metrics`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series in Prometheus."""
        endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(f"ray_{self.name}{ending}" for ending in endings[self.kind])


EVALUATIONS = DeclaredMetric("neurofleet_evaluations", "counter", "Evaluations that ended.", ("status",))
# For each value Ray counts the middle of its bucket, so the sum of the histogram is a rough one.
EVALUATION_SECONDS = DeclaredMetric("neurofleet_evaluation_seconds", "histogram", "Wall-clock time of evaluations.")
HOSTS = DeclaredMetric("neurofleet_hosts", "gauge", "Hosts that answer, one CPU each.")
HOSTS_LOST = DeclaredMetric("neurofleet_hosts_lost", "gauge", "Hosts that went away since the driver started.")
WAITING = DeclaredMetric("neurofleet_evaluations_waiting", "gauge", "Evaluations that no host has yet.")
RUNNING = DeclaredMetric("neurofleet_evaluations_running", "gauge", "Evaluations that a host has.")
UTILISATION = DeclaredMetric("neurofleet_utilisation", "gauge", "Busy part of the hosts' time in the last minute.")
ACTIVE_FITS = DeclaredMetric("neurofleet_active_fits", "gauge", "Fits under way.")
CELLS = DeclaredMetric("neurofleet_cells", "gauge", "Cells by state: done, failed, left.", ("state",))

DECLARED = (
    EVALUATIONS,
    EVALUATION_SECONDS,
    HOSTS,
    HOSTS_LOST,
    WAITING,
    RUNNING,
    UTILISATION,
    ACTIVE_FITS,
    CELLS,
)


class CampaignMetrics:
    """The metrics of one run; made and used where this process is connected to Ray.

    Parameters
    ----------
    run : str
        Its name, the tag ``run`` of everything.
    """

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._evaluations = Counter(*_arguments(EVALUATIONS))
        self._seconds = Histogram(
            EVALUATION_SECONDS.name,
            EVALUATION_SECONDS.description,
            list(BOUNDARIES_S),
            ("run", *EVALUATION_SECONDS.tags),
        )
        gauges = [metric for metric in DECLARED if metric.kind == "gauge"]
        self._gauges = {metric: Gauge(*_arguments(metric)) for metric in gauges}
        self._counted: Tally[str] = Tally()
        self._recent = RecentUtilisation(WINDOW_S)
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for another `update`."""
        return time.monotonic() >= self._next

    def evaluated(self, outcome: Outcome) -> None:
        """Count the time of an evaluation; one that never began has none."""
        if outcome.seconds > 0:
            self._seconds.observe(outcome.seconds, self._run)

    def update(self, statistics: PoolStatistics, active_fits: int, cells: Mapping[str, int]) -> None:
        """Update the metrics; called when `due`, and once more at the end.

        Parameters
        ----------
        statistics : PoolStatistics
            Always of the same pool.
        active_fits : int
            Fits (a cell and a seed) under way.
        cells : mapping
            ``done``, ``failed`` and ``left`` -> number of cells.
        """
        self._next = time.monotonic() + UPDATE_S
        new = Tally(statistics.outcomes) - self._counted
        for status, number in new.items():
            self._evaluations.inc(number, {**self._run, "status": status})
        self._counted += new
        self._set(HOSTS, statistics.hosts)
        self._set(HOSTS_LOST, statistics.hosts_lost)
        self._set(WAITING, statistics.waiting)
        self._set(RUNNING, statistics.running)
        utilisation = self._recent.utilisation(time.monotonic(), statistics.busy_s, statistics.available_s)
        self._set(UTILISATION, utilisation)
        self._set(ACTIVE_FITS, active_fits)
        for state, number in cells.items():
            self._set(CELLS, number, state=state)

    def _set(self, metric: DeclaredMetric, value: float, **tags: str) -> None:
        self._gauges[metric].set(value, {**self._run, **tags})


class RecentUtilisation:
    """Utilisation of the last `window_s`, computed from the times since the start."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._past: deque[tuple[float, float, float]] = deque()

    def utilisation(self, now: float, busy_s: float, available_s: float) -> float:
        """Busy part of the hosts' time, 0 while there is none; `now` on any clock."""
        self._past.append((now, busy_s, available_s))
        while len(self._past) > 2 and now - self._past[1][0] >= self._window_s:
            self._past.popleft()
        _, busy_before_s, available_before_s = self._past[0]
        spent_s = available_s - available_before_s
        return min((busy_s - busy_before_s) / spent_s, 1.0) if spent_s > 0 else 0.0


def _arguments(metric: DeclaredMetric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.description, ("run", *metric.tags)
