"""The job file of a SIMS training: its keys and their defaults."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.spec import Positive
from jobs.sweep.spec import Metrics, Sweeping
from jobs.train.spec import LearnerSpec, SplitSpec
from learners.sims.settings import PRESETS, Settings, settings_of


class TrainSpec(LearnerSpec):
    """A training job (`kind: train`, `learner: sims`)."""

    runner: ClassVar[str] = "jobs.sims.run:run_train"
    planner: ClassVar[str] = "jobs.sims.plan:print_train_plan"
    settings_model = Settings
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
    def _fitting_split(self) -> "TrainSpec":
        chosen = self.chosen
        if self.unknown_curve and self.split.test == 0.0:
            raise ValueError(
                "unknown_curve: types of the test part show what a threshold costs; set `split.test`"
            )
        if self.split.validation == 0.0 and (chosen.patience is not None or chosen.schedule == "plateau"):
            raise ValueError(
                f"preset {self.preset} watches validation cells to slow down and to stop: `split.validation`"
                " must be above 0"
            )
        return self

    @property
    def chosen(self) -> Settings:
        """The preset with the job's changes."""
        return settings_of(self.preset, self.settings)

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [*self.reference, *([self.labels] if self.labels else [])]


class SweepSpec(Sweeping, TrainSpec):
    """A sweep of SIMS (`kind: sweep`, `learner: sims`)."""

    runner: ClassVar[str] = "jobs.sims.sweep:run_sweep"
    metrics: ClassVar[Metrics] = {
        "macro_f1": ("val_macro_f1", "max"),
        "accuracy": ("val_accuracy", "max"),
        "loss": ("val_loss", "min"),
    }

    kind: Literal["sweep"] = "sweep"

    @model_validator(mode="after")
    def _watched_cells(self) -> "SweepSpec":
        if self.split.validation == 0.0:
            raise ValueError("trials are compared on validation cells: `split.validation` must be above 0")
        return self
