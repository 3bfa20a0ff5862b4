"""The pieces of evaluations: which there are, and what they have found once they are done."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.hippie.inputs import Labelled
from jobs.hippie.pieces import CONTROLLED, FOLD, PERMUTED, SHUFFLED, folds_of, labelled_rows
from jobs.hippie.spec import LabelledSpec
from jobs.train.pieces import PIECES, Piece, do_missing

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from learners.comparison import Comparison

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

    def payload(self, piece: Mapping[str, Any], folder: Path, place: Path) -> dict[str, Any]:
        """Return what `do_piece` is to be given."""
        spec = self.labelled.model_dump(mode="json", include=set(LabelledSpec.model_fields))
        return {
            "place": str(place.absolute()),
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
    pieces = [
        Piece(
            plan.payload(piece, folder, out / PIECES / plan.name / f"{name}.json"),
            f"{plan.name} {piece['kind']}",
            f"{plan.name}, {name}",
        )
        for plan in plans
        for name, piece in plan.pieces().items()
    ]
    do_missing("jobs.hippie.pieces:do_piece", pieces, workers, console)
    return [_collected(plan, out / PIECES / plan.name) for plan in plans]


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
    shuffled = {
        name.removeprefix("shuffled-"): value for name, value in kept.items() if name.startswith("shuffled-")
    }
    return Evaluated(comparison, probabilities, chosen, shuffled, kept["permuted"])
