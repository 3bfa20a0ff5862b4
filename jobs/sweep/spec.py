"""The job file of a hyperparameter sweep: a training's keys, and what is tried."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.spec import Positive, PositiveInt, Strict
from jobs.train.spec import TrainSpec
from learners.sims.settings import Settings

METRICS: dict[str, tuple[str, Literal["min", "max"]]] = {
    "macro_f1": ("val_macro_f1", "max"),
    "accuracy": ("val_accuracy", "max"),
    "loss": ("val_loss", "min"),
}


class TrialsSpec(Strict):
    """How many settings are tried, how they are drawn, when a trial ends early, and what it works with."""

    number: PositiveInt | None = None
    method: Literal["random", "grid", "optuna"] = "random"
    scheduler: Literal["none", "asha", "pbt"] = "none"
    grace_epochs: PositiveInt = 5
    reduction: Annotated[float, Field(gt=1)] = 3.0
    perturb_epochs: PositiveInt = 4
    metric: Literal["macro_f1", "accuracy", "loss"] = "macro_f1"
    repeats: PositiveInt = 1
    cpus: Positive = 1.0
    gpus: Annotated[float, Field(ge=0)] | None = None
    at_once: PositiveInt | None = None
    time_limit_s: Positive | None = None


class SweepSpec(TrainSpec):
    """A sweep (`kind: sweep`): trainings with other settings; the best is trained again and kept.

    `workers` are those of each trial.
    """

    kind: Literal["sweep"] = "sweep"
    search: dict[str, Any] = {}
    trials: TrialsSpec = TrialsSpec()

    @field_validator("search")
    @classmethod
    def _known_settings(cls, search: dict[str, Any]) -> dict[str, Any]:
        from neurosim.faults import nearest

        known = Settings.model_fields
        strange = [f"{key}{nearest(key, known)}" for key in search if key not in known]
        if strange:
            raise ValueError(f"no settings of the learner: {', '.join(strange)}")
        return search

    @model_validator(mode="after")
    def _something_to_try(self) -> "SweepSpec":
        if not self.search and self.trials.repeats == 1:
            raise ValueError(
                "name what to try under `search:`, or `trials: {repeats: N}` for N seeds of one setting"
            )
        if self.search and self.trials.method != "grid" and self.trials.number is None:
            raise ValueError(f"trials: method {self.trials.method} needs `number:`, how many settings to try")
        if self.split.validation == 0.0:
            raise ValueError("trials are compared on validation cells: `split.validation` must be above 0")
        return self
