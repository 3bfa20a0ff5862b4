"""The state of a campaign as its folder keeps it: ``status.json``, and the events of cells and stages."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

from rich.table import Table

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.progress import duration

STATUS = "status.json"

RECORDING_READ, STAGE_STARTED, STAGE_FINISHED, CELL_FINISHED, CELL_FAILED, NO_HOSTS, HOSTS_AGAIN = (
    "recording read",
    "stage started",
    "stage finished",
    "cell finished",
    "cell failed",
    "no hosts",
    "hosts again",
)
"""Events of a run."""

LEARNED_FROM = "learned_from"
"""Field of the event that a cell's last stage has started: the cells whose models it starts from."""

SCORING = "scoring"
"""Field of the event that a stage has started: what its scores depend on beside the job and the inputs."""

FINAL = "_final"
"""Ends the name of a stage under which its finalists, scored again more tightly, are stored."""

FEW = 100
"""With fewer evaluations of a stage, or fewer than a fifth of them, what it costs is hardly known."""

SHOWN_CELLS = 6
AS_BEGUN = "as it was begun"


Engine = Literal["neuron", "vector"]


@dataclass(frozen=True)
class EngineChoice:
    """The engine that searches a stage, and why: of NEURON, what the vector engine cannot do."""

    engine: Engine
    reason: str

    def __str__(self) -> str:
        return f"engine {self.engine} ({self.reason.rstrip('.')})"


RecordedChoices = Mapping[str, EngineChoice]
"""Stage -> the engine that it was begun with."""


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
        At the present pace, None while nothing is known of it. Later stages mostly cost other than the present one.
    max_core_hours, max_wall_hours : float or None
    stopped : str
        The limit that was reached.
    cells : sequence of CellState
    no_hosts_since : str
        When the last host was lost, UTC; empty while there are some.
    quick : bool
        Whether it is a quick run.
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
    no_hosts_since: str = ""
    quick: bool = False

    def count(self, *states: str) -> int:
        """How many cells are in one of these states."""
        return sum(cell.state in states for cell in self.cells)

    def to_json(self) -> str:
        """As text; numbers that are not finite are null."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "CampaignState":
        """Read back what `to_json` made."""
        content: dict[str, Any] = json.loads(text)
        cells = [
            CellState(**cell | {"stages": [StageState(**stage) for stage in cell["stages"]]})
            for cell in content.pop("cells")
        ]
        return cls(**content, cells=cells)


def read_state(store: RunStore) -> CampaignState | None:
    """Return the state of a run, of all its parts together; None where it has not begun."""
    states = [CampaignState.from_json(text) for text in store.read_texts(STATUS)]
    return together(sorted(states, key=lambda state: state.at)) if states else None


def together(states: Sequence[CampaignState]) -> CampaignState:
    """Return the state of a campaign from those of its parts, the latest last: of each cell the latest counts."""
    if len(states) == 1:
        return states[0]
    cells = {cell.cell: cell for state in states for cell in state.cells}
    hosts = sum(state.hosts for state in states)
    pace = [state.seconds_left for state in states if state.seconds_left]
    hours_left = [state.core_hours_left for state in states if state.core_hours_left is not None]
    return replace(
        states[-1],
        hosts=hosts,
        hosts_lost=sum(state.hosts_lost for state in states),
        utilisation=round(sum(state.utilisation * state.hosts for state in states) / max(hosts, 1), 4),
        evaluations=sum(cell.evaluations for cell in cells.values()),
        planned=sum(max(cell.planned, cell.evaluations) for cell in cells.values()),
        evaluations_per_s=round(sum(state.evaluations_per_s for state in states), 3),
        core_hours=round(sum(state.core_hours for state in states), 5),
        core_hours_left=sum(hours_left) if hours_left else None,
        seconds_left=max(pace, default=None),
        stopped="; ".join(dict.fromkeys(state.stopped for state in states if state.stopped)),
        cells=list(cells.values()),
    )


def summary(state: CampaignState) -> str:
    """Return what is done and, at the pace of the last minutes, how long the rest takes.

    What a stage costs is not known before it has run for a while, so until then the estimate is called a first one.
    """
    open_stages = [stage for cell in state.cells if cell.state in ("waiting", "open") for stage in cell.stages]
    left = f"about {duration(math.inf if state.seconds_left is None else state.seconds_left)} left"
    if state.seconds_left is None:
        left = "unknown time left"
    elif any(stage.phase != "done" for stage in open_stages):
        count = Counter[str]()
        for _, stage in stages_of(state):
            count[stage.stage] += stage.evaluations
        if any(count[stage.stage] < min(FEW, 0.2 * stage.planned) for stage in open_stages if stage.phase != "done"):
            left = f"first estimate: {duration(state.seconds_left)} left"
    elif open_stages:
        left = "simulating the best models again, to store their traces"
    elif not state.seconds_left:
        left = "all done"
    cells = f"{state.count('finished')} of {len(state.cells)} cells, " if len(state.cells) > 1 else ""
    failed = f"{state.count('failed')} failed, " if state.count("failed") else ""
    pace = f"{state.evaluations_per_s:.1f}/s, {left}"
    if state.no_hosts_since:
        pace = f"no hosts since {datetime.fromisoformat(state.no_hosts_since):%Y-%m-%d %H:%M:%S} UTC, waiting"
    return f"{cells}{failed}{state.evaluations} of {state.planned} evaluations, {pace}"


def ending_table(state: CampaignState) -> Table:
    """Return a table of cells: done, failed and why."""
    table = Table(title=f"{state.run}: {state.count('finished')} of {len(state.cells)} cells finished")
    for column, justify in (("cell", "left"), ("state", "left"), ("best", "right"), ("evaluations", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    with_reasons = any(cell.reason for cell in state.cells)
    if with_reasons:
        table.add_column("why")
    for cell in state.cells:
        reason = (cell.reason,) if with_reasons else ()
        table.add_row(cell.cell, cell.state, number(cell.total), str(cell.evaluations), *reason)
    return table


def number(value: float | None) -> str:
    """Return a total for display; nothing when there is none yet."""
    return "" if value is None else f"{value:.4g}"


def recorded_choices(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, EngineChoice]]:
    """Return cell -> stage -> engine, of all stages that a run has begun."""
    choices: dict[str, dict[str, EngineChoice]] = {}
    for event in events:
        if event["event"] == STAGE_STARTED:
            choice = EngineChoice(event.get("engine", "neuron"), event.get("engine_reason") or AS_BEGUN)
            choices.setdefault(event["cell"], {})[event["stage"]] = choice
    return choices


def engine_lines(stages: Iterable[tuple[str, str, EngineChoice]]) -> list[str]:
    """Say which engine stages have and why, all cells alike in one line.

    Parameters
    ----------
    stages : iterable of (cell, stage, EngineChoice)
    """
    alike: dict[tuple[str, EngineChoice], list[str]] = {}
    for cell, stage, choice in stages:
        cells = alike.setdefault((stage, choice), [])
        if cell not in cells:
            cells.append(cell)
    return [f"{_listed(cells)}, stage {stage}: {choice}" for (stage, choice), cells in alike.items()]


def _listed(cells: Sequence[str]) -> str:
    if len(cells) > SHOWN_CELLS:
        return f"{len(cells)} cells"
    return f"cell{'s' if len(cells) > 1 else ''} {', '.join(cells)}"


def stages_of(state: CampaignState) -> list[tuple[CellState, StageState]]:
    return [(cell, stage) for cell in state.cells for stage in cell.stages]
