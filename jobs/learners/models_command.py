"""``neurofleet models`` and ``neurofleet model-card``: which published models there are, and what one is."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from neurofleet.errors import NeurofleetError, UsageError
from neurofleet.input_paths import shown
from neurofleet.jobs.terminal import print_json, terminal
from neurofleet.learners.model_card import THINGS, about_model, card_text
from neurofleet.learners.model_folder import read_head
from neurofleet.learners.published_models import (
    CARD,
    INDEX,
    PLACES,
    PublishedModel,
    configured_places,
    local_model,
    models_at,
    read_index,
)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def models_command(places: Sequence[str], as_json: bool = False) -> None:
    """List the published models of some places.

    Parameters
    ----------
    places : sequence of str
        Folders and URLs; by default those of ``NEUROFLEET_MODELS``.
    as_json : bool
        Print the entries of the indexes.

    Raises
    ------
    UsageError
        No place is named.
    NeurofleetError
        A place cannot be read; those that can are listed before.
    """
    wanted = list(places) or configured_places()
    if not wanted:
        raise UsageError(
            f"Name a folder or URL of published models: neurofleet models WHERE; or set {PLACES} to such, separated by"
            " commas. `neurofleet publish MODEL FOLDER` begins one."
        )
    found: list[tuple[str, PublishedModel]] = []
    faults: list[NeurofleetError] = []
    for place in wanted:
        try:
            found += [(place, model) for model in models_at(place)]
        except NeurofleetError as error:
            faults.append(error)
    if as_json:
        rows = [{"title": model.title, "place": shown(place)} | model.model_dump() for place, model in found]
        print_json({"models": rows, "failed": [str(fault) for fault in faults]})
    elif found:
        _print(found, len(wanted) > 1)
    elif not faults:
        terminal().print(f"No model is published in {', '.join(map(shown, wanted))}.", soft_wrap=True)
    if faults:
        for fault in faults[:-1]:
            terminal(errors=True, warnings=True).print(str(fault), soft_wrap=True)
        raise faults[-1]


def _print(found: Sequence[tuple[str, PublishedModel]], several: bool) -> None:
    table = Table()
    for column in ("model", "learner", "classes", "trained on", "held out", "best baseline", "MB"):
        table.add_column(column, justify="right" if column == "MB" else "left")
    if several:
        table.add_column("place")
    for place, model in found:
        try:
            told = [_printable(text) for text in _told(model)]
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):  # an index that others have written
            told = ["", "", "", ""]
        title = f"{model.title} (quick)" if model.about.get("quick") else model.title
        row = [title, _printable(model.learner), *told, f"{model.bytes / 1e6:.1f}"]
        table.add_row(*row, *([shown(place)] if several else []))
    console = terminal()
    console.print(table)
    console.print("neurofleet model-card NAME@VERSION says more.", soft_wrap=True)


def _told(model: PublishedModel) -> tuple[str, str, str, str]:
    about = model.about
    classes = list(about.get("classes") or {})
    more = f" … ({len(classes)})" if len(classes) > 4 else ""
    data = about.get("data") or {}
    files = ", ".join(data.get("files") or ())
    count = f"{data['n']:,} {THINGS.get(model.learner, 'samples')}" if isinstance(data.get("n"), int) else ""
    rows = (about.get("scores") or {}).get("rows") or []
    own = next((_accuracy(row) for row in rows if row["is_model"]), None)
    baselines = [(value, row["method"]) for row in rows if row["is_baseline"] and (value := _accuracy(row)) is not None]
    best = max(baselines, default=None)
    return (
        ", ".join(classes[:4]) + more,
        f"{count} {files}".strip() or "not noted",
        "not measured" if own is None else f"{own:.3f}",
        "" if best is None else f"{best[0]:.3f} {best[1]}",
    )


def _accuracy(row: dict[str, Any]) -> float | None:
    return row.get("accuracy", row.get("balanced_accuracy"))


def _printable(text: str) -> str:
    """Return the words of others without what would steer the terminal."""
    return _CONTROL.sub("", text)


def card_command(model: str, as_json: bool = False) -> None:
    """Print the card of a model: as it was published, or made from its folder.

    Parameters
    ----------
    model : str
        See `local_model`.
    as_json : bool
        Print what the card says as JSON.

    Raises
    ------
    ModelRefused
        There is no such model.
    """
    folder = local_model(model)
    head = read_head(folder)
    if head["learner"] not in THINGS:
        raise UsageError(f"{folder} holds a model of learner {head['learner']!r}, which this neurofleet does not have.")
    entry = _own_entry(folder)
    if as_json:
        about = about_model(head) if entry is None else entry.about
        told = {} if entry is None else {"title": entry.title, "published": entry.published}
        print_json({"learner": head["learner"], "run": head["run"]} | told | about)
    elif entry is None:
        print(card_text(head["learner"], str(model), about_model(head)), end="")
    else:
        print(_printable((folder / CARD).read_text(encoding="utf-8", errors="replace")), end="")


def _own_entry(folder: Path) -> PublishedModel | None:
    """Return the entry of the index in a published model's folder."""
    path = folder / INDEX
    if not path.is_file() or not (folder / CARD).is_file():
        return None
    return next(iter(read_index(path.read_bytes(), str(folder))), None)
