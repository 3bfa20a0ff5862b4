"""The driver's end of the pool: tasks in, outcomes out, whatever happens to the hosts in between."""

from __future__ import annotations

import itertools
import pickle
import time
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.errors import ClusterError
from cluster.host import Host
from cluster.outcome import Outcome, Task
from cluster.pool_statistics import PoolStatistics
from cluster.work_queue import Work, WorkQueue
from cluster.workbench import Assignment, Report

RETRIES = 2
EXCHANGE_S = 1.0
LEASE_S = 30.0
BUILD_LIMIT_S = 900.0
MEMORY_LIMIT_MB = 4096
CENSUS_S = 5.0

TOP_UP_BELOW_S = 0.5
"""A host with less expected work than this gets its next batch while it still works."""

HOSTS_THAT_MAY_FAIL = 5
NODES_THAT_MAY_FAIL = 3


@dataclass
class _Engine:
    """An engine as the pool knows it."""

    factory: str
    payload: ray.ObjectRef
    unbuilt_on: dict[str, str] = field(default_factory=dict)
    failure: str = ""


@dataclass
class _HostRecord:
    """A host as the pool sees it."""

    actor: Any
    call: ray.ObjectRef | None
    called: float
    node: str = ""
    process: int = 0
    since: float = 0.0
    knows: set[str] = field(default_factory=set)
    tasks: dict[int, Work] = field(default_factory=dict)
    engine: str | None = None
    alone: bool = False
    stuck: bool = False
    busy_s: float = 0.0
    progress: float = 0.0

    @property
    def ready(self) -> bool:
        return bool(self.node)


