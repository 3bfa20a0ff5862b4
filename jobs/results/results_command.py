"""``neurofleet results``: what a run folder holds, cell by cell, and SQL over one run or all runs below a folder."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.store.run_store import POOLED
from neurofleet.errors import UsageError
from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.job_file import named
from neurofleet.jobs.results.folder_listing import FolderReader
from neurofleet.jobs.results.many_runs import AllRuns, same_names
from neurofleet.jobs.results.parameters_at_bounds import OnBound, on_bounds
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.jobs.results.runs_found import FIT, FoundRuns, find_runs
from neurofleet.jobs.results.sql import quoted
from neurofleet.jobs.results.table_scan import ViewSummary

SHOWN_ROWS = 40
ASIDE_ROWS = 3  # so few wide rows read better one column a line
NARROWEST = 6


def print_summaries(tables: RunTables, cells: Sequence[CellSummary], console: Console | None = None) -> None:
    """Print a table a cell, and what is to be said of it in words."""
    console = console or Console()
    finished = sum(cell.state == "finished" for cell in cells)
    print_line(console, f"{tables.spec.name} in {tables.store.root}: {finished} of {len(cells)} cells finished")
    for cell in cells:
        console.print()
        if cell.stages:
            console.print(_stages(cell))
        else:
            print_line(console, f"{cell.cell}: {cell.state}")
        for line in remarks(cell):
            print_line(console, line)


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
            lines.append(f"{stage.stage}: best of {stage.finalists} finalists that were scored again, more tightly")
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


def print_rows(rows: pa.Table, as_json: bool, console: Console | None = None) -> None:
    """Print the result of a query: as a JSON list of rows, or as a table that fits the terminal."""
    if as_json:
        records = ({k: _plain(v) for k, v in row.items()} for row in rows.to_pylist())
        json.dump(list(records), sys.stdout, indent=1, default=str)
        print()
        return
    console = console or Console()
    shown = rows.slice(0, SHOWN_ROWS).to_pylist()
    columns = list(rows.column_names)
    cells = {c: [_cell_text(row[c]) for row in shown] for c in columns}
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
        print_line(console, f"{' and '.join(notes)} not shown; select fewer, or add --json for all of them")
    elif not shown:
        print_line(console, "no rows")


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


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: names of files and features are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


SPACE = "\u00a0"
SHOWN = 6
"""Of columns with a common beginning, where they have a dot in their name or are numbered."""


def opened(root: str | Path, runs: FoundRuns | None = None) -> RunTables | AllRuns:
    """Return the tables of one fit, or those of all runs at and below a folder.

    Parameters
    ----------
    runs : FoundRuns, optional
        What was found there.

    Raises
    ------
    UsageError
        There is no run.
    """
    runs = runs or find_runs(FolderReader(root))
    if [(run.folder, run.family) for run in runs.runs] == [("", FIT)]:
        return RunTables(root)
    return AllRuns(root, runs)


def query_command(root: str, sql: str, as_json: bool) -> None:
    """Print the result of one SELECT; what is to be said of its views goes to standard error."""
    tables = opened(root)
    rows = tables.table(sql)
    if isinstance(tables, AllRuns):
        _remark(tables.notes)
    print_rows(rows, as_json)


def runs_command(root: str, runs: FoundRuns, as_json: bool) -> None:
    """Print which runs there are below a folder."""
    tables = AllRuns(root, runs)
    print_rows(tables.table("select * from runs"), as_json)
    _remark(same_names(tables.runs))
    if not as_json:
        print_line(Console(), f"`neurofleet results {root} --views` lists their tables; --query asks them.")


def views_command(root: str, as_json: bool) -> None:
    """Print the views there are: columns with types, rows, and the runs that they come from."""
    tables = opened(root)
    summaries = tables.views()
    if as_json:
        print(json.dumps([asdict(summary) | {"columns": dict(summary.columns)} for summary in summaries], indent=1))
        return
    console = Console()
    for summary in summaries:
        print_line(console, heading(summary))
        for line in _lines(columns_in_words(summary.columns), max(console.width - 4, 40)):
            print_line(console, f"    {line}")
        for note in summary.notes:
            print_line(console, f"    {note}")
    if isinstance(tables, AllRuns):
        _remark(same_names(tables.runs))


def heading(summary: ViewSummary) -> str:
    """Return the size of a view in words."""
    rows = f"{summary.rows:,} row{'' if summary.rows == 1 else 's'}"
    runs = f"{len(summary.runs)} run{'' if len(summary.runs) == 1 else 's'}"
    left = f", unfinished: {', '.join(summary.unfinished)}" if summary.unfinished else ""
    return f"{summary.view}: {rows} from {runs}{left}"


def columns_in_words(columns: Sequence[tuple[str, str]]) -> list[str]:
    """Return columns with their types; of many with a common beginning, the first ones and how many more."""
    words: list[str] = []
    for (family, kind), group in groupby(columns, lambda column: (_family(column[0]), column[1])):
        names = [name for name, _ in group]
        shown = names[:SHOWN] if family and len(names) > SHOWN + 1 else names
        words += [f"{quoted(name)} {kind}" for name in shown]
        if len(names) > len(shown):
            words.append(f"{len(names) - len(shown)} more {family}… (all with --json)")
    return words


def _lines(items: Sequence[str], width: int) -> list[str]:
    """Return items with commas in lines, none of them broken."""
    joined = ", ".join(item.replace(" ", SPACE) for item in items)
    wrapped = textwrap.wrap(joined, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace(SPACE, " ") for line in wrapped]


def _family(name: str) -> str:
    """Return the beginning of a column's name where it has one: ``param.`` or, of phi_12, ``phi_``."""
    head, dot, _ = name.partition(".")
    if dot:
        return head + dot
    stem = name.rstrip("0123456789")
    return stem if stem != name and stem.endswith("_") else ""


