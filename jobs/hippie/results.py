"""The scores of an evaluation or a training: on the terminal, and as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.train.folder import evaluation_in, stored_model
from jobs.train.results import print_found

if TYPE_CHECKING:
    from rich.console import Console

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
    print_found(out, as_json, facts_in, print_evaluation)


def print_scores_in(out: str, console: "Console") -> None:
    """Print the tables of what has ended in a folder."""
    print_evaluation(facts_in(out), console)


def print_evaluation(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table for each set, and what is to be said of it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

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
    split = (
        f"split by {one['group']} ({found['n_groups']})"
        if one["group"]
        else "RANDOM split, no animals kept apart"
    )
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
