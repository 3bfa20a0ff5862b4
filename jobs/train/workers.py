"""On how many workers a learner's job runs, and pieces of work done by them."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from jobs.interruption import raise_if_asked
from jobs.progress import duration
from jobs.train.spec import LearnerSpec

if TYPE_CHECKING:
    from rich.console import Console

Workers = int | tuple[int, int]


def workers_of(spec: LearnerSpec, address: str | None) -> Workers:
    """Return how many workers a job has: its own number, else one on a cluster and none here."""
    return spec.workers if spec.workers is not None else (1 if address else 0)


def most(workers: Workers) -> int:
    """Return how many workers there are at most."""
    return workers[1] if isinstance(workers, tuple) else workers


def connected(workers: Workers, address: str | None, cpus: int | None) -> AbstractContextManager[Any]:
    """Return the connection to Ray that so many workers need; without workers nothing is started."""
    from cluster.session import connect

    return connect(address, None if address else cpus) if workers else nullcontext()


def results_of(function: str, payloads: Sequence[Mapping[str, Any]], workers: int) -> Iterator[Any]:
    """Call ``module:name`` once a payload and yield what it returns, in their order.

    Parameters
    ----------
    workers : int
        0 works in this process, and can be interrupted between two calls; else on the Ray cluster that it is
        connected to.
    """
    if workers:
        from cluster.shards import map_shards

        yield from map_shards(function, payloads)
        return
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    for payload in payloads:
        raise_if_asked()
        yield call(payload)


class PiecesProgress:
    """A line for each piece that is done, with the time that the rest is likely to take.

    Parameters
    ----------
    kinds : sequence of str
        Of all pieces that are to be done: those of one kind take about as long as each other.
    at_once : int
        How many are done side by side.
    """

    def __init__(self, kinds: Sequence[str], at_once: int, console: "Console") -> None:
        self._left = list(kinds)
        self._number = len(kinds)
        self._at_once = at_once
        self._console = console
        self._seconds: dict[str, list[float]] = {}

    def done(self, kind: str, what: str, seconds: float) -> None:
        """Say that a piece is done, and how long it took."""
        self._left.remove(kind)
        self._seconds.setdefault(kind, []).append(seconds)
        self._console.print(
            f"{what}: done after {duration(seconds)}, {self._number - len(self._left)} of {self._number}"
            f" · about {duration(self.left_s())} left",
            soft_wrap=True,
            highlight=False,
        )

    def left_s(self) -> float:
        """Return the seconds left: kinds take as long as they took before, unknown ones as the mean."""
        means = {kind: sum(each) / len(each) for kind, each in self._seconds.items()}
        unknown = sum(means.values()) / len(means)
        return sum(means.get(kind, unknown) for kind in self._left) / self._at_once