def _remark(lines: Sequence[str]) -> None:
    console = Console(stderr=True)
    for line in lines:
        print_line(console, line)


@dataclass(frozen=True)
class SeedSummary:
    """One seed of one stage.

    Attributes
    ----------
    seed, generations, evaluations : int
        What is stored; finalists that were scored again are not counted.
    best_total : float
        Sum of all scores of the best individual.
    median_total : float
        Median of the last generation.
    """

    seed: int
    generations: int
    evaluations: int
    best_total: float
    median_total: float


@dataclass(frozen=True)
class StageSummary:
    """One stage of one cell.

    Attributes
    ----------
    stage : str
    finished : bool
        Whether all of its seeds are done.
    seeds : tuple of SeedSummary
        Those that have evaluations.
    planned_seeds, planned_evaluations : int or None
        None where the folder does not tell. Planned evaluations are of all seeds together.
    evaluations, finalists : int
        Individuals of the search, and those scored again after it.
    outcomes : dict
        Status -> evaluations, finalists included.
    objectives : int
    best_total, median_total : float
        Best of all (of the finalists, where there are any); median of the seeds' medians.
    best_mean_score : float
        Best total by objective: mean distance from the targets in their standard deviations.
    core_hours : float
        Time spent on evaluations.
    engine, engine_reason : str
        Which engine searched it, and why; empty where there is but one, or where the folder does not tell.
    """

    stage: str
    finished: bool
    seeds: tuple[SeedSummary, ...]
    planned_seeds: int | None
    planned_evaluations: int | None
    evaluations: int
    finalists: int
    outcomes: dict[str, int]
    objectives: int
    best_total: float
    median_total: float
    best_mean_score: float
    core_hours: float
    engine: str = ""
    engine_reason: str = ""


@dataclass(frozen=True)
class CellSummary:
    """One cell.

    Attributes
    ----------
    cell : str
    state : {"waiting", "unfinished", "finished", "failed"}
    reason : str
        Why it failed.
    stages : tuple of StageSummary
        In the order of the fit.
    hall_of_fame : int
        Models pooled over all seeds; 0 before the cell is finished.
    on_bound : tuple of OnBound or None
        Parameters of the hall of fame on a bound; None where the bounds are not known.
    """

    cell: str
    state: str
    reason: str
    stages: tuple[StageSummary, ...]
    hall_of_fame: int
    on_bound: tuple[OnBound, ...] | None


def summarise(root: str | Path) -> list[CellSummary]:
    """Return a summary of each cell of the run in `root`, whether it is running, interrupted or done.

    Raises
    ------
    UsageError
        When `root` is not a run folder.
    """
    return summaries(RunTables(root))


def summaries(tables: RunTables) -> list[CellSummary]:
    """Return a summary of each cell, in the order of the job file."""
    events = tables.store.read_events()
    return [_cell(tables, cell, [e for e in events if e.get("cell") == cell]) for cell in cells(tables)]


def cells(tables: RunTables) -> list[str]:
    """Return the cells of the job; a user's own evaluator counts as one."""
    if tables.spec.cells is None:
        return [tables.spec.name]
    return [cell.id for cell in tables.spec.cells]


