"""Progress of a running job: a live table in a terminal, a line every half minute elsewhere."""

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.search import SearchState

if TYPE_CHECKING:
    from cluster.pool import Pool
    from jobs.cell_fit import CellFit

REDRAW_S = 0.5
LINE_S = 30.0
SHOWN = 24
PACE_S = 120.0


class Progress:
    """Shows what the fit is doing, and when it will be done."""

    def __init__(self, name: str, resumed: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._name = name
        self._started = time.monotonic()
        self._last = -math.inf
        self._live: Live | None = None
        self._pace: deque[tuple[float, int]] = deque()
        self._console.print(f"{name}: {'resuming' if resumed else 'starting'} …")

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def warn(self, text: str) -> None:
        """Tell the user something about the input that does not stop the job."""
        self._console.print(f"warning: {text}", soft_wrap=True, markup=False, highlight=False)

    def update(self, fits: "Sequence[CellFit]", pool: "Pool") -> None:
        """Show the state of all fits; called often, draws seldom."""
        now = time.monotonic()
        if now - self._last < (REDRAW_S if self._live else LINE_S):
            return
        self._last = now
        states = [state for fit in fits for state in fit.states()]
        if self._live is not None:
            self._live.update(self._table(states), refresh=True)
        else:
            self._console.print(self._line(states), soft_wrap=True)

    def finish(self, root: str) -> None:
        """Say that the job is done and where its results are."""
        spent = duration(time.monotonic() - self._started)
        self._console.print(f"{self._name}: done in {spent}. Results in {root}")

    def _summary(self, states: Sequence[SearchState]) -> str:
        """Return what is done and, at the pace of the last minutes, how long the rest takes.

        What a later stage costs is not known before it runs; it is mostly more, so the estimate says so.
        """
        now, evaluated = time.monotonic(), sum(state.evaluated for state in states)
        self._pace.append((now, sum(state.evaluated - state.replayed for state in states)))
        while len(self._pace) > 2 and now - self._pace[0][0] > PACE_S:
            self._pace.popleft()
        (since, before), (until, done) = self._pace[0], self._pace[-1]
        rate = (done - before) / max(until - since, 1e-9)
        unfinished = [state for state in states if not state.finished]
        left = sum(max(state.planned - state.evaluated, 0) for state in unfinished)
        coming = len({state.stage for state in unfinished}) > 1
        planned = sum(max(state.planned, state.evaluated) for state in states)
        time_left = (
            f"{'at least ' if coming and rate else ''}{duration(left / rate if rate else math.inf)} left"
        )
        return f"{evaluated} of {planned} evaluations, {rate:.1f}/s, {time_left}"

    def _line(self, states: Sequence[SearchState]) -> str:
        active = [s for s in states if s.evaluated and not s.finished] or [s for s in states if s.evaluated]
        shown = "; ".join(_state_line(state) for state in active[-4:])
        return f"{self._name}: {self._summary(states)}" + (f" | {shown}" if shown else "")

    def _table(self, states: Sequence[SearchState]) -> Table:
        table = Table(title=f"{self._name}: {self._summary(states)}", title_justify="left", expand=False)
        for column in ("cell", "stage", "seed", "phase"):
            table.add_column(column)
        for column in ("generation", "evaluations", "best", "median", "not ok"):
            table.add_column(column, justify="right")
        open_states = [s for s in states if not s.finished]
        shown = (states if len(states) <= SHOWN else open_states)[:SHOWN]
        for state in shown:
            failed = sum(n for status, n in state.outcomes.items() if status != "ok")
            table.add_row(
                state.cell,
                state.stage,
                str(state.seed),
                "done" if state.finished else state.phase,
                str(state.generation),
                f"{state.evaluated} / {state.planned}",
                number(state.best),
                number(state.median),
                str(failed),
            )
        return table


def _state_line(state: SearchState) -> str:
    timeouts = state.outcomes.get("timeout", 0)
    return (
        f"{state.cell} {state.stage} seed {state.seed} generation {state.generation}: "
        f"best {number(state.best)}, median {number(state.median)}, timeouts {timeouts}"
    )


def number(value: float) -> str:
    """Return a total for display; nothing when there is none yet."""
    return f"{value:.4g}" if math.isfinite(value) else ""


def duration(seconds: float) -> str:
    """Return a duration for display."""
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {secs} s" if minutes else f"{secs} s"
