"""The scores of a SIMS training beside those of simple methods: on the terminal, as JSON, and as a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.learners.learner_figures import (
    NUMBERED_CLASSES,
    confusion_figure,
    curves_figure,
    epochs_in_words,
    reliability_figure,
)
from neurofleet.jobs.learners.learner_folder import HISTORY, MAP
from neurofleet.jobs.learners.learner_report import (
    LearnerReport,
    map_figure,
    notes_section,
    print_sentences,
    provenance_section,
    scores_section,
    stored_model,
    typed,
)
from neurofleet.jobs.reports import html
from neurofleet.learners.calibration import Calibration, ReliabilityBin
from neurofleet.learners.scores import Scores
from neurofleet.learners.sims.tabnet_settings import DEFAULT, FEWEST_CELLS, settings_of

FACTS = ("name", "scores", "baselines", "control", "reliability", "data", "split")
"""What a training job, unlike a fit from Python, writes into its model."""

BASELINES = {
    "majority": "always the most frequent class",
    "logistic": "logistic regression",
    "pca_knn": "nearest neighbours after PCA",
    "raw_knn": "nearest neighbours, all genes",
    "celltypist": "celltypist",
}
PARTS = {"sims": "the model", "networks": "its networks alone", "linear": "its linear model alone"}


@dataclass(frozen=True)
class BaselineScores:
    """What a simple method reaches; None where it could not be run, which the notes explain."""

    notes: list[str]
    accuracy: float | None = None
    macro_f1: float | None = None


@dataclass(frozen=True)
class Control:
    """A model of shuffled labels; `limit` is the accuracy that chance explains."""

    valid: bool
    accuracy: float
    limit: float


@dataclass(frozen=True)
class Reliability:
    """Expected calibration error, mean negative log-likelihood (nats), and bins of probability."""

    ece: float
    nll: float
    bins: list[ReliabilityBin]


@dataclass(frozen=True)
class FoldScore:
    """What a part of the model reaches in one fold, over `n` cells."""

    accuracy: float
    macro_f1: float
    n: int


@dataclass(frozen=True)
class ReferenceData:
    """What a model was trained on: files with their SHA-256, sizes, classes and the cells of each."""

    files: list[str]
    sha256: dict[str, str]
    n_cells: int
    n_genes: int
    n_genes_seen: int
    label: str
    cells_of_class: dict[str, int]
    normalisation: str


@dataclass(frozen=True)
class CellSplit:
    """The split: its fingerprint, and how many cells play which part, fold by fold."""

    fingerprint: str
    cells: list[dict[str, int]]


@dataclass(frozen=True)
class UnknownCurve:
    """A type left out of training: what is called unknown below each threshold; None where no cell says."""

    threshold: list[float | None]
    unknown_recall: list[float | None]
    known_accuracy: list[float | None]


@dataclass(frozen=True)
class Answer:
    """What a model answers with: the share of the linear model, chosen on so many validation cells, and why."""

    linear_share: float
    cells: int
    in_words: str


@dataclass(frozen=True)
class SimsScores:
    """The scores of a training, and what it was trained on.

    Attributes
    ----------
    name, preset : str
    seed : int
    role : str
        Which cells were scored: ``test`` or ``validation``.
    scores : dict of Scores
        Of ``sims``, the whole model, and its parts ``networks`` and ``linear``.
    baselines : dict of BaselineScores
    control : Control or None
        None without test cells.
    reliability : dict of Reliability
        ``before`` and ``after`` calibration.
    folds : list of dict, or None
        For each fold, what model and parts reach; None without folds.
    unknown_types : dict of UnknownCurve, or None
        By the type that was left out.
    data : ReferenceData
    split : CellSplit
    notes : list of str
    versions : dict of str
    answer : Answer or None
        None without validation cells, and in models of earlier versions.
    """

    name: str
    preset: str
    seed: int
    role: str
    scores: dict[str, Scores]
    baselines: dict[str, BaselineScores]
    control: Control | None
    reliability: dict[str, Reliability]
    data: ReferenceData
    split: CellSplit
    notes: list[str]
    versions: dict[str, str]
    folds: list[dict[str, FoldScore]] | None = None
    unknown_types: dict[str, UnknownCurve] | None = None
    answer: Answer | None = None

    def macro_f1(self, part: str) -> float:
        """Return a macro-F1 that compares with the baselines': with folds, the mean weighted by their cells."""
        if not self.folds:
            return self.scores[part].macro_f1
        folds = [fold[part] for fold in self.folds]
        return float(sum(fold.macro_f1 * fold.n for fold in folds) / sum(fold.n for fold in folds))


