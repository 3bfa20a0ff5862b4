"""The findings of a validation: errors by cell, and a report with traces and rasters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import INK, MODEL, SEEDS, grid, picture, thinned
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import Findings, stored_rows, table_rows

RESPONSES = "responses"


def recorded_file(cell: str) -> str:
    """Return the name of the table with the recorded stimuli of a cell."""
    return f"recorded/cell={cell}/part.parquet"


@dataclass(frozen=True)
class ErrorRange:
    """An error, or a share of variance, of the models of a cell; None where it is not known.

    Attributes
    ----------
    best_model : float or None
        Of the best model by training total.
    median, low, high : float or None
        Of all models.
    """

    best_model: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None

    def text(self, models: int) -> str:
        """Return it as it is shown for a number of models."""
        if self.median is None:
            return ""
        best = "failed" if self.best_model is None else f"{self.best_model:.3g}"
        return best if models == 1 else f"{best} ({self.median:.3g}, {self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True, kw_only=True)
class CellValidation:
    """The models of a cell, and their errors.

    Attributes
    ----------
    cell : str
    models, failed : int
        Models, and those whose simulation failed.
    trained_targets, unseen_targets : int
        E-features at steps that the last stage was trained on, and at steps that no stage was.
    stimuli : list of str
        Played stimuli.
    noise_trials : int
        Recorded repeats of noise.
    training, generalisation : ErrorRange
        Mean distance from the recorded e-features, in their standard deviations.
    explained_variance : ErrorRange
        At noise, as a share of what the mean of the trials explains.
    psth_explained_variance_percent : ErrorRange
        Against the mean of the trials.
    """

    cell: str
    models: int
    failed: int = 0
    trained_targets: int = 0
    unseen_targets: int = 0
    stimuli: list[str] = field(default_factory=list)
    noise_trials: int = 0
    training: ErrorRange = ErrorRange()
    generalisation: ErrorRange = ErrorRange()
    explained_variance: ErrorRange = ErrorRange()
    psth_explained_variance_percent: ErrorRange = ErrorRange()


HEAD = (
    "cell",
    "models",
    "failed",
    "training, z",
    "unseen steps, z",
    "explained variance",
    "PSTH form, %",
)
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


@dataclass(frozen=True, kw_only=True)
class ValidationFindings(Findings):
    """Errors of the models of each cell."""

    cells: list[CellValidation] = field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        """Return the errors by cell."""
        return [self.errors()]

    def verdict(self) -> list[str]:
        """Return the errors at what no stage was trained on, cell by cell, and how many models failed."""
        lines = []
        for cell in self.cells:
            said = []
            if unseen := cell.generalisation.text(cell.models):
                said.append(f"unseen steps {unseen} standard deviations, training {cell.training.text(cell.models)}")
            if variance := cell.explained_variance.text(cell.models):
                said.append(f"explained variance at noise {variance}, {cell.noise_trials} trials")
            lines.append(f"{cell.cell}: {'; '.join(said) or 'nothing that no stage was trained on'}")
        failed, models = sum(cell.failed for cell in self.cells), sum(cell.models for cell in self.cells)
        return [*lines, f"failed: {failed} of {models} models. Best model first; in brackets median, lowest to highest"]

    def errors(self) -> ReportTable:
        """Return a row for each cell."""
        rows = [
            (
                cell.cell,
                cell.models,
                cell.failed or "",
                cell.training.text(cell.models),
                cell.generalisation.text(cell.models),
                cell.explained_variance.text(cell.models),
                cell.psth_explained_variance_percent.text(cell.models),
            )
            for cell in self.cells
        ]
        title = f"{self.name}: best model (median of all, lowest to highest)"
        return ReportTable(HEAD, rows, numbers=range(1, len(HEAD)), title=title)

    def sections(self, store: RunStore) -> list[str]:
        """Return the errors, and for each cell its errors by model and its responses beside the recorded ones."""
        parts = [html.paragraph(EXPLAINED, "quiet"), self.errors().html()]
        models = table_rows(store, "models.parquet")
        for cell in self.cells:
            parts += _cell(store, cell.cell, [row for row in models if row["cell"] == cell.cell])
        return parts


def _cell(store: RunStore, cell: str, models: Sequence[Mapping[str, Any]]) -> list[str]:
    body = [html.heading(2, cell)]
    if sum(row["generalisation"] is not None and row["training"] is not None for row in models) > 1:
        body.append(_scatter(cell, models))
    responses = stored_rows(store, f"{RESPONSES}/cell={cell}")
    stimuli = table_rows(store, recorded_file(cell))
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
            recorded = [np.array(train) for train in stimulus["spikes_ms"]]
            rows = recorded + [np.array(train) for train in trains]
            colours = [INK] * len(recorded) + [MODEL] * len(trains)
            axes[2].eventplot(rows, colors=colours, lineoffsets=-np.arange(len(rows)), linelengths=0.8, lw=0.7)
            axes[2].set_yticks([])
            axes[2].set_ylabel("spikes")
        axes[-1].set_xlabel("ms")

    spikes = [len(train) for train in stimulus["spikes_ms"]]
    number = f"{spikes[0]} spikes" if len(spikes) == 1 else f"{len(spikes)} trials, {min(spikes)}-{max(spikes)} spikes"
    counts = ", ".join(str(len(train)) for train in trains)
    which = "the best models, in order," if len(trains) > 1 else "the model"
    models = f"; {which} {counts}" if trains else ""
    caption = f"{stimulus['stimulus']}, sweep {stimulus['sweeps'][0]}: recorded {number}{models}."
    return html.figure(picture(3.4 if raster else 2.6, draw, f"response to {key}"), caption)
