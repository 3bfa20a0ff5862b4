"""The scores of a SIMS training beside those of simple methods: rows for tables, and what they mean in words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.jobs.learners.learner_folder import stored_model

LEARNER = "sims"
BASELINES = {
    "majority": "always the most frequent class",
    "logistic": "logistic regression",
    "pca_knn": "nearest neighbours after PCA",
    "raw_knn": "nearest neighbours, all genes",
    "celltypist": "celltypist",
}
PARTS = {"sims": "the model", "networks": "its networks alone", "linear": "its linear model alone"}


@dataclass(frozen=True)
class ScoresRow:
    """What one method reaches on the scored cells.

    Attributes
    ----------
    method : str
    accuracy : float or None
        None where the method could not be run.
    interval : (float, float) or None
        95 % interval of the accuracy, where it is known.
    macro_f1 : float or None
        With folds, the mean over the folds, weighted by their cells.
    notes : sequence of str
    """

    method: str
    accuracy: float | None
    interval: tuple[float, float] | None
    macro_f1: float | None
    notes: Sequence[str] = ()


def scores_rows(facts: Mapping[str, Any]) -> list[ScoresRow]:
    """Return a row for the model, one for each of its parts, and one for each baseline."""
    rows = [
        ScoresRow(
            PARTS.get(name, name),
            found["accuracy"],
            (found["accuracy_low"], found["accuracy_high"]),
            _macro_f1(facts, name),
        )
        for name, found in facts["scores"].items()
    ]
    for name, found in facts["baselines"].items():
        method = BASELINES.get(name, name)
        rows.append(ScoresRow(method, found.get("accuracy"), None, found.get("macro_f1"), found["notes"]))
    return rows


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the table must not miss: whatever does better than the model."""
    model, *others = scores_rows(facts)
    told = [_better(model, other) for other in others]
    control = facts["control"]
    if control is not None and control["limit"] >= 1.0:
        told.append(
            "The control of shuffled labels cannot fail here: one class is so frequent, and the cells are so "
            "few, that its limit is 1 or above."
        )
    return [sentence for sentence in told if sentence]


def invalid(facts: Mapping[str, Any]) -> str:
    """Return why no score of a training can be trusted; nothing where the control is sound."""
    control = facts["control"]
    if control is None or control["valid"]:
        return ""
    return (
        "INVALID: a model of shuffled labels does better than chance "
        f"(accuracy {control['accuracy']:.3f}, at most {control['limit']:.3f} was expected). Labels leak "
        "into the cells' values; no score of this training can be trusted."
    )


def print_scores(facts: Mapping[str, Any], console: "Console") -> None:
    """Print the table and what is to be said of it."""
    table = Table(title=Text(f"Scores on {facts['role']} cells"))
    table.add_column("")
    for name in ("accuracy", "95 % interval", "macro-F1"):
        table.add_column(name, justify="right")
    for row in scores_rows(facts):
        table.add_row(Text(row.method), digits(row.accuracy), interval(row), digits(row.macro_f1))
    control = facts["control"]
    if control is not None:
        table.add_row("shuffled labels", digits(control["accuracy"]), f"≤ {digits(control['limit'])}", "")
    console.print(table)
    for sentence in remarks(facts):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if reason := invalid(facts):
        console.print(reason, style="bold red", markup=False, highlight=False, soft_wrap=True)


def print_scores_in(out: str, console: "Console") -> None:
    """Print the scores of the finished training in a folder."""
    print_scores(stored_model(out, LEARNER).description["facts"], console)


def print_results(out: str, as_json: bool) -> None:
    """Print the scores of a finished training, as a table or with all that is known of it as JSON.

    Raises
    ------
    UsageError, ModelRefused
        There is no finished training in `out`.
    """
    facts = stored_model(out, LEARNER).description["facts"]
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    print_scores(facts, Console())


def digits(value: float | None) -> str:
    """Return a score with three digits; nothing where there is none."""
    return "" if value is None else f"{value:.3f}"


def interval(row: ScoresRow) -> str:
    """Return the interval of a row's accuracy in words."""
    return "" if row.interval is None else f"{row.interval[0]:.3f} – {row.interval[1]:.3f}"


def _macro_f1(facts: Mapping[str, Any], name: str) -> float:
    """Return a macro-F1 that compares with the baselines': theirs are means over the folds."""
    folds = facts.get("folds")
    if not folds:
        return float(facts["scores"][name]["macro_f1"])
    found = [fold[name] for fold in folds]
    return float(sum(one["macro_f1"] * one["n"] for one in found) / sum(one["n"] for one in found))


def _better(model: ScoresRow, other: ScoresRow) -> str:
    """Say in what another method does better than the model; nothing where it does not."""
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
