"""``neurofleet results``: what a run folder holds, cell by cell, and SQL over one run or all runs below a folder."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.store.generations import Compaction
from neurofleet.errors import JobError, UsageError
from neurofleet.jobs.quick import quick_lines
from neurofleet.jobs.reports.tables import print_line
from neurofleet.jobs.results.folder_listing import FolderReader
from neurofleet.jobs.results.many_runs import AllRuns, same_names
from neurofleet.jobs.results.run_summary import print_summaries, summaries
from neurofleet.jobs.results.run_tables import RunTables, existing_run
from neurofleet.jobs.results.runs_found import FIT, FoundRuns, find_runs
from neurofleet.jobs.results.sql import quoted
from neurofleet.jobs.results.table_scan import ViewSummary
from neurofleet.jobs.terminal import print_json, table_width, terminal

SHOWN_ROWS = 40
ASIDE_ROWS = 3  # so few wide rows read better one column a line
NARROWEST = 6


def print_rows(rows: pa.Table, as_json: bool, console: Console | None = None) -> None:
    """Print the result of a query: as a JSON list of rows, or as a table that fits the terminal."""
    if as_json:
        print_json(rows.to_pylist())
        return
    console = console or terminal()
    shown = rows.slice(0, SHOWN_ROWS).to_pylist()
    columns = list(rows.column_names)
    cells = {c: [_cell_text(row[c]) for row in shown] for c in columns}
    width = sum(_width(column, cells[column]) + 3 for column in columns) + 1
    room = table_width(console)
    if width > room and 0 < len(shown) <= ASIDE_ROWS:
        columns, left_out = _print_aside(console, columns, cells, len(shown)), 0
    else:
        columns, left_out = _fit(columns, cells, room)
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


def _fit(columns: list[str], cells: dict[str, list[str]], width: float) -> tuple[list[str], int]:
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
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
        print_line(terminal(), f"`neurofleet results {root} --views` lists their tables; --query asks them.")


def views_command(root: str, as_json: bool) -> None:
    """Print the views there are: columns with types, rows, and the runs that they come from."""
    tables = opened(root)
    summaries = tables.views()
    if as_json:
        print_json([asdict(summary) | {"columns": dict(summary.columns)} for summary in summaries])
        return
    console = terminal()
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
    console = terminal(errors=True)
    for line in lines:
        print_line(console, line)


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
    from neurofleet.jobs.job_kinds import FIT, findings_of, kind_in

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
    if not json:
        for line in quick_lines(out):
            print_line(terminal(), line)
    if kind != FIT:
        findings_of(kind).print_results(out, json)
        return
    tables = RunTables(out)
    cells = summaries(tables)
    if json:
        print_json([asdict(cell) for cell in cells])
    else:
        print_summaries(tables, cells)


SHOWN_CELLS = 5


def compact_command(out: str, query: str | None, as_json: bool, views: bool = False) -> None:
    """Compact a run, and print what was done.

    Raises
    ------
    UsageError
        When `out` is not a run folder, or a query or the views were asked for too.
    RunFolderRefused
        When a driver is at work in it.
    JobError
        When some generations could not be merged; the others are.
    """
    for option, given in (("--query", query is not None), ("--views", views)):
        if given:
            raise UsageError(f"--compact and {option} were given together. Compact first, then ask: two commands.")
    console = terminal(errors=True)
    with (
        existing_run(out).locked() as store,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("compacting")
        done = store.compact(lambda number, of: progress.update(bar, completed=number, total=of))
    if as_json:
        print_json(asdict(done))
    else:
        for line in compaction_lines(done):
            print_line(terminal(), line)
    if done.failed:
        raise JobError(f"{out}: not all could be compacted.\n" + "\n".join(done.failed.values()))


def compaction_lines(done: Compaction) -> list[str]:
    """Return what a compaction did, in words."""
    lines = []
    if done.files_after:
        lines.append(
            f"{done.files_before:,} files ({_mb(done.bytes_before)}) became {done.files_after:,} "
            f"({_mb(done.bytes_after)}); every row was read back and compared before a file was removed."
        )
    elif not done.failed:
        lines.append("Nothing to compact: no finished cell has several files for one stage and seed.")
    if done.unfinished:
        cells = list(done.unfinished)
        shown = ", ".join(cells[:SHOWN_CELLS]) + (", …" if len(cells) > SHOWN_CELLS else "")
        of_cells = "1 cell that has" if len(cells) == 1 else f"{len(cells):,} cells that have"
        lines.append(
            f"Left as they are: {sum(done.unfinished.values()):,} files of {of_cells} no pooled hall of fame "
            f"yet ({shown})."
        )
    return lines


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
