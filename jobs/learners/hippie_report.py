"""The scores of HIPPIE's jobs on the terminal and as JSON, and their report: tables, maps, confusions, reliability."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.learners.learner_figures import confusion_figure, embedding_map_figure, reliability_figure
from neurofleet.jobs.learners.learner_folder import evaluation_in, print_score_tables, stored_model
from neurofleet.jobs.reports import html
from neurofleet.learners.calibration import reliability_bins

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
    "best": "best of both, weighed",
}
MEANT = {
    "raw_knn": "nearest neighbours of the scaled signals",
    "pca_knn": "nearest neighbours of ten principal components",
    "physmap": "weighted nearest neighbours of the modalities, UMAP, KNN; sees the signals of tested units",
    "classical": "linear models and SVMs on signals and hand features, blended by inner validation",
    "untrained": "an SVM on what a network of random weights makes of the signals: the network's control",
    "frozen": "logistic regression on the embedding of a network that was pretrained on other units",
    "mean_knn": "nearest neighbours of the fine-tuned network's latent mean, the published probe",
    "probe": "KNN, logistic regression, SVM or MLP on its fusion vector, chosen by inner validation",
    "head": "the network's own class head, fine-tuned on the training units",
    "best": "the fine-tuned network and the classical classifiers, weighed by inner validation",
}


def facts_in(out: str | Path) -> dict[str, Any]:
    """Return what an evaluation or a training has found, as plain JSON; a training is one set.

    Raises
    ------
    UsageError
        It has not ended.
    ModelRefused
        The folder holds a damaged model, or one of another learner.
    """
    if (evaluated := evaluation_in(out)) is not None:
        return evaluated
    found = stored_model(out, "hippie", ("comparison",)).description["facts"]
    return {"name": found["name"], "sets": [found], "notes": found["notes"], "versions": found["versions"]}


def print_results(out: str, as_json: bool) -> None:
    """Print the tables of an evaluation or training, or all that is known of it as JSON.

    Raises
    ------
    UsageError
        It has not ended.
    """
    print_score_tables(out, as_json, facts_in, print_evaluation)


def print_scores_in(out: str, console: "Console") -> None:
    """Print the tables of what has ended in a folder."""
    print_evaluation(facts_in(out), console)


def print_evaluation(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table for each set, and what is to be said of it."""
    for one in found["sets"]:
        table = Table(title=Text(title(one), justify="left"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("")
        for name in SHORT_HEAD[1:]:
            table.add_column(name, justify="right")
        for row in score_rows(one):
            table.add_row(*(Text(text) for text in row[: len(SHORT_HEAD)]))
        console.print(table)
        for sentence in remarks(one):
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        for sentence in invalid(one):
            console.print(sentence, style="bold red", markup=False, highlight=False, soft_wrap=True)


SHORT_HEAD = ("", "BA [95 %]", "difference [95 %]", "F1", "acc.")
HEAD = ("", "balanced accuracy [95 %]", "difference [95 %]", "macro-F1", "accuracy", "folds won : lost")


def title(one: Mapping[str, Any]) -> str:
    """Return how a set was split, and what it holds."""
    found = one["comparison"]
    split = f"split by {one['group']} ({found['n_groups']})" if one["group"] else "RANDOM split, no animals kept apart"
    return (
        f"{one['set']}: {split}, {found['folds']} folds × {found['repeats']}, {found['n']:,} units,"
        f" {found['n_classes']} classes, majority {found['majority_rate']:.3f}"
    )


def score_rows(one: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return a row of text for each method, and one for each control."""
    found = one["comparison"]
    rows: list[Sequence[str]] = []
    for row in found["methods"]:
        is_reference = row["method"] == found["reference"]
        low, high = row["balanced_accuracy_low"], row["balanced_accuracy_high"]
        rows.append(
            (
                METHODS[row["method"]],
                f"{row['balanced_accuracy']:.3f} [{low:.3f}, {high:.3f}]",
                "reference" if is_reference else _difference(row),
                f"{row['macro_f1']:.3f}",
                f"{row['accuracy']:.3f}",
                "" if is_reference else f"{row['folds_won']} : {row['folds_lost']}",
            )
        )
    chance = f"{1.0 / found['n_classes']:.3f}"
    rows.append(("most frequent class", chance, "", "", f"{found['majority_rate']:.3f}", ""))
    for method, control in one["shuffled"].items():
        told = f"{control['balanced_accuracy']:.3f} ≤ {control['limit']:.3f}"
        rows.append((f"shuffled: {METHODS[method]}", told, "", "", "", ""))
    return rows


def _difference(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"


def remarks(one: Mapping[str, Any]) -> list[str]:
    """Return what a reader of a table must not miss."""
    scores = {row["method"]: row for row in one["comparison"]["methods"]}
    told = []
    if {"head", "untrained"} <= scores.keys():
        gain = scores["head"]["balanced_accuracy"] - scores["untrained"]["balanced_accuracy"]
        if gain <= 0:
            told.append(
                f"The fine-tuned network does no better than an untrained one ({gain:+.3f}): it has learned"
                " nothing for these classes."
            )
    if {"head", "classical"} <= scores.keys() and scores["head"]["difference_high"] < 0:
        told.append(
            "Classical classifiers do better than the network on this set; 95 % of resamples agree. The"
            " model's answers come from what inner validation chose, which may be without the network."
        )
    if not one["group"]:
        told.append(
            "Units of one animal may be on both sides of this split, which flatters every method. Name the"
            " column of animals under `group:` where there is one."
        )
    return told


def invalid(one: Mapping[str, Any]) -> list[str]:
    """Return why the scores of a set cannot be trusted; nothing where all controls are sound."""
    told = [
        f"INVALID: {method} with shuffled labels does better than chance (balanced accuracy"
        f" {control['balanced_accuracy']:.3f}, at most {control['limit']:.3f} was expected). Labels leak into"
        " the units' values; no score of this set can be trusted."
        for method, control in one["shuffled"].items()
        if not control["valid"]
    ]
    if not one["permuted"]["valid"]:
        why = (
            f"{one['permuted']['changed_outputs']} test units got another answer when only test labels did"
            if one["permuted"]["repeatable"]
            else "the methods do not give the same answer twice"
        )
        told.append(f"INVALID: {why}. No score of this set can be trusted.")
    return told


NAME = "report.html"
SHOWN = ("best", "head", "classical")
"""Of the first of these that there is, confusions and reliability are shown."""


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` from what the folder of a finished job holds, and return where it is."""
    found = facts_in(folder)
    return _write(folder, found)


def write_evaluation_report(out: Path) -> str:
    """Write the report of an evaluation that has just ended."""
    return _write(out, facts_in(out))


def write_training_report(out: Path, told: Mapping[str, Any]) -> str:
    """Write the report of a training whose model is about to be written."""
    return _write(out, {key: told[key] for key in ("name", "notes", "versions")} | {"sets": [told]})


def _write(out: Path, found: Mapping[str, Any]) -> str:
    store = RunStore(out)
    body = [html.heading(1, found["name"]), html.paragraph(EXPLAINED, "quiet")]
    for one in found["sets"]:
        body += _set(store, one)
    if found["notes"]:
        body += [html.heading(2, "Notes"), *(html.paragraph(note) for note in found["notes"])]
    body += _provenance(store, found)
    store.write_text(NAME, html.page(f"{found['name']}: report", body))
    return f"{store.root.rstrip('/')}/{NAME}"


EXPLAINED = (
    "Every unit is tested by models that have not seen it, nor its label (PhysMAP alone has its signals on"
    " the map); what a method may choose, it chooses inside its training units. Balanced accuracy is the mean"
    " over classes of the share of their units that is found. Intervals come from resampling units, or whole"
    " groups where the split is by group. Differences are paired, to the reference."
)


def _set(store: Any, one: Mapping[str, Any]) -> list[str]:
    parts = [
        html.heading(2, title(one)),
        *(html.paragraph(sentence, "alarm") for sentence in invalid(one)),
        html.table(HEAD, score_rows(one), numbers=range(1, len(HEAD))),
        *(html.paragraph(sentence, "note") for sentence in remarks(one)),
        html.details("What the methods are", html.table(("", ""), _meant(one))),
    ]
    permuted = one["permuted"]
    if permuted["valid"]:
        parts.append(
            html.paragraph(
                f"Check: with the labels of {permuted['changed_labels']} test units exchanged, all embeddings"
                " and answers stay the same to the last bit.",
                "quiet",
            )
        )
    predictions = store.table(f"predictions/set={one['set']}/part.parquet")
    method = next((name for name in SHOWN if any(row["method"] == name for row in one["comparison"]["methods"])), None)
    if predictions is not None and method is not None:
        parts += _method(one, predictions, method)
    return parts + _map(store, one) + _chosen(one)


def _meant(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(METHODS[row["method"]], MEANT[row["method"]]) for row in one["comparison"]["methods"]]


def _method(one: Mapping[str, Any], predictions: "pa.Table", method: str) -> list[str]:
    frame = predictions.to_pandas()
    frame = frame[frame["method"] == method]
    classes = one["comparison"]["classes"]
    first = frame[frame["repeat"] == 0]
    number = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (first["true"].map(number), first["predicted"].map(number)), 1)
    right = (frame["true"] == frame["predicted"]).to_numpy()
    bins = [vars(one) for one in reliability_bins(frame["probability"].to_numpy(), right)]
    return [
        html.heading(3, f"Class by class: {METHODS[method]}"),
        html.figure(
            confusion_figure(classes, counts.tolist()),
            "Units by true class (rows) and predicted class (columns), first repeat; the colour is the share"
            " of the true class.",
        ),
        html.figure(
            reliability_figure({METHODS[method]: bins}, "units"),
            "Predictions in bins of their probability, all repeats, with 95 % intervals; on the dashed line,"
            " predictions are right as often as they say.",
        ),
    ]


def _map(store: Any, one: Mapping[str, Any]) -> list[str]:
    table = store.table(f"embeddings/set={one['set']}/part.parquet")
    is_model = table is None
    if is_model:
        table = store.table("embeddings.parquet")
    if table is None:
        return []
    flat = np.stack([table["umap_0"].to_numpy(), table["umap_1"].to_numpy()], 1)
    if is_model:
        whose = (
            "the trained network, which has seen these units and their labels: classes lie further apart than"
            " they would for new units"
        )
    elif "fusion_0" in table.column_names:
        whose = "a network pretrained on other units, which has seen neither these nor any label"
    else:
        whose = "the signals themselves; there was no pool to pretrain a network on"
    names = table["class"].to_numpy(zero_copy_only=False)
    return [
        html.heading(3, "Map"),
        html.figure(
            embedding_map_figure(flat, names, f"map of {one['set']} by class"),
            f"UMAP of the embedding by {whose}. Distances between far groups mean little.",
        ),
    ]


def _chosen(one: Mapping[str, Any]) -> list[str]:
    totals: dict[str, float] = {}
    counted = [fold["best"]["weights"] for fold in one["chosen"] if "best" in fold]
    for weights in counted:
        for name, weight in weights.items():
            totals[name] = totals.get(name, 0.0) + weight / len(counted)
    if not totals:
        return []
    rows = [(name, f"{share:.2f}") for name, share in sorted(totals.items(), key=lambda item: -item[1])]
    return [
        html.details(
            "What inner validation has chosen: mean weights over folds",
            html.table(("candidate", "weight"), rows, numbers=(1,)),
        )
    ]


def _provenance(store: Any, found: Mapping[str, Any]) -> list[str]:
    rows = [
        ("folder", store.root),
        ("scores", f"neurofleet results {store.root}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ]
    parts = [html.heading(2, "Where this comes from"), html.table(("", ""), rows)]
    if job := store.read_text("job.yaml"):
        parts.append(html.details("The job", html.code(job)))
    return parts