def query(root: str | Path, sql: str) -> pa.Table:
    """Run one SELECT over the views of a fit's run, or over those of all runs at and below a folder.

    Raises
    ------
    UsageError
        When there is no run, or the query is not one SELECT that fits the views.
    """

    return opened(root).table(sql)


def results_command(out: str, query: str | None, json: bool, views: bool = False) -> None:
    """Print the summary of a run, the runs below a folder, their views, or the result of a query.

    Raises
    ------
    UsageError
        When there is no run, or the query is not one SELECT that fits the views.
    """
    from neurofleet.jobs.job_kinds import FIT, is_study, kind_in, results_module, study_findings

    if views and query is not None:
        raise UsageError("--views and --query were given together. Look at the views first, then query.")
    if views:
        views_command(out, json)
        return
    if query is not None:
        query_command(out, query, json)
        return
    runs = find_runs(FolderReader(out))
    if not any(run.folder == "" for run in runs.runs):
        runs_command(out, runs, json)
        return
    kind = kind_in(out)
    if is_study(kind):
        study_findings(kind).print_results(out, json)
        return
    if kind != FIT:
        named(f"{results_module(kind)}:print_results")(out, json)
        return
    tables = RunTables(out)
    cells = summaries(tables)
    if json:
        print_json(cells)
    else:
        print_summaries(tables, cells)


def _cell(tables: RunTables, cell: str, events: list[dict[str, Any]]) -> CellSummary:
    starts = {e["stage"]: e for e in events if e["event"] == "stage started"}
    ends = {e["stage"]: e for e in events if e["event"] == "stage finished"}
    failures = [e["reason"] for e in events if e["event"] == "cell failed"]
    known = [stage for found_cell, stage in tables.objectives if found_cell == cell and not stage.endswith(FINAL)]
    names = [*dict.fromkeys([*starts, *ends]), *known]  # events come in the order of the fit
    stages = tuple(
        _stage(tables, cell, name, starts.get(name, {}), name in ends) for name in dict.fromkeys(names) if name in known
    )
    hall = tables.store.read_hall_of_fame(cell, POOLED)
    if hall is not None:
        state = "finished"
    elif failures:
        state = "failed"
    else:
        state = "unfinished" if stages else "waiting"
    bounds = starts.get(stages[-1].stage, {}).get("bounds") if stages else None
    return CellSummary(
        cell=cell,
        state=state,
        reason=failures[-1] if state == "failed" else "",
        stages=stages,
        hall_of_fame=0 if hall is None else len(hall),
        on_bound=None if hall is None or bounds is None else on_bounds(hall, bounds),
    )


def _stage(tables: RunTables, cell: str, stage: str, start: Mapping[str, Any], finished: bool) -> StageSummary:
    seeds = tuple(
        SeedSummary(*row)
        for row in tables.rows(
            """
            with generations as (
                select seed, generation, count(*) n, min(total) best, median(total) middle
                from evaluations where cell = ? and stage = ? group by seed, generation)
            select seed, count(*), sum(n)::bigint, min(best), arg_max(middle, generation)
            from generations group by seed order by seed
            """,
            [cell, stage],
        )
    )
    outcomes: dict[str, int] = dict(
        tables.rows(
            "select status, count(*) n from evaluations where cell = ? and stage in (?, ?) "
            "group by status order by n desc, status",
            [cell, stage, stage + FINAL],
        )
    )
    final_best, finalists, seconds = tables.rows(
        "select min(total) filter (stage = ?), count(*) filter (stage = ?), sum(seconds) "
        "from evaluations where cell = ? and stage in (?, ?)",
        [stage + FINAL, stage + FINAL, cell, stage, stage + FINAL],
    )[0]
    medians = sorted(seed.median_total for seed in seeds)
    best = min(seed.best_total for seed in seeds) if final_best is None else final_best
    objectives = len(tables.objectives[cell, stage])
    return StageSummary(
        stage=stage,
        finished=finished,
        seeds=seeds,
        planned_seeds=len(start["seeds"]) if start else None,
        planned_evaluations=start.get("planned_evaluations"),
        evaluations=sum(seed.evaluations for seed in seeds),
        finalists=finalists,
        outcomes=outcomes,
        objectives=objectives,
        best_total=best,
        median_total=(medians[(len(medians) - 1) // 2] + medians[len(medians) // 2]) / 2,
        best_mean_score=best / objectives,
        core_hours=round(seconds, 3) / 3600,
        engine=start["engine"] if start.get("engine_reason") else "",
        engine_reason=start.get("engine_reason", ""),
    )
