"""How many cells are done and how long the rest takes: a bar in a terminal, a line now and then elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.progress import duration

LINE_S = 10.0


class CellsProgress:
    """Shows progress on standard error within a ``with`` block.

    Parameters
    ----------
    doing : str
        Such as ``predicting``.
    n_cells : int
    console : Console
    """

    def __init__(self, doing: str, n_cells: int, console: Console) -> None:
        self._doing = doing
        self._n_cells = n_cells
        self._console = console
        self._done = 0
        self._started = self._told = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> "CellsProgress":
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("cells,"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._doing, total=self._n_cells)
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def add(self, n_cells: int) -> None:
        """Count cells as done."""
        self._done += n_cells
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            return
        now = time.monotonic()
        if now - self._told < LINE_S or self._done == self._n_cells:
            return
        self._told = now
        left = (self._n_cells - self._done) * self.seconds / max(self._done, 1)
        self._console.print(
            f"{self._doing}: {self._done:,} of {self._n_cells:,} cells, about {duration(left)} left",
            soft_wrap=True,
        )
