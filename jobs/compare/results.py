"""What a comparison has found: on the terminal, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.populations.folder import read_findings

if TYPE_CHECKING:
    from rich.console import Console

INITIATION_HEAD = (
    "cell",
    "type",
    "spikes begin",
    "spikes",
    "in the axon",
    "at the soma",
    "delays along the axon, ms",
)


def print_results(out: str, as_json: bool) -> None:
    """Print where spikes begin, and e-features and conductances side by side."""
    from rich.console import Console

    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_found(found, Console())


def print_found(found: Mapping[str, Any], console: "Console") -> None:
    """Print three tables."""
    cells, types = found["cells"], found["types"]
    _print(console, f"{found['name']}: where spikes begin", INITIATION_HEAD, initiation_table(cells))
    for cell in cells:
        _print(console, f"{cell['cell']}: e-features", feature_head(cell, types), feature_table(cell, types))
        head = ("parameter", *types)
        _print(
            console, f"{cell['cell']}: parameters of both", head, parameter_table(cell, types, shared=True)
        )
        for line in cell["failed"]:
            console.print(f"{cell['cell']}: {line}", soft_wrap=True, markup=False, highlight=False)


def _print(console: "Console", title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.table import Table

    table = Table(title=title)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def initiation_table(cells: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row of `INITIATION_HEAD` for each cell and type."""
    rows: list[tuple[object, ...]] = []
    for cell in cells:
        for one in cell["initiation"]:
            delays = ", ".join(_delay(place) for place in one["places"])
            counts = one["begins"]
            at_soma = counts["soma"] + counts["soma alone"]
            told = (one["first"] or "no spikes", one["spikes"], counts["axon"], at_soma)
            rows.append((cell["cell"], one["type"], *told, delays))
    return rows


def _delay(place: Mapping[str, Any]) -> str:
    delay = "none" if place["delay_ms"] is None else f"{place['delay_ms']:+.2f}"
    return f"{place['distance_um']:.0f} µm: {delay}"


def has_recorded(cell: Mapping[str, Any]) -> bool:
    """Whether anything was recorded that models can be held against."""
    return any(one["recorded"] is not None for one in cell["features"])


def feature_head(cell: Mapping[str, Any], types: Sequence[str]) -> tuple[str, ...]:
    """Return the heading of `feature_table`."""
    if not has_recorded(cell):
        return ("step", "e-feature", *types)
    return ("step", "e-feature", "recorded", *(name for kind in types for name in (kind, "z")))


def feature_table(cell: Mapping[str, Any], types: Sequence[str]) -> list[tuple[object, ...]]:
    """Return a row for each step and e-feature; z is the distance from the recorded in its std."""
    amplitudes = {step["step"]: step["amplitude_nA"] for step in cell["steps"]}
    against = has_recorded(cell)
    rows: list[tuple[object, ...]] = []
    for one in cell["features"]:
        row = [f"{1000 * amplitudes[one['step']]:.4g} pA", one["feature"]]
        if against:
            row.append("" if one["recorded"] is None else f"{one['recorded']:.4g} ± {one['std']:.2g}")
        for kind in types:
            row.append(_told(one[kind]["median"]))
            if against:
                row.append(_told(one[kind]["z"], ".2f"))
        rows.append(tuple(row))
    return rows


def parameter_table(
    cell: Mapping[str, Any], types: Sequence[str], *, shared: bool
) -> list[tuple[object, ...]]:
    """Return a row for each parameter that both types have, or of those that one alone has."""
    rows: list[tuple[object, ...]] = []
    for one in cell["parameters"]:
        of_both = all(one[kind] is not None for kind in types)
        if of_both == shared:
            rows.append(
                (f"{one['parameter']}.{one['section']}", *(_told(one[kind], ".3g") for kind in types))
            )
    return rows


def _told(value: float | None, how: str = ".4g") -> str:
    return "" if value is None else format(value, how)
