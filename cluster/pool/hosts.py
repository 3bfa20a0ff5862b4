"""The hosts of a pool, Ray actors of one CPU each, and the calls to them, direct or by relays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray import ObjectRef
from ray.exceptions import RayError

from neurofleet.cluster.pool.host_worker import Assignment, HostReport, HostWorker, log_to_standard_error


class Host:
    """Made a Ray actor by the pool. See `HostWorker` for the arguments; `run` is for the log."""

    def __init__(self, memory_limit_mb: int | None, build_limit_s: float, run: str) -> None:
        log_to_standard_error(run)
        self._bench = HostWorker(memory_limit_mb, build_limit_s)

    def hello(self) -> tuple[str, int]:
        """The node it is on, and its process."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def exchange(
        self,
        assignments: Sequence[Assignment],
        recipes: Mapping[str, tuple[str, ObjectRef]],
        forgotten: Sequence[str],
        wait_s: float,
    ) -> HostReport:
        """Take new tasks in, and hand out what there is.

        `recipes` says how to build engines this host has not heard of: key -> factory, pickled payload.
        `forgotten` are engines that are not needed any more.
        """
        for key in forgotten:
            self._bench.forget_engine(key)
        for key, recipe in recipes.items():
            self._bench.add_engine(key, _FetchedRecipe(*recipe))
        return self._bench.exchange(assignments, wait_s)


class _FetchedRecipe:
    """A recipe whose payload is fetched when the engine is built."""

    def __init__(self, factory: str, payload: ObjectRef) -> None:
        self._factory = factory
        self._payload = payload

    def __call__(self) -> tuple[str, bytes]:
        return self._factory, ray.get(self._payload)


EXCHANGE_S = 1.0
"""A host answers after so long at the latest, also when it has nothing to tell."""


@dataclass(frozen=True)
class HostSettings:
    """What hosts are made with; see `neurofleet.cluster.pool.host_worker.HostWorker`. `run` is for their logs."""

    memory_limit_mb: int | None
    build_limit_s: float
    run: str


@dataclass(frozen=True)
class HostMessage:
    """What a host is told; see `neurofleet.cluster.pool.hosts.Host.exchange`."""

    assignments: list[Assignment]
    recipes: dict[str, tuple[str, ray.ObjectRef]]
    forgotten: list[str]


@dataclass(frozen=True)
class HostReady:
    """A host's first answer: the node it is on, and its process."""

    node: str
    process: int


@dataclass(frozen=True)
class HostLost:
    """A host that will not answer any more."""

    reason: str


HostAnswer = HostReady | HostReport | HostLost


class Hosts(Protocol):
    """Hosts by number. Each owes an answer after it was started, and after each message."""

    def start(self, host: int) -> None:
        """Start a host."""

    def tell(self, host: int, message: HostMessage) -> None:
        """Send a message to a host that owes no answer."""

    def end(self, host: int) -> None:
        """End a host, whatever it is at; its answer is not awaited any more."""

    def answers(self, timeout_s: float) -> list[tuple[int, HostAnswer]]:
        """Wait for an answer, and return all that have come."""

    def may_have_answered(self, host: int) -> bool:
        """Whether an answer of a host may be there that nobody has fetched yet."""


class DirectHosts:
    """Hosts that this process calls itself, as Ray actors."""

    def __init__(self, terms: HostSettings) -> None:
        self._terms = terms
        self._actor_class: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Host)
        self._actors: dict[int, Any] = {}
        self._calls: dict[ray.ObjectRef, int] = {}
        self._call_of: dict[int, ray.ObjectRef] = {}

    def start(self, host: int) -> None:
        terms = self._terms
        actor = self._actor_class.remote(terms.memory_limit_mb, terms.build_limit_s, terms.run)
        self._actors[host] = actor
        self._await(host, actor.hello.remote())

    def tell(self, host: int, message: HostMessage) -> None:
        call = self._actors[host].exchange.remote(message.assignments, message.recipes, message.forgotten, EXCHANGE_S)
        self._await(host, call)

    def end(self, host: int) -> None:
        if (call := self._call_of.pop(host, None)) is not None:
            del self._calls[call]
        if (actor := self._actors.pop(host, None)) is not None:
            with suppress(RayError):
                ray.kill(actor)

    def answers(self, timeout_s: float) -> list[tuple[int, HostAnswer]]:
        found: list[tuple[int, HostAnswer]] = []
        for call in _finished_calls(self._calls, timeout_s):
            host = self._calls.pop(call)
            del self._call_of[host]
            try:
                answer = ray.get(call)
            except RayError as error:
                found.append((host, HostLost(f"{type(error).__name__}: {error}")))
                continue
            found.append((host, answer if isinstance(answer, HostReport) else HostReady(*answer)))
        return found

    def may_have_answered(self, host: int) -> bool:
        call = self._call_of.get(host)
        return call is not None and bool(ray.wait([call], timeout=0, fetch_local=False)[0])

    def _await(self, host: int, call: ray.ObjectRef) -> None:
        self._calls[call] = host
        self._call_of[host] = call


