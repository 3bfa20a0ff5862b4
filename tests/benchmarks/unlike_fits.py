"""Four fits of unlike speed on two hosts: through the pool, through ipyparallel, as bare Ray tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from neurofleet.cluster.pool.outcome import Budget, EngineSpec, EvaluationTask, Outcome
from neurofleet.jobs.fit.campaign import Campaign
from tests.benchmarks.pool import sleep_like_a_simulator
from tests.benchmarks.stand_in_fits import StandInFit, StandInOpener, StandInStage

HOSTS = 2
FITS_S = {"quick": 0.15, "common": 0.4, "slow": 0.8, "slowest": 1.2}
FIT_S = 100.0
OFFSPRING = 32
SPREAD = 0.5
BUILD_S = 1.0
HUNG_DEADLINE_S = 3.0
PATIENCE_S = 20.0


class WaitingEngine:
    """Waits for as long as an individual says; building it takes about as long as building a cell."""

    def __init__(self, build_s: float) -> None:
        time.sleep(build_s)

    def evaluate(self, batch: Sequence[float], budget: Budget) -> Iterator[list[float]]:
        for seconds in batch:
            sleep_like_a_simulator(seconds)
            yield seconds


def build(build_s: float) -> WaitingEngine:
    return WaitingEngine(build_s)


def unlike_fits(hang: bool) -> tuple[list[str], Callable[[str], StandInFit], float]:
    """Four fits of about as much work each: ids, what makes them, the time of all evaluations together."""
    random = np.random.default_rng(3)
    stages, lengths = {}, {}
    for id, mean_s in FITS_S.items():
        generations = round(FIT_S / (mean_s * OFFSPRING)) or 1
        stages[id] = [StandInStage(1, generations, OFFSPRING)]
        drawn = random.lognormal(0.0, SPREAD, generations * OFFSPRING)
        lengths[id] = mean_s * drawn / drawn.mean()
    total_s = sum(float(values.sum()) for values in lengths.values())
    if hang:
        lengths["common"][OFFSPRING + 5] = np.inf

    def make(id: str) -> StandInFit:
        def individual(task: tuple) -> float:
            key, number = task
            return float(lengths[id][key[3] * OFFSPRING + number])

        spec = EngineSpec("tests.benchmarks.unlike_fits:build", BUILD_S, id)
        deadline_s = HUNG_DEADLINE_S if hang else 60.0
        return StandInFit(id, list(FITS_S).index(id), stages[id], lambda n: spec, individual, deadline_s)

    return list(FITS_S), make, total_s


class GaveUp(Exception):
    """Nothing has come back for too long."""


def campaign_s(pool: Any, hang: bool = False) -> tuple[float, float]:
    """Wall-clock seconds of the four fits, and the time of their evaluations."""
    ids, make, total_s = unlike_fits(hang)
    begun = time.monotonic()
    Campaign(ids, StandInOpener(make), pool).run()
    return time.monotonic() - begun, total_s


class PeerPool:
    """What a campaign asks of a pool, over a peer that takes single calls and has no deadlines."""

    spread = True

    def __init__(self, hosts: int) -> None:
        self.hosts = hosts
        self._under_way: dict[Any, Any] = {}
        self._last = time.monotonic()

    @property
    def idle(self) -> int:
        return max(0, self.hosts - len(self._under_way))

    def submit(self, task: EvaluationTask) -> None:
        self._under_way[self._begin(task.individual)] = task.id

    def forget(self, engine: str) -> None: ...

    def withdraw(self, engine: str) -> int:
        return 0

    def completed(self, timeout_s: float) -> list[tuple[Any, Outcome]]:
        done = self._ready(timeout_s)
        if done:
            self._last = time.monotonic()
        elif time.monotonic() - self._last > PATIENCE_S:
            raise GaveUp
        return [(self._under_way.pop(call), Outcome("ok")) for call in done]

    def _begin(self, seconds: float) -> Any:
        raise NotImplementedError

    def _ready(self, timeout_s: float) -> list[Any]:
        raise NotImplementedError


class RayTasks(PeerPool):
    """Bare Ray tasks."""

    def __init__(self, hosts: int) -> None:
        import ray

        super().__init__(hosts)
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=0)(sleep_like_a_simulator)

    def _begin(self, seconds: float) -> Any:
        return self._task.remote(seconds)

    def _ready(self, timeout_s: float) -> list[Any]:
        calls = list(self._under_way)
        return self._ray.wait(calls, num_returns=1, timeout=timeout_s)[0] if calls else []


class Ipyparallel(PeerPool):
    """An ipyparallel client's load-balanced view."""

    def __init__(self, view: Any, hosts: int) -> None:
        super().__init__(hosts)
        self._view = view

    def _begin(self, seconds: float) -> Any:
        return self._view.apply_async(sleep_like_a_simulator, seconds)

    def _ready(self, timeout_s: float) -> list[Any]:
        give_up = time.monotonic() + timeout_s
        while True:
            self._view.spin()
            done = [call for call in self._under_way if call.ready()]
            if done or time.monotonic() > give_up:
                return done
            time.sleep(0.002)


def measure_utilisation() -> dict[str, Any]:
    from neurofleet.cluster.pool.pool import Pool
    from neurofleet.cluster.ray.session import connect

    found: dict[str, Any] = {}
    with connect(cpus=HOSTS):
        with Pool(hosts=HOSTS) as pool:
            _wait_for_hosts(pool)
            wall_s, total_s = campaign_s(pool)
            found["utilisation"] = total_s / (HOSTS * wall_s)
        with Pool(hosts=HOSTS) as pool:
            _wait_for_hosts(pool)
            found["hung_costs_s"] = campaign_s(pool, hang=True)[0] - wall_s
        wall_s, total_s = campaign_s(RayTasks(HOSTS))
        found["ray_tasks_utilisation"] = total_s / (HOSTS * wall_s)
        found["ray_tasks_hung_costs_s"] = _hung(RayTasks(HOSTS), wall_s)
    return found | measure_ipyparallel()


def measure_ipyparallel() -> dict[str, Any]:
    import ipyparallel

    cluster = ipyparallel.Cluster(n=HOSTS, log_level=40)
    try:
        client = cluster.start_and_connect_sync()
        view = client.load_balanced_view()
        view.apply_async(sleep_like_a_simulator, 0.1).get(timeout=60)
        wall_s, total_s = campaign_s(Ipyparallel(view, HOSTS))
        hung_s = _hung(Ipyparallel(view, HOSTS), wall_s)
    finally:
        cluster.signal_engines_sync(9)
        cluster.stop_cluster_sync()
    return {
        "ipyparallel_utilisation": total_s / (HOSTS * wall_s),
        "ipyparallel_hung_costs_s": hung_s,
    }


def _wait_for_hosts(pool: Any) -> None:
    while pool.statistics().hosts < HOSTS:
        pool.submit(EvaluationTask("first", EngineSpec("tests.benchmarks.unlike_fits:build", 0.0, "first"), 0.1, 60.0))
        while not pool.completed(1.0):
            continue


def _hung(pool: Any, wall_s: float) -> float | None:
    try:
        return campaign_s(pool, hang=True)[0] - wall_s
    except GaveUp:
        return None
