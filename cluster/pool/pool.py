"""The driver's side of the pool: it takes tasks, returns outcomes, and replaces lost hosts."""

from __future__ import annotations

import itertools
import logging
import pickle
import sys
import time
from collections import Counter, deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray

from neurofleet.cluster.log_records import AboutLogger
from neurofleet.cluster.pool.host_worker import Assignment, HostReport
from neurofleet.cluster.pool.hosts import (
    EXCHANGE_S,
    DirectHosts,
    HostAnswer,
    HostLost,
    HostMessage,
    HostReady,
    Hosts,
    HostSettings,
    RelayedHosts,
)
from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome, PoolStatistics
from neurofleet.cluster.pool.scaling import ClusterScaling
from neurofleet.cluster.pool.schedule import Scheduler, Work
from neurofleet.errors import ClusterError

logger = AboutLogger(logging.getLogger(__name__), {})

RETRIES = 2
LEASE_S = 30.0
BUILD_LIMIT_S = 900.0
MEMORY_LIMIT_MB = 4096
COUNT_CPUS_EVERY_S = 5.0
CHECK_HOSTS_EVERY_S = 0.5
"""How often the driver looks for silent hosts and starts new ones."""

AVOIDED_S = 30.0
"""What a lost host had goes to others on its node after this time, when Ray knows whether the node is gone. Before, it
goes to those that were started since, and to other nodes: else a node that dies could lose one task several times."""

HOSTS_PER_RELAY = 500
"""A driver that calls each host itself takes about a thousand outcomes a second (measured). With more hosts than this,
they are called by relays, which are processes of their own on the cluster."""

HOSTS_THAT_MAY_FAIL = 5
NODES_THAT_MAY_FAIL = 3


@dataclass
class _EngineRecord:
    """An engine as the pool knows it."""

    factory: str
    payload: ray.ObjectRef
    unbuilt_on: dict[str, str] = field(default_factory=dict)
    failure: str = ""


