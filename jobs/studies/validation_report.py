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
    "training, SD",
    "unseen steps, SD",
    "explained variance",
    "PSTH form, %",
)
ERRORS = (
    "Errors are mean distances from the recorded e-features, in their standard deviations (SD; 250 where the model has"
    " no such feature): over the targets that the last stage was trained on, and over the same e-features at all steps"
    " that no stage was trained on."
)
VARIANCE = (
    "The explained variance compares smoothed spike trains (Gaussian of 10 ms) at noise that no stage has seen: as a"
    " share of what the mean of the trials explains of them, and in the paper's simple form, against the trials' mean,"
    " in percent."
)
BRACKETS = "For each: the best model by training total (median of all models, lowest to highest)."
SCORE_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 250)
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
            lines.append(f"{cell.cell}: {'; '.join(said) or 'nothing was recorded that no stage was trained on'}")
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
        return ReportTable(HEAD, rows, numbers=range(1, len(HEAD)), title=title, optional=range(2, len(HEAD)))

    def sections(self, store: RunStore) -> list[str]:
        """Return the errors, and for each cell its errors by model and its responses beside the recorded ones."""
        with_noise = any(cell.noise_trials for cell in self.cells)
        explained = " ".join([ERRORS, *([VARIANCE] if with_noise else []), BRACKETS])
        parts = [html.paragraph(explained, "quiet"), self.errors().html()]
        models = table_rows(store, "models.parquet")
        for cell in self.cells:
            parts += _cell(store, cell, [row for row in models if row["cell"] == cell.cell])
        return parts


def _cell(store: RunStore, found: CellValidation, models: Sequence[Mapping[str, Any]]) -> list[str]:
    cell = found.cell
    body = [html.heading(2, cell), html.paragraph(_compared(found))]
    responses = stored_rows(store, f"{RESPONSES}/cell={cell}")
    stimuli = table_rows(store, recorded_file(cell))
    if responses and responses[0]["status"] == "ok":
        body += _by_feature(responses[0])
    if sum(row["generalisation"] is not None and row["training"] is not None for row in models) > 1:
        body.append(_scatter(cell, models))
    body += _unseen(responses)
    for stimulus in stimuli[:SHOWN_STIMULI]:
        body.append(_stimulus(stimulus, responses))
    if len(stimuli) > SHOWN_STIMULI:
        body.append(html.paragraph(f"{len(stimuli) - SHOWN_STIMULI} more stimuli are in stimuli.parquet."))
    return body


def _compared(cell: CellValidation) -> str:
    """Return what the models of a cell were compared with, and what there is not."""
    parts = [
        f"{cell.trained_targets} e-features at the steps of the training",
        f"{cell.unseen_targets or 'no'} e-features at unseen steps",
        f"{cell.noise_trials or 'no'} trials of noise",
    ]
    played = (
        f"; played: {', '.join(cell.stimuli)}"
        if cell.stimuli
        else "; no other stimulus was recorded, or none was asked for"
    )
    return f"Compared at {', '.join(parts)}{played}."


def _by_feature(best: Mapping[str, Any]) -> list[str]:
    """Draw the mean score of the best model at each e-feature, at trained and at unseen steps."""
    kinds = {"score.": "trained steps", "unseen.": "unseen steps"}
    scores: dict[str, dict[str, list[float]]] = {}
    for column, score in best.items():
        for prefix in kinds:
            if column.startswith(prefix) and score is not None:
                scores.setdefault(column.rpartition(".")[2], {}).setdefault(prefix, []).append(score)
    if not scores:
        return []
    features = sorted(scores, key=lambda feature: max(map(np.mean, scores[feature].values())))
    shown = [prefix for prefix in kinds if any(prefix in of_feature for of_feature in scores.values())]

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        height = 0.8 / len(shown)
        for n, prefix in enumerate(shown):
            places = np.arange(len(features)) + (len(shown) / 2 - n - 0.5) * height
            means = [np.mean(scores[feature].get(prefix, [np.nan])) for feature in features]
            axis.barh(places, means, height=0.9 * height, color=SEEDS[n], label=kinds[prefix])
        axis.axvline(1.0, color=INK, lw=0.7, ls=(0, (3, 2)))
        axis.set_yticks(range(len(features)), features)
        axis.set_xscale("symlog", linthresh=1.0)
        axis.set_xticks([tick for tick in SCORE_TICKS if tick <= 1.5 * max(1.0, axis.get_xlim()[1])])
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set(xlabel="mean |z| of the best model (SD from the recording)", xlim=(0, None))
        grid(axis, "x")
        figure.legend(loc="outside upper left", ncols=2)

    caption = "The best model by training total: mean over steps of its distance from each e-feature; dashed: 1 SD."
    label = "scores of the best model by e-feature"
    return [
        html.figure(picture(0.27 * len(features) + 1.0, draw, label), f"{caption} Linear up to 1, then logarithmic.")
    ]


