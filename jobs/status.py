"""``neurofleet status OUT``: how far a run is, read from its folder alone."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.fit.campaign_state import (
    STATUS,
    CampaignState,
    CellState,
    EngineChoice,
    engine_lines,
    number,
    read_state,
    summary,
)
from neurofleet.jobs.job_kinds import FIT, findings_of, kind_in
from neurofleet.jobs.progress import duration
from neurofleet.jobs.quick import quick_lines
from neurofleet.jobs.reports.tables import print_line
from neurofleet.jobs.terminal import terminal

SHOWN = 40
ACTIVE = ("open", "failed", "stopped")


def print_status(out: str, as_json: bool = False, console: Console | None = None) -> None:
    """Print the state of the run in folder `out`; no cluster is asked.

    Raises
    ------
    UsageError
        When `out` holds no run, or one that has not begun its fits.
    """
    kind = kind_in(out)
    if not as_json:
        for line in quick_lines(out):
            print_line(console or terminal(), line)
    if kind != FIT:
        findings_of(kind).print_status(out, as_json, console or terminal())
        return
    store = RunStore(out)
    state = read_state(store)
    if state is None:
        begun = store.read_text("job.yaml") is not None
        what = "a run that has not begun its fits" if begun else "no run"
        raise UsageError(
            f"{out}: expected the folder of a run with its {STATUS}, found {what}. Give the folder that was "
            "named with --out, or --address to ask a cluster for a job of this name."
        )
    if as_json:
        print(state.to_json())
        return
    console = console or terminal()
    holder = store.holder()
    age = duration((datetime.now(UTC) - datetime.fromisoformat(state.at)).total_seconds())
    print_line(console, f"{state.run}: {summary(state) if holder else _at_rest(state)}")
    print_line(console, f"{f'running: {holder}' if holder else 'no process is running it'}; as of {age} ago")
    print_line(console, resources_in_words(state))
    shown = state.cells if len(state.cells) <= SHOWN else [c for c in state.cells if c.state in ACTIVE]
    if shown:
        console.print(_table(shown[:SHOWN]))
    if len(shown[:SHOWN]) < len(state.cells):
        counts = Counter(cell.state for cell in state.cells).most_common()
        print_line(console, f"cells: {', '.join(f'{n} {name}' for name, n in counts)}; all of them: --json")
    for line in engines_in_words(state):
        print_line(console, line)
    for cell in state.cells:
        if cell.reason:
            print_line(console, f"failed: {cell.reason}")


def _at_rest(state: CampaignState) -> str:
    done = state.count("finished") + state.count("failed") == len(state.cells)
    return (
        f"{state.count('finished')} of {len(state.cells)} cells, {state.evaluations} of {state.planned} "
        f"evaluations{'' if done else '; the same command as before goes on with it'}"
    )


def resources_in_words(state: CampaignState) -> str:
    """Return hosts, their utilisation, and core-hours with their limit."""
    limits = [f"of {state.max_core_hours:g} allowed" if state.max_core_hours else ""]
    if state.core_hours_left:
        limits.append(f"about {state.core_hours_left:.3g} left to do")
    if state.stopped:
        limits.append(f"stopped at {state.stopped}")
    text = ", ".join(part for part in limits if part)
    lost = f", {state.hosts_lost} lost" if state.hosts_lost else ""
    return (
        f"{state.hosts} hosts{lost}, utilisation {state.utilisation:.0%}, "
        f"{state.core_hours:.3g} core-hours used{f' ({text})' if text else ''}"
    )


def engines_in_words(state: CampaignState) -> list[str]:
    """Return which engine searches which stage and why, all cells alike in one line."""
    return engine_lines(
        (cell.cell, stage.stage, EngineChoice(stage.engine, stage.engine_reason))  # type: ignore[arg-type]
        for cell in state.cells
        for stage in cell.stages
        if stage.engine
    )


def _table(cells: Sequence[CellState]) -> Table:
    table = Table()
    for column in ("cell", "state", "stage"):
        table.add_column(column)
    table.add_column("seed: best total (generation, part done)")
    table.add_column("evaluations", justify="right")
    for cell in cells:
        rows: dict[str, list[str]] = {}
        counts: dict[str, int] = {}
        for stage in cell.stages:
            done = f"{stage.evaluations / max(stage.planned, 1):.0%}" if stage.phase != "done" else "done"
            best = number(stage.best)
            text = f"{stage.seed}: {best} ({stage.generation}, {done})" if best else f"{stage.seed}: …"
            rows.setdefault(stage.stage, []).append(text)
            counts[stage.stage] = counts.get(stage.stage, 0) + stage.evaluations
        first = cell.state if cell.total is None else f"{cell.state}, {number(cell.total)}"
        if not rows:
            table.add_row(cell.cell, first, "", "", str(cell.evaluations))
        for i, (name, seeds) in enumerate(rows.items()):
            head = (cell.cell, first) if i == 0 else ("", "")
            table.add_row(*head, name, "  ".join(seeds), str(counts[name]))
    return table