@dataclass(eq=False)
class _HostRecord:
    """A host as the pool sees it."""

    number: int
    called_at: float
    answering: bool = True
    node: str = ""
    process: int = 0
    ready_at: float = 0.0
    engines_known: set[str] = field(default_factory=set)
    engines_to_forget: list[str] = field(default_factory=list)
    busy_s: float = 0.0
    progress_at: float = 0.0

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
        What one evaluation may allocate beyond the built engine; one that needs more is an ``error``.
    build_limit_s : float
        How long an engine may take to be built on a host.
    lease_s : float
        A host that has not answered for so long is replaced.
    run : str
        What the hosts' logs call the run.
    hosts_per_relay : int
        In a pool of more hosts than this, relays call them.
    max_hosts : int, optional
        Ask a cluster that can grow for as many hosts as have work, up to so many, and end idle ones that have none;
        when the pool is closed, ask for none. By default a pool takes the cluster as it is.

    Attributes
    ----------
    spread : bool
        Whether idle hosts build an engine as soon as that saves any time. Set it to False while there is other work
        that could be submitted for them (see `idle`).
    """

    def __init__(
        self,
        hosts: int | None = None,
        *,
        memory_limit_mb: int | None = MEMORY_LIMIT_MB,
        build_limit_s: float = BUILD_LIMIT_S,
        lease_s: float = LEASE_S,
        run: str = "",
        hosts_per_relay: int = HOSTS_PER_RELAY,
        max_hosts: int | None = None,
    ) -> None:
        self._hosts_asked = hosts
        self._scaling = None if max_hosts is None else ClusterScaling(max_hosts)
        self._build_limit_s = build_limit_s
        self._lease_s = lease_s
        self._settings = HostSettings(memory_limit_mb, build_limit_s, run)
        self._hosts_per_relay = hosts_per_relay
        self._host_calls: Hosts | None = None
        self._scheduler: Scheduler[_HostRecord] = Scheduler()
        self._ids: set[Hashable] = set()
        self._numbers = itertools.count()
        self._batches = itertools.count()
        self._engines: dict[str, _EngineRecord] = {}
        self._hosts: dict[int, _HostRecord] = {}
        self._host_numbers = itertools.count()
        self._answered: dict[_HostRecord, None] = {}
        self.spread = True
        self._done: list[tuple[Any, Outcome]] = []
        self._outcomes: Counter[str] = Counter()
        self._starts_failed = 0
        self._hosts_lost = 0
        self._retried = 0
        self._past_busy_s = 0.0
        self._past_available_s = 0.0
        self._hosts_wanted = hosts or 1
        self._next_count = self._next_check = 0.0
        self._avoiding: deque[tuple[float, list[tuple[Work, Collection[Hashable]]]]] = deque()

    def __enter__(self) -> Pool:
        self._count_cpus()
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
        """How many hosts the pool keeps; some may not be up yet."""
        return self._hosts_wanted

    @property
    def idle(self) -> int:
        """How many hosts have nothing to do, with no task waiting that they should take."""
        self._assign()
        return self._scheduler.idle

    def submit(self, task: EvaluationTask) -> None:
        """Submit a task; `completed` returns its outcome.

        Raises
        ------
        ValueError
            If a task of this id is not finished yet.
        """
        if task.id in self._ids:
            raise ValueError(f"a task with the id {task.id!r} is under way already")
        key = task.engine.key
        if key not in self._engines:
            payload = ray.put(pickle.dumps(task.engine.payload))
            self._engines[key] = _EngineRecord(task.engine.factory, payload)
        self._ids.add(task.id)
        self._queue_or_fail(Work(next(self._numbers), task))

    def withdraw(self, engine: str) -> int:
        """Drop the tasks of an engine, by its key, that no host has; return how many (without an outcome)."""
        works = self._scheduler.queue.remove_engine(engine)
        self._ids.difference_update(work.task.id for work in works)
        return len(works)

    def forget(self, engine: str) -> None:
        """Forget an engine, by its key, whose tasks are all done; hosts end it, which frees its memory."""
        if self._engines.pop(engine, None) is not None:
            self._scheduler.forget(engine)
            for host in self._hosts.values():
                if engine in host.engines_known:
                    host.engines_known.discard(engine)
                    host.engines_to_forget.append(engine)

    def completed(self, timeout_s: float) -> list[tuple[Any, Outcome]]:
        """Return the tasks that are finished, as (task id, outcome), each once.

        Returns as soon as there are some; after `timeout_s` with none; at once if no task is left.

        Raises
        ------
        ClusterError
            If hosts cannot be started.
        """
        give_up = time.monotonic() + timeout_s
        while True:
            self._maintain_hosts()
            self._assign()
            left_s = give_up - time.monotonic()
            if self._done or left_s <= 0 or not self._ids:
                done, self._done = self._done, []
                return done
            self._take_answers(left_s)

    def statistics(self) -> PoolStatistics:
        """Return what the pool has done so far."""
        now = time.monotonic()
        ready = [host for host in self._hosts.values() if host.ready]
        return PoolStatistics(
            hosts=len(ready),
            waiting=self._scheduler.waiting,
            running=self._scheduler.running,
            outcomes=dict(self._outcomes),
            hosts_lost=self._hosts_lost,
            retried=self._retried,
            busy_s=self._past_busy_s + sum(host.busy_s for host in ready),
            available_s=self._past_available_s + sum(now - host.ready_at for host in ready),
            engines_failed={key: engine.failure for key, engine in self._engines.items() if engine.failure},
        )

    def close(self) -> None:
        """End all hosts, and whatever they are doing."""
        if self._scaling is not None:
            self._scaling.close()
        for host in list(self._hosts.values()):
            self._end_host(host)

    def _take_answers(self, timeout_s: float) -> None:
        """Wait for a host to answer, and deal with all answers there are."""
        if not any(host.answering for host in self._hosts.values()):  # no engine that a host could build
            time.sleep(min(timeout_s, 0.1))
            return
        for number, answer in self._calls.answers(min(timeout_s, EXCHANGE_S)):
            self._hosts[number].answering = False
            self._take_answer(self._hosts[number], answer)

    def _take_answer(self, host: _HostRecord, answer: HostAnswer) -> None:
        if isinstance(answer, HostLost):
            self._lose_host(host, answer.reason)
        elif isinstance(answer, HostReady):
            self._add_host(host, answer)
        else:
            self._take_report(host, answer)

    def _add_host(self, host: _HostRecord, ready: HostReady) -> None:
        host.node, host.process = ready.node, ready.process
        host.ready_at = host.progress_at = time.monotonic()
        self._starts_failed = 0
        self._scheduler.join(host, host.node)

    def _take_report(self, host: _HostRecord, report: HostReport) -> None:
        now = time.monotonic()
        if report.outcomes or not self._scheduler.busy(host):
            host.progress_at = now
        host.busy_s = report.busy_s
        for number, outcome in report.outcomes:
            if outcome.status == "lost":
                self._try_again(self._scheduler.give_back(host, number), outcome)
            else:
                self._finish(self._scheduler.done(host, number, outcome.seconds), outcome)
        for number in report.returned:
            self._queue_or_fail(self._scheduler.give_back(host, number))
        for key, seconds in report.built.items():
            self._scheduler.queue.record_build(key, seconds)
        for key, reason in report.unbuilt.items():
            if key in self._engines:
                self._engines[key].unbuilt_on.setdefault(host.node, reason)
                self._scheduler.exclude(key, host.node)
        if report.unbuilt:
            self._give_up_engines()
        self._scheduler.set_stuck(host, report.stuck)
        if self._scheduler.busy(host):
            self._answered[host] = None

    def _give_up_engines(self) -> None:
        """End the tasks of engines that cannot be built on any node, or not on several."""
        nodes = {host.node for host in self._hosts.values() if host.ready}
        for key, engine in self._engines.items():
            failed_on = set(engine.unbuilt_on)
            if failed_on and not engine.failure and (nodes <= failed_on or len(failed_on) >= NODES_THAT_MAY_FAIL):
                engine.failure = f"the engine {key} could not be built: {next(iter(engine.unbuilt_on.values()))}"
                for work in self._scheduler.queue.remove_engine(key):
                    self._queue_or_fail(work)

    def _queue_or_fail(self, work: Work) -> None:
        """Queue a task, or finish it as an ``error`` if its engine cannot be built."""
        if failure := self._engines[work.task.engine.key].failure:
            self._finish(work, Outcome("error", failure))
        else:
            self._scheduler.submit(work)

    def _assign(self) -> None:
        """Give hosts what they should do next: first those that are idle, then those that have just answered."""
        for host, batch in self._scheduler.assign_idle(self.spread):
            host.progress_at = time.monotonic()
            self._send(host, batch)
        for host in sorted(self._answered, key=self._scheduler.load_s):
            self._send(host, self._scheduler.next_batch(host, self.spread))
        self._answered.clear()

    def _send(self, host: _HostRecord, batch: list[Work]) -> None:
        assignments, recipes, number = [], {}, next(self._batches)
        for work in batch:
            key = work.task.engine.key
            if key not in host.engines_known:
                host.engines_known.add(key)
                recipes[key] = (self._engines[key].factory, self._engines[key].payload)
            assignments.append(
                Assignment(
                    work.number,
                    number,
                    key,
                    work.task.individual,
                    work.task.deadline_s,
                    self._scheduler.queue.expected_s(work.task),
                    work.task.about,
                )
            )
        forgotten, host.engines_to_forget = host.engines_to_forget, []
        host.called_at, host.answering = time.monotonic(), True
        self._calls.send(host.number, HostMessage(assignments, recipes, forgotten))

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
            self._queue_or_fail(work)

    def _maintain_hosts(self) -> None:
        """Replace hosts that are lost or silent, and follow the cluster's size."""
        now = time.monotonic()
        if now < self._next_check and len(self._hosts) >= self._hosts_wanted:
            return
        self._next_check = now + CHECK_HOSTS_EVERY_S
        while self._avoiding and now - self._avoiding[0][0] > AVOIDED_S:
            for work, avoided in self._avoiding.popleft()[1]:
                if work.avoided is avoided:  # and not of another host that was lost since
                    work.avoided = ()
        for host in list(self._hosts.values()):
            if (
                host.ready
                and self._is_silent(host, now)
                and not (host.answering and self._calls.may_have_answered(host.number))
            ):
                self._lose_host(host, f"silent for {self._lease_s:g} s")
        if now >= self._next_count:
            self._count_cpus()
        while len(self._hosts) < self._hosts_wanted:
            host = _HostRecord(next(self._host_numbers), now)
            self._hosts[host.number] = host
            self._calls.start(host.number)

    @property
    def _calls(self) -> Hosts:
        """What calls the hosts: this process, or relays if there are many hosts when the first is started."""
        if self._host_calls is None:
            many = self._hosts_wanted > self._hosts_per_relay
            self._host_calls = (
                RelayedHosts(self._settings, self._hosts_per_relay) if many else DirectHosts(self._settings)
            )
        return self._host_calls

    def _is_silent(self, host: _HostRecord, now: float) -> bool:
        """Whether a host does not answer, or answers but has returned nothing for longer than its tasks may take."""
        tasks = self._scheduler.tasks(host)
        if not tasks:
            return False
        longest_s = max(task.deadline_s for task in tasks)
        return (
            host.answering and now - host.called_at > EXCHANGE_S + self._lease_s
        ) or now - host.progress_at > longest_s + self._build_limit_s + self._lease_s

    def _count_cpus(self) -> None:
        self._next_count = time.monotonic() + COUNT_CPUS_EVERY_S
        if self._hosts_asked is None:
            self._hosts_wanted = max(1, int(ray.cluster_resources().get("CPU", 1)))
        surplus = [host for host in self._hosts.values() if not host.ready]
        if self._scaling is not None:
            if self._ids:
                self._scaling.update(self._useful_hosts())
            self._hosts_wanted = min(self._hosts_wanted, self._scaling.hosts)
            surplus += [host for host in self._hosts.values() if host.ready and not self._scheduler.busy(host)]
        for host in surplus[: max(len(self._hosts) - self._hosts_wanted, 0)]:
            self._end_host(host)
        self._give_up_engines()

    def _useful_hosts(self) -> int:
        """How many hosts would have work: any number while there is work that was not submitted yet."""
        return self._scheduler.batches if self.spread else sys.maxsize

    def _lose_host(self, host: _HostRecord, reason: str) -> None:
        if not host.ready:
            self._starts_failed += 1
            if self._starts_failed >= HOSTS_THAT_MAY_FAIL:
                raise ClusterError(
                    f"Hosts of the pool cannot be started, {self._starts_failed} in a row: {reason} Every"
                    " machine of the cluster should have the same Python and the same neurofleet as this one."
                )
        self._hosts_lost += 1
        logger.info("a host was lost", node=host.node, cause=reason.partition("\n")[0])
        works = self._scheduler.leave(host)
        self._end_host(host)
        self._avoiding.append((time.monotonic(), [(work, work.avoided) for work in works]))
        for work in works:
            self._try_again(work, Outcome("lost", "its host was lost"))

    def _end_host(self, host: _HostRecord) -> None:
        del self._hosts[host.number]
        self._answered.pop(host, None)
        self._scheduler.leave(host)
        if host.ready:
            self._past_busy_s += host.busy_s
            self._past_available_s += time.monotonic() - host.ready_at
        self._calls.end(host.number)