def _scatter(cell: str, models: Sequence[Mapping[str, Any]]) -> str:
    shown = [row for row in models if None not in (row["training"], row["generalisation"])]
    x = [row["training"] for row in shown]
    y = [row["generalisation"] for row in shown]

    def draw(figure: Any) -> None:
        axis = figure.subplots(1, 2)[0]
        figure.axes[1].set_axis_off()
        axis.plot(x[1:], y[1:], "o", color=SEEDS[0], ms=4, label="other models")
        axis.plot(x[0], y[0], "D", color=MODEL, ms=6, label="best by training total")
        top = max(*x, *y) * 1.05
        axis.plot([0, top], [0, top], color=INK, lw=0.7, ls=(0, (3, 2)), label="equal errors")
        axis.set(xlabel="error at training steps (SD)", ylabel="error at unseen steps (SD)", ylim=(0, None))
        grid(axis, "y")
        figure.legend(loc="outside right upper")

    label = f"training error against error at unseen steps of the models of {cell}"
    return html.figure(picture(2.9, draw, label), f"{len(shown)} models: each its mean error at both kinds of steps.")


def _unseen(responses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the objectives of unseen steps that the best model misses most."""
    if not responses or responses[0]["status"] != "ok":
        return []
    scores = {k.removeprefix("unseen."): v for k, v in responses[0].items() if k.startswith("unseen.")}
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    if not ranked:
        return []
    rows = [(name, f"{score:.3g}") for name, score in ranked[:WORST]]
    table = html.table(("objective at an unseen step", "score, SD"), rows, numbers=[1])
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
        axes[0].set_ylabel("current\n(nA)")
        axes[1].plot(*thinned(times, np.array(stimulus["voltage_mV"])), color=INK, lw=0.8, label="recorded")
        if traced is not None:
            voltage = np.array(traced[f"voltage_mV.{key}"])
            axes[1].plot(*thinned(times, voltage), color=MODEL, lw=0.8, label="best model")
        axes[1].set_ylabel("voltage (mV)")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        if raster:
            recorded = [np.array(train) for train in stimulus["spikes_ms"]]
            rows = recorded + [np.array(train) for train in trains]
            colours = [INK] * len(recorded) + [MODEL] * len(trains)
            axes[2].eventplot(rows, colors=colours, lineoffsets=-np.arange(len(rows)), linelengths=0.8, lw=0.7)
            axes[2].set_yticks([])
            axes[2].set_ylabel("spikes")
        axes[-1].set_xlabel("time (ms)")

    spikes = [len(train) for train in stimulus["spikes_ms"]]
    number = f"{spikes[0]} spikes" if len(spikes) == 1 else f"{len(spikes)} trials, {min(spikes)}-{max(spikes)} spikes"
    counts = ", ".join(str(len(train)) for train in trains)
    which = "the best models, in order," if len(trains) > 1 else "the model"
    models = f"; {which} {counts}" if trains else ""
    caption = f"{stimulus['stimulus']}, sweep {stimulus['sweeps'][0]}: recorded {number}{models}."
    return html.figure(picture(3.4 if raster else 2.6, draw, f"response to {key}"), caption)
