"""The report of a SIMS training: one page with its scores, curves, confusions, reliability and unknown types."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.learners.learner_figures import confusion_figure, curves_figure, reliability_figure
from neurofleet.jobs.learners.learner_folder import JOB, stored_model
from neurofleet.jobs.learners.sims_scores import LEARNER, digits, interval, invalid, remarks, scores_rows
from neurofleet.jobs.reports import html
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.sims.tabnet_settings import DEFAULT, settings_of

HISTORY = "history.parquet"


@dataclass(frozen=True)
class Contents:
    """A training that has ended.

    Attributes
    ----------
    facts : mapping
        Scores, baselines, data, split, versions: see `neurofleet.jobs.learners.sims_training`.
    classes : sequence of str
    settings, calibration : mapping
        As `model.json` keeps them.
    has_linear : bool
        Whether a linear model stands beside the networks.
    history : sequence of mapping
        A row for each epoch of each training; empty where the folder has lost it.
    """

    facts: Mapping[str, Any]
    classes: Sequence[str]
    settings: Mapping[str, Any]
    calibration: Mapping[str, Any]
    has_linear: bool
    history: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def scores(self) -> Mapping[str, Any]:
        """Scores of the whole model."""
        return self.facts["scores"]["sims"]

    @property
    def role(self) -> str:
        """Which cells were scored: ``test`` or ``validation``."""
        return str(self.facts["role"])

    @property
    def n_folds(self) -> int:
        """How many models the scores come from: 1 without folds."""
        return len(self.facts["split"]["cells"])


def contents_of(model: "SimsModel", history: "pa.Table") -> Contents:
    """Return the contents of a training that has just ended."""
    return Contents(
        facts=model.facts,
        classes=model.classes,
        settings=model.settings.model_dump(),
        calibration=model.calibration.to_dict(),
        has_linear=model.linear is not None,
        history=history.to_pylist(),
    )


def read_contents(folder: Path) -> Contents:
    """Return the contents of a model folder.

    Raises
    ------
    ModelRefused, UsageError
        See `neurofleet.jobs.learners.learner_folder.stored_model`.
    """
    described = stored_model(folder, LEARNER).description
    path = folder / HISTORY
    return Contents(
        facts=described["facts"],
        classes=described["classes"],
        settings=described["settings"],
        calibration=described["calibration"],
        has_linear=described["linear"] is not None,
        history=pq.read_table(path).to_pylist() if path.is_file() else (),
    )


def data_section(contents: Contents) -> list[str]:
    """Return tables of the data and of the settings that are not the defaults."""
    facts = contents.facts
    data, split = facts["data"], facts["split"]
    labelled = sum(data["cells_of_class"].values())
    unlabelled = data["n_cells"] - labelled
    rows = [
        ("reference", ", ".join(data["files"])),
        (
            "cells",
            f"{data['n_cells']:,}" + (f", {unlabelled:,} of them without a label" if unlabelled else ""),
        ),
        ("classes", f"{len(contents.classes)}, from column {data['label']}"),
        ("genes", f"{data['n_genes']:,}; the networks see {data['n_genes_seen']:,}"),
        ("values", data["normalisation"]),
        ("split", split_in_words(contents)),
        ("split's fingerprint", split["fingerprint"]),
        ("preset, seed", f"{facts['preset']}, {facts['seed']}"),
    ]
    changed = _changed(contents.settings)
    parts = [html.heading(2, "What was trained on what"), html.table(("", ""), rows)]
    if not changed:
        return [*parts, html.paragraph("All settings are the defaults of this version.")]
    return [*parts, html.paragraph("Settings that are not the defaults of this version:"), _settings(changed)]


def folds_section(contents: Contents) -> list[str]:
    """Return the scores of each fold; nothing without folds."""
    folds = contents.facts.get("folds")
    if not folds:
        return []
    rows = [
        (
            number,
            f"{cells['train']:,}",
            f"{cells['validation']:,}",
            f"{cells['test']:,}",
            *(f"{fold[name][key]:.3f}" for name in fold for key in ("accuracy", "macro_f1")),
        )
        for number, (cells, fold) in enumerate(zip(contents.facts["split"]["cells"], folds, strict=True))
    ]
    names = {"sims": "model", "networks": "networks", "linear": "linear"}
    scored = [f"{names.get(name, name)}: {key}" for name in folds[0] for key in ("accuracy", "macro-F1")]
    head = ("fold", "training cells", "validation", "test", *scored)
    return [html.heading(2, "Folds"), html.table(head, rows, numbers=range(1, len(head)))]


def split_in_words(contents: Contents) -> str:
    """Say how many cells play which part."""
    cells = contents.facts["split"]["cells"]
    if len(cells) > 1:
        return f"{len(cells)} folds, each cell tested once; the model kept is trained on all labelled cells"
    return "{train:,} training, {validation:,} validation, {test:,} test cells".format(**cells[0])


def _changed(settings: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    defaults = settings_of(DEFAULT).model_dump()
    return [(name, value, defaults.get(name)) for name, value in settings.items() if value != defaults.get(name)]


def _settings(changed: list[tuple[str, Any, Any]]) -> str:
    rows = [(name, _plain(value), _plain(default)) for name, value, default in changed]
    return html.table(("setting", "here", "default"), rows, numbers=(1, 2))


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


SHOWN_MISTAKES = 10


def scores_section(contents: Contents) -> list[str]:
    """Return the table of scores with the control, and what is to be said of them."""
    facts = contents.facts
    rows: list[tuple[object, ...]] = [
        (row.method, digits(row.accuracy), interval(row), digits(row.macro_f1), " ".join(row.notes))
        for row in scores_rows(facts)
    ]
    control = facts["control"]
    if control is not None:
        limit = f"at most {digits(control['limit'])}"
        told = "sound: no better than chance" if control["valid"] else "INVALID: better than chance"
        rows.append(("control: a model of shuffled labels", digits(control["accuracy"]), limit, "", told))
    head = ("", "accuracy", "95 % interval", "macro-F1", "")
    parts = [
        html.heading(2, f"Scores on {contents.scores['n']:,} {contents.role} cells"),
        html.table(head, rows, numbers=(1, 2, 3)),
    ]
    if reason := invalid(facts):
        parts.insert(1, html.paragraph(reason, "alarm"))
    parts += [html.paragraph(sentence, "note") for sentence in remarks(facts)]
    parts.append(html.paragraph(_explained(contents), "quiet"))
    return parts + _notes(contents)


def classes_section(contents: Contents) -> list[str]:
    """Return the confusion matrix, the most frequent mistakes and the scores of each class."""
    scores = contents.scores
    caption = (
        f"The {contents.role} cells by true class (rows) and predicted class (columns), as numbers; the "
        "colour is the share of the true class (k: thousands; resting on a square says it exactly). A row "
        "without colour is a class that has no such cell."
    )
    picture = confusion_figure(scores["classes"], scores["confusion"])
    return [
        html.heading(2, "Class by class"),
        html.figure(picture, caption),
        *_mistakes(contents),
        _per_class(contents),
        html.paragraph(
            "Precision: the share of the cells predicted as the class that are of it. Recall: the share of "
            "its cells that are found. F1: their harmonic mean. A dash: no cell to take the share of.",
            "quiet",
        ),
    ]


def _explained(contents: Contents) -> str:
    facts = contents.facts
    told = [
        f"The most frequent class has {contents.scores['majority_rate']:.1%} of these cells. Macro-F1 is the "
        "mean over the classes, the rare ones counted like the others."
    ]
    if contents.n_folds > 1:
        told.append(
            f"Each cell was tested once, by one of {contents.n_folds} models that had not seen it; the model "
            "that is kept is trained on all cells and untested itself. Each macro-F1 is a mean over folds."
        )
    if contents.role == "validation":
        told.append(
            "There are no test cells: these are the validation cells, scored by the model that was not "
            "trained on them. They have chosen the temperature, and what else the settings let them choose."
        )
    if facts["control"] is None:
        told.append("Without test cells there is no control of shuffled labels.")
    return " ".join(told)


def _notes(contents: Contents) -> list[str]:
    notes = contents.facts["notes"]
    return [html.heading(3, "Notes"), *(html.paragraph(note) for note in notes)] if notes else []


def _mistakes(contents: Contents) -> list[str]:
    classes, confusion = contents.scores["classes"], contents.scores["confusion"]
    found = sorted((-count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if count and i != j)
    if not found:
        return [html.paragraph(f"All {contents.role} cells are predicted right.")]
    rows = [
        (classes[i], classes[j], f"{-count:,}", f"{-count / sum(confusion[i]):.0%}")
        for count, i, j in found[:SHOWN_MISTAKES]
    ]
    head = ("true class", "predicted", "cells", "of the true class")
    return [html.heading(3, "The most frequent mistakes"), html.table(head, rows, numbers=(2, 3))]


def _per_class(contents: Contents) -> str:
    reference = contents.facts["data"]["cells_of_class"]
    confusion = contents.scores["confusion"]
    rows = []
    for i, one in enumerate(contents.scores["per_class"]):
        predicted = sum(row[i] for row in confusion)
        rows.append(
            (
                one["name"],
                f"{reference.get(one['name'], 0):,}",
                f"{one['support']:,}",
                digits(one["precision"]) if predicted else "–",
                digits(one["recall"]) if one["support"] else "–",
                digits(one["f1"]) if one["support"] else "–",
            )
        )
    head = ("class", "cells in the reference", f"{contents.role} cells", "precision", "recall", "F1")
    return html.heading(3, "Scores of each class") + html.table(head, rows, numbers=range(1, 6))


WARNING = (
    "Calibration holds for cells like the validation cells. For a query that is shifted against the "
    "reference (another tissue, technology, laboratory or species, or types that the reference lacks) "
    "probabilities can be far off, mostly too high; nothing here says by how much."
)


def reliability_section(contents: Contents) -> list[str]:
    """Return the reliability diagram, the calibration errors, and how far they can be trusted."""
    reliability, calibration = contents.facts["reliability"], contents.calibration
    rows = [
        (f"{contents.role} cells, {name} calibration", f"{found['ece']:.3f}", f"{found['nll']:.3f}")
        for name, found in reliability.items()
    ]
    if calibration["n"]:
        rows += [
            (
                f"validation cells, {name} calibration",
                f"{calibration[f'ece_{name}']:.3f}",
                f"{calibration[f'nll_{name}']:.3f}",
            )
            for name in ("before", "after")
        ]
    panels = {f"{name} calibration": found["bins"] for name, found in reliability.items()}
    caption = (
        f"Predictions for the {contents.role} cells in bins of their probability, with 95 % intervals; on "
        "the dashed line, predictions are right as often as they say. Below: how many cells each bin has "
        "(log scale)."
    )
    return [
        html.heading(2, "Reliability of probabilities"),
        html.paragraph(WARNING, "note"),
        html.paragraph(_temperature(contents)),
        html.table(("", "ECE", "NLL"), rows, numbers=(1, 2)),
        html.figure(reliability_figure(panels), caption),
        html.paragraph(
            "ECE: expected calibration error, the mean distance from the dashed line over the cells (15 "
            "bins). NLL: mean negative log-likelihood of the true class (nats). Lower is better for both.",
            "quiet",
        ),
    ]


def _temperature(contents: Contents) -> str:
    calibration = contents.calibration
    temperature, n = calibration["temperature"], calibration["n"]
    if not n:
        return "There were no validation cells to calibrate with: probabilities are as the model gives them."
    told = [f"Temperature {temperature:.3g}, fitted on {n:,} validation cells."]
    if not calibration["determined"]:
        told.append(
            "The validation cells do not determine it: all of them are predicted right, so it stays 1."
            if temperature == 1.0
            else "The validation cells do not determine it: it ends at a limit of its range."
        )
    if contents.n_folds > 1:
        told.append("Below, each fold has a temperature of its own, from its own validation cells.")
    before, after = (contents.facts["reliability"][key]["nll"] for key in ("before", "after"))
    if after > before and contents.role == "test":
        told.append(
            f"On the test cells it does harm: NLL {before:.3f} before, {after:.3f} after. Validation cells "
            "that are few, or unlike the test cells, do that."
        )
    return " ".join(told)


SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def unknown_section(contents: Contents) -> list[str]:
    """Return a table of thresholds, or nothing where no type was left out."""
    curves: Mapping[str, Mapping[str, Sequence[Any]]] = contents.facts.get("unknown_types") or {}
    if not curves:
        return []
    head = ["type left out", *(f"below {threshold:g}" for threshold in SHOWN)]
    rows: list[list[str]] = []
    for name, curve in curves.items():
        rows.append([name, *(_share(_at(curve, "unknown_recall", threshold)) for threshold in SHOWN)])
    kept = [_mean([_at(curve, "known_accuracy", t) for curve in curves.values()]) for t in SHOWN]
    rows.append(["other types, right and kept (mean)", *map(_share, kept)])
    numbers = range(1, len(head))
    return [
        html.heading(2, "Types that the reference does not have"),
        html.paragraph(
            "Each type was left out of training once. A cell whose highest probability is below the threshold"
            " is called unknown: the rows give the share of the left out type then called unknown, the"
            " last one the share of the other types' test cells that keep their label and have the right one."
        ),
        html.table(head, rows, list(numbers)),
    ]


def _at(curve: Mapping[str, Sequence[Any]], key: str, threshold: float) -> float | None:
    nearest = min(range(len(curve["threshold"])), key=lambda i: abs(curve["threshold"][i] - threshold))
    return curve[key][nearest]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


NAME = "report.html"


def write_sims_page(out: Path, contents: Contents) -> str:
    """Write ``report.html`` into the folder, and return where it is."""
    store = RunStore(out)
    body = [
        html.heading(1, contents.facts["name"]),
        html.paragraph(_opening(contents), "quiet"),
        *scores_section(contents),
        *folds_section(contents),
        *classes_section(contents),
        *reliability_section(contents),
        *unknown_section(contents),
        *_curves(contents),
        *data_section(contents),
        *_provenance(store, contents),
    ]
    store.write_text(NAME, html.page(f"{contents.facts['name']}: report", body))
    return f"{store.root.rstrip('/')}/{NAME}"


def _opening(contents: Contents) -> str:
    members = contents.settings["members"]
    networks = f"{members} networks averaged" if members > 1 else "one network"
    linear = " and a linear model" if contents.has_linear else ""
    data = contents.facts["data"]
    labelled = sum(data["cells_of_class"].values())
    return (
        f"SIMS model of {len(contents.classes)} classes ({networks}{linear}), learnt from {labelled:,} "
        f"labelled cells of {', '.join(data['files'])}. Split: {split_in_words(contents)}."
    )


def _curves(contents: Contents) -> list[str]:
    parts = [html.heading(2, "Training")]
    if not contents.history:
        return [*parts, html.paragraph("The history of its epochs (history.parquet) is not in the folder.")]
    seconds = sum(row["seconds"] for row in contents.history)
    validated = any(row.get("val_loss") is not None for row in contents.history)
    masking = ", and while genes are masked at random" if contents.settings["gene_masking"] != 0 else ""
    caption = f"The loss on training cells is the mean of the networks' own while they change{masking}"
    if validated:
        caption += (
            "; that on validation cells is the loss of their averaged prediction after the epoch, and so are "
            "accuracy and macro-F1"
        )
    if contents.facts["control"] is not None:
        caption += ". A model of shuffled labels may fit its training cells, but no others"
    caption += "."
    return [
        *parts,
        html.paragraph(f"{len(contents.history):,} epochs in {seconds:,.0f} s.", "quiet"),
        html.figure(curves_figure(contents.history), caption),
    ]


def _provenance(store: RunStore, contents: Contents) -> list[str]:
    root = store.root
    rows = [
        ("model folder", root),
        ("scores", f"neurofleet results {root}"),
        ("this page", f"neurofleet report {root}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in contents.facts["versions"].items())),
    ]
    inputs = list(contents.facts["data"]["sha256"].items())
    events = [(event["at"][:19].replace("T", " "), event["event"]) for event in store.read_events()]
    parts = [html.heading(2, "Where this comes from"), html.table(("", ""), rows)]
    if job := store.read_text(JOB):
        parts.append(html.details("The job", html.code(job)))
    settings = html.code(json.dumps(dict(contents.settings), indent=1))
    parts.append(html.details("All settings", settings))
    parts.append(html.details(f"{len(inputs)} input files (SHA-256)", html.table(("file", "digest"), inputs)))
    if events:
        parts.append(html.details("What happened when (UTC)", html.table(("at", "event"), events)))
    return parts


def write_training_report(out: Path, model: "SimsModel", history: "pa.Table") -> str:
    """Write ``report.html`` into the folder of a training that has just ended.

    Parameters
    ----------
    model : SimsModel
        Its facts are those of `neurofleet.jobs.learners.sims_training`.
    history : pyarrow.Table
        A row for each epoch of each training.

    Returns
    -------
    str
        Where the report is.
    """

    return write_sims_page(out, contents_of(model, history))


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` into a model folder from what the folder holds.

    Raises
    ------
    ModelRefused
        If the folder holds no model of ours, or a damaged one.
    UsageError
        If the model was written without scores.
    """

    return write_sims_page(folder, read_contents(folder))
