"""The driver's end of the pool: takes tasks, returns outcomes, replaces lost hosts."""

from __future__ import annotations

import itertools
import logging
import pickle
import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray

from neurofleet.cluster.cluster_errors import ClusterError
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
from neurofleet.cluster.pool.schedule import Scheduler, Work

logger = AboutLogger(logging.getLogger(__name__), {})

RETRIES = 2
LEASE_S = 30.0
BUILD_LIMIT_S = 900.0
MEMORY_LIMIT_MB = 4096
COUNT_CPUS_EVERY_S = 5.0
CHECK_HOSTS_EVERY_S = 0.5
"""How often the driver looks for silent hosts and starts new ones."""

HOSTS_PER_RELAY = 500
"""Calling each host itself, a driver takes in about a thousand outcomes a second. More hosts than this are
called by relays, processes of their own on the cluster."""

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
    called: float
    answering: bool = True
    node: str = ""
    process: int = 0
    since: float = 0.0
    knows: set[str] = field(default_factory=set)
    forgets: list[str] = field(default_factory=list)
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
    run : str
        What the hosts' logs call the run.
    hosts_per_relay : int
        A pool of more hosts has them called by relays.

    Attributes
    ----------
    spread : bool
        Whether idle hosts build an engine as soon as that saves time at all. Set it to False while there is
        other work that could be handed in for them (see `idle`).
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
    ) -> None:
        self._hosts_asked = hosts
        self._build_limit_s = build_limit_s
        self._lease_s = lease_s
        self._terms = HostSettings(memory_limit_mb, build_limit_s, run)
        self._hosts_per_relay = hosts_per_relay
        self._crew: Hosts | None = None
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
        self._wanted = hosts or 1
        self._next_census = self._next_watch = 0.0

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

    @property
    def idle(self) -> int:
        """How many hosts have nothing to do, and nothing waits that they should do."""
        self._feed()
        return self._scheduler.idle

    def submit(self, task: EvaluationTask) -> None:
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
            self._engines[key] = _EngineRecord(task.engine.factory, payload)
        self._ids.add(task.id)
        self._wait(Work(next(self._numbers), task))

    def withdraw(self, engine: str) -> int:
        """Drop the tasks of an engine, by its key, that no host has; return how many (without an outcome)."""
        works = self._scheduler.queue.remove_engine(engine)
        self._ids.difference_update(work.task.id for work in works)
        return len(works)

    def forget(self, engine: str) -> None:
        """Let go of an engine, by its key, whose tasks are all done; hosts give its memory back."""
        if self._engines.pop(engine, None) is not None:
            self._scheduler.forget(engine)
            for host in self._hosts.values():
                if engine in host.knows:
                    host.knows.discard(engine)
                    host.forgets.append(engine)

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
        ready = [host for host in self._hosts.values() if host.ready]
        return PoolStatistics(
            hosts=len(ready),
            waiting=self._scheduler.waiting,
            running=self._scheduler.running,
            outcomes=dict(self._outcomes),
            hosts_lost=self._hosts_lost,
            retried=self._retried,
            busy_s=self._past_busy_s + sum(host.busy_s for host in ready),
            available_s=self._past_available_s + sum(now - host.since for host in ready),
            engines_failed={key: engine.failure for key, engine in self._engines.items() if engine.failure},
        )

    def close(self) -> None:
        """End all hosts, and with them whatever they are at."""
        for host in list(self._hosts.values()):
            self._end_host(host)

    def _listen(self, timeout_s: float) -> None:
        """Wait for a host to answer, and take in what has arrived."""
        if not any(host.answering for host in self._hosts.values()):  # no engine that a host could build
            time.sleep(min(timeout_s, 0.1))
            return
        for number, answer in self._talk.answers(min(timeout_s, EXCHANGE_S)):
            self._hosts[number].answering = False
            self._take_answer(self._hosts[number], answer)

    def _take_answer(self, host: _HostRecord, answer: HostAnswer) -> None:
        if isinstance(answer, HostLost):
            self._lose_host(host, answer.reason)
        elif isinstance(answer, HostReady):
            self._welcome(host, answer)
        else:
            self._take_report(host, answer)

    def _welcome(self, host: _HostRecord, present: HostReady) -> None:
        host.node, host.process = present.node, present.process
        host.since = host.progress = time.monotonic()
        self._starts_failed = 0
        self._scheduler.join(host, host.node)

    def _take_report(self, host: _HostRecord, report: HostReport) -> None:
        now = time.monotonic()
        if report.outcomes or not self._scheduler.busy(host):
            host.progress = now
        host.busy_s = report.busy_s
        for number, outcome in report.outcomes:
            if outcome.status == "lost":
                self._try_again(self._scheduler.give_back(host, number), outcome)
            else:
                self._finish(self._scheduler.done(host, number, outcome.seconds), outcome)
        for number in report.returned:
            self._wait(self._scheduler.give_back(host, number))
        for key, seconds in report.built.items():
            self._scheduler.queue.record_build(key, seconds)
        for key, reason in report.unbuilt.items():
            if key in self._engines:
                self._engines[key].unbuilt_on.setdefault(host.node, reason)
                self._scheduler.bar(key, host.node)
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
                    self._wait(work)

    def _wait(self, work: Work) -> None:
        """Queue a task, or end it if there is no engine for it."""
        if failure := self._engines[work.task.engine.key].failure:
            self._finish(work, Outcome("error", failure))
        else:
            self._scheduler.submit(work)

    def _feed(self) -> None:
        """Give the hosts that answer what they should do next, the idle ones first."""
        for host, batch in self._scheduler.feed(self.spread):
            host.progress = time.monotonic()
            self._send(host, batch)
        for host in sorted(self._answered, key=self._scheduler.load_s):
            self._send(host, self._scheduler.next_batch(host, self.spread))
        self._answered.clear()

    def _send(self, host: _HostRecord, batch: list[Work]) -> None:
        assignments, recipes, number = [], {}, next(self._batches)
        for work in batch:
            key = work.task.engine.key
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
                    self._scheduler.queue.expected_s(work.task),
                    work.task.about,
                )
            )
        forgotten, host.forgets = host.forgets, []
        host.called, host.answering = time.monotonic(), True
        self._talk.tell(host.number, HostMessage(assignments, recipes, forgotten))

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
        if now < self._next_watch and len(self._hosts) >= self._wanted:
            return
        self._next_watch = now + CHECK_HOSTS_EVERY_S
        for host in list(self._hosts.values()):
            if (
                host.ready
                and self._is_silent(host, now)
                and not (host.answering and self._talk.may_have_answered(host.number))
            ):
                self._lose_host(host, f"silent for {self._lease_s:g} s")
        if now >= self._next_census:
            self._take_census()
        while len(self._hosts) < self._wanted:
            host = _HostRecord(next(self._host_numbers), now)
            self._hosts[host.number] = host
            self._talk.start(host.number)

    @property
    def _talk(self) -> Hosts:
        """Those who call the hosts: this process, or relays when the first hosts are many."""
        if self._crew is None:
            many = self._wanted > self._hosts_per_relay
            self._crew = RelayedHosts(self._terms, self._hosts_per_relay) if many else DirectHosts(self._terms)
        return self._crew

    def _is_silent(self, host: _HostRecord, now: float) -> bool:
        """Whether a host does not answer, or answers but has not brought anything in all this time."""
        tasks = self._scheduler.tasks(host)
        if not tasks:
            return False
        longest_s = max(task.deadline_s for task in tasks)
        return (
            host.answering and now - host.called > EXCHANGE_S + self._lease_s
        ) or now - host.progress > longest_s + self._build_limit_s + self._lease_s

    def _take_census(self) -> None:
        self._next_census = time.monotonic() + COUNT_CPUS_EVERY_S
        if self._hosts_asked is None:
            self._wanted = max(1, int(ray.cluster_resources().get("CPU", 1)))
        surplus = len(self._hosts) - self._wanted
        for host in [host for host in self._hosts.values() if not host.ready][: max(surplus, 0)]:
            self._end_host(host)
        self._give_up_engines()

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
        for work in works:
            self._try_again(work, Outcome("lost", "its host was lost"))

    def _end_host(self, host: _HostRecord) -> None:
        del self._hosts[host.number]
        self._answered.pop(host, None)
        self._scheduler.leave(host)
        if host.ready:
            self._past_busy_s += host.busy_s
            self._past_available_s += time.monotonic() - host.since
        self._talk.end(host.number)
