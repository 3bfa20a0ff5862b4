"""The pool against bare Ray tasks: hosts' busy part, overhead per evaluation, time lost to a hung one.

``python -m tests.benchmarks.pool`` prints one JSON line. Evaluations sleep, so that a busy machine
disturbs little; hung ones sleep in C with the interpreter lock held, as a simulator does.

``utilisation``
    Busy part of the time of 2 hosts on evaluations of 0.2-2 s with a heavy tail, 5 % of which hang for ever
    (deadline 2 s). A hung one counts as busy until its deadline, and no longer.
``overhead_ms``
    Hosts' time per evaluation beyond the evaluation itself, at 50 ms each.
``restart_s``
    From the deadline of a hung evaluation to the start of the next one, median. ``lost_retry_s``: from a
    SIGKILL of a whole host to the start of the evaluation that was lost with it, on the other host;
    ``host_replaced_s``: until there are two hosts again.
``ray_tasks_*``
    The same evaluations as `ray.remote` tasks, one per CPU at a time, so that the driver knows when each
    began; it cancels those over their deadline with ``force=True``, which ends the worker.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np

from neurofleet.cluster.pool.outcome import Budget, EngineSpec, EvaluationTask
from neurofleet.cluster.ray.session import connect

HOSTS = 2
EVALUATIONS = 160
HUNG_FRACTION = 0.05
DEADLINE_S = 2.0
ENGINE_MB = 200
SHORT_S = 0.05
SHORT_EVALUATIONS = 400
RESTARTS = 5


class SleepyEngine:
    """Holds about as much memory as a built cell; sleeps for as long as an individual says."""

    def __init__(self, ballast_mb: int) -> None:
        self.ballast = np.ones((ballast_mb, 2**17))

    def evaluate(self, batch: Sequence[float], budget: Budget) -> Iterator[float]:
        """Yield when each evaluation began; `inf` hangs."""
        for seconds in batch:
            yield sleep_like_a_simulator(seconds)


def sleep_like_a_simulator(seconds: float) -> float:
    """Sleep, or hang in C for ever; return when it began, on the machine's monotonic clock."""
    began = time.monotonic()
    if np.isinf(seconds):
        while True:
            ctypes.PyDLL(None).usleep(2**31)
    time.sleep(seconds)
    return began


def build(ballast_mb: int) -> SleepyEngine:
    return SleepyEngine(ballast_mb)


SPEC = EngineSpec("tests.benchmarks.pool:build", ENGINE_MB, "sleepy")


def heavy_tail(n: int) -> list[float]:
    """Durations of 0.2-2 s, Pareto with exponent 1.5, every 20th infinite; shuffled."""
    random = np.random.default_rng(1)
    seconds = np.minimum(0.2 * (1.0 + random.pareto(1.5, n)), 1.9)
    seconds[: int(HUNG_FRACTION * n)] = np.inf
    return random.permutation(seconds).tolist()


def busy_s(durations: Sequence[float]) -> float:
    return sum(min(seconds, DEADLINE_S) for seconds in durations)


def run(pool, durations: Sequence[float], deadline_s: float = DEADLINE_S) -> tuple[float, dict]:
    """Wall-clock time and outcomes of evaluations that are submitted all at once."""
    begun = time.monotonic()
    for number, seconds in enumerate(durations):
        pool.submit(EvaluationTask(number, SPEC, seconds, deadline_s))
    outcomes: dict = {}
    while len(outcomes) < len(durations):
        outcomes.update(pool.completed(1.0))
    return time.monotonic() - begun, outcomes


def measure_utilisation(pool, durations: Sequence[float]) -> dict:
    wall_s, outcomes = run(pool, durations)
    statuses = [outcomes[number].status for number in range(len(durations))]
    assert statuses == ["timeout" if np.isinf(seconds) else "ok" for seconds in durations]
    return {"utilisation": busy_s(durations) / (HOSTS * wall_s), "wall_s": wall_s}


def measure_overhead(pool) -> dict:
    wall_s, _ = run(pool, [SHORT_S] * SHORT_EVALUATIONS)
    return {"overhead_ms": 1000 * (HOSTS * wall_s / SHORT_EVALUATIONS - SHORT_S)}


