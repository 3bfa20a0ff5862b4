"""What synapses have shown: on the terminal, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.populations.folder import read_findings

if TYPE_CHECKING:
    from rich.console import Console

HEAD = ("class", "cells", "at", "amplitude, mV", "half-width, ms", "latency, ms", "change of amplitude, %")
SHOWN = ("amplitude_mV", "half_width_ms", "latency_ms", "amplitude_change_percent")


def print_results(out: str, as_json: bool) -> None:
    """Print PSPs by class and distance."""
    from rich.console import Console

    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_found(found, Console())


def print_found(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table of classes and distances."""
    from rich.table import Table

    table = Table(title=f"{found['name']}: means over cells (± 95 % interval)")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left")
    for row in curve_table(found["curves"]):
        table.add_row(*map(str, row))
    console.print(table)
    for line in remarks(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def curve_table(curves: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row of `HEAD` for each class and distance."""
    by_place: dict[tuple[str, str, float], dict[str, Mapping[str, Any]]] = {}
    for row in curves:
        place = (row["class"], row["section"], row["distance_um"])
        by_place.setdefault(place, {})[row["measure"]] = row
    rows: list[tuple[object, ...]] = []
    for (group, section, distance), measures in sorted(by_place.items(), key=_soma_first):
        cells = max(row["cells"] for row in measures.values())
        at = "soma" if section == "soma" else f"{distance:g} um"
        rows.append((group, cells, at, *(_told(measures.get(name)) for name in SHOWN)))
    return rows


def _soma_first(item: tuple[tuple[str, str, float], Any]) -> tuple[str, bool, float]:
    (group, section, distance), _ = item
    return group, section != "soma", distance


def _told(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    spread = "" if row["low"] is None else f" ± {(row['high'] - row['low']) / 2:.2g}"
    return f"{row['mean']:.3g}{spread}"


def remarks(found: Mapping[str, Any]) -> list[str]:
    """Return what could not be read."""
    return [
        f"{one['class']}: {count} PSPs cannot be read: {reason}"
        for one in found["classes"]
        for reason, count in one["unreadable"].items()
    ]
