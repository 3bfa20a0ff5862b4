"""The job files of HIPPIE: a training, a sweep and an evaluation."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator

from neurofleet.jobs.job_file import DataPath, Label, Name, PositiveInt, Strict, expanded
from neurofleet.jobs.learners.learner_spec import Labels, LearnerSpec, Metrics, SweepSpec
from neurofleet.learners.hippie.autoencoder_settings import PRESETS, HippieSettings, settings_of

Paths = Annotated[list[DataPath], Field(min_length=1)]
Classes = list[Label] | dict[Label, Labels]
Method = Literal[
    "raw_knn",
    "pca_knn",
    "physmap",
    "classical",
    "untrained",
    "frozen",
    "mean_knn",
    "probe",
    "head",
    "best",
]


QUICK_UNITS = 600
"""How many labelled units a quick job has at most, of each set."""

QUICK_FOLDS, QUICK_SHUFFLES = 2, 5
QUICK_METHODS: tuple[Method, ...] = ("raw_knn", "head")


class UnitsSpec(Strict):
    """Files of units and how their arrays are called."""

    units: Paths
    """Files or folders of units, one or several; patterns are expanded."""
    layout: dict[str, Any] = {}
    """What the files do not tell: names of arrays, sampling rate, units of time, quality criteria."""

    @field_validator("units", mode="before")
    @classmethod
    def _one_file(cls, units: Any) -> Any:
        return [units] if isinstance(units, str) else units


class LabelledSpec(UnitsSpec):
    """Units with classes.

    `classes` says which labels are used, and may merge several under one name; `group` is the column that
    tells animals or recordings apart.
    """

    label: Label
    """The column with the cell types."""
    classes: Classes | None = None
    """The labels that are used: a list, or `{name: [labels]}` to merge labels. By default all; other units are embedded
    but not trained on.
    """
    group: Label | None = None
    """The column that tells animals or recordings apart; units of one group are never in both training and test.
    Without it the split is random.
    """


class SetSpec(LabelledSpec):
    """A data set of an evaluation."""

    name: Name
    """The name of the data set in tables and files."""


class HippieSpec(LearnerSpec):
    """What all jobs of HIPPIE have in common."""

    settings_model = HippieSettings
    presets = PRESETS

    layout_model = "neurofleet.learners.units.unit_layout:UnitLayout"

    data_keys = ("units",)

    learner: Literal["hippie"]
    """HIPPIE: classes and embeddings of spike-sorted units."""
    pool: list[UnitsSpec] = []
    """Further units for pretraining, without labels; must contain none of the labelled units."""

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with patterns of files replaced by what they match, in its pool and sets too."""
        job = super().completed(content, folder, source)
        for key in ("pool", "sets"):
            if isinstance(job.get(key), list):
                job[key] = [
                    {**part, "units": expanded(part["units"], folder)}
                    if isinstance(part, dict) and "units" in part
                    else part
                    for part in job[key]
                ]
        return job

    @property
    def chosen(self) -> HippieSettings:
        """The preset with the job's changes."""
        return settings_of(self.preset, self.settings)


class FoldsSpec(HippieSpec):
    """How methods are compared: cross-validation, by `group` where a set has one."""

    folds: Annotated[int, Field(ge=2)] = 5
    """Folds of the cross-validation that compares the methods, by `group:` where there is one."""
    repeats: PositiveInt = 1
    """How many times the cross-validation is repeated, with other folds."""
    shuffles: Annotated[int, Field(ge=5)] = 5
    """Permutations of the label-shuffle control."""
    methods: Annotated[list[Method], Field(min_length=1)] = list(get_args(Method))
    """The methods that are compared."""

    quick_settings: ClassVar[dict[str, int]] = {"members": 1, "epochs": 10, "pretrain_epochs": 2, "adapt_epochs": 1}

    def quick_version(self) -> Self:
        """Two folds, and few methods, of one network of few epochs; `QUICK_UNITS` units."""
        methods = [name for name in self.methods if name in QUICK_METHODS] or self.methods[:1]
        few = {"folds": min(self.folds, QUICK_FOLDS), "repeats": 1, "shuffles": QUICK_SHUFFLES, "methods": methods}
        return super().quick_version().model_copy(update=few)


class HippieTrainSpec(FoldsSpec, LabelledSpec):
    """A training of HIPPIE (`kind: train`, `learner: hippie`)."""

    kind: Literal["train", "sweep"] = "train"
    """A training."""

    def files_named(self) -> list[str]:
        """Return all files that the job reads: paths, and URLs."""
        return [*self.units, *(path for files in self.pool for path in files.units)]


class HippieSweepSpec(SweepSpec, HippieTrainSpec):
    """A sweep of HIPPIE (`kind: sweep`, `learner: hippie`).

    Trials are compared on one part in `folds` of the units, kept apart by group.
    """

    metrics: ClassVar[Metrics] = {
        "balanced_accuracy": ("val_balanced_accuracy", "max"),
        "macro_f1": ("val_macro_f1", "max"),
        "accuracy": ("val_accuracy", "max"),
        "loss": ("val_loss", "min"),
    }

    fixed_in_population = frozenset(
        (
            *("modalities", "signals", "architecture", "width", "features", "fusion", "latent", "technology_size"),
            *("hand_features", "wide", "members", "class_in_decoder", "class_size", "epochs", "batch_size"),
            *("objective", "pretrain_epochs", "pretrain_batch_size", "pretrain_learning_rate"),
            *("pretrain_weight_decay", "adapt_epochs"),
        )
    )

    kind: Literal["sweep"] = "sweep"
    """A hyperparameter sweep."""


class HippieEvaluateSpec(FoldsSpec):
    """A comparison of methods on one or more data sets (`kind: evaluate`, `learner: hippie`)."""

    kind: Literal["evaluate"] = "evaluate"
    """A comparison of methods, without a model at the end."""
    sets: Annotated[list[SetSpec], Field(min_length=1)]
    """The data sets; each has a table of its own."""
    pretrain_on_others: bool = True
    """Whether the network of each set is pretrained on the other sets."""
    repeats: PositiveInt = 3
    """How many times the cross-validation is repeated, with other folds."""

    def quick_version(self) -> Self:
        """The first set alone."""
        return super().quick_version().model_copy(update={"sets": self.sets[:1]})

    @field_validator("sets")
    @classmethod
    def _unlike_names(cls, sets: list[SetSpec]) -> list[SetSpec]:
        names = [each.name for each in sets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"each set needs a name of its own; {', '.join(repeated)} is there more than once")
        return sets

    def files_named(self) -> list[str]:
        """Return all files that the job reads: paths, and URLs."""
        return [path for files in (*self.sets, *self.pool) for path in files.units]
