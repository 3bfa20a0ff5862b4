"""Put the report of a training together and write it into its folder."""

import json
from pathlib import Path

from cluster.store import RunStore
from jobs.report import page
from jobs.sims.report.contents import Contents
from jobs.sims.report.data_section import data_section, folds_section, split_in_words
from jobs.sims.report.reliability_section import reliability_section
from jobs.sims.report.scores_section import classes_section, scores_section
from jobs.sims.report.unknown_section import unknown_section
from jobs.train.curves_figure import curves_figure
from jobs.train.folder import JOB

NAME = "report.html"


def write_page(out: Path, contents: Contents) -> str:
    """Write ``report.html`` into the folder, and return where it is."""
    store = RunStore(out)
    body = [
        page.heading(1, contents.facts["name"]),
        page.paragraph(_opening(contents), "quiet"),
        *scores_section(contents),
        *folds_section(contents),
        *classes_section(contents),
        *reliability_section(contents),
        *unknown_section(contents),
        *_curves(contents),
        *data_section(contents),
        *_provenance(store, contents),
    ]
    store.write_text(NAME, page.page(f"{contents.facts['name']}: report", body))
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
    parts = [page.heading(2, "Training")]
    if not contents.history:
        return [*parts, page.paragraph("The history of its epochs (history.parquet) is not in the folder.")]
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
        page.paragraph(f"{len(contents.history):,} epochs in {seconds:,.0f} s.", "quiet"),
        page.figure(curves_figure(contents.history), caption),
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
    parts = [page.heading(2, "Where this comes from"), page.table(("", ""), rows)]
    if job := store.read_text(JOB):
        parts.append(page.details("The job", page.code(job)))
    settings = page.code(json.dumps(dict(contents.settings), indent=1))
    parts.append(page.details("All settings", settings))
    parts.append(page.details(f"{len(inputs)} input files (SHA-256)", page.table(("file", "digest"), inputs)))
    if events:
        parts.append(page.details("What happened when (UTC)", page.table(("at", "event"), events)))
    return parts
