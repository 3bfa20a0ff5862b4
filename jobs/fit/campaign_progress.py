"""Progress of a campaign: printed in the terminal, sent to Prometheus, kept in the run's folder."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from neurofleet.cluster.metrics import CampaignMetrics
from neurofleet.cluster.pool.pool import Pool
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.fit.campaign import Fits
from neurofleet.jobs.fit.campaign_state import (
    FINAL,
    HOSTS_AGAIN,
    NO_HOSTS,
    STATUS,
    CampaignState,
    CellState,
    StageState,
    number,
    stages_of,
    summary,
)
from neurofleet.jobs.fit.cell_stages import waiting_states
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.fit.fit_problem import StagePlan
from neurofleet.jobs.fit.stage_search import SearchState
from neurofleet.jobs.notify import notify_in_background
from neurofleet.jobs.progress import ProgressDisplay
from neurofleet.jobs.run_log import fit_logger

LINE_S = 30.0
SHOWN = 24

logger = fit_logger()


class FitProgress:
    """Shows what a campaign is doing, and when it will be done, within a ``with`` block."""

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._display = ProgressDisplay(console, LINE_S, at_once=True)

    def __enter__(self) -> "FitProgress":
        self._display.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._display.__exit__()

    def update(self, state: Callable[[], CampaignState]) -> None:
        """Show the state of all fits; called often, draws seldom."""
        self._display.update(lambda: self._table(state()), lambda: self._line(state()))

    def _line(self, state: CampaignState) -> str:
        active = [(cell, stage) for cell, stage in stages_of(state) if _is_active(stage)]
        active = active or [(cell, stage) for cell, stage in stages_of(state) if stage.evaluations]
        shown = "; ".join(stage_line(cell, stage) for cell, stage in active[-4:])
        return f"{self._name}: {summary(state)}" + (f" | {shown}" if shown else "")

    def _table(self, state: CampaignState) -> Table:
        table = Table(title=f"{self._name}: {summary(state)}", title_justify="left", expand=False)
        for column in ("cell", "stage", "seed", "phase"):
            table.add_column(column)
        for column in ("generation", "evaluations", "best", "median", "not ok"):
            table.add_column(column, justify="right")
        stages = stages_of(state)
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


def _is_active(stage: StageState) -> bool:
    return stage.phase not in ("done", "waiting")


def stage_line(cell: CellState, stage: StageState) -> str:
    """Return how far a search is, in one line."""
    timeouts = stage.outcomes.get("timeout", 0)
    said = [f"best {number(stage.best)}"] * (stage.best is not None)
    said += [f"median {number(stage.median)}"] * (stage.median is not None)
    if not said:
        said = [f"{stage.evaluations} evaluations"]
    return (
        f"{cell.cell} {stage.stage} seed {stage.seed} generation {stage.generation}: "
        f"{', '.join(said)}, timeouts {timeouts}"
    )


PACE_S = 120.0

FIRST_HOSTS_S = 60.0
"""While a run is younger than this, its first hosts may still be starting."""


class Observer:
    """Makes the state of a running campaign.

    Parameters
    ----------
    spec : FitSpec
    plans : mapping
        Cell -> its stages, of all cells in the order of the job.
    fits : Fits
    pool : Pool
    stopped : callable
        Returns the limit that was reached, or nothing.
    before : CampaignState, optional
        The last state of an earlier start of the run.
    """

    def __init__(
        self,
        spec: FitSpec,
        plans: Mapping[str, Sequence[StagePlan]],
        fits: Fits,
        pool: Pool,
        stopped: Callable[[], str],
        before: CampaignState | None = None,
    ) -> None:
        ended = [cell for cell in before.cells if cell.state == "finished"] if before else []
        self._before = {cell.cell: cell for cell in ended}
        self._spec = spec
        self._plans = plans
        self._fits = fits
        self._pool = pool
        self._stopped = stopped
        self._pace: deque[tuple[float, int, float]] = deque()
        self._first_hosts_by = time.monotonic() + FIRST_HOSTS_S
        self._no_hosts_since = ""

    def watch_hosts(self) -> bool:
        """Note when the last host is lost, and when there are some again; return whether either has just happened."""
        before, now = self._no_hosts_since, time.monotonic()
        if self._pool.statistics().hosts:
            self._first_hosts_by, self._no_hosts_since = now, ""
        elif not before and now >= self._first_hosts_by:
            self._no_hosts_since = datetime.now(UTC).isoformat(timespec="seconds")
        return before != self._no_hosts_since

    def state(self) -> CampaignState:
        """The state now; called now and then, so that the pace of the last minutes is known."""
        searches = self._fits.states
        cells = [self._cell(cell, searches.get(cell)) for cell in self._plans]
        here = [search for states in searches.values() for search in states]
        new = sum(search.evaluated - search.replayed for search in here)
        rate, cores = self._paces(new, sum(search.seconds for search in here))
        open_cells = [cell.cell for cell in cells if cell.state in ("waiting", "open")]
        left_s = core_seconds_left(
            here, [search for cell in open_cells for search in searches.get(cell) or self._waiting(cell)]
        )
        statistics = self._pool.statistics()
        cores = min(cores or statistics.hosts, statistics.hosts)
        return CampaignState(
            run=self._spec.name,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            hosts=statistics.hosts,
            hosts_lost=statistics.hosts_lost,
            utilisation=round(statistics.utilisation, 4),
            evaluations=sum(cell.evaluations for cell in cells),
            planned=sum(max(cell.planned, cell.evaluations) for cell in cells),
            evaluations_per_s=round(rate, 3),
            core_hours=round(self._fits.core_seconds / 3600, 5),
            core_hours_left=None if left_s is None else round(left_s / 3600, 5),
            seconds_left=None if left_s is None or not cores else round(left_s / cores, 1),
            max_core_hours=self._spec.max_core_hours,
            max_wall_hours=self._spec.max_wall_hours,
            stopped=self._stopped(),
            cells=cells,
            no_hosts_since=self._no_hosts_since,
            quick=self._spec.quick,
        )

    def _cell(self, cell: str, searches: Sequence[SearchState] | None) -> CellState:
        finished, reason = self._fits.finished.get(cell), self._fits.failed.get(cell, "")
        if searches is None and finished and cell in self._before:
            return self._before[cell]
        planned = sum(state.planned for state in self._waiting(cell))
        if searches is None and finished is None:
            searches = self._waiting(cell)
            state = "waiting"
        else:
            state = "open" if cell in self._fits.open_cells else "stopped"
        if searches is not None:
            planned = sum(s.evaluated if s.finished else max(s.planned, s.evaluated) for s in searches)
        evaluations = finished["evaluations"] if finished else sum(s.evaluated for s in searches or ())
        return CellState(
            cell=cell,
            state="failed" if reason else "finished" if finished else state,  # type: ignore[arg-type]
            reason=reason,
            total=finished["total"] if finished else None,
            evaluations=evaluations,
            planned=evaluations if finished else planned,
            stages=[_stage(search) for search in searches or ()],
        )

    def _waiting(self, cell: str) -> list[SearchState]:
        return [state for stage in self._plans[cell] for state in waiting_states(cell, stage)]

    def _paces(self, done: int, seconds: float) -> tuple[float, float]:
        """Return evaluations per second, and seconds of evaluations per second, over the last two minutes."""
        now = time.monotonic()
        self._pace.append((now, done, seconds))
        while len(self._pace) > 2 and now - self._pace[0][0] > PACE_S:
            self._pace.popleft()
        since, done_before, seconds_before = self._pace[0]
        passed = max(now - since, 1e-9)
        return (done - done_before) / passed, (seconds - seconds_before) / passed


def core_seconds_left(known: Sequence[SearchState], left: Sequence[SearchState]) -> float | None:
    """Return how many seconds of evaluations are left; None while nothing has been evaluated.

    A search and its finalists, which NEURON scores again, are estimated apart: by what was measured of the same stage
    in any cell, else by all evaluations with the same engine, else by all.

    Parameters
    ----------
    known : sequence of SearchState
        Searches with evaluations, of this start or stored.
    left : sequence of SearchState
        Those of the cells that are not finished.
    """
    measured: dict[tuple[str, ...], list[float]] = {}
    for search in known:
        engine = search.choice.engine if search.choice else "neuron"
        searched = (search.seconds - search.final_seconds, search.evaluated - search.final_evaluated)
        for keys, (seconds, count) in (
            (((engine, search.stage), (engine,), ()), searched),
            ((("neuron", search.stage, FINAL), ("neuron",), ()), (search.final_seconds, search.final_evaluated)),
        ):
            for key in keys:
                total = measured.setdefault(key, [0.0, 0.0])
                total[0], total[1] = total[0] + seconds, total[1] + count

    def each(*keys: tuple[str, ...]) -> float:
        return next((s / n for s, n in (measured.get(key, (0.0, 0.0)) for key in keys) if n), 0.0)

    if not each(()):
        return None
    seconds_left = 0.0
    for search in left:
        if search.finished:
            continue
        engine = search.choice.engine if search.choice else "neuron"
        final = search.finalists - search.final_evaluated
        searching = search.planned - search.finalists - (search.evaluated - search.final_evaluated)
        if search.phase == "finalists":  # the search has ended, perhaps before its budget
            searching = 0
        seconds_left += max(searching, 0) * each((engine, search.stage), (engine,), ())
        seconds_left += max(final, 0) * each(("neuron", search.stage, FINAL), ("neuron",), ())
    return seconds_left


def _stage(search: SearchState) -> StageState:
    return StageState(
        stage=search.stage,
        seed=search.seed,
        phase="done" if search.finished else search.phase,
        generation=search.generation,
        evaluations=search.evaluated,
        planned=search.planned,
        best=_finite(search.best),
        median=_finite(search.median),
        outcomes=dict(search.outcomes),
        engine=search.choice.engine if search.choice else "",
        engine_reason=search.choice.reason if search.choice else "",
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


SNAPSHOT_S = 15.0


class CampaignReporter:
    """Reports the state of a campaign: to the display, to Prometheus, and into the run folder.

    It is called a few times a second and reports to each as often as it needs.
    """

    def __init__(
        self,
        fits: Fits,
        pool: Pool,
        observer: Observer,
        progress: FitProgress,
        metrics: CampaignMetrics,
        store: RunStore,
    ) -> None:
        self._fits = fits
        self._pool = pool
        self._observer = observer
        self._progress = progress
        self._metrics = metrics
        self._store = store
        self._snapshot_at = 0.0

    def __call__(self) -> None:
        if self._observer.watch_hosts():
            self._report_hosts(self._observer.state())
        self._progress.update(self._observer.state)
        if self._metrics.due:
            self._measure(self._observer.state())
        if time.monotonic() >= self._snapshot_at:
            self._store.write_text(self._store.part.file(STATUS), self._observer.state().to_json())
            self._snapshot_at = time.monotonic() + SNAPSHOT_S

    def _report_hosts(self, state: CampaignState) -> None:
        if state.no_hosts_since:
            self._store.append_event(NO_HOSTS, hosts_lost=state.hosts_lost)
            told = "no hosts are left: evaluations wait for machines that join the cluster"
            logger.warning(told)
            notify_in_background("stalled", told)
        else:
            self._store.append_event(HOSTS_AGAIN, hosts=state.hosts)
            logger.warning("there are hosts again: the run goes on")
            notify_in_background("resumed", "there are hosts again")
        self._snapshot_at = 0.0

    def close(self) -> CampaignState:
        """Report to all a last time, and return the state."""
        state = self._observer.state()
        self._store.write_text(self._store.part.file(STATUS), state.to_json())
        self._measure(state)
        return state

    def _measure(self, state: CampaignState) -> None:
        done, failed = state.count("finished"), state.count("failed")
        cells = {"done": done, "failed": failed, "left": len(state.cells) - done - failed}
        self._metrics.update(self._pool.statistics(), self._fits.active, cells)
