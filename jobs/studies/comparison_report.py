"""The run of a comparison and what it has found: e-features, conductances, and where spikes begin."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import SEEDS, grid, picture, thinned
from neurofleet.jobs.run_folder import JobRun, refuse_missing, run_in_folder, versions
from neurofleet.jobs.studies.blocks import Block, measure_on_pool
from neurofleet.jobs.studies.comparison import (
    MEASURED,
    CompareSpec,
    ModelComparison,
    cell_findings,
    feature_rows,
    measured_table,
    parameter_rows,
    read_comparisons,
    spike_rows,
)
from neurofleet.jobs.studies.measure_engine import measure_engine
from neurofleet.jobs.studies.study import FINDINGS, read_findings, write_findings, write_study_page
from neurofleet.neurosim.studies.spike_initiation import StepsMeasure

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
    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_comparison_findings(found, Console())


def print_comparison_findings(found: Mapping[str, Any], console: "Console") -> None:
    """Print three tables."""
    cells, types = found["cells"], found["types"]
    _print(console, f"{found['name']}: where spikes begin", INITIATION_HEAD, initiation_table(cells))
    for cell in cells:
        _print(console, f"{cell['cell']}: e-features", feature_head(cell, types), feature_table(cell, types))
        head = ("parameter", *types)
        _print(console, f"{cell['cell']}: parameters of both", head, parameter_table(cell, types, shared=True))
        for line in cell["failed"]:
            console.print(f"{cell['cell']}: {line}", soft_wrap=True, markup=False, highlight=False)


def _print(console: "Console", title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
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
            row.append(_formatted(one[kind]["median"]))
            if against:
                row.append(_formatted(one[kind]["z"], ".2f"))
        rows.append(tuple(row))
    return rows


def parameter_table(cell: Mapping[str, Any], types: Sequence[str], *, shared: bool) -> list[tuple[object, ...]]:
    """Return a row for each parameter that both types have, or of those that one alone has."""
    rows: list[tuple[object, ...]] = []
    for one in cell["parameters"]:
        of_both = all(one[kind] is not None for kind in types)
        if of_both == shared:
            rows.append((f"{one['parameter']}.{one['section']}", *(_formatted(one[kind], ".3g") for kind in types)))
    return rows


def _formatted(value: float | None, how: str = ".4g") -> str:
    return "" if value is None else format(value, how)


BLOCK = 8


def run_compare(spec: CompareSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Compare models with everything stored in `out`, or go on with it; raises as `run_in_folder` does."""

    def read() -> tuple[list[ModelComparison], list[str]]:
        refuse_missing(spec, folder)
        return read_comparisons(spec, folder)

    run_in_folder(spec, folder, out, read, lambda run: _compare(run, address, cpus), FINDINGS)


def _compare(run: JobRun, address: str | None, cpus: int | None) -> None:
    measure_on_pool(run, comparison_blocks(run.spec, run.inputs), "simulating", address, cpus)
    tables: dict[str, list[dict[str, Any]]] = {"features": [], "spikes": [], "parameters": []}
    cells = []
    for comparison in run.inputs:
        measured = measured_rows(run.store, comparison.cell)
        features = feature_rows(comparison, run.spec.features, measured)
        spikes = spike_rows(comparison.cell, measured)
        parameters = parameter_rows(comparison)
        cells.append(cell_findings(comparison, measured, features, spikes, parameters))
        for name, rows in (("features", features), ("spikes", spikes), ("parameters", parameters)):
            tables[name] += rows
    for name, rows in tables.items():
        if rows:
            run.store.write_table(f"{name}.parquet", pa.Table.from_pylist(rows))
    found: dict[str, Any] = {
        "name": run.spec.name,
        "kind": run.spec.kind,
        "types": list(run.spec.models),
        "cells": cells,
        "notes": run.notes,
        "versions": versions(),
    }
    write_compare_report(run.store, found)
    write_findings(run.out, found)
    print_comparison_findings(found, run.console)


def measured_rows(store: "RunStore", cell: str) -> list[dict[str, Any]]:
    """Return what is stored of a cell, a row a model, step and place."""
    rows: list[dict[str, Any]] = []
    for name in store.names(f"{MEASURED}/cell={cell}"):
        table = store.table(name)
        assert table is not None
        rows += table.to_pylist()
    return rows


def comparison_blocks(spec: CompareSpec, inputs: Sequence[ModelComparison]) -> list[Block]:
    """Return the models of all cells in blocks, as they are stored."""
    found = []
    for one in inputs:
        for kind, population in one.populations.items():
            asked = StepsMeasure(population.model, one.steps, tuple(spec.features), spec.max_steps)
            engine = measure_engine(f"{one.cell}-{kind}", asked)
            for number, start in enumerate(range(0, len(population), BLOCK)):
                values = population.values[start : start + BLOCK]
                found.append(
                    Block(
                        name=f"{MEASURED}/cell={one.cell}/{kind}-{number:04d}.parquet",
                        cell=one.cell,
                        engine=engine,
                        size=len(values),
                        individuals=partial(list, values),
                        table=partial(_measured_table, one, kind, start),
                    )
                )
    return found


def _measured_table(comparison: ModelComparison, kind: str, first: int, outcomes: list[Outcome]) -> "pa.Table":
    return measured_table(comparison, kind, first, outcomes)


SHADES = ("#d9540f", "#2f7ed8", "#1b9e77", "#a05ad5", "#7a8b00", "#0098a8")
PANEL_IN = 1.9


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished job, and return where it is."""
    return write_compare_report(RunStore(folder), read_findings(folder))


def write_compare_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of a comparison whose measurements are stored."""
    types = found["types"]
    body = [
        html.paragraph(
            f"Models of type {types[0]} and {types[1]} at the same steps. A spike is timed where the voltage"
            " rises through -20 mV; a delay along the axon is the time after the soma, negative where the"
            " axon came first. Values are medians over a cell's models; z is the distance from the recorded"
            " mean in its standard deviation.",
            "quiet",
        ),
        html.heading(2, "Where spikes begin"),
        html.table(INITIATION_HEAD, initiation_table(found["cells"]), numbers=(3, 4, 5)),
    ]
    for cell in found["cells"]:
        rows, head = measured_rows(store, cell["cell"]), feature_head(cell, types)
        body += [html.heading(2, f"Cell {cell['cell']}"), *_figures(cell, rows, types)]
        body += [
            html.heading(3, "e-features"),
            html.table(head, feature_table(cell, types), numbers=range(2, len(head))),
            html.heading(3, "Parameters that both types have"),
            html.table(("parameter", *types), parameter_table(cell, types, shared=True), numbers=(1, 2)),
            html.details(
                "Parameters that one type alone has",
                html.table(("parameter", *types), parameter_table(cell, types, shared=False), numbers=(1, 2)),
            ),
        ]
        body += [html.paragraph(line, "note") for line in cell["failed"]]
    return write_study_page(store, found, body)


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
    return html.figure(picture(0.4 + PANEL_IN * len(types), draw, label), f"{label} of each type, at the soma.")


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
    return html.figure(picture(2.9, draw, label), caption)
