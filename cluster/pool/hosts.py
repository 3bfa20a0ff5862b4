"""The hosts of a pool, Ray actors of one CPU each, and the calls to them: direct, or through relays."""

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
        self._worker = HostWorker(memory_limit_mb, build_limit_s)

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
        """Take new tasks, and return the outcomes there are.

        `recipes` says how to build engines that are new to this host: key -> factory, pickled payload. `forgotten` are
        engines that are not needed any more.
        """
        for key in forgotten:
            self._worker.forget_engine(key)
        for key, recipe in recipes.items():
            self._worker.add_engine(key, _FetchedRecipe(*recipe))
        return self._worker.exchange(assignments, wait_s)


class _FetchedRecipe:
    """A recipe whose payload is fetched when the engine is built."""

    def __init__(self, factory: str, payload: ObjectRef) -> None:
        self._factory = factory
        self._payload = payload

    def __call__(self) -> tuple[str, bytes]:
        return self._factory, ray.get(self._payload)


EXCHANGE_S = 1.0
"""A host answers after so long at the latest, also when it has no outcome."""


@dataclass(frozen=True)
class HostSettings:
    """What hosts are made with; see `neurofleet.cluster.pool.host_worker.HostWorker`. `run` is for their logs."""

    memory_limit_mb: int | None
    build_limit_s: float
    run: str


@dataclass(frozen=True)
class HostMessage:
    """What is sent to a host; see `Host.exchange`."""

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
    """A host's last answer, made up here: it is gone."""

    reason: str


HostAnswer = HostReady | HostReport | HostLost


class Hosts(Protocol):
    """Hosts by number. Each answers once after it was started, and once after each message."""

    def start(self, host: int) -> None:
        """Start a host."""

    def send(self, host: int, message: HostMessage) -> None:
        """Send a message to a host that has answered the one before."""

    def end(self, host: int) -> None:
        """End a host, whatever it is doing; its answer is not awaited any more."""

    def answers(self, timeout_s: float) -> list[tuple[int, HostAnswer]]:
        """Wait for an answer, and return all that have come."""

    def may_have_answered(self, host: int) -> bool:
        """Whether a host may have answered, and the answer was not fetched yet."""


class DirectHosts:
    """Hosts that this process calls itself, as Ray actors."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._actor_class: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Host)
        self._actors: dict[int, Any] = {}
        self._calls: dict[ray.ObjectRef, int] = {}
        self._call_of: dict[int, ray.ObjectRef] = {}

    def start(self, host: int) -> None:
        settings = self._settings
        actor = self._actor_class.remote(settings.memory_limit_mb, settings.build_limit_s, settings.run)
        self._actors[host] = actor
        self._await(host, actor.hello.remote())

    def send(self, host: int, message: HostMessage) -> None:
        call = self._actors[host].exchange.remote(message.assignments, message.recipes, message.forgotten, EXCHANGE_S)
        self._await(host, call)

    def end(self, host: int) -> None:
        if (call := self._call_of.pop(host, None)) is not None:
            del self._calls[call]
        if (actor := self._actors.pop(host, None)) is not None:
            with suppress(RayError):
                ray.kill(actor)

    def answers(self, timeout_s: float) -> list[tuple[int, HostAnswer]]:
        answers_by_host: list[tuple[int, HostAnswer]] = []
        for call in _finished_calls(self._calls, timeout_s):
            host = self._calls.pop(call)
            del self._call_of[host]
            try:
                answer = ray.get(call)
            except RayError as error:
                answers_by_host.append((host, HostLost(f"{type(error).__name__}: {error}")))
                continue
            answers_by_host.append((host, answer if isinstance(answer, HostReport) else HostReady(*answer)))
        return answers_by_host

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
    """Calls hosts from a process of its own, so that the driver need not call each of thousands."""

    def __init__(self, settings: HostSettings) -> None:
        self._hosts = DirectHosts(settings)

    def exchange(
        self, ended: list[int], started: list[int], messages: list[tuple[int, HostMessage]], wait_s: float
    ) -> list[tuple[int, HostAnswer]]:
        """End, start and call hosts, and return the answers that come within `wait_s`."""
        for host in ended:
            self._hosts.end(host)
        for host in started:
            self._hosts.start(host)
        for host, message in messages:
            self._hosts.send(host, message)
        return self._hosts.answers(wait_s)


@dataclass(eq=False)
class _RelayRecord:
    """A relay, its hosts, those whose answer is awaited, and what it is to do next."""

    actor: Any
    hosts: set[int] = field(default_factory=set)
    awaited: set[int] = field(default_factory=set)
    ended: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    messages: dict[int, HostMessage] = field(default_factory=dict)

    def call(self, wait_s: float) -> ray.ObjectRef:
        """Have the relay do what is noted here, and return answers."""
        call = self.actor.exchange.remote(self.ended, self.started, list(self.messages.items()), wait_s)
        self.ended, self.started, self.messages = [], [], {}
        return call


class RelayedHosts:
    """Hosts that are called by relays, `hosts_per_relay` by each; with a relay that is lost its hosts are lost.

    Parameters
    ----------
    settings : HostSettings
    hosts_per_relay : int
    """

    WAIT_S = 0.1

    def __init__(self, settings: HostSettings, hosts_per_relay: int) -> None:
        self._settings = settings
        self._hosts_per_relay = hosts_per_relay
        self._actor_class: Any = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(Relay)
        self._relays: dict[_RelayRecord, None] = {}
        self._relay_of: dict[int, _RelayRecord] = {}
        self._calls: dict[ray.ObjectRef, _RelayRecord] = {}

    def start(self, host: int) -> None:
        relay = next((r for r in self._relays if len(r.hosts) < self._hosts_per_relay), None)
        if relay is None:
            relay = _RelayRecord(self._actor_class.remote(self._settings))
            self._relays[relay] = None
        relay.hosts.add(host)
        relay.awaited.add(host)
        relay.started.append(host)
        self._relay_of[host] = relay

    def send(self, host: int, message: HostMessage) -> None:
        relay = self._relay_of[host]
        relay.awaited.add(host)
        relay.messages[host] = message

    def end(self, host: int) -> None:
        relay = self._relay_of.pop(host, None)
        if relay is None:
            return
        relay.hosts.discard(host)
        relay.awaited.discard(host)
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
            if relay not in called and (relay.awaited or relay.ended):
                self._calls[relay.call(self.WAIT_S)] = relay
        answers_by_host: list[tuple[int, HostAnswer]] = []
        for call in _finished_calls(self._calls, timeout_s):
            relay = self._calls.pop(call)
            try:
                answers = ray.get(call)
            except RayError as error:
                lost = HostLost(f"its relay was lost: {type(error).__name__}: {error}")
                answers = [(host, lost) for host in relay.hosts]
                self._drop(relay)
            for host, answer in answers:
                if host in relay.hosts:  # else it was ended meanwhile
                    relay.awaited.discard(host)
                    answers_by_host.append((host, answer))
        return answers_by_host

    def may_have_answered(self, host: int) -> bool:
        relay = self._relay_of.get(host)
        calls = [call for call, called in self._calls.items() if called is relay]
        return bool(calls and ray.wait(calls, timeout=0, fetch_local=False)[0])

    def _drop(self, relay: _RelayRecord) -> None:
        """End a relay; Ray ends the hosts that it has started."""
        self._relays.pop(relay, None)
        with suppress(RayError):
            ray.kill(relay.actor)
