"""The scores of HIPPIE's jobs: on the terminal, as JSON, and as a page with maps, confusions and reliability."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.learners.learner_figures import MethodScore, methods_figure, reliability_figure
from neurofleet.jobs.learners.learner_folder import EMBEDDINGS, SIGNALS
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
from neurofleet.jobs.learners.unit_figures import signals_figure
from neurofleet.jobs.reports import html
from neurofleet.learners.calibration import reliability_bins
from neurofleet.learners.label_controls import PermutedTestLabels, ShuffledLabels
from neurofleet.learners.method_comparison import MethodComparison, MethodScores

METHODS = {
    "raw_knn": "raw KNN",
    "pca_knn": "PCA + KNN",
    "physmap": "PhysMAP + KNN",
    "classical": "classical",
    "untrained": "untrained network + SVM",
    "frozen": "frozen network + logistic",
    "mean_knn": "network's latent mean + KNN",
    "probe": "network's embedding + probe",
    "head": "fine-tuned network",
    "best": "network and classical, blended",
}
MEANINGS = {
    "raw_knn": "nearest neighbours of the scaled signals",
    "pca_knn": "nearest neighbours of ten principal components",
    "physmap": "weighted nearest neighbours of the modalities, UMAP, KNN; sees the signals of tested units",
    "classical": "linear models and SVMs on signals and hand features, blended by inner validation",
    "untrained": "an SVM on what a network of random weights makes of the signals: the network's control",
    "frozen": "logistic regression on the embedding of a network that was pretrained on other units",
    "mean_knn": "nearest neighbours of the fine-tuned network's latent mean, the published probe",
    "probe": "KNN, logistic regression, SVM or MLP on its fusion vector, chosen by inner validation",
    "head": "the network's own class head, fine-tuned on the training units",
    "best": "the fine-tuned network and the classical classifiers, weighted by inner validation: the model's answer",
}
HEAD = ("", "balanced accuracy [95 %]", "difference [95 %]", "macro-F1", "accuracy", "folds won : lost")
SHORT_HEAD = ("", "BA [95 %]", "difference [95 %]", "F1", "acc.")
LEGEND = "BA: balanced accuracy with its 95 % interval; F1: macro-F1; acc.: accuracy."
SHOWN = ("best", "head", "classical")
"""Of the first of these that there is, confusions and reliability are shown."""

EXPLANATION = (
    "Every unit is tested by models that have not seen it, nor its label (PhysMAP alone has its signals on"
    " the map); what a method may choose, it chooses inside its training units. Balanced accuracy is the mean"
    " over classes of the share of their units that is found. Intervals come from resampling units, or whole"
    " groups where the split is by group. Differences are paired, to the reference."
)


@dataclass(frozen=True)
class Blend:
    """The weights of the candidates that inner validation has chosen."""

    weights: dict[str, float]


@dataclass(frozen=True)
class ChosenInFold:
    """What methods have chosen in a fold."""

    best: Blend | None = None


@dataclass(frozen=True)
class SetScores:
    """The comparison of methods on one data set.

    Attributes
    ----------
    set : str
        Its name.
    group : str or None
        The column that was kept apart in the split.
    comparison : MethodComparison
    shuffled : dict of ShuffledLabels
        By method.
    permuted : PermutedTestLabels
    chosen : list of ChosenInFold
    """

    set: str
    group: str | None
    comparison: MethodComparison
    shuffled: dict[str, ShuffledLabels]
    permuted: PermutedTestLabels
    chosen: list[ChosenInFold]

    @property
    def title(self) -> str:
        """How the set was split, and what it holds."""
        found = self.comparison
        split = f"split by {self.group} ({found.n_groups})" if self.group else "RANDOM split, no animals kept apart"
        return (
            f"{self.set}: {split}, {found.folds} folds × {found.repeats}, {found.n:,} units, {found.n_classes} classes"
        )

    @property
    def methods(self) -> dict[str, MethodScores]:
        """Scores by method."""
        return {row.method: row for row in self.comparison.methods}

    def rows(self) -> list[Sequence[str]]:
        """Return a row of text for each method, and one for each control."""
        comparison = self.comparison
        rows: list[Sequence[str]] = []
        for row in comparison.methods:
            is_reference = row.method == comparison.reference
            low, high = row.balanced_accuracy_low, row.balanced_accuracy_high
            difference = f"{row.difference:+z.3f} [{row.difference_low:+z.3f}, {row.difference_high:+z.3f}]"
            rows.append(
                (
                    METHODS[row.method],
                    f"{row.balanced_accuracy:.3f} [{low:.3f}, {high:.3f}]",
                    "reference" if is_reference else difference,
                    f"{row.macro_f1:.3f}",
                    f"{row.accuracy:.3f}",
                    "" if is_reference else f"{row.folds_won} : {row.folds_lost}",
                )
            )
        chance = f"{1.0 / comparison.n_classes:.3f}"
        rows.append(("most frequent class", chance, "", "", f"{comparison.majority_rate:.3f}", ""))
        for method, control in self.shuffled.items():
            name = f"{METHODS[method]}, labels shuffled, chance up to {control.limit:.3f}"
            rows.append((name, f"{control.balanced_accuracy:.3f}", "", "", "", ""))
        return rows


def remarks(scores: SetScores) -> list[str]:
    """Return what a reader of a table must not miss."""
    methods = scores.methods
    sentences = []
    if {"head", "untrained"} <= methods.keys():
        gain = methods["head"].balanced_accuracy - methods["untrained"].balanced_accuracy
        if gain <= 0:
            sentences.append(
                f"The fine-tuned network does no better than an untrained one ({gain:+.3f}): it has learned"
                " nothing for these classes."
            )
    if {"head", "classical"} <= methods.keys() and methods["head"].difference_high < 0:
        sentences.append(
            "Classical classifiers do better than the network on this set; 95 % of resamples agree. The"
            " model's answers come from what inner validation chose, which may be without the network."
        )
    if not scores.group:
        sentences.append(
            "Units of one animal may be on both sides of this split, which flatters every method. Name the"
            " column of animals under `group:` where there is one."
        )
    return sentences


def invalid(scores: SetScores) -> list[str]:
    """Return why the scores of a set cannot be trusted; nothing where all controls are sound."""
    sentences = [
        f"INVALID: {method} with shuffled labels does better than chance (balanced accuracy"
        f" {control.balanced_accuracy:.3f}, at most {control.limit:.3f} was expected). Labels leak into"
        " the units' values; no score of this set can be trusted."
        for method, control in scores.shuffled.items()
        if not control.valid
    ]
    if not scores.permuted.valid:
        why = (
            f"{scores.permuted.changed_outputs} test units got another answer when only test labels did"
            if scores.permuted.repeatable
            else "the methods do not give the same answer twice"
        )
        sentences.append(f"INVALID: {why}. No score of this set can be trusted.")
    return sentences


@dataclass(frozen=True)
class HippieReport(LearnerReport):
    """A training, which is one set, or an evaluation that has ended.

    Attributes
    ----------
    name : str
    sets : list of SetScores
    notes : list of str
    versions : dict of str
    """

    learner = "hippie"

    name: str
    sets: list[SetScores]
    notes: list[str]
    versions: dict[str, str]

    @classmethod
    def of_evaluation(cls, findings: dict[str, Any]) -> Self:
        """Return the report of what ``evaluation.json`` keeps."""
        return typed(cls, findings)

    @classmethod
    def of_training(cls, facts: dict[str, Any]) -> Self:
        """Return the report of what a model keeps."""
        return typed(cls, _as_evaluation(facts))

    @classmethod
    def read(cls, out: str | Path) -> Self:
        """Return what a folder holds; see `LearnerReport.read`."""
        return typed(cls, cls.stored(out), out)

    @classmethod
    def stored(cls, out: str | Path) -> dict[str, Any]:
        """Return the scores as the folder keeps them; those of a training as an evaluation of one set."""
        evaluation = stored_evaluation(out)
        if evaluation is not None:
            return evaluation
        return _as_evaluation(stored_model(out, cls.learner, ("comparison",)).description["facts"])

    def job_name(self) -> str:
        """Return the name of the job."""
        return self.name

    def print_tables(self, console: Console) -> None:
        """Print a table for each set, and what a reader must know of it."""
        for scores in self.sets:
            console.print(scores.title, style="bold", markup=False, highlight=False, soft_wrap=True)
            table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            table.add_column("")
            for name in SHORT_HEAD[1:]:
                table.add_column(name, justify="right")
            for row in scores.rows():
                table.add_row(*(Text(text) for text in row[: len(SHORT_HEAD)]))
            console.print(table)
            console.print(LEGEND, markup=False, highlight=False, soft_wrap=True)
            print_sentences(remarks(scores), invalid(scores), console)

    def verdict(self) -> list[str]:
        """Return what the first of the shown methods reaches on each set beside chance and others, and what fails."""
        lines = []
        for scores in self.sets:
            found = scores.comparison
            name = next((name for name in SHOWN if name in scores.methods), found.methods[0].method)
            row = scores.methods[name]
            lines.append(
                f"{scores.set}: {METHODS[name]} reaches balanced accuracy {row.balanced_accuracy:.3f}"
                f" (95 %: {row.balanced_accuracy_low:.3f} to {row.balanced_accuracy_high:.3f}), chance"
                f" {1 / found.n_classes:.3f}; {found.n:,} units, {found.n_classes} classes"
            )
            others = [other for other in found.methods if other.method not in (name, *SHOWN[:2])]
            if others:
                best = max(others, key=lambda other: other.balanced_accuracy)
                lines.append(f"best of the other methods: {METHODS[best.method]}, {best.balanced_accuracy:.3f}")
            if not scores.group:
                lines.append("not sure: the split is random, and units of one animal may be on both sides (`group:`)")
            lines += invalid(scores) or [
                "controls passed: with shuffled labels no better than chance; labels of tested units change no answer"
            ]
        return lines

    def body(self, store: RunStore) -> list[str]:
        """Return the page without its title."""
        return [
            html.paragraph(EXPLANATION, "quiet"),
            *(part for scores in self.sets for part in _set_section(store, scores)),
            *notes_section(self.notes),
            *provenance_section(store, self.versions),
        ]


def _as_evaluation(facts: dict[str, Any]) -> dict[str, Any]:
    return {"name": facts["name"], "sets": [facts], "notes": facts["notes"], "versions": facts["versions"]}


def _set_section(store: RunStore, scores: SetScores) -> list[str]:
    meanings = [(METHODS[method], MEANINGS[method]) for method in scores.methods]
    parts = [
        html.heading(2, scores.title),
        *scores_section(HEAD, scores.rows(), range(1, len(HEAD)), remarks(scores), invalid(scores)),
        html.figure(
            methods_figure(
                [
                    MethodScore(
                        METHODS[row.method],
                        row.balanced_accuracy,
                        row.balanced_accuracy_low,
                        row.balanced_accuracy_high,
                    )
                    for row in scores.comparison.methods
                ],
                "balanced accuracy",
                1.0 / scores.comparison.n_classes,
                "chance",
            ),
            "Balanced accuracy of each method, with its 95 % interval.",
        ),
        html.details("What the methods are", html.table(("", ""), meanings)),
    ]
    if scores.permuted.valid:
        parts.append(
            html.paragraph(
                f"Check: with the labels of {scores.permuted.changed_labels} test units exchanged, all embeddings"
                " and answers stay the same to the last bit.",
                "quiet",
            )
        )
    predictions = store.table(f"predictions/set={scores.set}/part.parquet")
    method = next((name for name in SHOWN if name in scores.methods), None)
    if predictions is not None and method is not None:
        parts += _method_section(scores, predictions.to_pandas(), method)
    return (
        parts + _signals_section(store, scores.set) + _map_section(store, scores.set) + _chosen_section(scores.chosen)
    )


def _signals_section(store: RunStore, name: str) -> list[str]:
    """Show what units of each class look like; nothing for runs of versions that did not keep it."""
    table = store.table(f"{SIGNALS}/set={name}/part.parquet")
    if table is None:
        return []
    return [
        html.heading(3, "Signals of each class"),
        html.figure(
            signals_figure(table.to_pandas(), name),
            "Means over the units of each class (their number in brackets); with few classes also the quartiles."
            " Waveforms are in depths of the main deflection, intervals in percent of all per millisecond,"
            " autocorrelograms relative to their own mean.",
        ),
    ]


def _method_section(scores: SetScores, predictions: pd.DataFrame, method: str) -> list[str]:
    of_method = predictions[predictions["method"] == method]
    right = (of_method["true"] == of_method["predicted"]).to_numpy()
    bins = reliability_bins(of_method["probability"].to_numpy(), right)
    return [
        html.heading(3, f"Class by class: {METHODS[method]}"),
        confusion_matrix(
            scores.comparison.classes,
            of_method[of_method["repeat"] == 0],
            "Units by true class (rows) and predicted class (columns), first repeat; the colour is the share"
            " of the true class.",
        ),
        html.figure(
            reliability_figure({METHODS[method]: bins}, "units"),
            "Predictions in bins of their probability, all repeats, with 95 % intervals; on the dashed line,"
            " predictions are right as often as they say.",
        ),
    ]


def _map_section(store: RunStore, name: str) -> list[str]:
    table = store.table(f"embeddings/set={name}/part.parquet")
    is_model = table is None
    if table is None:
        table = store.table(EMBEDDINGS)
    if table is None:
        return []
    if is_model:
        origin = (
            "the trained network, which has seen these units and their labels: classes lie further apart than"
            " they would for new units"
        )
    elif "fusion_0" in table.column_names:
        origin = "a network pretrained on other units, which has seen neither these nor any label"
    else:
        origin = "the signals themselves; there was no pool to pretrain a network on"
    return [
        html.heading(3, "Map"),
        map_figure(
            table,
            np.asarray(table["class"].to_numpy(zero_copy_only=False)),
            f"map of {name} by class",
            f"UMAP of the embedding by {origin}. Distances between far groups mean little.",
        ),
    ]


def _chosen_section(chosen: Sequence[ChosenInFold]) -> list[str]:
    blends = [fold.best.weights for fold in chosen if fold.best is not None]
    totals: dict[str, float] = {}
    for weights in blends:
        for name, weight in weights.items():
            totals[name] = totals.get(name, 0.0) + weight / len(blends)
    if not totals:
        return []
    rows = [(name, f"{share:.2f}") for name, share in sorted(totals.items(), key=lambda item: -item[1])]
    return [
        html.details(
            "What inner validation has chosen: mean weights over folds",
            html.table(("candidate", "weight"), rows, numbers=(1,)),
        )
    ]
