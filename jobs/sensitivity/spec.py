"""The job file of a sensitivity analysis: its keys and their defaults."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.populations.spec import PopulationSpec
from jobs.spec import Name, Positive, Strict

AFTER_STEP_MS = 250.0


class StepSpec(Strict):
    """A step current of one's own, in place of a protocol that the models were fitted to."""

    amplitude_nA: float
    start_ms: Positive = 270.0
    stop_ms: Positive = 1270.0

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "StepSpec":
        if self.stop_ms <= self.start_ms:
            raise ValueError("stop_ms must be after start_ms")
        return self


class SensitivitySpec(PopulationSpec):
    """Sobol indices of e-features to parameters about models (`kind: sensitivity`)."""

    runner: ClassVar[str] = "jobs.sensitivity.run:run_sensitivity"
    planner: ClassVar[str] = "jobs.sensitivity.plan:print_sensitivity_plan"

    kind: Literal["sensitivity"] = "sensitivity"
    parameters: Annotated[list[str], Field(min_length=2)] | None = None
    features: Annotated[list[str], Field(min_length=1)] = [
        "Spikecount",
        "AP_width",
        "AHP_depth",
        "ISI_CV",
        "AP_amplitude",
    ]
    protocol: Name | None = None
    step: StepSpec | None = None
    half_width: Annotated[float, Field(gt=0, lt=1)] = 0.1
    engine: Literal["polynomial-chaos", "uncertainpy"] = "polynomial-chaos"
    check: Literal["salib"] | None = None
    check_points: Annotated[int, Field(ge=16)] = 256
    seed: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> "SensitivitySpec":
        if self.protocol is not None and self.step is not None:
            raise ValueError("give `protocol:` (one of the fit's) or `step:` (one of your own), not both")
        if self.check_points & (self.check_points - 1):
            raise ValueError("check_points must be a power of two, such as 128 or 1024")
        for key, names in (("parameters", self.parameters or []), ("features", self.features)):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"{key}: {', '.join(doubled)} is there more than once")
        return self
