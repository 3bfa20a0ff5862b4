"""The report of a validation: errors, traces beside the recorded ones, rasters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.populations.folder import read_findings
from jobs.populations.report_page import write_page
from jobs.report import page
from jobs.report.drawing import INK, MODEL, SEEDS, grid, picture, thinned
from jobs.validate.results import HEAD, cell_rows
from jobs.validate.tables import RESPONSES

if TYPE_CHECKING:
    from cluster.store import RunStore

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
    from cluster.store import RunStore

    return write_validation_report(RunStore(folder), read_findings(folder))


def write_validation_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of a validation whose tables are stored."""
    body = [
        page.paragraph(EXPLAINED, "quiet"),
        page.table(HEAD, cell_rows(found), numbers=range(1, len(HEAD))),
    ]
    table = store.table("models.parquet")
    models = [] if table is None else table.to_pylist()
    for cell in found["cells"]:
        body += _cell(store, cell["cell"], [row for row in models if row["cell"] == cell["cell"]])
    return write_page(store, found, body)


def _cell(store: "RunStore", cell: str, models: Sequence[Mapping[str, Any]]) -> list[str]:
    body = [page.heading(2, cell)]
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
        body.append(page.paragraph(f"{len(stimuli) - SHOWN_STIMULI} more stimuli are in stimuli.parquet."))
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
    return page.figure(
        picture(2.9, draw, label), f"{len(shown)} models; the best by training total in orange."
    )


def _unseen(responses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the objectives of unseen steps that the best model misses most."""
    if not responses or responses[0]["status"] != "ok":
        return []
    scores = {k.removeprefix("unseen."): v for k, v in responses[0].items() if k.startswith("unseen.")}
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    if not ranked:
        return []
    rows = [(name, f"{score:.3g}") for name, score in ranked[:WORST]]
    table = page.table(("objective at an unseen step", "z"), rows, numbers=[1])
    return [page.details(f"What the best model misses most, of {len(ranked)} objectives", table)]


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
            axes[2].eventplot(
                rows, colors=colours, lineoffsets=-np.arange(len(rows)), linelengths=0.8, lw=0.7
            )
            axes[2].set_yticks([])
            axes[2].set_ylabel("spikes")
        axes[-1].set_xlabel("ms")

    spikes = [len(train) for train in stimulus["spikes_ms"]]
    told = (
        f"{spikes[0]} spikes"
        if len(spikes) == 1
        else f"{len(spikes)} trials, {min(spikes)}-{max(spikes)} spikes"
    )
    counts = ", ".join(str(len(train)) for train in trains)
    which = "the best models, in order," if len(trains) > 1 else "the model"
    models = f"; {which} {counts}" if trains else ""
    caption = f"{stimulus['stimulus']}, sweep {stimulus['sweeps'][0]}: recorded {told}{models}."
    return page.figure(picture(3.4 if raster else 2.6, draw, f"response to {key}"), caption)
