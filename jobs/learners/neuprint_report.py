"""The scores of NeuPRINT's jobs on the terminal and as JSON, and their report: table, intervals, maps, confusion, epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.learners.embedding import EMBEDDINGS
from neurofleet.jobs.learners.learner_figures import confusion_figure, curves_figure, embedding_map_figure
from neurofleet.jobs.learners.learner_folder import evaluation_in, print_score_tables, stored_model
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
    print_score_tables(out, as_json, facts_in, print_evaluation)


def print_scores_in(out: str, console: "Console") -> None:
    """Print the table of what has ended in a folder."""
    print_evaluation(facts_in(out), console)


def print_evaluation(found: Mapping[str, Any], console: "Console") -> None:
    """Print the table, and what is to be said of it."""
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
        rows.append(("control: labels shuffled", PROBES["linear"], f"{control['accuracy']:.3f}", limit, *blank, ""))
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


NAME = "report.html"
EXPLAINED = (
    "A dynamics model predicts each neuron's activity from its past, from behaviour and from the other"
    " neurons; Phi is what it needs to know of the neuron itself. It is fitted without the tested neurons"
    " and without any class; then the Phi of all neurons is inferred with the dynamics frozen, and probes"
    " learn classes from the Phi of training neurons. What a probe chooses, it chooses inside these."
)


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` from what the folder of a finished job holds, and return where it is."""
    return _write(folder, facts_in(folder), RunStore(folder).table("history.parquet"))


def write_training_report(out: Path, told: Mapping[str, Any], history: "pa.Table") -> str:
    """Write the report of a training whose model is about to be written."""
    return _write(out, told, history)


def write_evaluation_report(out: Path, told: Mapping[str, Any]) -> str:
    """Write the report of an evaluation that is about to end."""
    return _write(out, told, None)


def _write(out: Path, found: Mapping[str, Any], history: "pa.Table | None") -> str:
    store = RunStore(out)
    body = [
        html.heading(1, found["name"]),
        html.paragraph(EXPLAINED, "quiet"),
        html.heading(2, title(found)),
    ]
    if reason := invalid(found):
        body.append(html.paragraph(reason, "alarm"))
    body.append(html.table(HEAD, score_rows(found), numbers=range(2, len(HEAD))))
    body += [html.paragraph(sentence, "note") for sentence in remarks(found)]
    predictions = store.table("predictions.parquet")
    if predictions is not None:
        body += _confusion(found, predictions)
    body += _maps(store, found) + _epochs(history)
    if found["notes"]:
        body += [html.heading(2, "Notes"), *(html.paragraph(note) for note in found["notes"])]
    body += _provenance(store, found)
    store.write_text(NAME, html.page(f"{found['name']}: report", body))
    return f"{store.root.rstrip('/')}/{NAME}"


def _confusion(found: Mapping[str, Any], predictions: "pa.Table") -> list[str]:
    """Show the linear probe of the settings that see most; chosen beforehand, not for its score."""
    frame = predictions.to_pandas()
    linear = frame[frame["probe"] == "linear"]
    if not len(linear):
        return []
    method = linear["method"].iloc[-1]
    shown = linear[linear["method"] == method]
    classes = list(found["data"]["neurons_of_class"])
    number = {name: place for place, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (shown["true"].map(number), shown["predicted"].map(number)), 1)
    n_splits = shown["split"].nunique()
    return [
        html.heading(2, f"Class by class: {method_name(method)}, logistic regression"),
        html.figure(
            confusion_figure(classes, counts.tolist()),
            f"Tested neurons of all {n_splits} splits together, by true class (rows) and predicted class"
            " (columns); the colour is the share of the true class.",
        ),
    ]


def _maps(store: Any, found: Mapping[str, Any]) -> list[str]:
    table = store.table(EMBEDDINGS)
    if table is None:
        return []
    flat = np.stack([table["umap_0"].to_numpy(), table["umap_1"].to_numpy()], 1)
    names = table[found["label"]].to_numpy(zero_copy_only=False).astype(str)
    names = np.where(np.isin(names, list(found["data"]["neurons_of_class"])), names, "")
    animals = table["animal"].to_numpy(zero_copy_only=False).astype(str)
    parts = [
        html.heading(2, "Map"),
        html.figure(
            embedding_map_figure(flat, names, f"map of Phi by {found['label']}"),
            f"UMAP of the Phi of all {len(names):,} neurons, by {found['label']}; grey: without one. The"
            " dynamics has seen these neurons' activity, but no class. Distances between far groups mean"
            " little.",
        ),
    ]
    if len(set(animals)) > 1:
        parts.append(
            html.figure(
                embedding_map_figure(flat, animals, "map of Phi by animal"),
                "The same map by animal. Animals that lie apart are told by Phi, too: classes learned from"
                " one then carry less to another.",
            )
        )
    return parts


def _epochs(history: "pa.Table | None") -> list[str]:
    if history is None:
        return []
    rows = history.to_pylist()
    return [
        html.heading(2, "Training"),
        html.figure(
            curves_figure(rows),
            "Loss of predicted activity by epoch, on the first frames and on the last, which are held out.",
        ),
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
