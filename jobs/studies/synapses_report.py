"""What synapses have shown: PSPs along the apical dendrite, by class, on the terminal, as JSON and as a report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import SEEDS, grid, picture
from neurofleet.jobs.studies.study import read_findings, write_study_page

HEAD = ("class", "cells", "at", "amplitude, mV", "half-width, ms", "latency, ms", "change of amplitude, %")
SHOWN = ("amplitude_mV", "half_width_ms", "latency_ms", "amplitude_change_percent")


def print_results(out: str, as_json: bool) -> None:
    """Print PSPs by class and distance."""
    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_synapse_findings(found, Console())


def print_synapse_findings(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table of classes and distances."""
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
        rows.append((group, cells, at, *(_curve_text(measures.get(name)) for name in SHOWN)))
    return rows


def _soma_first(item: tuple[tuple[str, str, float], Any]) -> tuple[str, bool, float]:
    (group, section, distance), _ = item
    return group, section != "soma", distance


def _curve_text(row: Mapping[str, Any] | None) -> str:
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


PANELS = (
    ("amplitude_change_percent", "amplitude, change (%)"),
    ("half_width_change_percent", "half-width, change (%)"),
    ("latency_change_percent", "latency, change (%)"),
)


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished job, and return where it is."""
    return write_synapse_report(RunStore(folder), read_findings(folder))


def write_synapse_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of synapses whose tables are stored."""
    synapse = found["synapse"]
    curves = found["curves"]
    body = [
        html.paragraph(
            f"One synapse at a time: rise {synapse['rise_ms']:g} ms, decay {synapse['decay_ms']:g} ms,"
            f" reversal {synapse['reversal_mV']:g} mV, {1000 * synapse['weight_uS']:g} nS. The potential is"
            " read at the soma; the latency is that of the peak. Changes are against the same synapse at the"
            " soma, model by model. Each cell counts once, with the mean of its models; intervals are"
            " of 95 % over cells.",
            "quiet",
        ),
    ]
    if curves:
        body.append(_figure(curves))
    body.append(html.table(HEAD, curve_table(curves), numbers=range(1, len(HEAD))))
    body += [html.paragraph(line, "note") for line in remarks(found)]
    return write_study_page(store, found, body)


def _figure(curves: list[Mapping[str, Any]]) -> str:
    groups = list(dict.fromkeys(row["class"] for row in curves))

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(PANELS))
        for axis, (name, label) in zip(axes, PANELS, strict=True):
            for colour, group in zip(SEEDS, groups, strict=False):
                rows = [
                    row
                    for row in curves
                    if row["measure"] == name and row["class"] == group and row["section"] == "apic"
                ]
                rows.sort(key=lambda row: row["distance_um"])
                x = [row["distance_um"] for row in rows]
                axis.plot(x, [row["mean"] for row in rows], "o-", ms=3, color=colour, label=group)
                if all(row["low"] is not None for row in rows):
                    low, high = [row["low"] for row in rows], [row["high"] for row in rows]
                    axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
            axis.set(xlabel="distance from the soma (µm)", ylabel=label)
            grid(axis, "y")
        axes[0].legend()

    return html.figure(
        picture(3.0, draw, "PSPs at the soma against the distance of the synapse"),
        "PSPs at the soma from synapses on the apical dendrite, relative to one at the soma.",
    )
