"""What a pool is given and what it returns: engines, tasks, outcomes, and statistics of them."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["ok", "timeout", "crash", "error", "lost"]
STATUSES: tuple[Status, ...] = ("ok", "timeout", "crash", "error", "lost")


@dataclass(frozen=True)
class Outcome:
    """What became of one evaluation. A value, never an exception.

    Attributes
    ----------
    status : str
        ``ok``; ``timeout``: over its deadline or its budget; ``crash``: its process ended; ``error``: the
        engine raised, or could not be built; ``lost``: the process or host that evaluated it went away, or was stopped
        by a signal beyond the deadline, more than once.
    reason : str
        Why it is not ``ok``, else empty. Free of times, process numbers and host names, so that equal
        evaluations have equal reasons.
    seconds : float
        Wall-clock time of the evaluation; of one that was computed together with others, an equal part of it.
    value : object
        What the engine yielded, None unless ``ok``.
    """

    status: Status
    reason: str = ""
    seconds: float = 0.0
    value: Any = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Failure:
    """Yielded by an engine in place of a value: this individual is an ``error``, the batch goes on.

    `reason` is that of the `Outcome`.
    """

    reason: str


class BudgetExceeded(Exception):
    """Raised by an engine that gives up on an individual: over the deadline, too many steps."""


class Budget:
    """The deadline of the individual being evaluated, for engines that check the clock while they step.

    Attributes
    ----------
    deadline_s : float
        How long this individual may take.
    deadline : float
        The moment it is over, on the clock of `time.monotonic`.
    """

    def __init__(self, deadline_s: float) -> None:
        self.restart(deadline_s)

    def restart(self, deadline_s: float) -> None:
        """Start the clock for the next individual."""
        self.deadline_s = deadline_s
        self.deadline = time.monotonic() + deadline_s

    def check(self) -> None:
        """Raise `BudgetExceeded` when the deadline has passed."""
        if time.monotonic() > self.deadline:
            raise BudgetExceeded(deadline_reason(self.deadline_s))


def deadline_reason(deadline_s: float) -> str:
    """Return the reason of a ``timeout``: the same words whether the engine, the child or the host noticed it."""
    return f"no result within {deadline_s:g} s"


class Engine(Protocol):
    """What a factory returns: it evaluates individuals of one model, by any method.

    An engine may set ``isolation``. With ``"individual"`` (the default) every individual is evaluated by a
    fresh copy of the engine as it was built, so that a value cannot depend on what was evaluated before.
    With ``"batch"`` one copy gets a whole batch (a vector of models, say); when that copy times out or dies, any of its
    individuals may be the cause, and those without a value are run one by one.

    A batch has the longest of its deadlines until its first value, so tasks for an engine that computes several at once
    are submitted with the time of all. What passes until then is divided equally among them: the `seconds` of a batch's
    outcomes add up to what it took.
    """

    def evaluate(self, batch: Sequence[Any], budget: Budget) -> Iterator[Any]:
        """Yield one picklable value per individual of the batch, in order; `Failure` for one without.

        The deadline is that of the value being waited for: it starts anew with each value yielded.
        Raising `BudgetExceeded` makes that individual a ``timeout``, any other exception an ``error``; those
        behind it are evaluated again.
        """
        ...


@dataclass(frozen=True)
class EngineSpec:
    """How to build an engine, on any machine of the cluster.

    Attributes
    ----------
    factory : str
        ``"module:function"``; called with `payload`, returns an `Engine`. It should start no threads: the
        engine is copied by forking.
    payload : object
        Anything that can be pickled. Sent once to each host.
    key : str
        Equal keys mean equal engines; a host keeps the engine it has built while it gets tasks of that key.
    lanes : int
        How many individuals it evaluates in the time of one; batches are full multiples of that while enough wait.
    """

    factory: str
    payload: Any
    key: str
    lanes: int = 1


@dataclass(frozen=True)
class EvaluationTask:
    """One individual to evaluate.

    Attributes
    ----------
    id : hashable
        The submitter's name for it; unique among the tasks that are not finished.
    engine : EngineSpec
    individual : object
        What the engine's batch holds, usually parameter values, shape (P,).
    deadline_s : float
        Wall-clock limit. An evaluation over it is stopped, whatever it is doing, and is a ``timeout``. See
        `Engine` for those that are evaluated together.
    expected_s : float, optional
        A guess of its duration; the longest are started first, then those without, in the order they came.
    share : str
        Tasks of different shares get hosts' time in proportion to their weights, whatever their number.
    weight : float
        Of the share, above 0.
    rank : int
        Within a share, tasks of lower ranks go first. Below zero it is minus the work left, and hosts spread over
        engines in proportion to that.
    about : mapping
        What a host's log says of it (cell, stage, seed, generation). The tasks of a generation should share one
        object: it is then sent once a batch.
    """

    id: Hashable
    engine: EngineSpec
    individual: Any
    deadline_s: float
    expected_s: float | None = None
    share: str = ""
    weight: float = 1.0
    rank: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PoolStatistics:
    """What the pool has done so far.

    Attributes
    ----------
    hosts : int
        Hosts that answer.
    waiting, running : int
        Tasks not yet given to a host, and given but not finished.
    outcomes : dict
        Status -> number of tasks.
    hosts_lost, retried : int
        Hosts that went away, and evaluations begun again because of that.
    busy_s, available_s : float
        Time spent on evaluations that finished, and time that hosts were there, summed over hosts.
    engines_failed : dict
        Engine key -> why it cannot be built.
    """

    hosts: int
    waiting: int
    running: int
    outcomes: dict[str, int]
    hosts_lost: int
    retried: int
    busy_s: float
    available_s: float
    engines_failed: dict[str, str]

    @property
    def utilisation(self) -> float:
        """Busy part of the hosts' time."""
        return self.busy_s / self.available_s if self.available_s else 0.0
