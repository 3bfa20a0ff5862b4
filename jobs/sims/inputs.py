"""What a training reads: cells, labels and the split, checked before anything is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.carrying_out import refuse_missing
from jobs.sims.spec import TrainSpec

if TYPE_CHECKING:
    from learners.cells.labels import Labels
    from learners.sims.fit import Reference
    from learners.splits import Split


@dataclass(frozen=True)
class Inputs:
    """A training's input.

    Attributes
    ----------
    reference : Reference
    labels : Labels
    splits : list of Split
        One, or one a fold.
    final : Split
        What the model that is kept is trained on: the one split, or with folds all labelled cells.
    sources : dict
        What opens the cells again in another process.
    notes : list of str
    """

    reference: "Reference"
    labels: "Labels"
    splits: "list[Split]"
    final: "Split"
    sources: dict[str, Any]
    notes: list[str]


def read_inputs(spec: TrainSpec, folder: Path) -> Inputs:
    """Open and check a training's input.

    Raises
    ------
    UsageError, LearnerError
        A file is missing, or what is in it cannot be used.
    """
    from learners.cells.labels import read_labels
    from learners.cells.opening import open_cells
    from learners.cells.values import recognise
    from learners.sims.fit import reference_of
    from learners.splits import make_folds, make_split

    refuse_missing(spec, folder)
    sources: dict[str, Any] = {
        "paths": [str((folder / path).resolve()) for path in spec.reference],
        "labels_path": str((folder / spec.labels).resolve()) if spec.labels else None,
        "layer": spec.layer,
    }
    cells = open_cells(**sources)
    labels = read_labels(cells, spec.label, drop_missing=spec.drop_unlabelled)
    values = recognise(cells, target_sum=spec.target_sum)
    names = _names(labels, len(cells))
    common: dict[str, Any] = {"columns": cells.obs, "seed": spec.split.seed}
    if spec.split.folds is not None:
        assert isinstance(spec.split.validation, float)
        splits = make_folds(
            cells.cell_ids,
            names,
            spec.split.folds,
            validation=spec.split.validation,
            group=spec.split.by,
            **common,
        )
        final = make_split(cells.cell_ids, names, test=0.0, validation=spec.split.validation, **common)
    else:
        test = 0.2 if spec.split.test is None else spec.split.test
        final = make_split(cells.cell_ids, names, test=test, validation=spec.split.validation, **common)
        splits = [final]
    reference = reference_of(cells, labels, values, spec.target_sum)
    notes = [*cells.notes, *labels.notes, f"Values: {values.kind} ({values.evidence})."]
    return Inputs(reference, labels, splits, final, sources, notes)


def _names(labels: "Labels", n_cells: int) -> Any:
    import numpy as np

    names = np.full(n_cells, "", dtype=object)
    names[labels.rows] = np.asarray(labels.classes, dtype=object)[labels.codes]
    return names
