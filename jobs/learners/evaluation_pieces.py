"""The pieces of an evaluation: each is done by any process, which keeps what it has found in a file."""

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from neurofleet.cluster.ray.shards import map_shards
from neurofleet.jobs.interruption import raise_if_interrupted
from neurofleet.jobs.progress import duration

PIECES = "pieces"


@dataclass(frozen=True)
class Piece:
    """What is done at a time.

    Attributes
    ----------
    payload : mapping
        Plain JSON; its ``place`` is the file that is there once the piece is done.
    kind : str
        Pieces of one kind take about as long as each other.
    what : str
        For the line that says it is done.
    """

    payload: Mapping[str, Any]
    kind: str
    what: str


def do_missing(function: str, pieces: Sequence[Piece], workers: int, console: "Console") -> None:
    """Do the pieces that are not kept yet.

    Parameters
    ----------
    function : str
        ``module:name``; is given a payload, writes its file by `write_result`, and returns how many seconds it took.
        Who is at work on a piece writes the file, so that nothing is lost which ends behind a longer one.
    workers : int
        0 works in this process; else on the Ray cluster that it is connected to.
    """
    missing = [piece for piece in pieces if not Path(piece.payload["place"]).is_file()]
    progress = _Progress([piece.kind for piece in missing], max(workers, 1), console)
    results = _results_of(function, [piece.payload for piece in missing], workers)
    for piece, seconds in zip(missing, results, strict=True):
        progress.done(piece.kind, piece.what, seconds)


def write_result(place: Path, found: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a file of JSON, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(found, indent=indent))
    os.replace(partial, place)


def _results_of(function: str, payloads: Sequence[Mapping[str, Any]], workers: int) -> Iterator[Any]:
    """Call ``module:name`` once a payload and yield what it returns, in their order.

    Parameters
    ----------
    workers : int
        0 works in this process, and can be interrupted between two calls; else on the Ray cluster that it is
        connected to.
    """
    if workers:
        yield from map_shards(function, payloads)
        return
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    for payload in payloads:
        raise_if_interrupted()
        yield call(payload)


class _Progress:
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
