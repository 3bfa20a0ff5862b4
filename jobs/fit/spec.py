"""The job file of a fit: its keys and their defaults."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.cell_table import expand_cells
from jobs.spec import JobSpec, Name, Positive, PositiveInt, Strict


class CellSpec(Strict):
    """One cell: its morphology, and recordings (or published targets) to fit it to.

    Hosts' time is shared by weight between groups (`weights:` of the job), cells with a `weight` of their
    own, and all others together, which have weight 1. Within each, cells are served in the order of the job.
    """

    id: Name
    morphology: Path
    recordings: Path | None = None
    targets: Path | None = None
    dendrite: Literal["spiny", "aspiny"] = "spiny"
    junction_potential_mV: float = 14.0
    stimuli: Annotated[list[str], Field(min_length=1)] = ["Long Square"]
    exclude_sweeps: list[int] = []
    axon: Literal["stub", "legacy-stub", "legacy-stub-60um", "full"] | None = None
    group: Name | None = None
    weight: Positive | None = None

    @model_validator(mode="after")
    def _one_share(self) -> "CellSpec":
        if self.group is not None and self.weight is not None:
            raise ValueError("give a cell a `group:` (and the group a weight with `weights:`) or a `weight:`")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "CellSpec":
        if (self.recordings is None) == (self.targets is None):
            raise ValueError(
                "name either `recordings:` (an NWB file) or `targets:` (a folder), one of the two"
            )
        return self


class EvolutionSpec(Strict):
    """How the search runs. Unset numbers take the strategy's own values."""

    strategy: Literal["paper", "fast"] = "fast"
    mode: Literal["generational", "steady"] = "generational"
    learn: bool | None = None
    patience: Annotated[int, Field(ge=16)] | None = None
    offspring: Annotated[int, Field(ge=4)] | None = None
    generations: dict[str, PositiveInt] = {}
    evaluations: dict[str, Annotated[int, Field(ge=16)]] = {}
    hall_of_fame: PositiveInt = 10
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [1, 2, 3, 4]

    @model_validator(mode="after")
    def _distinct_seeds(self) -> "EvolutionSpec":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ from each other")
        return self

    @model_validator(mode="after")
    def _length_of_the_strategy(self) -> "EvolutionSpec":
        if self.strategy == "fast" and self.generations:
            raise ValueError("strategy fast takes `evaluations: {stage: number}`, not `generations:`")
        if self.strategy == "paper" and self.evaluations:
            raise ValueError("strategy paper takes `generations: {stage: number}`, not `evaluations:`")
        if self.strategy == "paper" and self.mode == "steady":
            raise ValueError("mode steady is of strategy fast; the paper's goes generation by generation")
        return self

    @property
    def learns(self) -> bool:
        """Whether cells start from the halls of fame of cells that were finished before them."""
        return self.strategy == "fast" if self.learn is None else self.learn


class FitSpec(JobSpec):
    """A fit job (`kind: fit`)."""

    runner: ClassVar[str] = "jobs.fit.run:run_fit"
    planner: ClassVar[str] = "jobs.plan:print_fit_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel", "cmaes")

    kind: Literal["fit"] = "fit"
    cells: Annotated[list[CellSpec], Field(min_length=1)] | None = None
    evaluator: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] | None = None
    mechanisms: Path | None = None
    recipe: str = "all-active"
    evolution: EvolutionSpec = EvolutionSpec()
    engine: Literal["auto", "neuron", "vector"] = "auto"
    warm_start: Path | None = None
    deadline_s: Annotated[float, Field(gt=0)] | Literal["auto"] = 300.0
    max_steps: PositiveInt | None = 1_000_000
    memory_limit_mb: PositiveInt = 4096
    weights: dict[Name, Positive] = {}
    max_core_hours: Positive | None = None
    max_wall_hours: Positive | None = None

    @model_validator(mode="after")
    def _one_subject(self) -> "FitSpec":
        if (self.cells is None) == (self.evaluator is None):
            raise ValueError("name either `cells:` or `evaluator: module:function`, one of the two")
        if self.evaluator is not None and self.engine == "vector":
            raise ValueError(
                "`engine: vector` is made from a cell's mechanisms, and an `evaluator:` of your own runs "
                "as it is; leave `engine:` out"
            )
        if self.cells is not None:
            ids = [cell.id for cell in self.cells]
            doubled = sorted({cell for cell in ids if ids.count(cell) > 1})
            if doubled:
                raise ValueError(
                    f"each cell needs an id of its own, found more than one {', '.join(doubled)}"
                )
            strange = sorted(set(self.weights) - {cell.group for cell in self.cells})
            if strange:
                raise ValueError(f"weights: no cell is of the group {', '.join(strange)}")
        return self

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with a table or a pattern of cells replaced by the cells that it names."""
        if isinstance(content.get("cells"), dict):
            return content | {"cells": expand_cells(content["cells"], folder, CellSpec, source)}
        return content

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        named = [self.mechanisms, self.warm_start, Path(self.recipe)]
        for cell in self.cells or ():
            named += [cell.morphology, cell.recordings, cell.targets]
        return [path for path in named if path is not None]

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on: no limits of the whole, no shares of the hosts; cells by id."""
        plain = self.plain()
        for key in ("weights", "max_core_hours", "max_wall_hours"):
            plain.pop(key, None)
        cells = {
            cell["id"]: {k: v for k, v in cell.items() if k not in ("id", "weight", "group")}
            for cell in plain.pop("cells", [])
        }
        return plain | {"cells": cells}