@dataclass(frozen=True)
class ScoresRow:
    """What one method reaches on the scored cells.

    Attributes
    ----------
    key, method : str
        As the model keeps it, and for readers.
    accuracy : float or None
        None where the method could not be run.
    interval : (float, float) or None
        95 % interval of the accuracy, where it is known.
    macro_f1 : float or None
        With folds, the mean over the folds, weighted by their cells.
    notes : sequence of str
    """

    key: str
    method: str
    accuracy: float | None
    interval: tuple[float, float] | None
    macro_f1: float | None
    notes: Sequence[str] = ()

    def cells(self) -> tuple[str, str, str, str]:
        """Return method, accuracy, interval and macro-F1 as text."""
        interval = "" if self.interval is None else f"{self.interval[0]:.3f} – {self.interval[1]:.3f}"
        return self.method, digits(self.accuracy), interval, digits(self.macro_f1)


def scores_rows(scores: SimsScores) -> list[ScoresRow]:
    """Return a row for the model, one for each of its parts, and one for each baseline."""
    rows = [
        ScoresRow(
            key, PARTS.get(key, key), part.accuracy, (part.accuracy_low, part.accuracy_high), scores.macro_f1(key)
        )
        for key, part in scores.scores.items()
    ]
    return rows + [
        ScoresRow(key, BASELINES.get(key, key), baseline.accuracy, None, baseline.macro_f1, baseline.notes)
        for key, baseline in scores.baselines.items()
    ]


def notes_of(rows: Sequence[ScoresRow]) -> list[str]:
    """Return what is to be said of single methods: why one could not be run, or how it was."""
    return [f"{row.method}: {' '.join(row.notes)}" for row in rows if row.notes]


def stored_scores(facts: Mapping[str, Any]) -> SimsScores | None:
    """Return the scores that a model of SIMS holds among its facts; None where it has none."""
    return typed(SimsScores, facts) if set(FACTS) <= facts.keys() else None


def remarks(scores: SimsScores) -> list[str]:
    """Return what a reader of the table must not miss: what the model answers with, and whatever does better."""
    model, *others = scores_rows(scores)
    sentences = [scores.answer.in_words if scores.answer else "", *(_better(model, other) for other in others)]
    if scores.control is not None and scores.control.limit >= 1.0:
        sentences.append(
            "The control of shuffled labels cannot fail here: one class is so frequent, and the cells are so "
            "few, that its limit is 1 or above."
        )
    return [sentence for sentence in sentences if sentence]


def invalid(scores: SimsScores) -> list[str]:
    """Return why no score of a training can be trusted; nothing where the control is sound."""
    control = scores.control
    if control is None or control.valid:
        return []
    return [
        "INVALID: a model of shuffled labels does better than chance "
        f"(accuracy {control.accuracy:.3f}, at most {control.limit:.3f} was expected). Labels leak "
        "into the cells' values; no score of this training can be trusted."
    ]


def digits(value: float | None) -> str:
    """Return a score with three digits; nothing where there is none."""
    return "" if value is None else f"{value:.3f}"


