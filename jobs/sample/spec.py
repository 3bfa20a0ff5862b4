"""The job file of a sample: its keys and their defaults."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.cell_table import expand_cells
from jobs.fit.spec import CellSpec, FitSpec
from jobs.spec import JobSpec, Positive, PositiveInt


class SampleSpec(JobSpec):
    """Draw models of cells and keep those within `within_z` of the data (`kind: sample`)."""

    runner: ClassVar[str] = "jobs.sample.run:run_sample"
    planner: ClassVar[str] = "jobs.sample.plan:print_sample_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel")

    kind: Literal["sample"] = "sample"
    cells: Annotated[list[CellSpec], Field(min_length=1)]
    recipe: str = "all-active"
    mechanisms: Path | None = None
    draws: PositiveInt
    design: Literal["sobol", "latin-hypercube"] = "sobol"
    scale: Literal["linear", "log"] = "linear"
    seed: Annotated[int, Field(ge=0)] = 1
    bounds: dict[str, tuple[float, float]] = {}
    fixed: dict[str, float] = {}
    features: Annotated[list[str], Field(min_length=1)] | None = None
    within_z: Positive = 3.0
    stop_early: bool = True
    deadline_s: Positive = 60.0
    max_steps: PositiveInt | None = 1_000_000
    memory_limit_mb: PositiveInt = 4096

    @model_validator(mode="after")
    def _each_once(self) -> "SampleSpec":
        ids = [cell.id for cell in self.cells]
        doubled = sorted({cell for cell in ids if ids.count(cell) > 1})
        if doubled:
            raise ValueError(f"each cell needs an id of its own, found more than one {', '.join(doubled)}")
        for name, (low, high) in self.bounds.items():
            if not low < high:
                raise ValueError(f"bounds: {name}: expected [low, high] with low < high, found {[low, high]}")
        both = sorted(set(self.bounds) & set(self.fixed))
        if both:
            raise ValueError(f"{', '.join(both)}: give `bounds:` or a `fixed:` value, one of the two")
        return self

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with a table or a pattern of cells replaced by the cells that it names."""
        if isinstance(content.get("cells"), dict):
            return content | {"cells": expand_cells(content["cells"], folder, CellSpec, source)}
        return content

    def as_fit(self) -> FitSpec:
        """Return a fit of the same cells: it knows their targets and bounds."""
        return FitSpec(name=self.name, cells=self.cells, recipe=self.recipe, mechanisms=self.mechanisms)

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [path for path in self.as_fit().paths_named() if str(path) != self.recipe or path.suffix]
