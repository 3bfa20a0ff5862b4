"""What the job files of hyperparameter sweeps have in common: what is tried, and how."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from jobs.spec import Positive, PositiveInt, Strict
from jobs.train.spec import LearnerSpec

Metrics = dict[str, tuple[str, Literal["min", "max"]]]


class TrialsSpec(Strict):
    """How many settings are tried, how they are drawn, when a trial ends early, and what it works with."""

    number: PositiveInt | None = None
    method: Literal["random", "grid", "optuna"] = "random"
    scheduler: Literal["none", "asha", "pbt"] = "none"
    grace_epochs: PositiveInt = 5
    reduction: Annotated[float, Field(gt=1)] = 3.0
    perturb_epochs: PositiveInt = 4
    metric: str | None = None
    repeats: PositiveInt = 1
    cpus: Positive = 1.0
    gpus: Annotated[float, Field(ge=0)] | None = None
    at_once: PositiveInt | None = None
    time_limit_s: Positive | None = None


class Sweeping(LearnerSpec):
    """A sweep of a learner: trainings with other settings; the best is trained again and kept.

    `workers` are those of each trial.
    """

    metrics: ClassVar[Metrics]
    """Name -> what a training logs, and whether less or more is better; the first is the default."""

    search: dict[str, Any] = {}
    trials: TrialsSpec = TrialsSpec()

    @field_validator("search")
    @classmethod
    def _known_settings(cls, search: dict[str, Any]) -> dict[str, Any]:
        from neurosim.faults import nearest

        known = cls.settings_model.model_fields
        strange = [f"{key}{nearest(key, known)}" for key in search if key not in known]
        if strange:
            raise ValueError(f"no settings of the learner: {', '.join(strange)}")
        return search

    @model_validator(mode="after")
    def _something_to_try(self) -> "Sweeping":
        if not self.search and self.trials.repeats == 1:
            raise ValueError(
                "name what to try under `search:`, or `trials: {repeats: N}` for N seeds of one setting"
            )
        if self.search and self.trials.method != "grid" and self.trials.number is None:
            raise ValueError(f"trials: method {self.trials.method} needs `number:`, how many settings to try")
        if self.trials.metric is not None and self.trials.metric not in self.metrics:
            raise ValueError(
                f"trials: metric: expected one of {', '.join(self.metrics)}, found {self.trials.metric!r}"
            )
        return self

    @property
    def watched(self) -> tuple[str, Literal["min", "max"]]:
        """What trials are compared by: the name that a training logs, and whether less or more is better."""
        return self.metrics[self.trials.metric or next(iter(self.metrics))]