class Pool:
    """Evaluates tasks under deadlines on the Ray that this process is connected to.

    Every task gets exactly one outcome, and an outcome's value does not depend on which host evaluated
    it, on what else was evaluated there, or on hosts that were lost meanwhile. All work of the pool is
    done inside `completed`: call it often.

    Parameters
    ----------
    hosts : int, optional
        How many hosts to keep, one CPU each. By default as many as the cluster has CPUs, at any time.
    memory_limit_mb : int or None
        What one evaluation may allocate beyond the built engine; over it, it ends as an ``error``.
    build_limit_s : float
        How long an engine may take to be built on a host.
    lease_s : float
        A host that has not answered for so long is replaced.
    """

    def __init__(
        self,
        hosts: int | None = None,
        *,
        memory_limit_mb: int | None = MEMORY_LIMIT_MB,
        build_limit_s: float = BUILD_LIMIT_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._hosts_asked = hosts
        self._memory_limit_mb = memory_limit_mb
        self._build_limit_s = build_limit_s
        self._lease_s = lease_s
        self._queue = WorkQueue()
        self._ids: set[Hashable] = set()
        self._numbers = itertools.count()
        self._batches = itertools.count()
        self._engines: dict[str, _Engine] = {}
        self._hosts: list[_HostRecord] = []
        self._done: list[tuple[Any, Outcome]] = []
        self._outcomes: Counter[str] = Counter()
        self._starts_failed = 0
        self._hosts_lost = 0
        self._retried = 0
        self._past_busy_s = 0.0
        self._past_available_s = 0.0
        self._wanted = hosts or 1
        self._next_census = 0.0
        self._actor_class: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Host)

    def __enter__(self) -> Pool:
        self._take_census()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def hosts(self) -> int:
        """How many hosts there are to be; some may not have come up yet."""
        return self._wanted

    def submit(self, task: Task) -> None:
        """Hand in a task; its outcome comes out of `completed`.

        Raises
        ------
        ValueError
            If a task of this id is under way.
        """
        if task.id in self._ids:
            raise ValueError(f"a task with the id {task.id!r} is under way already")
        key = task.engine.key
        if key not in self._engines:
            payload = ray.put(pickle.dumps(task.engine.payload))
            self._engines[key] = _Engine(task.engine.factory, payload)
        self._ids.add(task.id)
        self._wait(Work(next(self._numbers), task))

    def completed(self, timeout_s: float) -> list[tuple[Any, Outcome]]:
        """Return the tasks that are finished, as (task id, outcome), each once.

        Returns as soon as there are some; after `timeout_s` with none; at once if nothing is under way.

        Raises
        ------
        ClusterError
            If hosts cannot be started.
        """
        give_up = time.monotonic() + timeout_s
        while True:
            self._keep_up()
            self._feed()
            left_s = give_up - time.monotonic()
            if self._done or left_s <= 0 or not self._ids:
                done, self._done = self._done, []
                return done
            self._listen(left_s)

    def statistics(self) -> PoolStatistics:
        """What the pool has done so far."""
        now = time.monotonic()
        ready = [host for host in self._hosts if host.ready]
        return PoolStatistics(
            hosts=len(ready),
            waiting=len(self._queue),
            running=sum(len(host.tasks) for host in ready),
            outcomes=dict(self._outcomes),
            hosts_lost=self._hosts_lost,
            retried=self._retried,
            busy_s=self._past_busy_s + sum(host.busy_s for host in ready),
            available_s=self._past_available_s + sum(now - host.since for host in ready),
            engines_failed={key: engine.failure for key, engine in self._engines.items() if engine.failure},
        )

    def close(self) -> None:
        """End all hosts, and with them whatever they are at."""
        while self._hosts:
            self._end_host(self._hosts[-1])

    def _listen(self, timeout_s: float) -> None:
        """Wait for a host to answer, and take in what has arrived."""
        calls = {host.call: host for host in self._hosts if host.call is not None}
        if not calls:  # only engines that none of the present hosts can build
            time.sleep(min(timeout_s, 0.1))
            return
        ready, _ = ray.wait(list(calls), timeout=min(timeout_s, EXCHANGE_S), fetch_local=False)
        if ready and len(calls) > 1:
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0, fetch_local=False)
        for call in ready:
            host = calls[call]
            host.call = None
            try:
                answer = ray.get(call)
            except RayError as error:
                self._lose_host(host, error)
                continue
            if host.ready:
                self._take_report(host, answer)
            else:
                self._welcome(host, *answer)

    def _welcome(self, host: _HostRecord, node: str, process: int) -> None:
        host.node, host.process = node, process
        host.since = host.progress = time.monotonic()
        self._starts_failed = 0

    def _take_report(self, host: _HostRecord, report: Report) -> None:
        now = time.monotonic()
        if report.outcomes or not host.tasks:
            host.progress = now
        host.stuck = report.stuck
        host.busy_s = report.busy_s
        for number, outcome in report.outcomes:
            work = host.tasks.pop(number)
            if outcome.status == "lost":
                self._try_again(work, outcome)
            else:
                self._queue.record(work.task.engine.key, outcome.seconds)
                self._finish(work, outcome)
        for number in report.returned:
            self._wait(host.tasks.pop(number))
        for key, reason in report.unbuilt.items():
            self._engines[key].unbuilt_on.setdefault(host.node, reason)
        self._give_up_engines()

    def _give_up_engines(self) -> None:
        """End the tasks of engines that cannot be built on any node, or not on several."""
        nodes = {host.node for host in self._hosts if host.ready}
        for key, engine in self._engines.items():
            failed_on = set(engine.unbuilt_on)
            if (
                failed_on
                and not engine.failure
                and (nodes <= failed_on or len(failed_on) >= NODES_THAT_MAY_FAIL)
            ):
                engine.failure = (
                    f"the engine {key} could not be built: {next(iter(engine.unbuilt_on.values()))}"
                )
                for work in self._queue.remove_engine(key):
                    self._wait(work)

    def _wait(self, work: Work) -> None:
        """Queue a task, or end it if there is no engine for it."""
        if failure := self._engines[work.task.engine.key].failure:
            self._finish(work, Outcome("error", failure))
        else:
            self._queue.add(work)

    def _feed(self) -> None:
        """Give the hosts that answer what they should do next."""
        free = [host for host in self._hosts if host.ready and host.call is None]
        loads = {id(host): self._load_s(host) for host in free}
        at = Counter(host.engine for host in self._hosts if host.tasks and host.engine is not None)
        for host in sorted(free, key=lambda host: loads[id(host)]):
            batch = [] if host.stuck else self._choose(host, loads[id(host)], at)
            if batch or host.tasks:
                self._send(host, batch)

    def _load_s(self, host: _HostRecord) -> float:
        return sum(self._queue.expected_s(work.task) for work in host.tasks.values())

    def _choose(self, host: _HostRecord, load_s: float, at: Counter[str]) -> list[Work]:
        barred = {key for key, engine in self._engines.items() if host.node in engine.unbuilt_on}
        if not host.tasks:
            host.alone = False
            if (work := self._queue.take_lost(barred)) is not None:
                host.alone = True  # if it is what brings hosts down, it takes nothing else with it
                return [work]
        elif self._queue.has_lost(barred):
            return []  # let it run dry: a task that was lost waits for a host to itself
        if host.alone or load_s >= TOP_UP_BELOW_S:
            return []
        return self._queue.take(host.engine, barred, at, self._wanted)

    def _send(self, host: _HostRecord, batch: list[Work]) -> None:
        now = time.monotonic()
        if not host.tasks:
            host.progress = now
        assignments, recipes, number = [], {}, next(self._batches)
        for work in batch:
            host.tasks[work.number] = work
            host.engine = key = work.task.engine.key
            if key not in host.knows:
                host.knows.add(key)
                recipes[key] = (self._engines[key].factory, self._engines[key].payload)
            assignments.append(
                Assignment(
                    work.number,
                    number,
                    key,
                    work.task.individual,
                    work.task.deadline_s,
                    self._queue.expected_s(work.task),
                )
            )
        host.called = now
        host.call = host.actor.exchange.remote(assignments, recipes, EXCHANGE_S)

    def _finish(self, work: Work, outcome: Outcome) -> None:
        self._ids.discard(work.task.id)
        self._outcomes[outcome.status] += 1
        self._done.append((work.task.id, outcome))

    def _try_again(self, work: Work, outcome: Outcome) -> None:
        work.losses += 1
        if work.losses > RETRIES:
            reason = f"{outcome.reason}, {work.losses} times"
            self._finish(work, Outcome("lost", reason, outcome.seconds))
        else:
            self._retried += 1
            self._wait(work)

    def _keep_up(self) -> None:
        """Replace hosts that are gone or silent, and follow the cluster's size."""
        now = time.monotonic()
        for host in list(self._hosts):
            if host.ready and host.tasks and self._is_silent(host, now) and not _has_answered(host):
                self._lose_host(host, TimeoutError(f"silent for {self._lease_s:g} s"))
        if now >= self._next_census:
            self._take_census()
        while len(self._hosts) < self._wanted:
            actor = self._actor_class.remote(self._memory_limit_mb, self._build_limit_s)
            self._hosts.append(_HostRecord(actor, actor.hello.remote(), now))

    def _is_silent(self, host: _HostRecord, now: float) -> bool:
        """Whether a host does not answer, or answers but has not brought anything in all this time."""
        longest_s = max(work.task.deadline_s for work in host.tasks.values())
        return (
            host.call is not None and now - host.called > EXCHANGE_S + self._lease_s
        ) or now - host.progress > longest_s + self._build_limit_s + self._lease_s

    def _take_census(self) -> None:
        self._next_census = time.monotonic() + CENSUS_S
        if self._hosts_asked is None:
            self._wanted = max(1, int(ray.cluster_resources().get("CPU", 1)))
        surplus = len(self._hosts) - self._wanted
        for host in [host for host in self._hosts if not host.ready][: max(surplus, 0)]:
            self._end_host(host)
        self._give_up_engines()

    def _lose_host(self, host: _HostRecord, error: Exception) -> None:
        if not host.ready:
            self._starts_failed += 1
            if self._starts_failed >= HOSTS_THAT_MAY_FAIL:
                raise ClusterError(
                    f"Hosts of the pool cannot be started, {self._starts_failed} in a row:"
                    f" {type(error).__name__}: {error} Every machine of the cluster should have the same"
                    " Python and the same neurofleet as this one."
                ) from error
        self._hosts_lost += 1
        self._end_host(host)
        for work in host.tasks.values():
            self._try_again(work, Outcome("lost", "its host was lost"))

    def _end_host(self, host: _HostRecord) -> None:
        self._hosts.remove(host)
        if host.ready:
            self._past_busy_s += host.busy_s
            self._past_available_s += time.monotonic() - host.since
        with suppress(RayError):
            ray.kill(host.actor)


def _has_answered(host: _HostRecord) -> bool:
    """Whether an answer is there that the driver, busy elsewhere, has not looked at."""
    return host.call is not None and bool(ray.wait([host.call], timeout=0, fetch_local=False)[0])
