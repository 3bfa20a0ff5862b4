"""Progress of a campaign: printed in the terminal, sent to Prometheus, kept in the run's folder."""

import math
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from neurofleet.cluster.metrics import CampaignMetrics
from neurofleet.cluster.pool.pool import Pool
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.fit.campaign import Fits
from neurofleet.jobs.fit.campaign_state import STATUS, CampaignState, CellState, Observer, StageState
from neurofleet.jobs.progress import duration

REDRAW_S = 0.5
LINE_S = 30.0
SHOWN = 24


class FitProgress:
    """Shows what the job is doing, and when it will be done."""

    def __init__(self, name: str, resumed: bool, console: Console) -> None:
        self._console = console
        self._name = name
        self._last = -math.inf
        self._live: Live | None = None
        self._console.print(f"{name}: {'resuming' if resumed else 'starting'} …")

    def __enter__(self) -> "FitProgress":
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


def ending_table(state: CampaignState) -> Table:
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


SNAPSHOT_S = 15.0


class Watch:
    """Called a few times a second; tells each as often as it should hear."""

    def __init__(
        self,
        fits: Fits,
        pool: "Pool",
        observer: Observer,
        progress: FitProgress,
        metrics: "CampaignMetrics",
        store: "RunStore",
    ) -> None:
        self._fits = fits
        self._pool = pool
        self._observer = observer
        self._progress = progress
        self._metrics = metrics
        self._store = store
        self._snapshot_at = 0.0

    def __call__(self) -> None:
        self._progress.update(self._observer.state)
        if self._metrics.due:
            self._measure(self._observer.state())
        if time.monotonic() >= self._snapshot_at:
            self._store.write_text(STATUS, self._observer.state().to_json())
            self._snapshot_at = time.monotonic() + SNAPSHOT_S

    def close(self) -> CampaignState:
        """Tell all a last time, and return the state."""
        state = self._observer.state()
        self._store.write_text(STATUS, state.to_json())
        self._measure(state)
        return state

    def _measure(self, state: CampaignState) -> None:
        done, failed = state.count("finished"), state.count("failed")
        cells = {"done": done, "failed": failed, "left": len(state.cells) - done - failed}
        self._metrics.update(self._pool.statistics(), self._fits.active, cells)