def _finished_calls(calls: Iterable[ray.ObjectRef], timeout_s: float) -> list[ray.ObjectRef]:
    """Wait for one of some calls, and return all that are over."""
    waiting = list(calls)
    if not waiting:
        return []
    ready, _ = ray.wait(waiting, timeout=timeout_s, fetch_local=False)
    if ready and len(waiting) > 1:
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
    return ready


class Relay:
    """A crew in a process of its own, so that the driver need not call each of thousands of hosts."""

    def __init__(self, terms: HostSettings) -> None:
        self._crew = DirectHosts(terms)

    def exchange(
        self, ended: list[int], started: list[int], messages: list[tuple[int, HostMessage]], wait_s: float
    ) -> list[tuple[int, HostAnswer]]:
        """Do as a driver asks, and return the answers that come within `wait_s`."""
        for host in ended:
            self._crew.end(host)
        for host in started:
            self._crew.start(host)
        for host, message in messages:
            self._crew.tell(host, message)
        return self._crew.answers(wait_s)


@dataclass(eq=False)
class _RelayRecord:
    """A relay, its hosts, those of them that owe an answer, and what it is to do next."""

    actor: Any
    hosts: set[int] = field(default_factory=set)
    owing: set[int] = field(default_factory=set)
    ended: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    messages: dict[int, HostMessage] = field(default_factory=dict)

    def call(self, wait_s: float) -> ray.ObjectRef:
        """Have it do what there is to do, and wait for answers."""
        call = self.actor.exchange.remote(self.ended, self.started, list(self.messages.items()), wait_s)
        self.ended, self.started, self.messages = [], [], {}
        return call


class RelayedHosts:
    """Hosts that relays call, so many each; a relay that is lost takes its hosts along.

    Parameters
    ----------
    terms : HostSettings
    hosts_per_relay : int
    """

    WAIT_S = 0.1

    def __init__(self, terms: HostSettings, hosts_per_relay: int) -> None:
        self._terms = terms
        self._hosts_per_relay = hosts_per_relay
        self._actor_class: Any = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(Relay)
        self._relays: dict[_RelayRecord, None] = {}
        self._relay_of: dict[int, _RelayRecord] = {}
        self._calls: dict[ray.ObjectRef, _RelayRecord] = {}

    def start(self, host: int) -> None:
        relay = next((r for r in self._relays if len(r.hosts) < self._hosts_per_relay), None)
        if relay is None:
            relay = _RelayRecord(self._actor_class.remote(self._terms))
            self._relays[relay] = None
        relay.hosts.add(host)
        relay.owing.add(host)
        relay.started.append(host)
        self._relay_of[host] = relay

    def tell(self, host: int, message: HostMessage) -> None:
        relay = self._relay_of[host]
        relay.owing.add(host)
        relay.messages[host] = message

    def end(self, host: int) -> None:
        relay = self._relay_of.pop(host, None)
        if relay is None:
            return
        relay.hosts.discard(host)
        relay.owing.discard(host)
        relay.messages.pop(host, None)
        if host in relay.started:
            relay.started.remove(host)
        else:
            relay.ended.append(host)
        if not relay.hosts:
            self._drop(relay)

    def answers(self, timeout_s: float) -> list[tuple[int, HostAnswer]]:
        called = set(self._calls.values())
        for relay in self._relays:
            if relay not in called and (relay.owing or relay.ended):
                self._calls[relay.call(self.WAIT_S)] = relay
        found: list[tuple[int, HostAnswer]] = []
        for call in _finished_calls(self._calls, timeout_s):
            relay = self._calls.pop(call)
            try:
                answers = ray.get(call)
            except RayError as error:
                gone = HostLost(f"its relay was lost: {type(error).__name__}: {error}")
                answers = [(host, gone) for host in relay.hosts]
                self._drop(relay)
            for host, answer in answers:
                if host in relay.hosts:  # else it was ended meanwhile
                    relay.owing.discard(host)
                    found.append((host, answer))
        return found

    def may_have_answered(self, host: int) -> bool:
        relay = self._relay_of.get(host)
        calls = [call for call, called in self._calls.items() if called is relay]
        return bool(calls and ray.wait(calls, timeout=0, fetch_local=False)[0])

    def _drop(self, relay: _RelayRecord) -> None:
        """End a relay; the hosts that are its own end with it."""
        self._relays.pop(relay, None)
        with suppress(RayError):
            ray.kill(relay.actor)
