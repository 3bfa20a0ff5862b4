"""The report of a comparison: responses, where spikes begin, e-features and parameters side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.compare.results import (
    INITIATION_HEAD,
    feature_head,
    feature_table,
    initiation_table,
    parameter_table,
)
from jobs.compare.run import measured_rows
from jobs.populations.folder import read_findings
from jobs.populations.report_page import write_page
from jobs.report import page
from jobs.report.drawing import SEEDS, grid, picture, thinned

if TYPE_CHECKING:
    from cluster.store import RunStore

SHADES = ("#d9540f", "#2f7ed8", "#1b9e77", "#a05ad5", "#7a8b00", "#0098a8")
PANEL_IN = 1.9


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished job, and return where it is."""
    from cluster.store import RunStore

    return write_compare_report(RunStore(folder), read_findings(folder))


def write_compare_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of a comparison whose measurements are stored."""
    types = found["types"]
    body = [
        page.paragraph(
            f"Models of type {types[0]} and {types[1]} at the same steps. A spike is timed where the voltage"
            " rises through -20 mV; a delay along the axon is the time after the soma, negative where the"
            " axon came first. Values are medians over a cell's models; z is the distance from the recorded"
            " mean in its standard deviation.",
            "quiet",
        ),
        page.heading(2, "Where spikes begin"),
        page.table(INITIATION_HEAD, initiation_table(found["cells"]), numbers=(3, 4, 5)),
    ]
    for cell in found["cells"]:
        rows, head = measured_rows(store, cell["cell"]), feature_head(cell, types)
        body += [page.heading(2, f"Cell {cell['cell']}"), *_figures(cell, rows, types)]
        body += [
            page.heading(3, "e-features"),
            page.table(head, feature_table(cell, types), numbers=range(2, len(head))),
            page.heading(3, "Parameters that both types have"),
            page.table(("parameter", *types), parameter_table(cell, types, shared=True), numbers=(1, 2)),
            page.details(
                "Parameters that one type alone has",
                page.table(("parameter", *types), parameter_table(cell, types, shared=False), numbers=(1, 2)),
            ),
        ]
        body += [page.paragraph(line, "note") for line in cell["failed"]]
    return write_page(store, found, body)


def _figures(cell: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], types: Sequence[str]) -> list[str]:
    figures = []
    steps = [step["step"] for step in cell["steps"]]
    traced = {(row["type"], row["step"]): row for row in rows if row["time_ms"] is not None}
    if traced:
        figures.append(_traces(cell, traced, steps, types))
    close = [row for row in rows if row["close_ms"]]
    if close:
        figures.append(_close_ups(cell, close, types))
    return figures


def _traces(
    cell: Mapping[str, Any],
    traced: Mapping[tuple[str, str], Mapping[str, Any]],
    steps: list[str],
    types: Sequence[str],
) -> str:
    amplitudes = {step["step"]: step["amplitude_nA"] for step in cell["steps"]}

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(types), len(steps), squeeze=False, sharex=True, sharey=True)
        for row, (kind, colour) in zip(axes, zip(types, SEEDS, strict=False), strict=True):
            for axis, step in zip(row, steps, strict=True):
                one = traced.get((kind, step))
                if one is not None:
                    time, volts = thinned(np.array(one["time_ms"]), np.array(one["soma_mV"]))
                    axis.plot(time - time[0], volts, color=colour, lw=0.8)
                axis.set_title(f"{kind}, {1000 * amplitudes[step]:.4g} pA")
                grid(axis, "y")
            row[0].set_ylabel("soma (mV)")
        for axis in axes[-1]:
            axis.set_xlabel("time in the step (ms)")

    label = f"Responses of the best models of {cell['cell']}"
    return page.figure(
        picture(0.4 + PANEL_IN * len(types), draw, label), f"{label} of each type, at the soma."
    )


def _close_ups(cell: Mapping[str, Any], close: Sequence[Mapping[str, Any]], types: Sequence[str]) -> str:
    """Draw one spike at all places, at the strongest step that has spikes, and the delays of all spikes."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(types) + 1)
        for axis, kind in zip(axes, types, strict=False):
            own = [row for row in close if row["type"] == kind]
            axis.set(xlabel="time (ms)", ylabel="voltage (mV)")
            axis.set_title(f"{kind}: one spike")
            if not own:
                continue
            last = own[-1]["step"]
            for colour, row in zip(SHADES, [row for row in own if row["step"] == last], strict=False):
                time = np.array(row["close_ms"])
                axis.plot(time - time.mean(), row["close_mV"], color=colour, label=row["place"])
            axis.legend()
            grid(axis, "y")
        delays = axes[-1]
        for colour, one in zip(SEEDS, cell["initiation"], strict=False):
            seen = [place for place in one["places"] if place["delay_ms"] is not None]
            x, y = [place["distance_um"] for place in seen], [place["delay_ms"] for place in seen]
            delays.plot([0.0, *x], [0.0, *y], "o-", ms=3, color=colour, label=one["type"])
        delays.axhline(0.0, lw=0.6, color="#868e96")
        delays.set(xlabel="distance from the soma (µm)", ylabel="delay after the soma (ms)")
        delays.set_title("median delay of all spikes")
        delays.legend()
        grid(delays, "y")

    label = f"A spike of {cell['cell']} at the soma and along the axon"
    caption = f"{label}: the best model of each type at the strongest step; right, all models and steps."
    return page.figure(picture(2.9, draw, label), caption)
