"""How many outcomes a second a driver takes in: thousands of hosts that only wait, in a few processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from typing import Any
from unittest import mock

import numpy as np

from neurofleet.cluster.pool.outcome import EngineSpec, EvaluationTask, Outcome

PARAMETERS, OBJECTIVES = 36, 25
HOSTS, EVALUATION_S, RESULTS = 1000, 0.5, 8000


class EmulatedHosts:
    """Many hosts in one process: a call waits for as long as its evaluations are said to last."""

    async def hello(self) -> tuple[str, int]:
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    async def exchange(self, assignments: list, recipes: dict, forgotten: list, wait_s: float) -> Any:
        from neurofleet.cluster.pool.host_worker import HostReport

        await asyncio.sleep(sum(assignment.expected_s for assignment in assignments))
        outcomes = [
            (assignment.number, Outcome("ok", "", assignment.expected_s, np.ones(OBJECTIVES)))
            for assignment in assignments
        ]
        return HostReport(outcomes, [], {}, {}, 0.0, False)


class EmulatedActorClass:
    """Hands out the same few actors as if each were a host."""

    def __init__(self) -> None:
        import ray

        emulation = ray.remote(num_cpus=0, max_concurrency=10000)(EmulatedHosts)
        self._actors = itertools.cycle([emulation.remote() for _ in range(2)])

    def remote(self, *settings: Any) -> Any:
        return next(self._actors)


def emulated_relay() -> type:
    from neurofleet.cluster.pool.hosts import Relay

    class EmulatedRelay(Relay):
        def __init__(self, settings: Any) -> None:
            super().__init__(settings)
            self._hosts._actor_class = EmulatedActorClass()

    return EmulatedRelay


def results_per_s(relayed: bool) -> dict[str, float]:
    """Keep emulated hosts busy with evaluations of half a second, and see how many come in."""
    import ray

    from neurofleet.cluster.pool.hosts import DirectHosts, RelayedHosts
    from neurofleet.cluster.pool.pool import Pool
    from neurofleet.cluster.ray.session import connect

    spec = EngineSpec("none:none", None, "emulated")
    individual, numbers = np.zeros(PARAMETERS), itertools.count()
    with connect(cpus=2):
        pool = Pool(hosts=HOSTS, hosts_per_relay=500 if relayed else 10 * HOSTS)
        hosts: Any = pool._calls
        if relayed:
            assert isinstance(hosts, RelayedHosts)
            hosts._actor_class = ray.remote(num_cpus=0)(emulated_relay())
        else:
            assert isinstance(hosts, DirectHosts)
            hosts._actor_class = EmulatedActorClass()

        def submit(n: int) -> None:
            for number in itertools.islice(numbers, n):
                pool.submit(EvaluationTask(number, spec, individual, 60.0, EVALUATION_S))

        def take(results: int) -> int:
            taken = 0
            while taken < results:
                done = len(pool.completed(1.0))
                submit(done)
                taken += done
            return taken

        with mock.patch("ray.kill"):  # an emulation stands for many hosts
            submit(2 * HOSTS)
            take(2 * HOSTS)
            begun, cpu_s = time.monotonic(), time.process_time()
            taken = take(RESULTS)
            wall_s, cpu_s = time.monotonic() - begun, time.process_time() - cpu_s
    return {"results_per_s": taken / wall_s, "results_per_driver_cpu_s": taken / cpu_s}
