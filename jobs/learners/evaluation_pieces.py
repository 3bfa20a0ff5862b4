"""The pieces of an evaluation: each is done by any process, which keeps its result in a file."""

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from neurofleet.cluster.ray.shards import map_shards
from neurofleet.jobs.learners.learner_spec import Workers, most_workers
from neurofleet.jobs.progress import LINE_S, RecordLines, duration, time_left
from neurofleet.jobs.run_folder import raise_if_interrupted
from neurofleet.jobs.terminal import BETWEEN
from neurofleet.learners.progress import logged_to


@dataclass(frozen=True)
class Piece(ABC):
    """A part of an evaluation that is done at a time; it is sent to the process that does it.

    Attributes
    ----------
    file : Path
        Is there once the piece is done.
    kind : str
        Pieces of one kind take about as long as each other.
    title : str
        For the line that says it is done.
    """

    file: Path
    kind: str
    title: str

    @abstractmethod
    def result(self) -> Mapping[str, Any]:
        """Do the piece, and return what is kept in its file: plain JSON."""


def do_piece(payload: Mapping[str, Piece]) -> float:
    """Do the ``piece`` of a payload and write its file; return how many seconds it took.

    The process that does a piece writes its file, so that nothing is lost when the job ends before it hears of it.
    """
    piece = payload["piece"]
    started = time.monotonic()
    write_result(piece.file, piece.result())
    return time.monotonic() - started


def do_missing(pieces: Sequence[Piece], workers: Workers, console: Console) -> None:
    """Do the pieces whose file is not there yet.

    Parameters
    ----------
    workers : int or (int, int)
        0 works in this process; else on the Ray cluster that it is connected to.
    """
    missing = [piece for piece in pieces if not piece.file.is_file()]
    at_once = most_workers(workers)
    progress = _Progress([piece.kind for piece in missing], max(at_once, 1), console)
    for piece, seconds in zip(missing, _seconds_of(missing, at_once, console), strict=True):
        progress.done(piece, seconds)


def write_result(file: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a file of JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=indent))
    os.replace(partial, file)


def _seconds_of(pieces: Sequence[Piece], workers: int, console: Console) -> Iterator[float]:
    """Do all pieces and yield how long each took, in their order.

    In this process the work can be interrupted between two pieces, and what the learners log of a long one is printed.
    """
    payloads = [{"piece": piece} for piece in pieces]
    if workers:
        yield from map_shards(f"{do_piece.__module__}:{do_piece.__name__}", payloads)
        return
    for payload in payloads:
        raise_if_interrupted()
        with logged_to(RecordLines(console, LINE_S, f"{payload['piece'].title}: ")):
            seconds = do_piece(payload)
        yield seconds


class _Progress:
    """A line for each piece that is done, with the time that the rest is likely to take.

    Parameters
    ----------
    kinds : sequence of str
        Of all pieces that are to be done.
    at_once : int
        How many are done side by side.
    """

    def __init__(self, kinds: Sequence[str], at_once: int, console: Console) -> None:
        self._left = list(kinds)
        self._number = len(kinds)
        self._at_once = at_once
        self._console = console
        self._seconds: dict[str, list[float]] = {}

    def done(self, piece: Piece, seconds: float) -> None:
        """Print that a piece is done, and how long it took."""
        self._left.remove(piece.kind)
        self._seconds.setdefault(piece.kind, []).append(seconds)
        self._console.print(
            BETWEEN.join(
                filter(
                    None,
                    [
                        f"{piece.title}: done after {duration(seconds)}, {self._number - len(self._left)} of"
                        f" {self._number}",
                        time_left(self._left_s()),
                    ],
                )
            ),
            soft_wrap=True,
            highlight=False,
        )

    def _left_s(self) -> float:
        """Return the seconds left: kinds take as long as they took before, unknown ones as the mean."""
        means = {kind: sum(each) / len(each) for kind, each in self._seconds.items()}
        unknown = sum(means.values()) / len(means)
        return sum(means.get(kind, unknown) for kind in self._left) / self._at_once
