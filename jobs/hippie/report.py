"""The report of an evaluation or a training: tables, maps, confusions, reliability."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.hippie.results import HEAD, MEANT, METHODS, facts_in, invalid, remarks, score_rows, title
from jobs.report import page

if TYPE_CHECKING:
    import pyarrow as pa

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
    from cluster.store import RunStore

    store = RunStore(out)
    body = [page.heading(1, found["name"]), page.paragraph(EXPLAINED, "quiet")]
    for one in found["sets"]:
        body += _set(store, one)
    if found["notes"]:
        body += [page.heading(2, "Notes"), *(page.paragraph(note) for note in found["notes"])]
    body += _provenance(store, found)
    store.write_text(NAME, page.page(f"{found['name']}: report", body))
    return f"{store.root.rstrip('/')}/{NAME}"


EXPLAINED = (
    "Every unit is tested by models that have not seen it, nor its label (PhysMAP alone has its signals on"
    " the map); what a method may choose, it chooses inside its training units. Balanced accuracy is the mean"
    " over classes of the share of their units that is found. Intervals come from resampling units, or whole"
    " groups where the split is by group. Differences are paired, to the reference."
)


def _set(store: Any, one: Mapping[str, Any]) -> list[str]:
    parts = [
        page.heading(2, title(one)),
        *(page.paragraph(sentence, "alarm") for sentence in invalid(one)),
        page.table(HEAD, score_rows(one), numbers=range(1, len(HEAD))),
        *(page.paragraph(sentence, "note") for sentence in remarks(one)),
        page.details("What the methods are", page.table(("", ""), _meant(one))),
    ]
    permuted = one["permuted"]
    if permuted["valid"]:
        parts.append(
            page.paragraph(
                f"Check: with the labels of {permuted['changed_labels']} test units exchanged, all embeddings"
                " and answers stay the same to the last bit.",
                "quiet",
            )
        )
    predictions = store.table(f"predictions/set={one['set']}/part.parquet")
    method = next(
        (name for name in SHOWN if any(row["method"] == name for row in one["comparison"]["methods"])), None
    )
    if predictions is not None and method is not None:
        parts += _method(one, predictions, method)
    return parts + _map(store, one) + _chosen(one)


def _meant(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(METHODS[row["method"]], MEANT[row["method"]]) for row in one["comparison"]["methods"]]


def _method(one: Mapping[str, Any], predictions: "pa.Table", method: str) -> list[str]:
    import numpy as np

    from jobs.train.confusion_figure import confusion_figure
    from jobs.train.reliability_figure import reliability_figure
    from learners.calibration import reliability_bins

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
        page.heading(3, f"Class by class: {METHODS[method]}"),
        page.figure(
            confusion_figure(classes, counts.tolist()),
            "Units by true class (rows) and predicted class (columns), first repeat; the colour is the share"
            " of the true class.",
        ),
        page.figure(
            reliability_figure({METHODS[method]: bins}, "units"),
            "Predictions in bins of their probability, all repeats, with 95 % intervals; on the dashed line,"
            " predictions are right as often as they say.",
        ),
    ]


def _map(store: Any, one: Mapping[str, Any]) -> list[str]:
    import numpy as np

    from jobs.train.map_figure import map_figure

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
        page.heading(3, "Map"),
        page.figure(
            map_figure(flat, names, f"map of {one['set']} by class"),
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
        page.details(
            "What inner validation has chosen: mean weights over folds",
            page.table(("candidate", "weight"), rows, numbers=(1,)),
        )
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
