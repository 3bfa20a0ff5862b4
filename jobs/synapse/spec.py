"""The job file of synapses: its keys and their defaults."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.populations.spec import PopulationSpec
from jobs.spec import Positive, PositiveInt, Strict


class SynapticInput(Strict):
    """The synapse: two exponentials."""

    rise_ms: Positive = 1.0
    decay_ms: Positive = 3.0
    reversal_mV: float = 0.0
    weight_uS: Positive = 1e-4

    @model_validator(mode="after")
    def _rises_first(self) -> "SynapticInput":
        if self.rise_ms >= self.decay_ms:
            raise ValueError(
                f"the rise time must be below the decay time, found {self.rise_ms:g} and {self.decay_ms:g} ms"
            )
        return self


class MetadataSpec(Strict):
    """Classes of cells from a table with a row a cell."""

    table: Path
    id: str = "cell_id"
    column: str


class SynapseSpec(PopulationSpec):
    """Give models one synapse at a time, at the soma and along the apical dendrite (`kind: synapse`)."""

    runner: ClassVar[str] = "jobs.synapse.run:run_synapse"
    planner: ClassVar[str] = "jobs.synapse.plan:print_synapse_plan"

    kind: Literal["synapse"] = "synapse"
    distances_um: Annotated[list[Positive], Field(min_length=1)] = [
        40,
        60,
        80,
        90,
        100,
        120,
        140,
        160,
        180,
        200,
    ]
    sites_each: PositiveInt = 1
    synapse: SynapticInput = SynapticInput()
    classes: MetadataSpec | None = None

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return super().paths_named() + ([self.classes.table] if self.classes else [])
