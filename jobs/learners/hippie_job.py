"""The job files of HIPPIE, and what they read: units, their classes, and the pool for pretraining."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from neurofleet.jobs.job_file import Name, PositiveInt, Strict
from neurofleet.jobs.learners.learner_job import LearnerSpec, Metrics, SweepKeys
from neurofleet.learners.hippie.autoencoder_settings import PRESETS, HippieSettings, settings_of
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.unit_labels import LabelledUnits, labelled_units
from neurofleet.learners.units.units import Units, joined

Paths = Annotated[list[Path], Field(min_length=1)]
Classes = list[str] | dict[str, Annotated[list[str], Field(min_length=1)]]
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


class UnitsSpec(Strict):
    """Files of units and how their arrays are called."""

    units: Paths
    layout: dict[str, Any] = {}

    @field_validator("units", mode="before")
    @classmethod
    def _one_file(cls, units: Any) -> Any:
        return [units] if isinstance(units, str) else units


class LabelledSpec(UnitsSpec):
    """Units with classes.

    `classes` says which labels are used, and may merge several under one name; `group` is the column that
    tells animals or recordings apart.
    """

    label: str
    classes: Classes | None = None
    group: str | None = None


class SetSpec(LabelledSpec):
    """A data set of an evaluation."""

    name: Name


class HippieSpec(LearnerSpec):
    """What all jobs of HIPPIE have in common."""

    settings_model = HippieSettings
    presets = PRESETS

    learner: Literal["hippie"]
    pool: list[UnitsSpec] = []

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with its settings gathered under `settings`."""
        return cls.gathered(content)

    @property
    def chosen(self) -> HippieSettings:
        """The preset with the job's changes."""
        return settings_of(self.preset, self.settings)


class Folded(HippieSpec):
    """How methods are compared: cross-validation, by `group` where a set has one."""

    folds: Annotated[int, Field(ge=2)] = 5
    repeats: PositiveInt = 1
    shuffles: Annotated[int, Field(ge=5)] = 5
    methods: Annotated[list[Method], Field(min_length=1)] = list(get_args(Method))


class HippieTrainSpec(Folded, LabelledSpec):
    """A training of HIPPIE (`kind: train`, `learner: hippie`)."""

    runner: ClassVar[str] = "neurofleet.jobs.learners.hippie_training:run_hippie_training"
    planner: ClassVar[str] = "neurofleet.jobs.learners.hippie_training:print_hippie_plan"

    kind: Literal["train", "sweep"] = "train"

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [*self.units, *(path for one in self.pool for path in one.units)]


class HippieSweepSpec(SweepKeys, HippieTrainSpec):
    """A sweep of HIPPIE (`kind: sweep`, `learner: hippie`).

    Trials are compared on one part in `folds` of the units, kept apart by group.
    """

    runner: ClassVar[str] = "neurofleet.jobs.learners.hippie_training:run_hippie_sweep"
    metrics: ClassVar[Metrics] = {
        "balanced_accuracy": ("val_balanced_accuracy", "max"),
        "macro_f1": ("val_macro_f1", "max"),
        "accuracy": ("val_accuracy", "max"),
        "loss": ("val_loss", "min"),
    }

    kind: Literal["sweep"] = "sweep"


class HippieEvaluateSpec(Folded):
    """A comparison of methods on one or more data sets (`kind: evaluate`, `learner: hippie`)."""

    runner: ClassVar[str] = "neurofleet.jobs.learners.hippie_evaluation:run_hippie_evaluation"
    planner: ClassVar[str] = "neurofleet.jobs.learners.hippie_training:print_hippie_plan"

    kind: Literal["evaluate"] = "evaluate"
    sets: Annotated[list[SetSpec], Field(min_length=1)]
    pretrain_on_others: bool = True
    repeats: PositiveInt = 3

    @field_validator("sets")
    @classmethod
    def _own_names(cls, sets: list[SetSpec]) -> list[SetSpec]:
        names = [one.name for one in sets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each set needs a name of its own; {', '.join(twice)} is there more than once")
        return sets

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [path for one in (*self.sets, *self.pool) for path in one.units]


def read_units(spec: UnitsSpec, folder: Path) -> "Units":
    """Open the files of units that a job names.

    Raises
    ------
    LearnerError
        What is in them cannot be used.
    """
    return open_units([str((folder / path).resolve()) for path in spec.units], spec.layout)


def read_labelled(spec: LabelledSpec, folder: Path) -> LabelledUnits:
    """Open units and their classes.

    Raises
    ------
    LearnerError
        A column or class is not there, fewer than two classes are, or a class's units are all missing.
    """
    return labelled_units(read_units(spec, folder), spec.label, spec.classes, spec.group)


def read_pool(specs: Sequence[UnitsSpec], folder: Path) -> "Units | None":
    """Return the units for pretraining; None where there are none."""
    return joined([read_units(spec, folder) for spec in specs]) if specs else None
