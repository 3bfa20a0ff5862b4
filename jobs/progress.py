"""Progress of a running job: a bar in a terminal, a line every half minute elsewhere."""

import math
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def duration(seconds: float) -> str:
    """Return a duration for display."""
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {secs} s" if minutes else f"{secs} s"


LINE_S = 10.0


class CountProgress:
    """Shows progress on standard error within a ``with`` block.

    Parameters
    ----------
    doing : str
        Such as ``predicting``.
    number : int
    what : str
        Is counted, such as ``cells``.
    console : Console
    """

    def __init__(self, doing: str, number: int, what: str, console: Console) -> None:
        self._doing = doing
        self._number = number
        self._what = what
        self._console = console
        self._done = 0
        self._started = self._told = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> "CountProgress":
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self._what},"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._doing, total=self._number)
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def add(self, number: int) -> None:
        """Count so many more as done."""
        self._done += number
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            return
        now = time.monotonic()
        if now - self._told < LINE_S or self._done == self._number:
            return
        self._told = now
        left = (self._number - self._done) * self.seconds / max(self._done, 1)
        self._console.print(
            f"{self._doing}: {self._done:,} of {self._number:,} {self._what}, about {duration(left)} left",
            soft_wrap=True,
        )
