"""The job file of a validation: its keys and their defaults."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jobs.populations.spec import PopulationSpec
from jobs.spec import Positive, PositiveInt


class ValidateSpec(PopulationSpec):
    """Run models at the steps they were trained on, at all others, at noise and what else was recorded."""

    runner: ClassVar[str] = "jobs.validate.run:run_validate"
    planner: ClassVar[str] = "jobs.validate.plan:print_validate_plan"

    kind: Literal["validate"] = "validate"
    noise: Annotated[list[str], Field(min_length=1)] = ["*noise*"]
    others: Annotated[list[str], Field(min_length=1)] | None = None
    sweeps_each: PositiveInt = 3
    deadline_s: Positive = 1800.0
