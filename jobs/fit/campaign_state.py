"""The state of a campaign at one moment: what a terminal shows of it, and what its folder keeps of it."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from neurofleet.cluster.pool.pool import Pool
from neurofleet.jobs.fit.campaign import Fits
from neurofleet.jobs.fit.cell_stages import waiting_states
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.fit.fit_problem import StagePlan
from neurofleet.jobs.fit.stage_search import SearchState

STATUS = "status.json"
PACE_S = 120.0


@dataclass(frozen=True)
class StageState:
    """One stage of one cell with one seed. `best` is the best total so far, None before there is one.

    `engine` and `engine_reason` are empty where nothing is to be chosen, or has been yet.
    """

    stage: str
    seed: int
    phase: str
    generation: int
    evaluations: int
    planned: int
    best: float | None
    median: float | None
    outcomes: Mapping[str, int]
    engine: str = ""
    engine_reason: str = ""


@dataclass(frozen=True)
class CellState:
    """One cell. `total` is the best of its hall of fame, None before it is finished."""

    cell: str
    state: Literal["waiting", "open", "stopped", "finished", "failed"]
    reason: str
    total: float | None
    evaluations: int
    planned: int
    stages: Sequence[StageState]


@dataclass(frozen=True)
class CampaignState:
    """All cells of a run, and how fast it goes.

    Attributes
    ----------
    run : str
    at : str
        When this was so, UTC.
    hosts, hosts_lost : int
    utilisation : float
        Part of the hosts' time, since this start of the run, that went into evaluations.
    evaluations, planned : int
        Of the whole run.
    evaluations_per_s : float
        Over the last two minutes.
    core_hours : float
        Spent on evaluations, in the whole run.
    core_hours_left, seconds_left : float or None
        At the present pace, None while nothing is known of it. Later stages are mostly more expensive.
    max_core_hours, max_wall_hours : float or None
    stopped : str
        The limit that was reached.
    cells : sequence of CellState
    """

    run: str
    at: str
    hosts: int
    hosts_lost: int
    utilisation: float
    evaluations: int
    planned: int
    evaluations_per_s: float
    core_hours: float
    core_hours_left: float | None
    seconds_left: float | None
    max_core_hours: float | None
    max_wall_hours: float | None
    stopped: str
    cells: Sequence[CellState]

    def count(self, *states: str) -> int:
        """How many cells are in one of these states."""
        return sum(cell.state in states for cell in self.cells)

    def to_json(self) -> str:
        """As text; numbers that are not finite are null."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "CampaignState":
        """Read back what `to_json` made."""
        found: dict[str, Any] = json.loads(text)
        cells = [
            CellState(**cell | {"stages": [StageState(**stage) for stage in cell["stages"]]})
            for cell in found.pop("cells")
        ]
        return cls(**found, cells=cells)


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
        pool: "Pool",
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
        self._pace: deque[tuple[float, int]] = deque()

    def state(self) -> CampaignState:
        """The state now; called now and then, so that the pace of the last minutes is known."""
        searches = self._fits.states
        cells = [self._cell(cell, searches.get(cell)) for cell in self._plans]
        here = [search for states in searches.values() for search in states]
        rate = self._rate(sum(search.evaluated - search.replayed for search in here))
        left = sum(cell.planned - cell.evaluations for cell in cells if cell.state in ("waiting", "open"))
        evaluated, seconds = sum(s.evaluated for s in here), sum(s.seconds for s in here)
        statistics = self._pool.statistics()
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
            core_hours_left=round(left * seconds / evaluated / 3600, 5) if evaluated else None,
            seconds_left=round(left / rate, 1) if rate else None,
            max_core_hours=self._spec.max_core_hours,
            max_wall_hours=self._spec.max_wall_hours,
            stopped=self._stopped(),
            cells=cells,
        )

    def _cell(self, cell: str, searches: Sequence[SearchState] | None) -> CellState:
        finished, reason = self._fits.finished.get(cell), self._fits.failed.get(cell, "")
        if searches is None and finished and cell in self._before:
            return self._before[cell]
        planned = sum(stage.planned_evaluations for stage in self._plans[cell])
        if searches is None and finished is None:
            searches = [state for stage in self._plans[cell] for state in waiting_states(cell, stage)]
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

    def _rate(self, done: int) -> float:
        """Evaluations per second over the last two minutes."""
        now = time.monotonic()
        self._pace.append((now, done))
        while len(self._pace) > 2 and now - self._pace[0][0] > PACE_S:
            self._pace.popleft()
        since, before = self._pace[0]
        return (done - before) / max(now - since, 1e-9)


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