def _better(model: ScoresRow, other: ScoresRow) -> str:
    """Return in what another method does better than the model; nothing where it does not."""
    if other.accuracy is None or other.macro_f1 is None:
        return ""
    assert model.interval is not None
    name = other.method[0].upper() + other.method[1:]
    f1 = f"macro-F1 {digits(other.macro_f1)} against {digits(model.macro_f1)}"
    has_f1 = digits(other.macro_f1) > digits(model.macro_f1)  # what three digits do not show is no difference
    if digits(other.accuracy) > digits(model.accuracy):
        inside = other.accuracy <= model.interval[1]
        where = "inside the model's 95 % interval" if inside else "above the model's 95 % interval"
        more = f"; {f1}" if has_f1 else ""
        return (
            f"{name} does better than the model: accuracy {digits(other.accuracy)} against "
            f"{digits(model.accuracy)}, {where}{more}."
        )
    return f"{name} does better than the model on rare classes: {f1}." if has_f1 else ""


@dataclass(frozen=True)
class SimsReport(LearnerReport):
    """A training that has ended.

    Attributes
    ----------
    scores : SimsScores
    classes : list of str
    settings : dict
        Of the learner, by name.
    calibration : Calibration
    has_linear : bool
        Whether a linear model stands beside the networks.
    history : list of dict
        A row for each epoch of each training; empty where the folder has lost it.
    """

    learner = "sims"
    use = "predict {out} {query} --out predictions.parquet"

    scores: SimsScores
    classes: list[str]
    settings: dict[str, Any]
    calibration: Calibration
    has_linear: bool
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, out: str | Path) -> Self:
        """Return what a model folder holds; see `LearnerReport.read`."""
        model = stored_model(out, cls.learner, FACTS).description
        history = Path(out) / HISTORY
        return cls(
            typed(SimsScores, model["facts"], out),
            model["classes"],
            model["settings"],
            Calibration.from_dict(model["calibration"]),
            model["linear"] is not None,
            pq.read_table(history).to_pylist() if history.is_file() else [],
        )

    @classmethod
    def stored(cls, out: str | Path) -> dict[str, Any]:
        """Return the scores as ``model.json`` keeps them."""
        return dict(stored_model(out, cls.learner, FACTS).description["facts"])

    def job_name(self) -> str:
        """Return the name of the job."""
        return self.scores.name

    @property
    def model_scores(self) -> Scores:
        """Scores of the whole model."""
        return self.scores.scores["sims"]

    @property
    def role(self) -> str:
        """Which cells were scored: ``test`` or ``validation``."""
        return self.scores.role

    @property
    def n_folds(self) -> int:
        """How many models the scores come from: 1 without folds."""
        return len(self.scores.split.cells)

    def print_tables(self, console: Console) -> None:
        """Print the table of scores, and what a reader must know of it."""
        table = Table(title=Text(f"Scores on {self.role} cells"))
        table.add_column("")
        for name in ("accuracy", "95 % interval", "macro-F1"):
            table.add_column(name, justify="right")
        rows = scores_rows(self.scores)
        for row in rows:
            if row.accuracy is not None:
                method, *numbers = row.cells()
                table.add_row(Text(method), *numbers)
        control = self.scores.control
        if control is not None:
            table.add_row(f"shuffled labels, chance up to {digits(control.limit)}", digits(control.accuracy), "", "")
        console.print(table)
        print_sentences(notes_of(rows), [], console)
        print_sentences(remarks(self.scores), invalid(self.scores), console)

    def verdict(self) -> list[str]:
        """Return how good the model is beside the best simple method, which class is worst, and how sure it is."""
        model, *others = scores_rows(self.scores)
        baselines = [row for row in others if row.key in self.scores.baselines and row.accuracy is not None]
        found = self.model_scores
        lines = [
            f"accuracy {found.accuracy:.3f} (95 %: {found.accuracy_low:.3f} to {found.accuracy_high:.3f}), macro-F1"
            f" {digits(model.macro_f1)} on {found.n:,} {self.role} cells of {found.n_classes} classes"
        ]
        if baselines:
            best = max(baselines, key=lambda row: row.accuracy or 0.0)
            lines.append(
                f"best simple method: {best.method}, accuracy {digits(best.accuracy)}, macro-F1 {digits(best.macro_f1)}"
            )
        if known := [each for each in found.per_class if each.support]:
            worst = min(known, key=lambda each: each.f1)
            lines.append(f"worst class: {worst.name}, F1 {worst.f1:.3f} on {worst.support:,} cells")
        control, after = self.scores.control, self.scores.reliability.get("after")
        sure = [] if after is None else [f"probabilities are off by {after.ece:.3f} on average"]
        if control is not None and control.valid:
            sure.append(f"shuffled labels reach {control.accuracy:.3f}, no more than chance")
        return [*lines, *(["; ".join(sure)] if sure else []), *invalid(self.scores)]

    def body(self, store: RunStore) -> list[str]:
        """Return the page without its title."""
        return [
            html.paragraph(_opening(self), "quiet"),
            *_scores_section(self),
            *_folds_section(self),
            *_classes_section(self),
            *_map_section(store, self.role),
            *_reliability_section(self),
            *_unknown_section(self.scores.unknown_types or {}),
            *_curves_section(self),
            *_data_section(self),
            *_provenance(store, self),
        ]


