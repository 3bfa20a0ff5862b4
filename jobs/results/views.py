"""``neurofleet results ROOT``: the runs there are, their views, and SQL over all of them."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich.console import Console

from jobs.results.all_runs import AllRuns, same_names
from jobs.results.found_runs import FIT, Found, find_runs
from jobs.results.output import print_rows, say
from jobs.results.places import Place
from jobs.results.run_tables import RunTables
from jobs.results.sql import quoted
from jobs.results.view_summary import ViewSummary

SPACE = "\u00a0"
SHOWN = 6
"""Of columns with a common beginning, where they have a dot in their name or are numbered."""


def opened(root: str | Path, found: Found | None = None) -> RunTables | AllRuns:
    """Return the tables of one fit, or those of all runs at and below a folder.

    Parameters
    ----------
    found : Found, optional
        What was found there.

    Raises
    ------
    UsageError
        There is no run.
    """
    found = found or find_runs(Place(root))
    if [(run.folder, run.family) for run in found.runs] == [("", FIT)]:
        return RunTables(root)
    return AllRuns(root, found)


def query_command(root: str, sql: str, as_json: bool) -> None:
    """Print the result of one SELECT; what is to be said of its views goes to standard error."""
    tables = opened(root)
    rows = tables.table(sql)
    if isinstance(tables, AllRuns):
        _remark(tables.notes)
    print_rows(rows, as_json)


def runs_command(root: str, found: Found, as_json: bool) -> None:
    """Print which runs there are below a folder."""
    tables = AllRuns(root, found)
    print_rows(tables.table("select * from runs"), as_json)
    _remark(same_names(tables.runs))
    if not as_json:
        say(Console(), f"`neurofleet results {root} --views` lists their tables; --query asks them.")


def views_command(root: str, as_json: bool) -> None:
    """Print the views there are: columns with types, rows, and the runs that they come from."""
    tables = opened(root)
    summaries = tables.views()
    if as_json:
        print(json.dumps([asdict(one) | {"columns": dict(one.columns)} for one in summaries], indent=1))
        return
    console = Console()
    for one in summaries:
        say(console, heading(one))
        for line in _lines(columns_in_words(one.columns), max(console.width - 4, 40)):
            say(console, f"    {line}")
        for note in one.notes:
            say(console, f"    {note}")
    if isinstance(tables, AllRuns):
        _remark(same_names(tables.runs))


def heading(one: ViewSummary) -> str:
    """Return the size of a view in words."""
    rows = f"{one.rows:,} row{'' if one.rows == 1 else 's'}"
    runs = f"{len(one.runs)} run{'' if len(one.runs) == 1 else 's'}"
    left = f", unfinished: {', '.join(one.unfinished)}" if one.unfinished else ""
    return f"{one.view}: {rows} from {runs}{left}"


def columns_in_words(columns: Sequence[tuple[str, str]]) -> list[str]:
    """Return columns with their types; of many with a common beginning, the first ones and how many more."""
    told: list[str] = []
    for (family, kind), group in groupby(columns, lambda column: (_family(column[0]), column[1])):
        names = [name for name, _ in group]
        shown = names[:SHOWN] if family and len(names) > SHOWN + 1 else names
        told += [f"{quoted(name)} {kind}" for name in shown]
        if len(names) > len(shown):
            told.append(f"{len(names) - len(shown)} more {family}… (all with --json)")
    return told


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
        say(console, line)