def measure_restart(pool) -> dict:
    """Hang every host, with work waiting behind; see when the next evaluation begins."""
    deadline_s, gaps = 0.5, []
    for _ in range(RESTARTS):
        begun = time.monotonic()
        _, outcomes = run(pool, [np.inf] * HOSTS + [0.01] * HOSTS, deadline_s)
        starts = [outcome.value for outcome in outcomes.values() if outcome.ok]
        gaps.append(min(starts) - begun - deadline_s)
    return {"restart_s": statistics.median(gaps)}


def measure_host_restart(pool) -> dict:
    pool.submit(EvaluationTask("victim", SPEC, 3.0, 10.0))
    pool.completed(1.0)
    process = next(host.process for host in pool._hosts.values() if pool._scheduler.busy(host))
    killed = time.monotonic()
    os.kill(process, signal.SIGKILL)
    outcomes: dict = {}
    while not outcomes:
        outcomes.update(pool.completed(1.0))
    pool.submit(EvaluationTask("waited for", SPEC, 60.0, 60.0))
    while pool.statistics().hosts < HOSTS:
        pool.completed(0.02)
    return {"lost_retry_s": outcomes["victim"].value - killed, "host_replaced_s": time.monotonic() - killed}


def measure_ray_tasks(durations: Sequence[float]) -> dict:
    """The same work without a pool: hung tasks are cancelled by force, and take their worker along."""
    import ray

    @ray.remote(num_cpus=1, max_retries=0)
    def evaluate(seconds: float) -> tuple[float, float]:
        global ENGINE  # kept by the worker for its next task
        if "ENGINE" not in globals():
            ENGINE = SleepyEngine(ENGINE_MB)
        return sleep_like_a_simulator(seconds), time.monotonic()

    ray.get([evaluate.remote(0.5) for _ in range(HOSTS)])
    waiting, running, cancelled, after_kill = list(durations), {}, 0, []
    begun = time.monotonic()
    freed: list[float] = []
    while waiting or running:
        while waiting and len(running) < HOSTS:
            running[evaluate.remote(waiting.pop())] = (time.monotonic(), freed.pop() if freed else None)
        ready, _ = ray.wait(list(running), timeout=0.02)
        for call in ready:
            _, killed = running.pop(call)
            try:
                started, _ = ray.get(call)
            except (ray.exceptions.RayError, ray.exceptions.TaskCancelledError):
                cancelled += 1
                continue
            if killed is not None:
                after_kill.append(started - killed)
        for call, (submitted, _) in list(running.items()):
            if time.monotonic() - submitted > DEADLINE_S:
                ray.cancel(call, force=True)
                freed.append(time.monotonic())
                running.pop(call)
                cancelled += 1
    wall_s = time.monotonic() - begun
    return {
        "ray_tasks_utilisation": busy_s(durations) / (HOSTS * wall_s),
        "ray_tasks_wall_s": wall_s,
        "ray_tasks_restart_s": statistics.median(after_kill),
        "ray_tasks_cancelled": cancelled,
        "ray_tasks_wrongly_cancelled": cancelled - sum(np.isinf(seconds) for seconds in durations),
    }


def main() -> None:
    from neurofleet.cluster.pool.pool import Pool

    durations = heavy_tail(EVALUATIONS)
    measured: dict = {}
    with connect(cpus=HOSTS):
        with Pool(hosts=HOSTS) as pool:
            run(pool, [0.5] * 2 * HOSTS)  # hosts up, engines built
            measured |= measure_utilisation(pool, durations)
            measured |= measure_overhead(pool)
            measured |= measure_restart(pool)
            measured |= measure_host_restart(pool)
        measured |= measure_ray_tasks(durations)
    rounded = {name: round(float(value), 4) for name, value in measured.items()}
    print(json.dumps({"benchmark": "pool", **rounded, "engine_mb": ENGINE_MB, "evaluations": EVALUATIONS}))


if __name__ == "__main__":
    main()
