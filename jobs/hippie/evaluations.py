"""The pieces of evaluations done one after the other, or side by side on a cluster, each kept when done."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.hippie.inputs import Labelled
from jobs.hippie.pieces import CONTROLLED, FOLD, PERMUTED, SHUFFLED, folds_of, labelled_rows
from jobs.hippie.spec import LabelledSpec
from jobs.train.workers import PiecesProgress, results_of

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from learners.comparison import Comparison

PIECES = "pieces"
REFERENCE = "classical"


@dataclass(frozen=True)
class Plan:
    """How one data set is evaluated.

    Attributes
    ----------
    name : str
    labelled : LabelledSpec
    found : Labelled
        What `labelled` names, opened.
    settings : dict
    methods : sequence of str
    folds, repeats, shuffles, seed : int
    pretrained : str or None
        A folder.
    """

    name: str
    labelled: LabelledSpec
    found: Labelled
    settings: dict[str, Any]
    methods: Sequence[str]
    folds: int
    repeats: int
    shuffles: int
    seed: int
    pretrained: str | None

    def pieces(self) -> dict[str, dict[str, Any]]:
        """Return all that is to be done, by name."""
        found: dict[str, dict[str, Any]] = {
            f"fold-{repeat}-{fold}": {"kind": FOLD, "repeat": repeat, "fold": fold}
            for repeat in range(self.repeats)
            for fold in range(self.folds)
        }
        for method in CONTROLLED:
            if set(self.methods) & {method, "best"}:
                found[f"shuffled-{method}"] = {"kind": SHUFFLED, "method": method}
        return found | {"permuted": {"kind": PERMUTED}}

    def payload(self, piece: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return what `do_piece` is to be given."""
        spec = self.labelled.model_dump(mode="json", include=set(LabelledSpec.model_fields))
        return {
            "labelled": spec,
            "folder": str(folder.resolve()),
            "settings": self.settings,
            "methods": list(self.methods),
            "folds": self.folds,
            "repeats": self.repeats,
            "shuffles": self.shuffles,
            "seed": self.seed,
            "pretrained": self.pretrained,
            "piece": dict(piece),
        }


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation of one data set has found.

    Attributes
    ----------
    comparison : Comparison
    probabilities : dict of arrays, shape (repeats, labelled units, classes)
    chosen : list of dict
        What methods have chosen in each fold.
    shuffled : dict
        By method; see `learners.comparison_controls.ShuffledLabels`.
    permuted : dict
        See `learners.comparison_controls.PermutedTestLabels`.
    """

    comparison: "Comparison"
    probabilities: "dict[str, np.ndarray]"
    chosen: list[dict[str, Any]]
    shuffled: dict[str, Any]
    permuted: dict[str, Any]


def evaluate(
    plans: Sequence[Plan], folder: Path, out: Path, workers: int, console: "Console"
) -> list[Evaluated]:
    """Do what is missing of some evaluations, and return all of them.

    Parameters
    ----------
    folder : Path
        Of the job file.
    out : Path
        Where finished pieces are kept.
    workers : int
        0 works in this process; else on the Ray cluster that it is connected to.
    """
    missing = [
        (plan.name, name, piece["kind"], plan.payload(piece, folder))
        for plan in plans
        for name, piece in plan.pieces().items()
        if not (out / PIECES / plan.name / f"{name}.json").is_file()
    ]
    progress = PiecesProgress([f"{one} {kind}" for one, _, kind, _ in missing], max(workers, 1), console)
    results = results_of("jobs.hippie.pieces:do_piece", [payload for *_, payload in missing], workers)
    for (one, name, kind, _), result in zip(missing, results, strict=True):
        _keep(out / PIECES / one / f"{name}.json", result)
        progress.done(f"{one} {kind}", f"{one}, {name}", result["seconds"])
    return [_collected(plan, out / PIECES / plan.name) for plan in plans]


def _keep(place: Path, result: Mapping[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    os.replace(partial, place)


def _collected(plan: Plan, folder: Path) -> Evaluated:
    import numpy as np

    from learners.comparison import compare

    found = plan.found
    rows = labelled_rows(found)
    labels = found.labels[rows]
    shape = (plan.repeats, len(rows), len(found.classes))
    probabilities = {name: np.full(shape, np.nan) for name in plan.methods}
    kept = {name: json.loads((folder / f"{name}.json").read_text()) for name in plan.pieces()}
    chosen = []
    for name, piece in plan.pieces().items():
        if piece["kind"] != FOLD:
            continue
        for method, values in kept[name]["probabilities"].items():
            probabilities[method][piece["repeat"], kept[name]["test"]] = values
        chosen.append({"repeat": piece["repeat"], "fold": piece["fold"], **kept[name]["chosen"]})
    comparison = compare(
        probabilities,
        labels,
        found.classes,
        folds_of(found, plan.folds, plan.repeats, plan.seed),
        reference=REFERENCE if REFERENCE in plan.methods else plan.methods[0],
        groups=None if found.groups is None else found.groups[rows],
        seed=plan.seed,
    )
    for found_there in kept.values():
        del found_there["seconds"]
    shuffled = {
        name.removeprefix("shuffled-"): value for name, value in kept.items() if name.startswith("shuffled-")
    }
    return Evaluated(comparison, probabilities, chosen, shuffled, kept["permuted"])
