"""The job files of SIMS: a training and a sweep."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from neurofleet.jobs.job_file import Positive
from neurofleet.jobs.learners.learner_spec import LearnerSpec, Metrics, SplitSpec, SweepSpec
from neurofleet.learners.sims.tabnet_settings import PRESETS, SimsSettings, settings_of


class SimsTrainSpec(LearnerSpec):
    """A training job (`kind: train`, `learner: sims`)."""

    settings_model = SimsSettings
    presets = PRESETS
    beside = ("workers", "loggers", "baselines")
    lists = ("reference",)

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


class SimsSweepSpec(SweepSpec, SimsTrainSpec):
    """A sweep of SIMS (`kind: sweep`, `learner: sims`)."""

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
