"""What the job files of all learners have in common: split, settings, seed, workers."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from jobs.spec import JobSpec, PositiveInt, Strict

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Groups = dict[str, Annotated[list[str], Field(min_length=1)]]


class SplitSpec(Strict):
    """Which samples test and validate: fractions of every class, named groups, or folds."""

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

    decisive_packages: ClassVar[tuple[str, ...]] = ("torch", "lightning", "scikit-learn")
    settings_model: ClassVar[type[BaseModel]]
    presets: ClassVar[dict[str, dict[str, Any]]]
    beside: ClassVar[tuple[str, ...]] = ("workers", "loggers")
    """Keys that results do not depend on."""

    preset: str = "default"
    settings: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0)] = 1
    workers: Annotated[int, Field(ge=0)] | tuple[PositiveInt, PositiveInt] | None = None
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] | None = None
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]

    @classmethod
    def gathered(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return a job with the settings that stand beside its other keys moved under `settings`.

        A misspelt setting is moved as well: there, the fault is told with the nearest name.
        """
        from neurosim.faults import nearest

        settings, fields = cls.settings_model.model_fields, cls.model_fields

        def is_setting(key: str) -> bool:
            unknown = key not in fields and key not in settings
            return (unknown and bool(nearest(key, settings)) and not nearest(key, fields)) or (
                key in settings and key not in fields
            )

        own = {key: value for key, value in content.items() if not is_setting(str(key))}
        inside = own.get("settings", {})
        beside = {key: value for key, value in content.items() if is_setting(str(key))}
        return own | {"settings": inside | beside} if isinstance(inside, dict) else own

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
            told = "; ".join(self._told(fault) for fault in error.errors())
            raise ValueError(f"settings: {told}") from None
        return self

    def with_settings(self, changes: Mapping[str, Any]) -> Self:
        """Return the job with some other settings, such as those that a sweep has found best."""
        return self.model_copy(update={"settings": self.settings | dict(changes)})

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on: not who is told of them, nor how many work."""
        return {key: value for key, value in self.plain().items() if key not in self.beside}

    def _told(self, fault: Any) -> str:
        from neurosim.faults import nearest

        place = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            return f"{place}: unknown{nearest(place, self.settings_model.model_fields)}"
        told = fault["msg"].removeprefix("Value error, ")
        return f"{place}: {told}, found {fault['input']!r}" if place else told
