"""The scores of NeuPRINT's jobs: on the terminal, as JSON, and as a page with intervals, maps, confusion and epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.learners.learner_figures import MethodScore, curves_figure, examples_figure, methods_figure
from neurofleet.jobs.learners.learner_folder import EMBEDDINGS, EXAMPLES, HISTORY, PREDICTIONS
from neurofleet.jobs.learners.learner_report import (
    LearnerReport,
    confusion_matrix,
    map_figure,
    notes_section,
    print_sentences,
    provenance_section,
    scores_section,
    stored_evaluation,
    stored_model,
    typed,
)
from neurofleet.jobs.reports import html

METHODS = {
    "hand_forest": "hand statistics",
    "lolcat": "LOLCAT",
    "transformer_isi": "transformer on intervals of events",
    "transformer_raw": "transformer on raw traces",
    "pca": "PCA of raw traces",
    "umap": "UMAP of raw traces",
    "random": "random vectors",
}
PROBES = {
    "knn": "kNN",
    "linear": "logistic",
    "mlp": "MLP",
    "trees": "forest",
}
BASELINE_PROBES = {
    "hand_forest": "forest",
    "pca": PROBES["linear"],
    "umap": PROBES["linear"],
    "random": PROBES["linear"],
}
HEAD = ("", "probe", "accuracy", "95 %", "balanced accuracy", "95 %", "macro-F1", "difference", "95 %")
SHOWN = (2, 3, 4, 7)
"""The columns of scores that have room on a terminal."""

EXPLANATION = (
    "A dynamics model predicts each neuron's activity from its past, from behaviour and from the other"
    " neurons; Phi is what it needs to know of the neuron itself. It is fitted without the tested neurons"
    " and without any class; then the Phi of all neurons is inferred with the dynamics frozen, and probes"
    " learn classes from the Phi of training neurons. What a probe chooses, it chooses inside these."
)


@dataclass(frozen=True)
class MethodScores:
    """What a method reaches by a probe: means with 95 % intervals, which a single unit does not have.

    The difference is that of the accuracy to the reference, where there is one.
    """

    method: str
    probe: str
    accuracy: float
    accuracy_low: float | None
    accuracy_high: float | None
    balanced_accuracy: float
    balanced_accuracy_low: float | None
    balanced_accuracy_high: float | None
    macro_f1: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    @property
    def is_of_phi(self) -> bool:
        """Whether the method probes Phi, and is no baseline."""
        return self.method not in METHODS

    def cells(self, is_reference: bool) -> tuple[str, ...]:
        """Return the row of a table as text."""
        return (
            method_name(self.method),
            PROBES.get(self.probe, BASELINE_PROBES.get(self.method, "")),
            f"{self.accuracy:.3f}",
            _interval(self.accuracy_low, self.accuracy_high),
            f"{self.balanced_accuracy:.3f}",
            _interval(self.balanced_accuracy_low, self.balanced_accuracy_high),
            f"{self.macro_f1:.3f}",
            "reference" if is_reference else "" if self.difference is None else f"{self.difference:+z.3f}",
            "" if is_reference else _interval(self.difference_low, self.difference_high, "+.3f"),
        )


@dataclass(frozen=True)
class Control:
    """Probes of shuffled labels; `limit` is the accuracy that chance explains."""

    valid: bool
    accuracy: float
    limit: float
    decisive: bool


@dataclass(frozen=True)
class Naming:
    """The probe that names neurons, and the balanced accuracy that each kind reached in cross-validation."""

    probe: str
    tried: dict[str, float]


@dataclass(frozen=True)
class RecordingsData:
    """What was recorded: animals, neurons, those with a class, and how many each class has."""

    animals: list[str]
    n_neurons: int
    n_labelled: int
    neurons_of_class: dict[str, int]


@dataclass(frozen=True)
class SplitKind:
    """How neurons were split, as in the job file."""

    how: str
    animal: str | None
    seeds: int


@dataclass(frozen=True)
class NeuprintScores:
    """The scores of a training or an evaluation, and what they come from.

    Attributes
    ----------
    name, label : str
    data : RecordingsData
    split : SplitKind
    methods : list of MethodScores
    majority_rate : float
        What the most frequent class of each test part reaches.
    reference : str or None
        The method that others are compared with.
    intervals_over : {"animals", "splits"}
    control : Control or None
        None without probes of Phi.
    naming : Naming or None
        None in an evaluation, or where the model names nothing.
    notes : list of str
    versions : dict of str
    """

    name: str
    label: str
    data: RecordingsData
    split: SplitKind
    methods: list[MethodScores]
    majority_rate: float
    reference: str | None
    intervals_over: str
    control: Control | None
    notes: list[str]
    versions: dict[str, str]
    naming: Naming | None = None

    @property
    def title(self) -> str:
        """How neurons were split, and how many there are."""
        data, split = self.data, self.split
        how = {
            "cross-animal": f"each of {len(data.animals)} animals tested in turn",
            "pooled": "neurons of all animals pooled, animals NOT kept apart",
            "single-animal": f"neurons of one animal, {split.animal or data.animals[0]}",
        }[split.how]
        seeds = f"{split.seeds} seed{'s' if split.seeds > 1 else ''}"
        return (
            f"{self.name}: {how}, {seeds}; {data.n_labelled:,} of {data.n_neurons:,} neurons with"
            f" {self.label}, {len(data.neurons_of_class)} classes"
        )

    def rows(self) -> list[Sequence[str]]:
        """Return a row of text for each method and probe, and for what chance reaches."""
        rows: list[Sequence[str]] = [row.cells(row.method == self.reference) for row in self.methods]
        blank = ("",) * 4
        rows.append(("most frequent class", "", f"{self.majority_rate:.3f}", "", *blank, ""))
        if self.control:
            name = f"control: labels shuffled, chance up to {self.control.limit:.3f}"
            rows.append((name, PROBES["linear"], f"{self.control.accuracy:.3f}", "", *blank, ""))
        return rows


def method_name(method: str) -> str:
    """Return what readers know a method by."""
    name, plus, rest = method.partition(" + ")
    if name in METHODS:
        return METHODS[name]
    seen = {"phi": "Phi", "all": "Phi, all inputs", "none": "Phi, own past alone"}
    input_of = f"Phi, {name}" if name.startswith("+") else f"Phi, {name} input"  # + in growing ablations
    return seen.get(name, input_of) + plus + rest


def _interval(low: float | None, high: float | None, form: str = ".3f") -> str:
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def remarks(scores: NeuprintScores) -> list[str]:
    """Return what a reader of the table must not miss."""
    sentences = []
    n_animals = len(scores.data.animals)
    if scores.intervals_over == "animals":
        sentences.append(f"Means and 95 % intervals are over the {n_animals} tested animals, their seeds averaged.")
    elif scores.split.seeds == 1:
        sentences.append("One split: no intervals. Ask for more `seeds:`.")
    else:
        sentences.append(
            "Intervals are over splits, whose test neurons overlap: they tell how a result depends on the"
            " draw, not what other animals would give."
        )
    if scores.split.how == "pooled" and n_animals > 1:
        sentences.append(
            "Neurons of one animal are on both sides of a pooled split, which flatters every method;"
            " `split: cross-animal` is free of that."
        )
    if scores.control and not scores.control.decisive:
        sentences.append(
            "The control of shuffled labels cannot fail here: one class is so frequent, and the neurons are"
            " so few, that its limit is 1 or above."
        )
    if naming := scores.naming:
        tried = ", ".join(f"{PROBES[kind]} {value:.3f}" for kind, value in naming.tried.items())
        sentences.append(
            f"`neurofleet embed` names neurons by a probe of Phi, {PROBES[naming.probe]}, chosen by"
            f" cross-validation inside the labelled neurons (balanced accuracy: {tried}). What it reaches on"
            " neurons that were held out stands above, where `methods:` has phi."
        )
    of_phi = [row for row in scores.methods if row.is_of_phi]
    if of_phi and all((row.difference_high or 0.0) < 0.0 for row in of_phi):
        sentences.append("Hand statistics tell classes better than any probe of Phi here.")
    return sentences


def invalid(scores: NeuprintScores) -> list[str]:
    """Return why no score can be trusted; nothing where the control is sound."""
    control = scores.control
    if control is None or control.valid:
        return []
    return [
        "INVALID: a probe of shuffled labels does better than chance (accuracy"
        f" {control.accuracy:.3f}, at most {control.limit:.3f} was expected). Labels leak into the"
        " vectors; no score here can be trusted."
    ]


@dataclass(frozen=True)
class NeuprintReport(LearnerReport):
    """A training or an evaluation that has ended.

    Attributes
    ----------
    scores : NeuprintScores
    history : list of dict
        A row for each epoch of each training; empty for an evaluation.
    """

    learner = "neuprint"

    scores: NeuprintScores
    history: list[dict[str, Any]]

    @classmethod
    def of(cls, findings: dict[str, Any], history: list[dict[str, Any]]) -> Self:
        """Return the report of what is kept in a model or as ``evaluation.json``."""
        return cls(typed(NeuprintScores, findings), history)

    @classmethod
    def read(cls, out: str | Path) -> Self:
        """Return what a folder holds; see `LearnerReport.read`."""
        history = Path(out) / HISTORY
        rows = pq.read_table(history).to_pylist() if history.is_file() else []
        return cls(typed(NeuprintScores, cls.stored(out), out), rows)

    @classmethod
    def stored(cls, out: str | Path) -> dict[str, Any]:
        """Return the scores as the model or ``evaluation.json`` keeps them."""
        evaluation = stored_evaluation(out)
        if evaluation is not None:
            return evaluation
        return dict(stored_model(out, cls.learner, ("methods",)).description["facts"])

    def job_name(self) -> str:
        """Return the name of the job."""
        return self.scores.name

    def print_tables(self, console: Console) -> None:
        """Print the table of scores, and what a reader must know of it."""
        scores = self.scores
        console.print(scores.title, style="bold", markup=False, highlight=False, soft_wrap=True)
        table = Table()
        table.add_column("")
        shown = [column for column in SHOWN if scores.reference or HEAD[column] != "difference"]
        for column in shown:
            table.add_column(HEAD[column], justify="right", no_wrap=HEAD[column] == "95 %")
        for row in scores.rows():
            method = f"{row[0]}, {row[1]}" if row[1] else row[0]
            table.add_row(Text(method), *(Text(row[column]) for column in shown))
        console.print(table)
        print_sentences(remarks(scores), invalid(scores), console)

    def verdict(self) -> list[str]:
        """Return what names neurons, what is best with Phi and without, chance, how sure that is, and what fails."""
        scores, lines = self.scores, []
        naming = [
            row for row in scores.methods if scores.naming and (row.method, row.probe) == ("phi", scores.naming.probe)
        ]
        for title, rows in (
            ("what embed names neurons by", naming),
            ("best with Phi", [row for row in scores.methods if row.is_of_phi]),
            ("best without Phi", [row for row in scores.methods if not row.is_of_phi]),
        ):
            if rows:
                best = max(rows, key=lambda row: row.accuracy)
                interval = _interval(best.accuracy_low, best.accuracy_high)
                lines.append(
                    f"{title}: {', '.join(filter(None, best.cells(False)[:2]))} reaches accuracy {best.accuracy:.3f}"
                    f"{f' (95 %: {interval})' if interval else ''}, balanced {best.balanced_accuracy:.3f}"
                )
        lines.append(f"always the most frequent class: accuracy {scores.majority_rate:.3f}")
        if scores.intervals_over == "animals":
            lines.append(f"how sure: intervals are over the {len(scores.data.animals)} tested animals")
        else:
            several = f"intervals are over {scores.split.seeds} splits, whose test neurons overlap"
            lines.append(f"how sure: {several if scores.split.seeds > 1 else 'one split, no intervals'}")
        return lines + invalid(scores)

    def body(self, store: RunStore) -> list[str]:
        """Return the page without its title."""
        scores = self.scores
        predictions = store.table(PREDICTIONS)
        embeddings = store.table(EMBEDDINGS)
        return [
            html.paragraph(EXPLANATION, "quiet"),
            html.heading(2, scores.title),
            *scores_section(HEAD, scores.rows(), range(2, len(HEAD)), remarks(scores), invalid(scores)),
            html.figure(
                methods_figure(
                    [
                        MethodScore(
                            ", ".join(filter(None, row.cells(False)[:2])),
                            row.accuracy,
                            row.accuracy_low,
                            row.accuracy_high,
                        )
                        for row in scores.methods
                    ],
                    "accuracy",
                    scores.majority_rate,
                    "the most frequent class",
                ),
                "Accuracy of each method by its probe, with 95 % intervals where there are any.",
            ),
            *([] if predictions is None else _confusion(scores, predictions)),
            *([] if embeddings is None else _neurons(scores, embeddings)),
            *_examples(store.table(EXAMPLES)),
            *([] if embeddings is None else _maps(scores, embeddings)),
            *(_epochs(self.history) if self.history else []),
            *notes_section(scores.notes),
            *provenance_section(store, scores.versions),
        ]


def _confusion(scores: NeuprintScores, predictions: pa.Table) -> list[str]:
    """Show the linear probe of the settings that see most; chosen beforehand, not for its score."""
    frame = predictions.to_pandas()
    linear = frame[frame["probe"] == "linear"]
    if not len(linear):
        return []
    method = linear["method"].iloc[-1]
    shown = linear[linear["method"] == method]
    return [
        html.heading(2, f"Class by class: {method_name(method)}, logistic regression"),
        confusion_matrix(
            list(scores.data.neurons_of_class),
            shown,
            f"Tested neurons of all {shown['split'].nunique()} splits together, by true class (rows) and predicted"
            " class (columns); the colour is the share of the true class.",
        ),
    ]


def _neurons(scores: NeuprintScores, embeddings: pa.Table) -> list[str]:
    """Return how many neurons of each class each animal has."""
    frame = embeddings.select(["animal", scores.label]).to_pandas().astype(str)
    known = list(scores.data.neurons_of_class)
    frame = frame[frame[scores.label].isin(known)]
    counts = pd.crosstab(frame[scores.label], frame["animal"]).reindex(known, fill_value=0)
    rows = [(name, int(row.sum()), *map(int, row)) for name, row in counts.iterrows()]
    head = (scores.label, "all", *map(str, counts.columns))
    return [html.details("Neurons of each class and animal", html.table(head, rows, range(1, len(head))))]


def _examples(table: pa.Table | None) -> list[str]:
    """Show recorded and predicted activity of a few neurons; nothing for an evaluation, and older runs."""
    if table is None or not len(table):
        return []
    repeated = ""
    if "r2_repeated" in table.column_names:
        repeated = " Repeated: the R² of taking the frame before as the prediction, which slow activity makes high."
    return [
        html.heading(2, "Activity and what the dynamics predicts of it"),
        html.figure(
            examples_figure(table.to_pandas()),
            "The last frames, of one neuron of each of the most frequent classes: that whose R² is its class's median."
            " Each frame is predicted from the recorded ones before it, from behaviour and other neurons, and from Phi."
            f" Activity is z-scored.{repeated}",
        ),
    ]


def _maps(scores: NeuprintScores, embeddings: pa.Table) -> list[str]:
    names = embeddings[scores.label].to_numpy(zero_copy_only=False).astype(str)
    names = np.where(np.isin(names, list(scores.data.neurons_of_class)), names, "")
    animals = embeddings["animal"].to_numpy(zero_copy_only=False).astype(str)
    parts = [
        html.heading(2, "Map"),
        map_figure(
            embeddings,
            names,
            f"map of Phi by {scores.label}",
            f"UMAP of the Phi of all {len(names):,} neurons, by {scores.label}; grey: without one. The"
            " dynamics has seen these neurons' activity, but no class. Distances between far groups mean"
            " little.",
        ),
    ]
    if len(set(animals)) > 1:
        parts.append(
            map_figure(
                embeddings,
                animals,
                "map of Phi by animal",
                "The same map by animal. Animals that lie apart are told by Phi, too: classes learned from"
                " one then carry less to another.",
            )
        )
    return parts


def _epochs(history: list[dict[str, Any]]) -> list[str]:
    return [
        html.heading(2, "Training"),
        html.figure(
            curves_figure(history),
            "Loss of predicted activity by epoch, on the first frames and on the last, which are held out.",
        ),
    ]
