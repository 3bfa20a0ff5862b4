"""Progress of a running job: a live table in a terminal, a line every half minute elsewhere."""

import math
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.state import CampaignState, CellState, StageState

REDRAW_S = 0.5
LINE_S = 30.0
SHOWN = 24


class Progress:
    """Shows what the job is doing, and when it will be done."""

    def __init__(self, name: str, resumed: bool, console: Console) -> None:
        self._console = console
        self._name = name
        self._started = time.monotonic()
        self._last = -math.inf
        self._live: Live | None = None
        self._console.print(f"{name}: {'resuming' if resumed else 'starting'} …")

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, state: Callable[[], CampaignState]) -> None:
        """Show the state of all fits; called often, draws seldom."""
        now = time.monotonic()
        if now - self._last < (REDRAW_S if self._live else LINE_S):
            return
        self._last = now
        if self._live is not None:
            self._live.update(self._table(state()), refresh=True)
        else:
            self._console.print(self._line(state()), soft_wrap=True)

    def finish(self, root: str, state: CampaignState) -> None:
        """Say that the job is over, which cells are done and which are not, and where the results are."""
        spent = duration(time.monotonic() - self._started)
        if len(state.cells) > 1 or state.count("failed"):
            self._console.print(ending(state))
        how = "stopped" if state.stopped else "done"
        self._console.print(f"{self._name}: {how} after {spent}. Results in {root}", soft_wrap=True)

    def _line(self, state: CampaignState) -> str:
        active = [(cell, stage) for cell, stage in _stages(state) if _is_active(stage)]
        active = active or [(cell, stage) for cell, stage in _stages(state) if stage.evaluations]
        shown = "; ".join(_stage_line(cell, stage) for cell, stage in active[-4:])
        return f"{self._name}: {summary(state)}" + (f" | {shown}" if shown else "")

    def _table(self, state: CampaignState) -> Table:
        table = Table(title=f"{self._name}: {summary(state)}", title_justify="left", expand=False)
        for column in ("cell", "stage", "seed", "phase"):
            table.add_column(column)
        for column in ("generation", "evaluations", "best", "median", "not ok"):
            table.add_column(column, justify="right")
        stages = _stages(state)
        if len(stages) > SHOWN:
            stages = [(cell, stage) for cell, stage in stages if _is_active(stage)]
        for cell, stage in stages[:SHOWN]:
            table.add_row(
                cell.cell,
                stage.stage,
                str(stage.seed),
                stage.phase,
                str(stage.generation),
                f"{stage.evaluations} / {stage.planned}",
                number(stage.best),
                number(stage.median),
                str(sum(n for status, n in stage.outcomes.items() if status != "ok")),
            )
        return table


def summary(state: CampaignState) -> str:
    """Return what is done and, at the pace of the last minutes, how long the rest takes.

    What a later stage costs is not known before it runs; it is mostly more, so the estimate says so.
    """
    names = {stage.stage for _, stage in _stages(state) if stage.phase != "done"}
    atleast = "at least " if len(names) > 1 and state.seconds_left else ""
    left = duration(math.inf if state.seconds_left is None else state.seconds_left)
    cells = f"{state.count('finished')} of {len(state.cells)} cells, " if len(state.cells) > 1 else ""
    failed = f"{state.count('failed')} failed, " if state.count("failed") else ""
    return (
        f"{cells}{failed}{state.evaluations} of {state.planned} evaluations, "
        f"{state.evaluations_per_s:.1f}/s, {atleast}{left} left"
    )


def ending(state: CampaignState) -> Table:
    """Return a table of cells: done, failed and why."""
    table = Table(title=f"{state.run}: {state.count('finished')} of {len(state.cells)} cells finished")
    for column, justify in (("cell", "left"), ("state", "left"), ("best", "right"), ("evaluations", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    told = any(cell.reason for cell in state.cells)
    if told:
        table.add_column("why")
    for cell in state.cells:
        reason = (cell.reason,) if told else ()
        table.add_row(cell.cell, cell.state, number(cell.total), str(cell.evaluations), *reason)
    return table


def _stages(state: CampaignState) -> list[tuple[CellState, StageState]]:
    return [(cell, stage) for cell in state.cells for stage in cell.stages]


def _is_active(stage: StageState) -> bool:
    return stage.phase not in ("done", "waiting")


def _stage_line(cell: CellState, stage: StageState) -> str:
    timeouts = stage.outcomes.get("timeout", 0)
    return (
        f"{cell.cell} {stage.stage} seed {stage.seed} generation {stage.generation}: "
        f"best {number(stage.best)}, median {number(stage.median)}, timeouts {timeouts}"
    )


def number(value: float | None) -> str:
    """Return a total for display; nothing when there is none yet."""
    return "" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a duration for display."""
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {secs} s" if minutes else f"{secs} s"
