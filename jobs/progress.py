"""Progress of a running job is printed here: redrawn in place in a terminal, a line now and then elsewhere."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from neurofleet.jobs.terminal import fitted
from neurofleet.wording import duration as duration
from neurofleet.wording import time_left as time_left

REDRAW_S = 0.5
LINE_S = 10.0


class ProgressDisplay:
    """Shows what is going on, within a ``with`` block, on a console.

    Parameters
    ----------
    console : Console
    line_s : float
        Seconds between two lines, where the console is no terminal.
    at_once : bool
        Whether the first line comes at once, rather than after `line_s`.
    """

    def __init__(self, console: Console, line_s: float = LINE_S, *, at_once: bool = False) -> None:
        self._console = console
        self._line_s = line_s
        self._next = -math.inf if at_once or console.is_terminal else time.monotonic() + line_s
        self._live: Live | None = None

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, picture: Callable[[], RenderableType], line: Callable[[], str]) -> None:
        """Show a picture in a terminal, a line elsewhere; called often, draws seldom."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._live is not None:
            self._next = now + REDRAW_S
            shown = picture()
            if isinstance(shown, Table):
                shown = fitted(shown, self._console.width)
            self._live.update(shown, refresh=True)
        else:
            self._next = now + self._line_s
            self._console.print(line(), soft_wrap=True, markup=False, highlight=False)


class RecordLines(logging.Handler):
    """Prints records of a log on a console.

    Parameters
    ----------
    console : Console
    every_s : float
        Seconds between two lines, and before the first; records in between are passed over. By default all are printed.
    start : str
        Of each line.
    """

    def __init__(self, console: Console, every_s: float = 0.0, start: str = "") -> None:
        super().__init__()
        self._console, self._every_s, self._start = console, every_s, start
        self._next = time.monotonic() + every_s

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, if it is time for a line."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every_s
            self._console.print(self._start + record.getMessage(), soft_wrap=True, markup=False, highlight=False)


class BarProgress:
    """A bar of how much is done, for a ``with`` block.

    Parameters
    ----------
    doing : str
        Such as ``predicting``.
    total : float or None
        None while it is not known.
    console : Console
    columns : sequence of ProgressColumn
        What the bar shows after `doing`.
    line : callable
        Returns the line that is printed where the console is no terminal.
    """

    def __init__(
        self, doing: str, total: float | None, console: Console, columns: list[ProgressColumn], line: Callable[[], str]
    ) -> None:
        self._display = ProgressDisplay(console)
        self._line = line
        self._bar = Progress(TextColumn("{task.description}", markup=False), *columns, console=console)
        self._task = self._bar.add_task(doing, total=total)

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._display.__exit__()

    def update(self, completed: float, total: float | None) -> None:
        """Show that `completed` of `total` are done."""
        self._bar.update(self._task, completed=completed, total=total)
        self._display.update(self._bar.get_renderable, self._line)


class CountProgress:
    """Shows on a console how many of a number of things are done, within a ``with`` block.

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
        self._done = 0
        self._started = time.monotonic()
        columns = [
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{what},", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
        ]
        self._bar = BarProgress(doing, number, console, columns, self._line)

    def __enter__(self) -> "CountProgress":
        self._bar.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.__exit__()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def add(self, number: int) -> None:
        """Count so many more as done."""
        self._done += number
        if self._done < self._number:
            self._bar.update(self._done, self._number)

    def _line(self) -> str:
        left = (self._number - self._done) * self.seconds / max(self._done, 1)
        return ", ".join(
            filter(None, [f"{self._doing}: {self._done:,} of {self._number:,} {self._what}", time_left(left)])
        )
