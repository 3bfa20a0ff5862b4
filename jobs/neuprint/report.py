"""The report of a training or an evaluation: table, intervals, maps, confusion, epochs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.neuprint.embeddings import EMBEDDINGS
from jobs.neuprint.results import HEAD, facts_in, invalid, method_name, remarks, score_rows, title
from jobs.report import page

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "report.html"
EXPLAINED = (
    "A dynamics model predicts each neuron's activity from its past, from behaviour and from the other"
    " neurons; Phi is what it needs to know of the neuron itself. It is fitted without the tested neurons"
    " and without any class; then the Phi of all neurons is inferred with the dynamics frozen, and probes"
    " learn classes from the Phi of training neurons. What a probe chooses, it chooses inside these."
)


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` from what the folder of a finished job holds, and return where it is."""
    from cluster.store import RunStore

    return _write(folder, facts_in(folder), RunStore(folder).table("history.parquet"))


def write_training_report(out: Path, told: Mapping[str, Any], history: "pa.Table") -> str:
    """Write the report of a training whose model is about to be written."""
    return _write(out, told, history)


def write_evaluation_report(out: Path, told: Mapping[str, Any]) -> str:
    """Write the report of an evaluation that is about to end."""
    return _write(out, told, None)


def _write(out: Path, found: Mapping[str, Any], history: "pa.Table | None") -> str:
    from cluster.store import RunStore

    store = RunStore(out)
    body = [
        page.heading(1, found["name"]),
        page.paragraph(EXPLAINED, "quiet"),
        page.heading(2, title(found)),
    ]
    if reason := invalid(found):
        body.append(page.paragraph(reason, "alarm"))
    body.append(page.table(HEAD, score_rows(found), numbers=range(2, len(HEAD))))
    body += [page.paragraph(sentence, "note") for sentence in remarks(found)]
    predictions = store.table("predictions.parquet")
    if predictions is not None:
        body += _confusion(found, predictions)
    body += _maps(store, found) + _epochs(history)
    if found["notes"]:
        body += [page.heading(2, "Notes"), *(page.paragraph(note) for note in found["notes"])]
    body += _provenance(store, found)
    store.write_text(NAME, page.page(f"{found['name']}: report", body))
    return f"{store.root.rstrip('/')}/{NAME}"


def _confusion(found: Mapping[str, Any], predictions: "pa.Table") -> list[str]:
    """Show the linear probe of the settings that see most; chosen beforehand, not for its score."""
    import numpy as np

    from jobs.train.confusion_figure import confusion_figure

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
        page.heading(2, f"Class by class: {method_name(method)}, logistic regression"),
        page.figure(
            confusion_figure(classes, counts.tolist()),
            f"Tested neurons of all {n_splits} splits together, by true class (rows) and predicted class"
            " (columns); the colour is the share of the true class.",
        ),
    ]


def _maps(store: Any, found: Mapping[str, Any]) -> list[str]:
    import numpy as np

    from jobs.train.map_figure import map_figure

    table = store.table(EMBEDDINGS)
    if table is None:
        return []
    flat = np.stack([table["umap_0"].to_numpy(), table["umap_1"].to_numpy()], 1)
    names = table[found["label"]].to_numpy(zero_copy_only=False).astype(str)
    names = np.where(np.isin(names, list(found["data"]["neurons_of_class"])), names, "")
    animals = table["animal"].to_numpy(zero_copy_only=False).astype(str)
    parts = [
        page.heading(2, "Map"),
        page.figure(
            map_figure(flat, names, f"map of Phi by {found['label']}"),
            f"UMAP of the Phi of all {len(names):,} neurons, by {found['label']}; grey: without one. The"
            " dynamics has seen these neurons' activity, but no class. Distances between far groups mean"
            " little.",
        ),
    ]
    if len(set(animals)) > 1:
        parts.append(
            page.figure(
                map_figure(flat, animals, "map of Phi by animal"),
                "The same map by animal. Animals that lie apart are told by Phi, too: classes learned from"
                " one then carry less to another.",
            )
        )
    return parts


def _epochs(history: "pa.Table | None") -> list[str]:
    from jobs.train.curves_figure import curves_figure

    if history is None:
        return []
    rows = history.to_pylist()
    return [
        page.heading(2, "Training"),
        page.figure(
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
    parts = [page.heading(2, "Where this comes from"), page.table(("", ""), rows)]
    if job := store.read_text("job.yaml"):
        parts.append(page.details("The job", page.code(job)))
    return parts
