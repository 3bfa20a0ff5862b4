"""The scores of a training or an evaluation: on the terminal, and as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.train.folder import evaluation_in, stored_model
from jobs.train.results import print_found

if TYPE_CHECKING:
    from rich.console import Console

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
BASELINE_PROBES = {"hand_forest": "forest", "pca": PROBES["linear"], "umap": PROBES["linear"]}
BASELINE_PROBES["random"] = PROBES["linear"]
HEAD = (
    "",
    "probe",
    "accuracy",
    "95 %",
    "balanced accuracy",
    "95 %",
    "macro-F1",
    "difference",
    "95 %",
)

SHOWN = (0, 2, 3, 4, 7)
"""Which columns have room on a terminal."""


def facts_in(out: str | Path) -> dict[str, Any]:
    """Return what a training or an evaluation has found, as plain JSON.

    Raises
    ------
    UsageError
        It has not ended.
    ModelRefused
        The folder holds a damaged model, or one of another learner.
    """
    found = evaluation_in(out)
    return found if found is not None else stored_model(out, "neuprint", ("methods",)).description["facts"]


def print_results(out: str, as_json: bool) -> None:
    """Print the table of a training or an evaluation, or all that is known of it as JSON.

    Raises
    ------
    UsageError
        It has not ended.
    """
    print_found(out, as_json, facts_in, print_evaluation)


def print_scores_in(out: str, console: "Console") -> None:
    """Print the table of what has ended in a folder."""
    print_evaluation(facts_in(out), console)


def print_evaluation(found: Mapping[str, Any], console: "Console") -> None:
    """Print the table, and what is to be said of it."""
    from rich.table import Table
    from rich.text import Text

    console.print(title(found), style="bold", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    table.add_column(HEAD[0])
    shown = [place for place in SHOWN[1:] if found["reference"] or HEAD[place] != "difference"]
    for place in shown:
        table.add_column(HEAD[place], justify="right", no_wrap=HEAD[place] == "95 %")
    for row in score_rows(found):
        named = f"{row[0]}, {row[1]}" if row[1] else row[0]
        table.add_row(Text(named), *(Text(row[place]) for place in shown))
    console.print(table)
    for sentence in remarks(found):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if reason := invalid(found):
        console.print(reason, style="bold red", markup=False, highlight=False, soft_wrap=True)


def title(found: Mapping[str, Any]) -> str:
    """Return how neurons were split, and how many there are."""
    data, split = found["data"], found["split"]
    how = {
        "cross-animal": f"each of {len(data['animals'])} animals tested in turn",
        "pooled": "neurons of all animals pooled, animals NOT kept apart",
        "single-animal": f"neurons of one animal, {split['animal'] or data['animals'][0]}",
    }[split["how"]]
    seeds = f"{split['seeds']} seed{'s' if split['seeds'] > 1 else ''}"
    return (
        f"{found['name']}: {how}, {seeds}; {data['n_labelled']:,} of {data['n_neurons']:,} neurons with"
        f" {found['label']}, {len(data['neurons_of_class'])} classes, majority {found['majority_rate']:.3f}"
    )


def score_rows(found: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return a row of text for each method and probe, and for what chance reaches."""
    rows: list[Sequence[str]] = []
    for row in found["methods"]:
        is_reference = row["method"] == found["reference"]
        rows.append(
            (
                method_name(row["method"]),
                PROBES.get(row["probe"], BASELINE_PROBES.get(row["method"], "")),
                f"{row['accuracy']:.3f}",
                _interval(row, "accuracy"),
                f"{row['balanced_accuracy']:.3f}",
                _interval(row, "balanced_accuracy"),
                f"{row['macro_f1']:.3f}",
                "reference" if is_reference else _signed(row.get("difference")),
                "" if is_reference else _interval(row, "difference", "+.3f"),
            )
        )
    blank = ("",) * 4
    rows.append(("most frequent class", "", f"{found['majority_rate']:.3f}", "", *blank, ""))
    if control := found["control"]:
        limit = f"≤ {control['limit']:.3f}"
        rows.append(
            ("control: labels shuffled", PROBES["linear"], f"{control['accuracy']:.3f}", limit, *blank, "")
        )
    return rows


def method_name(method: str) -> str:
    """Return what readers know a method by."""
    name, plus, rest = method.partition(" + ")
    if name in METHODS:
        return METHODS[name]
    seen = {"phi": "Phi", "all": "Phi, all inputs", "none": "Phi, own past alone"}
    input_of = f"Phi, {name}" if name.startswith("+") else f"Phi, {name} input"  # + in growing ablations
    return seen.get(name, input_of) + plus + rest


def remarks(found: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the table must not miss."""
    told = []
    if found["intervals_over"] == "animals":
        n = len(found["data"]["animals"])
        told.append(f"Means and 95 % intervals are over the {n} tested animals, their seeds averaged.")
    elif found["split"]["seeds"] == 1:
        told.append("One split: no intervals. Ask for more `seeds:`.")
    else:
        told.append(
            "Intervals are over splits, whose test neurons overlap: they tell how a result depends on the"
            " draw, not what other animals would give."
        )
    if found["split"]["how"] == "pooled" and len(found["data"]["animals"]) > 1:
        told.append(
            "Neurons of one animal are on both sides of a pooled split, which flatters every method;"
            " `split: cross-animal` is free of that."
        )
    if found["control"] and not found["control"]["decisive"]:
        told.append(
            "The control of shuffled labels cannot fail here: one class is so frequent, and the neurons are"
            " so few, that its limit is 1 or above."
        )
    if naming := found.get("naming"):
        tried = ", ".join(f"{PROBES[kind]} {value:.3f}" for kind, value in naming["tried"].items())
        told.append(
            f"`neurofleet embed` names neurons by a probe of Phi, {PROBES[naming['probe']]}, chosen by"
            f" cross-validation inside the labelled neurons (balanced accuracy: {tried}). What it reaches on"
            " neurons that were held out stands above, where `methods:` has phi."
        )
    worse = [row for row in _of_phi(found) if (row.get("difference_high") or 0.0) < 0.0]
    if worse and len(worse) == len(_of_phi(found)):
        told.append("Hand statistics tell classes better than any probe of Phi here.")
    return told


def invalid(found: Mapping[str, Any]) -> str:
    """Return why no score can be trusted; nothing where the control is sound."""
    control = found["control"]
    if control is None or control["valid"]:
        return ""
    return (
        "INVALID: a probe of shuffled labels does better than chance (accuracy"
        f" {control['accuracy']:.3f}, at most {control['limit']:.3f} was expected). Labels leak into the"
        " vectors; no score here can be trusted."
    )


def _of_phi(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in found["methods"] if row["method"] not in METHODS]


def _interval(row: Mapping[str, Any], name: str, form: str = ".3f") -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:{form}} – {high:{form}}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
