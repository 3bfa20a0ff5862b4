"""The job files of SIMS, a training and a sweep, and what they read: cells, labels and the split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from neurofleet.jobs.job_file import Positive
from neurofleet.jobs.learners.learner_job import LearnerSpec, Metrics, SplitSpec, SweepKeys
from neurofleet.jobs.run_folder import refuse_missing
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import Labels, read_labels
from neurofleet.learners.cells.normalisation import recognise
from neurofleet.learners.sims.reference_fit import Reference, reference_of
from neurofleet.learners.sims.tabnet_settings import PRESETS, SimsSettings, settings_of
from neurofleet.learners.splits import Split, make_folds, make_split


class SimsTrainSpec(LearnerSpec):
    """A training job (`kind: train`, `learner: sims`)."""

    runner: ClassVar[str] = "neurofleet.jobs.learners.sims_training:run_sims_training"
    planner: ClassVar[str] = "neurofleet.jobs.learners.sims_training:print_sims_plan"
    settings_model = SimsSettings
    presets = PRESETS
    beside = ("workers", "loggers", "baselines")

    kind: Literal["train", "sweep"] = "train"
    learner: Literal["sims"]
    reference: Annotated[list[Path], Field(min_length=1)]
    labels: Path | None = None
    layer: str = "X"
    label: str
    drop_unlabelled: bool = False
    target_sum: Positive | None = None
    split: SplitSpec = SplitSpec()
    baselines: list[str] | None = None
    unknown_curve: bool | Annotated[list[str], Field(min_length=1)] = False

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with its settings gathered under `settings`, and its references as a list."""
        own = cls.gathered(content)
        if isinstance(reference := own.get("reference"), str):
            own["reference"] = [reference]
        return own

    @model_validator(mode="after")
    def _fitting_split(self) -> "SimsTrainSpec":
        chosen = self.chosen
        if self.unknown_curve and self.split.test == 0.0:
            raise ValueError("unknown_curve: types of the test part show what a threshold costs; set `split.test`")
        if self.split.validation == 0.0 and (chosen.patience is not None or chosen.schedule == "plateau"):
            raise ValueError(
                f"preset {self.preset} watches validation cells to slow down and to stop: `split.validation`"
                " must be above 0"
            )
        return self

    @property
    def chosen(self) -> SimsSettings:
        """The preset with the job's changes."""
        return settings_of(self.preset, self.settings)

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [*self.reference, *([self.labels] if self.labels else [])]


class SimsSweepSpec(SweepKeys, SimsTrainSpec):
    """A sweep of SIMS (`kind: sweep`, `learner: sims`)."""

    runner: ClassVar[str] = "neurofleet.jobs.learners.sims_training:run_sims_sweep"
    metrics: ClassVar[Metrics] = {
        "macro_f1": ("val_macro_f1", "max"),
        "accuracy": ("val_accuracy", "max"),
        "loss": ("val_loss", "min"),
    }

    kind: Literal["sweep"] = "sweep"

    @model_validator(mode="after")
    def _watched_cells(self) -> "SimsSweepSpec":
        if self.split.validation == 0.0:
            raise ValueError("trials are compared on validation cells: `split.validation` must be above 0")
        return self


@dataclass(frozen=True)
class SimsInputs:
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


def read_sims_inputs(spec: SimsTrainSpec, folder: Path) -> SimsInputs:
    """Open and check a training's input.

    Raises
    ------
    UsageError, LearnerError
        A file is missing, or what is in it cannot be used.
    """
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
    return SimsInputs(reference, labels, splits, final, sources, notes)


def _names(labels: "Labels", n_cells: int) -> Any:
    names = np.full(n_cells, "", dtype=object)
    names[labels.rows] = np.asarray(labels.classes, dtype=object)[labels.codes]
    return names
