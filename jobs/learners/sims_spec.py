"""The job files of SIMS: a training and a sweep."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from neurofleet.jobs.job_file import DataPath, Label, Positive
from neurofleet.jobs.learners.learner_spec import Labels, LearnerSpec, Metrics, SplitSpec, SweepSpec
from neurofleet.learners.cells.value_kinds import Kind
from neurofleet.learners.sims.tabnet_settings import PRESETS, SimsSettings, settings_of

Baseline = Literal["majority", "logistic", "pca_knn", "raw_knn", "celltypist"]
"""The names of `neurofleet.learners.sims.expression_baselines`."""


QUICK_CELLS = 1000
"""How many labelled cells a quick job has at most."""

QUICK_FOLDS = 2
QUICK_BASELINES: tuple[Baseline, ...] = ("majority", "logistic", "pca_knn")


class SimsTrainSpec(LearnerSpec):
    """A training job (`kind: train`, `learner: sims`)."""

    settings_model = SimsSettings
    presets = PRESETS
    beside = ("workers", "loggers", "baselines")
    data_keys = ("reference", "query")

    kind: Literal["train", "sweep"] = "train"
    """A training."""
    learner: Literal["sims"]
    """SIMS: cell types from single-cell RNA data."""
    reference: Annotated[list[DataPath], Field(min_length=1)]
    """Files of labelled cells; the genes that all files have are used."""
    query: Annotated[list[DataPath], Field(min_length=1)] | None = None
    """Files of the cells that the model is to predict. Of all genes, those are used that each of these has as well, so
    that none has to be estimated. Their cells are not trained on, and not scored.
    """
    query_layer: Label | None = None
    """Which values of the query are read, where they are not in `layer`."""
    labels: DataPath | None = None
    """A table of labels by cell id, where they are not in the reference."""
    layer: Label = "X"
    """Which values are read: `X`, `raw`, or the name of a layer."""
    gene_names: Label | None = None
    """The column of `var` that names genes, such as `gene_ids`, where the index does not."""
    label: Label
    """The column with the cell types."""
    drop_unlabelled: bool = False
    """Leave out cells without a label; they are refused otherwise."""
    target_sum: Positive | None = None
    """Counts per cell before the logarithm. Raw counts are scaled to it; the default is a round number that half of the
    cells reach, at most 10,000. For log values it is what they were scaled to, needed where the file does not show
    it.
    """
    values: Kind | None = None
    """What the values are, where it cannot be seen."""
    split: SplitSpec = SplitSpec()
    """Which cells are for testing and validation."""
    baselines: list[Baseline] | None = None
    """Methods to compare with; by default all of them, and `celltypist` only if it is installed."""
    unknown_curve: bool | Labels = False
    """`true`, or a list of types: trains once without each type, and shows what thresholds detect and what they
    cost.
    """

    quick_settings: ClassVar[dict[str, int]] = {"members": 1, "epochs": 10, "pretrain_epochs": 2}

    def quick_version(self) -> Self:
        """One network of few epochs on `QUICK_CELLS` cells, trained once, beside the quick baselines."""
        quick = super().quick_version()
        settings: dict[str, Any] = {}
        if quick.split.validation != 0.0 and quick.chosen.patience is None:
            settings["patience"] = quick.chosen.epochs  # cells that choose the epoch are not trained on again
        folds = quick.split.folds and min(quick.split.folds, QUICK_FOLDS)
        baselines = [name for name in QUICK_BASELINES if self.baselines is None or name in self.baselines]
        few = {"split": quick.split.model_copy(update={"folds": folds}), "baselines": baselines, "unknown_curve": False}
        return quick.with_settings(settings).model_copy(update=few)

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
        return [*self.reference, *(self.query or ()), *([self.labels] if self.labels else [])]


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
    """A hyperparameter sweep."""

    @model_validator(mode="after")
    def _watched_cells(self) -> "SimsSweepSpec":
        if self.split.validation == 0.0:
            raise ValueError("trials are compared on validation cells: `split.validation` must be above 0")
        return self
