"""The consoles that jobs print to: names of cells, classes and files stand there as they are, and are never cut."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.log_records import plain_json
from neurofleet.wording import agreeing

BETWEEN = " · "
NARROWEST_TEXT, NARROWEST_NAME = 16, 24
"""To so many characters texts and names may be wrapped before a table is turned."""


_silent = False
_collected: ContextVar[dict[str, list[Any]] | None] = ContextVar("_collected", default=None)


def terminal(
    *, errors: bool = False, highlight: bool = True, width: int | None = None, warnings: bool = False
) -> Console:
    """Return a console on standard output, or with `errors` on standard error.

    No text is taken for rich's markup or for an emoji: a class may be named ``[/red]``. A table that is too wide for
    a terminal is turned, row by row; in a pipe or a file it is as wide as it is. After `silence`, standard error shows
    `warnings` only.
    """
    quiet = errors and _silent and not warnings
    return _Terminal(stderr=errors, highlight=highlight, width=width, markup=False, emoji=False, quiet=quiet)


def silence() -> None:
    """Have this process show no progress from now on; errors, warnings and results stay."""
    global _silent
    _silent = True


@contextmanager
def collected() -> Iterator[dict[str, list[Any]]]:
    """Yield ``tables`` and ``lines`` that get what is printed on consoles of standard output within, for JSON."""
    found: dict[str, list[Any]] = {"tables": [], "lines": []}
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def print_json(value: Any) -> None:
    """Print what other programs read: one JSON value on standard output, null for numbers that JSON does not have."""
    print(json.dumps(plain_json(value), indent=1, allow_nan=False))


class _Terminal(Console):
    """A console on which one thing is one, as in ``1 cell``, and tables are laid out so that nothing is cut."""

    def __init__(self, width: int | None = None, **settings: Any) -> None:
        super().__init__(width=width, **settings)
        self.is_narrow = width is not None

    def print(self, *objects: Any, **settings: Any) -> None:
        if (found := _collected.get()) is not None and not self.stderr:
            for each in objects:
                found["tables" if isinstance(each, Table) else "lines"].append(_as_data(each))
            return
        objects = tuple(agreeing(each) if isinstance(each, str) else each for each in objects)
        tables = [each for each in objects if isinstance(each, Table)]
        for table in tables:
            if isinstance(table.title, str):
                table.title = agreeing(table.title)
        needed = [Measurement.get(self, self.options.update(width=100_000), table).maximum for table in tables]
        before = self.width
        if needed and math.isinf(table_width(self)) and max(needed) > before:
            self.width = max(needed)
            try:
                super().print(*objects, **settings)
            finally:
                self.width = before
        else:
            super().print(*(fitted(each, before) if isinstance(each, Table) else each for each in objects), **settings)


def _as_data(printed: Any) -> Any:
    """Return a table as title, columns and rows of text, anything else as text."""
    if not isinstance(printed, Table):
        return agreeing(_plain(printed))
    columns = [[_plain(cell) for cell in column.cells] for column in printed.columns]
    return {
        "title": agreeing(_plain(printed.title or "")),
        "columns": [_plain(column.header) for column in printed.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)],
    }


def table_width(console: Console) -> float:
    """Return how wide a table may be on a console: in a pipe or a file, as wide as it is."""
    narrow = console.is_terminal or not isinstance(console, _Terminal) or console.is_narrow
    return console.width if narrow else math.inf


def fitted(table: Table, width: int) -> RenderableType:
    """Return a table that cuts nothing: as it is, with what has spaces wrapped, or with a block for each row.

    Texts are wrapped first, then figures, and last the names: columns flush left before the first figures.
    """
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    heads = [_plain(column.header) for column in table.columns]
    widths = [max(map(_width, [head, *cells])) for head, cells in zip(heads, columns, strict=True)]
    frame = Measurement.get(_MEASURING, _MEASURING.options, table).maximum - sum(widths)
    if frame + sum(widths) <= width:
        return table
    names = _names(table)
    figures = [i for i, column in enumerate(table.columns) if column.justify == "right"]
    texts = [i for i in range(len(columns)) if i not in names and i not in figures]
    least = [max(map(_longest_word, [head, *cells])) for head, cells in zip(heads, columns, strict=True)]
    for group, narrowest in ((texts, NARROWEST_TEXT), (figures, 0), (names, NARROWEST_NAME)):
        for i in group:  # heads are wrapped before what is below them
            below = max(map(_width, columns[i]), default=0)
            widths[i] = max(below, _longest_word(heads[i]))
            least[i] = min(widths[i], max(least[i], narrowest))
    for group in (texts, figures, names):
        while frame + sum(widths) > width and any(widths[i] > least[i] for i in group):
            widths[max((i for i in group if widths[i] > least[i]), key=lambda i: widths[i])] -= 1
    if frame + sum(widths) > width:
        return _turned(table, heads, columns, names, width)
    for i, column in enumerate(table.columns):
        column.width, column.no_wrap, column.overflow = widths[i], False, "fold"
    return table


def _names(table: Table) -> list[int]:
    """Return the columns that tell rows apart: the first that are flush left, and at least one."""
    figures = (i for i, column in enumerate(table.columns) if column.justify == "right")
    return list(range(max(1, min(next(figures, 1), len(table.columns)))))


def _turned(
    table: Table, heads: Sequence[str], columns: Sequence[Sequence[str]], names: Sequence[int], width: int
) -> Group:
    heads = [" ".join(head.split()) for head in heads]
    lines = [Text(_plain(table.title), style="italic")] if table.title else []
    last = [""] * len(heads)
    for row in zip(*columns, strict=True):
        last = [value or (last[i] if i == 0 else "") for i, value in enumerate(row)]  # of a group, the first has it
        told = [f"{head} {value}".strip() for head, value in zip(heads, last, strict=True)]
        lines.append(Text(", ".join(told[i] for i in names if last[i]), style="bold", overflow="fold"))
        rest = [told[i] for i in range(len(heads)) if i not in names and last[i]]
        lines.append(Text(_joined(rest, width), overflow="fold"))
    return Group(*lines)


def _joined(items: Sequence[str], width: int) -> str:
    """Return items in indented lines, broken between items."""
    lines: list[str] = []
    for item in items:
        if lines and cell_len(lines[-1] + BETWEEN + item) <= width:
            lines[-1] += BETWEEN + item
        else:
            lines.append(f"  {item}")
    return "\n".join(lines)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _width(text: str) -> int:
    return max(map(cell_len, text.splitlines()), default=0)


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


_MEASURING = Console(width=100_000, markup=False, emoji=False)