def _opening(report: SimsReport) -> str:
    members = report.settings["members"]
    networks = f"{members} networks averaged" if members > 1 else "one network"
    linear = " and a linear model" if report.has_linear else ""
    data = report.scores.data
    labelled = sum(data.cells_of_class.values())
    return (
        f"SIMS model of {len(report.classes)} classes ({networks}{linear}), learnt from {labelled:,} "
        f"labelled cells of {', '.join(data.files)}. Split: {_split_text(report)}."
    )


def _split_text(report: SimsReport) -> str:
    """Return how many cells play which part."""
    cells = report.scores.split.cells
    if len(cells) > 1:
        return f"{len(cells)} folds, each cell tested once; the model kept is trained on all labelled cells"
    return "{train:,} training, {validation:,} validation, {test:,} test cells".format(**cells[0])


def _scores_section(report: SimsReport) -> list[str]:
    """Return the table of scores with the control, and what there is to say about them."""
    scores = report.scores
    methods = scores_rows(scores)
    rows: list[tuple[object, ...]] = [row.cells() for row in methods if row.accuracy is not None]
    control, said = scores.control, notes_of(methods)
    if control is not None:
        rows.append(("control: a model of shuffled labels", digits(control.accuracy), "", ""))
        verdict = "sound: no better than chance" if control.valid else "INVALID: better than chance"
        said.insert(0, f"The control is {verdict}, which reaches {digits(control.limit)} at most.")
    head = ("", "accuracy", "95 % interval", "macro-F1")
    return [
        html.heading(2, f"Scores on {report.model_scores.n:,} {report.role} cells"),
        *scores_section(head, rows, (1, 2, 3), remarks(scores), invalid(scores)),
        *(html.paragraph(text, "quiet") for text in said),
        html.paragraph(_explanation(report), "quiet"),
        *notes_section(scores.notes, level=3),
    ]


def _explanation(report: SimsReport) -> str:
    sentences = [
        f"The most frequent class has {report.model_scores.majority_rate:.1%} of these cells. Macro-F1 is the "
        "mean over the classes, the rare ones counted like the others."
    ]
    if report.n_folds > 1:
        sentences.append(
            f"Each cell was tested once, by one of {report.n_folds} models that had not seen it; the model "
            "that is kept is trained on all cells and untested itself. Each macro-F1 is a mean over folds."
        )
    if report.role == "validation":
        sentences.append(
            "There are no test cells: these are the validation cells, scored by the model that was not "
            "trained on them. They have chosen the temperature, and what else the settings let them choose."
        )
    if report.scores.control is None:
        sentences.append("Without test cells there is no control of shuffled labels.")
    return " ".join(sentences)


