"""The run of a validation and what it has found: on the terminal, as JSON, and as a report with traces and rasters."""

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
from neurofleet.jobs.reports.drawing import INK, MODEL, SEEDS, grid, picture, thinned
from neurofleet.jobs.run_folder import JobRun, run_in_folder, versions
from neurofleet.jobs.studies.blocks import Block, measure_on_pool
from neurofleet.jobs.studies.measure_engine import measure_engine
from neurofleet.jobs.studies.populations import refuse_missing_models
from neurofleet.jobs.studies.study import FINDINGS, read_findings, write_findings, write_study_page
from neurofleet.jobs.studies.validation import (
    RESPONSES,
    ValidateSpec,
    Validation,
    model_rows,
    read_validations,
    recorded_table,
    responses_table,
    stimulus_rows,
)
from neurofleet.neurosim.studies.generalisation import ValidationMeasure

HEAD = (
    "cell",
    "models",
    "failed",
    "training, z",
    "unseen steps, z",
    "explained variance",
    "PSTH form, %",
)
MEASURES = ("training", "generalisation", "explained_variance", "psth_explained_variance_percent")


def print_results(out: str, as_json: bool) -> None:
    """Print the errors of each cell's models."""
    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_validation_findings(found, Console())


def print_validation_findings(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table of cells."""
    table = Table(title=f"{found['name']}: best model (median of all, lowest to highest)")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left")
    for row in validation_rows(found):
        table.add_row(*map(str, row))
    console.print(table)


def validation_rows(found: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return a row of `HEAD` for each cell."""
    return [
        (
            cell["cell"],
            cell["models"],
            cell["failed"] or "",
            *(_value_text(cell[name], cell["models"]) for name in MEASURES),
        )
        for cell in found["cells"]
    ]


def _value_text(measure: Mapping[str, float | None], models: int) -> str:
    if measure["median"] is None:
        return ""
    best = "failed" if measure["best_model"] is None else f"{measure['best_model']:.3g}"
    if models == 1:
        return best
    return f"{best} ({measure['median']:.3g}, {measure['low']:.3g} to {measure['high']:.3g})"


EXPLAINED = (
    "Errors are mean distances from the recorded e-features, in their standard deviations (250 where the"
    " model has no such feature): over the targets that the last stage was trained on, and over the same"
    " e-features at all steps that no stage was trained on. The explained variance compares smoothed spike"
    " trains (Gaussian of 10 ms) at noise that no stage has seen: as a share of what the mean of the trials"
    " explains of them, and in the paper's simple form, against the trials' mean, in percent. For each: the"
    " best model by training total (median of all models, lowest to highest)."
)
SHOWN_STIMULI = 8
SHOWN_MODELS = 10
WORST = 12


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished validation, and return where it is."""
    return write_validation_report(RunStore(folder), read_findings(folder))


def write_validation_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of a validation whose tables are stored."""
    body = [
        html.paragraph(EXPLAINED, "quiet"),
        html.table(HEAD, validation_rows(found), numbers=range(1, len(HEAD))),
    ]
    table = store.table("models.parquet")
    models = [] if table is None else table.to_pylist()
    for cell in found["cells"]:
        body += _cell(store, cell["cell"], [row for row in models if row["cell"] == cell["cell"]])
    return write_study_page(store, found, body)


def _cell(store: "RunStore", cell: str, models: Sequence[Mapping[str, Any]]) -> list[str]:
    body = [html.heading(2, cell)]
    if sum(row["generalisation"] is not None and row["training"] is not None for row in models) > 1:
        body.append(_scatter(cell, models))
    tables = [store.table(name) for name in store.names(f"{RESPONSES}/cell={cell}")]
    responses = [row for table in tables if table is not None for row in table.to_pylist()]
    recorded = store.table(f"recorded/cell={cell}/part.parquet")
    stimuli = [] if recorded is None else recorded.to_pylist()
    body += _unseen(responses)
    for stimulus in stimuli[:SHOWN_STIMULI]:
        body.append(_stimulus(stimulus, responses))
    if len(stimuli) > SHOWN_STIMULI:
        body.append(html.paragraph(f"{len(stimuli) - SHOWN_STIMULI} more stimuli are in stimuli.parquet."))
    return body


def _scatter(cell: str, models: Sequence[Mapping[str, Any]]) -> str:
    shown = [row for row in models if None not in (row["training"], row["generalisation"])]
    x = [row["training"] for row in shown]
    y = [row["generalisation"] for row in shown]

    def draw(figure: Any) -> None:
        axis = figure.subplots(1, 3)[0]
        for other in figure.axes[1:]:
            other.set_axis_off()
        axis.plot(x, y, "o", color=SEEDS[0], ms=3)
        axis.plot(x[0], y[0], "o", color=MODEL, ms=5)
        top = max(*x, *y) * 1.05
        axis.plot([0, top], [0, top], color=INK, lw=0.5)
        axis.set(xlabel="error at training steps (z)", ylabel="error at unseen steps (z)", ylim=(0, None))
        grid(axis, "y")

    label = f"training error against error at unseen steps of the models of {cell}"
    return html.figure(picture(2.9, draw, label), f"{len(shown)} models; the best by training total in orange.")


def _unseen(responses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the objectives of unseen steps that the best model misses most."""
    if not responses or responses[0]["status"] != "ok":
        return []
    scores = {k.removeprefix("unseen."): v for k, v in responses[0].items() if k.startswith("unseen.")}
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    if not ranked:
        return []
    rows = [(name, f"{score:.3g}") for name, score in ranked[:WORST]]
    table = html.table(("objective at an unseen step", "z"), rows, numbers=[1])
    return [html.details(f"What the best model misses most, of {len(ranked)} objectives", table)]


def _stimulus(stimulus: Mapping[str, Any], responses: Sequence[Mapping[str, Any]]) -> str:
    times = np.arange(len(stimulus["current_nA"])) * stimulus["step_ms"]
    key = stimulus["name"]
    traced = next((r for r in responses if r.get(f"voltage_mV.{key}") is not None), None)
    trains = [r[f"spikes_ms.{key}"] for r in responses if r[f"spikes_ms.{key}"] is not None][:SHOWN_MODELS]
    raster = stimulus["is_noise"] or len(trains) > 1

    def draw(figure: Any) -> None:
        heights = [1, 3, 1.6] if raster else [1, 3]
        axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        axes[0].plot(*thinned(times, np.array(stimulus["current_nA"])), color=INK, lw=0.6)
        axes[0].set_ylabel("nA")
        axes[1].plot(*thinned(times, np.array(stimulus["voltage_mV"])), color=INK, lw=0.8, label="recorded")
        if traced is not None:
            voltage = np.array(traced[f"voltage_mV.{key}"])
            axes[1].plot(*thinned(times, voltage), color=MODEL, lw=0.8, label="best model")
        axes[1].set_ylabel("mV")
        axes[1].legend(loc="upper right", ncols=2)
        if raster:
            own = [np.array(train) for train in stimulus["spikes_ms"]]
            rows = own + [np.array(train) for train in trains]
            colours = [INK] * len(own) + [MODEL] * len(trains)
            axes[2].eventplot(rows, colors=colours, lineoffsets=-np.arange(len(rows)), linelengths=0.8, lw=0.7)
            axes[2].set_yticks([])
            axes[2].set_ylabel("spikes")
        axes[-1].set_xlabel("ms")

    spikes = [len(train) for train in stimulus["spikes_ms"]]
    told = f"{spikes[0]} spikes" if len(spikes) == 1 else f"{len(spikes)} trials, {min(spikes)}-{max(spikes)} spikes"
    counts = ", ".join(str(len(train)) for train in trains)
    which = "the best models, in order," if len(trains) > 1 else "the model"
    models = f"; {which} {counts}" if trains else ""
    caption = f"{stimulus['stimulus']}, sweep {stimulus['sweeps'][0]}: recorded {told}{models}."
    return html.figure(picture(3.4 if raster else 2.6, draw, f"response to {key}"), caption)


BLOCK = 4


def run_validate(spec: ValidateSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Validate models with everything stored in `out`, or go on with it; raises as `run_in_folder` does."""

    def read() -> tuple[list[Validation], list[str]]:
        refuse_missing_models(spec, folder)
        return read_validations(spec, folder)

    run_in_folder(spec, folder, out, read, lambda run: _validate(run, address, cpus), FINDINGS)


def _validate(run: JobRun, address: str | None, cpus: int | None) -> None:
    validations: list[Validation] = run.inputs
    measure_on_pool(run, validation_blocks(run.spec, validations), "simulating", address, cpus)
    models, stimuli = [], []
    for validation in validations:
        names = run.store.names(f"{RESPONSES}/cell={validation.cell}")
        tables = [run.store.table(name) for name in names]
        responses = [row for table in tables if table is not None for row in table.to_pylist()]
        own = stimulus_rows(validation, responses)
        stimuli += own
        models += model_rows(validation, responses, own)
        run.store.write_table(f"recorded/cell={validation.cell}/part.parquet", recorded_table(validation))
    run.store.write_table("models.parquet", pa.Table.from_pylist(models))
    if stimuli:
        run.store.write_table("stimuli.parquet", pa.Table.from_pylist(stimuli))
    found: dict[str, Any] = {
        "name": run.spec.name,
        "kind": run.spec.kind,
        "cells": [_facts(validation, models) for validation in validations],
        "notes": run.notes,
        "versions": versions(),
    }
    write_validation_report(run.store, found)
    write_findings(run.out, found)
    print_validation_findings(found, run.console)


def validation_blocks(spec: ValidateSpec, validations: Sequence[Validation]) -> list[Block]:
    """Return the models of all cells in blocks, as they are stored."""
    found = []
    for validation in validations:
        population = validation.population
        asked = ValidationMeasure(
            population.model, validation.generalisation, tuple(validation.stimuli), spec.max_steps
        )
        engine = measure_engine(f"{validation.cell}-validate", asked)
        for number, start in enumerate(range(0, len(population), BLOCK)):
            values = population.values[start : start + BLOCK]
            found.append(
                Block(
                    name=f"{RESPONSES}/cell={validation.cell}/block-{number:04d}.parquet",
                    cell=validation.cell,
                    engine=engine,
                    size=len(values),
                    individuals=partial(list, values),
                    table=partial(_table, validation, start),
                )
            )
    return found


def _table(validation: Validation, first: int, outcomes: list[Outcome]) -> "pa.Table":
    return responses_table(validation, first, outcomes)


def _facts(validation: Validation, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in models if row["cell"] == validation.cell]
    best = own[0]
    facts: dict[str, Any] = {
        "cell": validation.cell,
        "models": len(own),
        "failed": sum(row["status"] != "ok" for row in own),
        "trained_targets": len(validation.population.model.targets.targets),
        "unseen_targets": len(validation.generalisation.targets) if validation.generalisation else 0,
        "stimuli": [stimulus.name for stimulus in validation.stimuli],
        "noise_trials": sum(len(s.sweeps) for s in validation.stimuli if s.is_noise),
    }
    for name in MEASURES:
        values = [row[name] for row in own if row[name] is not None]
        facts[name] = {
            "best_model": best[name],
            "median": float(np.median(values)) if values else None,
            "low": float(np.min(values)) if values else None,
            "high": float(np.max(values)) if values else None,
        }
    return facts
