"""What was trained on what: cells, genes, classes, split, settings."""

from collections.abc import Mapping
from typing import Any

from jobs.report import page
from jobs.sims.report.contents import Contents


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
    parts = [page.heading(2, "What was trained on what"), page.table(("", ""), rows)]
    if not changed:
        return [*parts, page.paragraph("All settings are the defaults of this version.")]
    return [*parts, page.paragraph("Settings that are not the defaults of this version:"), _settings(changed)]


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
    return [page.heading(2, "Folds"), page.table(head, rows, numbers=range(1, len(head)))]


def split_in_words(contents: Contents) -> str:
    """Say how many cells play which part."""
    cells = contents.facts["split"]["cells"]
    if len(cells) > 1:
        return f"{len(cells)} folds, each cell tested once; the model kept is trained on all labelled cells"
    return "{train:,} training, {validation:,} validation, {test:,} test cells".format(**cells[0])


def _changed(settings: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    from learners.sims.settings import DEFAULT, settings_of

    defaults = settings_of(DEFAULT).model_dump()
    return [
        (name, value, defaults.get(name)) for name, value in settings.items() if value != defaults.get(name)
    ]


def _settings(changed: list[tuple[str, Any, Any]]) -> str:
    rows = [(name, _plain(value), _plain(default)) for name, value, default in changed]
    return page.table(("setting", "here", "default"), rows, numbers=(1, 2))


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