def _folds_section(report: SimsReport) -> list[str]:
    """Return the scores of each fold; nothing without folds."""
    folds = report.scores.folds
    if not folds:
        return []
    rows = [
        (
            number,
            f"{cells['train']:,}",
            f"{cells['validation']:,}",
            f"{cells['test']:,}",
            *(digits(value) for part in fold.values() for value in (part.accuracy, part.macro_f1)),
        )
        for number, (cells, fold) in enumerate(zip(report.scores.split.cells, folds, strict=True))
    ]
    names = {"sims": "model"}
    scored = [f"{names.get(name, name)}: {score}" for name in folds[0] for score in ("accuracy", "macro-F1")]
    head = ("fold", "training cells", "validation", "test", *scored)
    return [html.heading(2, "Folds"), html.table(head, rows, numbers=range(1, len(head)))]


def _map_section(store: RunStore, role: str) -> list[str]:
    """Show the scored cells on a map, by class and by prediction; nothing where the run kept no map."""
    table = store.table(MAP)
    if table is None:
        return []
    predicted = np.array([name or "" for name in table["predicted"].to_pylist()])
    true = np.where(predicted == "", "", table["true"].to_numpy(zero_copy_only=False).astype(str))
    return [
        html.heading(2, "Map"),
        map_figure(
            table,
            {"true class": true, "predicted class": predicted},
            "map of the cells by true and by predicted class",
            f"Map (t-SNE) of the model's embedding of {len(predicted):,} labelled cells. In colour:"
            f" {(predicted != '').sum():,} {role} cells, by their class and by what was"
            " predicted for them; grey: cells that were trained on."
            " Distances between far groups mean little.",
            "trained on",
        ),
    ]


SHOWN_MISTAKES = 10


def _classes_section(report: SimsReport) -> list[str]:
    """Return the confusion matrix, the most frequent mistakes and the scores of each class."""
    has_numbers = len(report.model_scores.classes) <= NUMBERED_CLASSES
    numbers, thousands = (", as numbers", "k: thousands; ") if has_numbers else ("", "")
    caption = (
        f"The {report.role} cells by true class (rows) and predicted class (columns){numbers}; the colour is the share"
        f" of the true class ({thousands}the pointer on a square shows the exact number). A row without colour is a"
        " class that has no such cell."
    )
    picture = confusion_figure(report.model_scores.classes, report.model_scores.confusion)
    return [
        html.heading(2, "Class by class"),
        html.figure(picture, caption),
        *_mistakes(report),
        _per_class(report),
        html.paragraph(
            "Precision: the share of the cells predicted as the class that are of it. Recall: the share of "
            "its cells that are found. F1: their harmonic mean. A dash: no cell to take the share of.",
            "quiet",
        ),
    ]


