"""The job file of a comparison: its keys and their defaults."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.populations.spec import ModelsSpec
from jobs.spec import JobSpec, Name, Positive, PositiveInt, Strict
from neurosim.perisomatic.features import FEATURES


class StepsSpec(Strict):
    """Steps that models are given where nothing was recorded."""

    amplitudes_nA: Annotated[list[float], Field(min_length=1)]
    delay_ms: Annotated[float, Field(ge=200)] = 300.0
    duration_ms: Positive = 1000.0

    @model_validator(mode="after")
    def _differ(self) -> "StepsSpec":
        if len(set(self.amplitudes_nA)) < len(self.amplitudes_nA):
            raise ValueError("amplitudes_nA must differ from each other")
        return self


class CompareSpec(JobSpec):
    """Compare two types of models of the same cells (`kind: compare`)."""

    runner: ClassVar[str] = "jobs.compare.run:run_compare"
    planner: ClassVar[str] = "jobs.compare.plan:print_compare_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel")

    kind: Literal["compare"] = "compare"
    models: dict[Name, ModelsSpec]
    steps: StepsSpec | None = None
    features: Annotated[list[str], Field(min_length=1)] = list(FEATURES)
    deadline_s: Positive = 300.0
    max_steps: PositiveInt | None = 10_000_000
    memory_limit_mb: PositiveInt = 4096

    @model_validator(mode="after")
    def _two_types(self) -> "CompareSpec":
        if len(self.models) != 2:
            raise ValueError(
                "models: expected two types of models by name, such as `all_active:` and `perisomatic:`, "
                f"found {len(self.models)}"
            )
        return self

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [path for models in self.models.values() for path in models.paths_named()]
