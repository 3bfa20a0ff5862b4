"""The job file of a training: its keys and their defaults."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from jobs.spec import JobSpec, Positive, PositiveInt, Strict
from learners.sims.settings import DEFAULT, PRESETS, Settings, settings_of

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Groups = dict[str, Annotated[list[str], Field(min_length=1)]]


class SplitSpec(Strict):
    """Which cells test and validate: fractions of every class, named groups, or folds."""

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


class TrainSpec(JobSpec):
    """A training job (`kind: train`)."""

    decisive_packages: ClassVar[tuple[str, ...]] = ("torch", "lightning", "scikit-learn")

    kind: Literal["train", "sweep"] = "train"
    learner: Literal["sims"]
    reference: Annotated[list[Path], Field(min_length=1)]
    labels: Path | None = None
    layer: str = "X"
    label: str
    drop_unlabelled: bool = False
    target_sum: Positive | None = None
    split: SplitSpec = SplitSpec()
    preset: str = DEFAULT
    settings: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0)] = 1
    workers: Annotated[int, Field(ge=0)] | tuple[PositiveInt, PositiveInt] | None = None
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] | None = None
    baselines: list[str] | None = None
    unknown_curve: bool | Annotated[list[str], Field(min_length=1)] = False
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with settings that stand beside its other keys gathered under `settings`."""
        own = {key: value for key, value in content.items() if key not in Settings.model_fields}
        beside = {key: value for key, value in content.items() if key in Settings.model_fields}
        if isinstance(reference := own.get("reference"), str):
            own["reference"] = [reference]
        inside = own.get("settings", {})
        return own | {"settings": inside | beside} if isinstance(inside, dict) else own

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"expected one of {', '.join(PRESETS)}")
        return preset

    @field_validator("workers")
    @classmethod
    def _ascending(cls, workers: Any) -> Any:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError("expected the smallest and the largest number of workers, in this order")
        return workers

    @model_validator(mode="after")
    def _fitting_settings(self) -> "TrainSpec":
        try:
            chosen = self.chosen
        except ValidationError as error:
            told = "; ".join(_told(fault) for fault in error.errors())
            raise ValueError(f"settings: {told}") from None
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

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on: not who is told of them, nor how many work."""
        return {k: v for k, v in self.plain().items() if k not in ("workers", "loggers", "baselines")}


def _told(fault: Any) -> str:
    from neurosim.faults import nearest

    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown{nearest(place, Settings.model_fields)}"
    told = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {told}, found {fault['input']!r}" if place else told
