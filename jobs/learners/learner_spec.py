"""The keys that the job files of all learners have: split, settings, seed, workers, and what a sweep tries."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from neurofleet.errors import did_you_mean
from neurofleet.jobs.job_file import JobSpec, Positive, PositiveInt, Strict

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Groups = dict[str, Annotated[list[str], Field(min_length=1)]]


class SplitSpec(Strict):
    """Which samples are for testing and validation: fractions of every class, named groups, or folds."""

    test: Fraction | Groups | None = None
    validation: Fraction | Groups = 0.15
    folds: Annotated[int, Field(ge=2)] | None = None
    by: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_way(self) -> "SplitSpec":
        if self.folds is not None and self.test is not None:
            raise ValueError("give `test:` or `folds:`, one of the two; with folds every cell is tested once")
        if self.folds is None and self.by is not None:
            raise ValueError("`by:` names the column whose groups make folds; it needs `folds:`")
        if self.folds is not None and isinstance(self.validation, dict):
            raise ValueError("with `folds:`, `validation:` is a fraction")
        return self


class LearnerSpec(JobSpec):
    """A job that trains a learner.

    A learner's settings may stand under `settings` or beside the other keys.
    """

    runner: ClassVar[str] = "neurofleet.jobs.learners.learner_job:run_learner_job"
    planner: ClassVar[str] = "neurofleet.jobs.learners.learner_job:print_learner_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("torch", "lightning", "scikit-learn")
    settings_model: ClassVar[type[BaseModel]]
    presets: ClassVar[dict[str, dict[str, Any]]]
    beside: ClassVar[tuple[str, ...]] = ("workers", "loggers")
    """Keys that results do not depend on."""

    lists: ClassVar[tuple[str, ...]] = ()
    """Keys with a list of files, where one file may stand alone."""

    if TYPE_CHECKING:
        learner: str  # a literal of each learner, which declares it before its own keys
    preset: str = "default"
    settings: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0)] = 1
    workers: Annotated[int, Field(ge=0)] | tuple[PositiveInt, PositiveInt] | None = None
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] | None = None
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with the settings that stand beside its other keys moved under `settings`.

        A misspelt setting is moved as well: the fault is then reported with the nearest name of a setting.
        """
        settings, fields = cls.settings_model.model_fields, cls.model_fields

        def is_setting(key: str) -> bool:
            unknown = key not in fields and key not in settings
            return (unknown and bool(did_you_mean(key, settings)) and not did_you_mean(key, fields)) or (
                key in settings and key not in fields
            )

        job = {key: value for key, value in content.items() if not is_setting(str(key))}
        beside = {key: value for key, value in content.items() if is_setting(str(key))}
        job |= {key: [job[key]] for key in cls.lists if isinstance(job.get(key), str)}
        inside = job.get("settings", {})
        return job | {"settings": inside | beside} if isinstance(inside, dict) else job

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str) -> str:
        if preset not in cls.presets:
            raise ValueError(f"expected one of {', '.join(cls.presets)}")
        return preset

    @field_validator("workers")
    @classmethod
    def _ascending(cls, workers: Any) -> Any:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError("expected the smallest and the largest number of workers, in this order")
        return workers

    @model_validator(mode="after")
    def _fitting_settings(self) -> "LearnerSpec":
        try:
            self.settings_model(**(self.presets[self.preset] | self.settings))
        except ValidationError as error:
            faults = "; ".join(self._fault_text(fault) for fault in error.errors())
            raise ValueError(f"settings: {faults}") from None
        return self

    def with_settings(self, changes: Mapping[str, Any]) -> Self:
        """Return the job with some other settings, such as those that a sweep has found best."""
        return self.model_copy(update={"settings": self.settings | dict(changes)})

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on, without `beside`."""
        return {key: value for key, value in self.plain().items() if key not in self.beside}

    def workers_at(self, address: str | None) -> "Workers":
        """Return how many workers the job has: as many as it says, else one on a cluster and none here."""
        return self.workers if self.workers is not None else (1 if address else 0)

    def _fault_text(self, fault: Any) -> str:
        place = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            return f"{place}: unknown{did_you_mean(place, self.settings_model.model_fields)}"
        text = fault["msg"].removeprefix("Value error, ")
        return f"{place}: {text}, found {fault['input']!r}" if place else text


Workers = int | tuple[int, int]


def most_workers(workers: Workers) -> int:
    """Return how many workers there are at most."""
    return workers[1] if isinstance(workers, tuple) else workers


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


class SweepSpec(LearnerSpec):
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
        known = cls.settings_model.model_fields
        unknown = [f"{key}{did_you_mean(key, known)}" for key in search if key not in known]
        if unknown:
            raise ValueError(f"no settings of the learner: {', '.join(unknown)}")
        return search

    @model_validator(mode="after")
    def _something_to_try(self) -> "SweepSpec":
        if not self.search and self.trials.repeats == 1:
            raise ValueError("name what to try under `search:`, or `trials: {repeats: N}` for N seeds of one setting")
        if self.search and self.trials.method != "grid" and self.trials.number is None:
            raise ValueError(f"trials: method {self.trials.method} needs `number:`, how many settings to try")
        if self.trials.metric is not None and self.trials.metric not in self.metrics:
            raise ValueError(f"trials: metric: expected one of {', '.join(self.metrics)}, found {self.trials.metric!r}")
        return self

    @property
    def metric(self) -> tuple[str, Literal["min", "max"]]:
        """What trials are compared by: the name that a training logs, and whether less or more is better."""
        return self.metrics[self.trials.metric or next(iter(self.metrics))]
