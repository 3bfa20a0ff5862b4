"""The job files of SIMS: a training and a sweep."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from neurofleet.jobs.job_file import DataPath, Label, Positive
from neurofleet.jobs.learners.learner_spec import Labels, LearnerSpec, Metrics, SplitSpec, SweepSpec
from neurofleet.learners.cells.value_kinds import Kind
from neurofleet.learners.sims.tabnet_settings import PRESETS, SimsSettings, settings_of

Baseline = Literal["majority", "logistic", "pca_knn", "raw_knn", "celltypist"]
"""The names of `neurofleet.learners.sims.expression_baselines`."""


class SimsTrainSpec(LearnerSpec):
    """A training job (`kind: train`, `learner: sims`)."""

    settings_model = SimsSettings
    presets = PRESETS
    beside = ("workers", "loggers", "baselines")
    data_keys = ("reference",)

    kind: Literal["train", "sweep"] = "train"
    learner: Literal["sims"]
    reference: Annotated[list[DataPath], Field(min_length=1)]
    labels: DataPath | None = None
    layer: Label = "X"
    gene_names: Label | None = None
    label: Label
    drop_unlabelled: bool = False
    target_sum: Positive | None = None
    values: Kind | None = None
    split: SplitSpec = SplitSpec()
    baselines: list[Baseline] | None = None
    unknown_curve: bool | Labels = False

    @model_validator(mode="after")
    def _fitting_split(self) -> "SimsTrainSpec":
        if self.unknown_curve and self.split.test == 0.0:
            raise ValueError("unknown_curve: types of the test part show what a threshold costs; set `split.test`")
        chosen = self.chosen
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

    def files_named(self) -> list[str]:
        """Return all files that the job reads: paths, and URLs."""
        return [*self.reference, *([self.labels] if self.labels else [])]


class SimsSweepSpec(SweepSpec, SimsTrainSpec):
    """A sweep of SIMS (`kind: sweep`, `learner: sims`)."""

    metrics: ClassVar[Metrics] = {
        "macro_f1": ("val_macro_f1", "max"),
        "accuracy": ("val_accuracy", "max"),
        "loss": ("val_loss", "min"),
    }

    fixed_in_population = frozenset(
        (
            *("n_d", "n_a", "n_steps", "n_shared", "n_independent", "mask", "skip", "members", "linear_share"),
            *("most_variable_genes", "scaling", "row_norm", "most_per_class", "pretrain_epochs"),
            *("epochs", "most_steps", "batch_size", "schedule", "patience"),
        )
    )

    kind: Literal["sweep"] = "sweep"

    @model_validator(mode="after")
    def _watched_cells(self) -> "SimsSweepSpec":
        if self.split.validation == 0.0:
            raise ValueError("trials are compared on validation cells: `split.validation` must be above 0")
        return self