def _mistakes(report: SimsReport) -> list[str]:
    classes, confusion = report.model_scores.classes, report.model_scores.confusion
    mistakes = sorted(
        (-count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if count and i != j
    )
    if not mistakes:
        return [html.paragraph(f"All {report.role} cells are predicted right.")]
    rows = [
        (classes[i], classes[j], f"{-count:,}", f"{-count / sum(confusion[i]):.0%}")
        for count, i, j in mistakes[:SHOWN_MISTAKES]
    ]
    head = ("true class", "predicted", "cells", "of the true class")
    return [html.heading(3, "The most frequent mistakes"), html.table(head, rows, numbers=(2, 3))]


def _per_class(report: SimsReport) -> str:
    reference = report.scores.data.cells_of_class
    confusion = report.model_scores.confusion
    rows = []
    for i, score in enumerate(report.model_scores.per_class):
        predicted = sum(row[i] for row in confusion)
        rows.append(
            (
                score.name,
                f"{reference.get(score.name, 0):,}",
                f"{score.support:,}",
                digits(score.precision) if predicted else "–",
                digits(score.recall) if score.support else "–",
                digits(score.f1) if score.support else "–",
            )
        )
    head = ("class", "cells in the reference", f"{report.role} cells", "precision", "recall", "F1")
    return html.heading(3, "Scores of each class") + html.table(head, rows, numbers=range(1, 6))


WARNING = (
    "Calibration holds for cells like the validation cells. For a query that is shifted against the "
    "reference (another tissue, technology, laboratory or species, or types that the reference lacks) "
    "probabilities can be far off, mostly too high; nothing here says by how much."
)


def _reliability_section(report: SimsReport) -> list[str]:
    """Return the reliability diagram, the calibration errors, and how far they can be trusted."""
    reliability, calibration = report.scores.reliability, report.calibration
    rows = [
        (f"{report.role} cells, {name} calibration", digits(each.ece), digits(each.nll))
        for name, each in reliability.items()
    ]
    if calibration.n:
        rows += [
            ("validation cells, before calibration", digits(calibration.ece_before), digits(calibration.nll_before)),
            ("validation cells, after calibration", digits(calibration.ece_after), digits(calibration.nll_after)),
        ]
    panels = {f"{name} calibration": each.bins for name, each in reliability.items()}
    caption = (
        f"Predictions for the {report.role} cells in bins of their probability, with 95 % intervals; on "
        "the dashed line, predictions are right as often as they say. Below: how many cells each bin has "
        "(log scale)."
    )
    return [
        html.heading(2, "Reliability of probabilities"),
        html.paragraph(WARNING, "note"),
        html.paragraph(_temperature_text(report)),
        html.table(("", "ECE", "NLL"), rows, numbers=(1, 2)),
        html.figure(reliability_figure(panels), caption),
        html.paragraph(
            "ECE: expected calibration error, the mean distance from the dashed line over the cells (15 "
            "bins). NLL: mean negative log-likelihood of the true class (nats). Lower is better for both.",
            "quiet",
        ),
    ]


def _temperature_text(report: SimsReport) -> str:
    calibration = report.calibration
    if not calibration.n:
        return "There were no validation cells to calibrate with: probabilities are as the model gives them."
    sentences = [f"Temperature {calibration.temperature:.3g}, fitted on {calibration.n:,} validation cells."]
    if not calibration.determined:
        sentences.append(
            "The validation cells do not determine it: all of them are predicted right, so it stays 1."
            if calibration.temperature == 1.0
            else "The validation cells do not determine it: it ends at a limit of its range."
        )
    if report.n_folds > 1:
        sentences.append("Below, each fold has a temperature of its own, from its own validation cells.")
    before, after = (report.scores.reliability[key].nll for key in ("before", "after"))
    if after > before and report.role == "test":
        sentences.append(
            f"On the test cells it does harm: NLL {before:.3f} before, {after:.3f} after. Validation cells "
            "that are few, or unlike the test cells, do that."
        )
    return " ".join(sentences)


SHOWN_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def _unknown_section(curves: Mapping[str, UnknownCurve]) -> list[str]:
    """Return a table of thresholds, or nothing where no type was left out."""
    if not curves:
        return []
    head = ["type left out", *(f"below {threshold:g}" for threshold in SHOWN_THRESHOLDS)]
    rows = [
        [name, *(_percent(_at(curve, curve.unknown_recall, threshold)) for threshold in SHOWN_THRESHOLDS)]
        for name, curve in curves.items()
    ]
    kept = [
        _mean([_at(curve, curve.known_accuracy, threshold) for curve in curves.values()])
        for threshold in SHOWN_THRESHOLDS
    ]
    rows.append(["other types, right and kept (mean)", *map(_percent, kept)])
    return [
        html.heading(2, "Types that the reference does not have"),
        html.paragraph(
            "Each type was left out of training once. A cell whose highest probability is below the threshold"
            " is called unknown: the rows give the share of the left out type then called unknown, the"
            " last one the share of the other types' test cells that keep their label and have the right one."
        ),
        html.table(head, rows, range(1, len(head))),
    ]


def _at(curve: UnknownCurve, values: Sequence[float | None], threshold: float) -> float | None:
    """Return the value at the threshold of a curve that is nearest."""
    distances = [abs((at or 0.0) - threshold) for at in curve.threshold]
    return values[distances.index(min(distances))]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _curves_section(report: SimsReport) -> list[str]:
    parts = [html.heading(2, "Training")]
    if not report.history:
        return [*parts, html.paragraph("The history of its epochs (history.parquet) is not in the folder.")]
    seconds = sum(row["seconds"] for row in report.history)
    validated = any(row.get("val_loss") is not None for row in report.history)
    masking = ", and while genes are masked at random" if report.settings["gene_masking"] != 0 else ""
    caption = f"The loss on training cells is the mean of the networks' own while they change{masking}"
    if validated:
        caption += (
            "; that on validation cells is the loss of their averaged prediction after the epoch, and so are "
            "accuracy and macro-F1"
        )
    if report.scores.control is not None:
        caption += ". A model of shuffled labels may fit its training cells, but no others"
    return [
        *parts,
        html.paragraph(f"{epochs_in_words(report.history)} in {seconds:,.0f} s.", "quiet"),
        html.figure(curves_figure(report.history), f"{caption}."),
    ]


def _data_section(report: SimsReport) -> list[str]:
    """Return tables of the data and of the settings that are not the defaults."""
    scores, data = report.scores, report.scores.data
    unlabelled = data.n_cells - sum(data.cells_of_class.values())
    rows = [
        ("reference", ", ".join(data.files)),
        ("cells", f"{data.n_cells:,}" + (f", {unlabelled:,} of them without a label" if unlabelled else "")),
        ("classes", f"{len(report.classes)}, from column {data.label}"),
        ("genes", f"{data.n_genes:,}; the networks see {data.n_genes_seen:,}{_genes_seen(report)}"),
        ("values", data.normalisation),
        ("split", _split_text(report)),
        ("split's fingerprint", scores.split.fingerprint),
        ("preset, seed", f"{scores.preset}, {scores.seed}"),
    ]
    parts = [html.heading(2, "What was trained on what"), html.table(("", ""), rows)]
    defaults = settings_of(DEFAULT).model_dump()
    chosen = {"linear_share"} if scores.answer and scores.answer.in_words else set()  # by validation cells
    changed = [
        (name, _plain(value), _plain(defaults.get(name)))
        for name, value in report.settings.items()
        if value != defaults.get(name) and name not in chosen
    ]
    if not changed:
        return [*parts, html.paragraph("All settings are the defaults of this version.")]
    return [
        *parts,
        html.paragraph("Settings that are not the defaults of this version:"),
        html.table(("setting", "here", "default"), changed, numbers=(1, 2)),
    ]


def _genes_seen(report: SimsReport) -> str:
    """Say why the networks do not see all genes; nothing where they do."""
    data = report.scores.data
    if data.n_genes_seen == data.n_genes:
        return ""
    if data.n_genes_seen == report.settings.get("most_variable_genes"):
        return ", the most variable"
    return f", which {FEWEST_CELLS} training cells or more express"


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _provenance(store: RunStore, report: SimsReport) -> list[str]:
    page = ("this page", f"neurofleet report {store.root}")
    inputs = list(report.scores.data.sha256.items())
    events = [(event["at"][:19].replace("T", " "), event["event"]) for event in store.read_events()]
    parts = [
        *provenance_section(store, report.scores.versions, "model folder", [page]),
        html.details("All settings", html.code(json.dumps(report.settings, indent=1))),
        html.details(f"{len(inputs)} input files (SHA-256)", html.table(("file", "digest"), inputs)),
    ]
    if events:
        parts.append(html.details("What happened when (UTC)", html.table(("at", "event"), events)))
    return parts
