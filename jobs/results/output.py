"""How ``neurofleet results`` prints: tables for reading, JSON for programs."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.results.run_tables import RunTables
from jobs.results.summary import CellSummary, StageSummary

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_ROWS = 40
ASIDE_ROWS = 3  # so few wide rows read better one column a line
NARROWEST = 6


def print_summaries(tables: RunTables, cells: Sequence[CellSummary], console: Console | None = None) -> None:
    """Print a table a cell, and what is to be said of it in words."""
    console = console or Console()
    finished = sum(cell.state == "finished" for cell in cells)
    say(console, f"{tables.spec.name} in {tables.store.root}: {finished} of {len(cells)} cells finished")
    for cell in cells:
        console.print()
        if cell.stages:
            console.print(_stages(cell))
        else:
            say(console, f"{cell.cell}: {cell.state}")
        for line in remarks(cell):
            say(console, line)


def remarks(cell: CellSummary) -> list[str]:
    """Return what the table of a cell does not say."""
    lines = []
    if cell.state == "failed":
        lines.append(f"failed: {cell.reason}")
    for stage in cell.stages:
        if stage.engine:
            lines.append(f"{stage.stage}: engine {stage.engine} ({stage.engine_reason.rstrip('.')})")
        failures = [f"{count} {status}" for status, count in stage.outcomes.items() if status != "ok"]
        if failures:
            of = sum(stage.outcomes.values())
            lines.append(f"{stage.stage}: {', '.join(failures)} of {of} evaluations")
        if stage.finalists:
            lines.append(
                f"{stage.stage}: best of {stage.finalists} finalists that were scored again, more tightly"
            )
    if cell.hall_of_fame:
        lines.append(f"hall of fame: {cell.hall_of_fame} models")
    if cell.on_bound:
        lines.append(f"on a bound: {', '.join(map(str, cell.on_bound))}")
    elif cell.on_bound is not None:
        lines.append("on a bound: no parameter")
    return lines


def _stages(cell: CellSummary) -> Table:
    table = Table(
        title=f"{cell.cell}: {cell.state}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("stage")
    for column in ("seeds", "generations", "evaluations", "best", "median", "mean z", "core-h"):
        table.add_column(column, justify="right")
    for stage in cell.stages:
        table.add_row(
            stage.stage if stage.finished else f"{stage.stage} …",
            _of(len(stage.seeds), stage.planned_seeds),
            generations(stage),
            evaluations(stage),
            short(stage.best_total),
            short(stage.median_total),
            short(stage.best_mean_score),
            f"{stage.core_hours:.2g}",
        )
    return table


def generations(stage: StageSummary) -> str:
    """Return how many generations the seeds of a stage have, as a number or a range."""
    counts = sorted({seed.generations for seed in stage.seeds})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def evaluations(stage: StageSummary) -> str:
    """Return the evaluations of a stage, and of how many while it runs."""
    return _of(stage.evaluations, None if stage.finished else stage.planned_evaluations)


def _of(count: int, planned: int | None) -> str:
    return str(count) if planned is None or planned == count else f"{count} of {planned}"


def short(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:.4g}"


def print_json(cells: Sequence[CellSummary]) -> None:
    """Print the summaries as one JSON list."""
    print(json.dumps([asdict(cell) for cell in cells], indent=1))


def print_rows(rows: "pa.Table", as_json: bool, console: Console | None = None) -> None:
    """Print the result of a query: as a JSON list of rows, or as a table that fits the terminal."""
    if as_json:
        records = ({k: _plain(v) for k, v in row.items()} for row in rows.to_pylist())
        json.dump(list(records), sys.stdout, indent=1, default=str)
        print()
        return
    console = console or Console()
    shown = rows.slice(0, SHOWN_ROWS).to_pylist()
    columns = list(rows.column_names)
    cells = {c: [_cell(row[c]) for row in shown] for c in columns}
    width = sum(_width(column, cells[column]) + 3 for column in columns) + 1
    if width > console.width and 0 < len(shown) <= ASIDE_ROWS:
        columns, left_out = _print_aside(console, columns, cells, len(shown)), 0
    else:
        columns, left_out = _fit(columns, cells, console.width)
        _print_table(console, columns, cells, len(shown))
    notes = []
    if rows.num_rows > SHOWN_ROWS:
        notes.append(f"{rows.num_rows - SHOWN_ROWS} more rows")
    if left_out:
        notes.append(f"{left_out} more columns")
    if notes:
        say(console, f"{' and '.join(notes)} not shown; select fewer, or add --json for all of them")
    elif not shown:
        say(console, "no rows")


def _print_table(console: Console, columns: Sequence[str], cells: dict[str, list[str]], n: int) -> None:
    table = Table()
    for column in columns:
        table.add_column(Text(column), no_wrap=True, justify="left")
    for i in range(n):
        table.add_row(*(Text(cells[column][i]) for column in columns))
    console.print(table)


def _print_aside(console: Console, columns: list[str], cells: dict[str, list[str]], n: int) -> list[str]:
    table = Table()
    table.add_column("column")
    for i in range(n):
        table.add_column(f"row {i + 1}")
    for column in columns:
        table.add_row(Text(column), *(Text(value) for value in cells[column]))
    console.print(table)
    return columns


def _fit(columns: list[str], cells: dict[str, list[str]], width: int) -> tuple[list[str], int]:
    """Return as many of the first columns as fit, and how many are left out."""
    used = 1
    kept: list[str] = []
    for column in columns:
        used += _width(column, cells[column]) + 3
        if used > width and kept:
            break
        kept.append(column)
    return kept, len(columns) - len(kept)


def _width(column: str, values: Sequence[str]) -> int:
    return max([NARROWEST, len(column), *map(len, values)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(console: Console, text: str) -> None:
    """Print a line as it is: names of files and features are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
