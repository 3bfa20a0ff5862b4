"""What the job files over populations have in common: where the models come from, and limits."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.spec import JobSpec, Name, Positive, PositiveInt, Strict


class FitFileSpec(Strict):
    """A published model: an Allen fit file, its morphology, and what it was fitted to if that is known."""

    id: Name
    fit: Path
    morphology: Path
    axon: Literal["stub", "legacy-stub", "legacy-stub-60um", "full"] = "stub"
    recordings: Path | None = None
    targets: Path | None = None
    stimuli: Annotated[list[str], Field(min_length=1)] = ["Long Square"]
    exclude_sweeps: list[int] = []


class ModelsSpec(Strict):
    """Models: the halls of fame of a fit's run, what a sample has accepted, or Allen fit files."""

    run: Path | None = None
    sample: Path | None = None
    cells: Annotated[list[Name], Field(min_length=1)] | None = None
    best: PositiveInt | None = None
    fits: Annotated[list[FitFileSpec], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelsSpec":
        if sum(source is not None for source in (self.run, self.sample, self.fits)) != 1:
            raise ValueError(
                "name one of `run:` (the folder of a fit), `sample:` (of a sample) and `fits:` (Allen fit"
                " files)"
            )
        if self.fits is not None:
            if self.cells is not None or self.best is not None:
                raise ValueError(
                    "`cells:` and `best:` choose from a `run:` or `sample:`; list the wanted `fits:` instead"
                )
            ids = [fit.id for fit in self.fits]
            doubled = sorted({id for id in ids if ids.count(id) > 1})
            if doubled:
                raise ValueError(f"each fit needs an id of its own, found more than one {', '.join(doubled)}")
        return self

    def paths_named(self) -> list[Path]:
        """Return all paths that the models come from; of a run, what its models depend on."""
        if self.run is not None:
            return [self.run / "job.yaml", self.run / "hall_of_fame"]
        if self.sample is not None:
            return [self.sample / "job.yaml", self.sample / "accepted"]
        named = [path for fit in self.fits or () for path in (fit.fit, fit.morphology, fit.recordings)]
        return [path for path in [*named, *(fit.targets for fit in self.fits or ())] if path is not None]


class PopulationSpec(JobSpec):
    """A job that simulates models which were fitted before."""

    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel")

    models: ModelsSpec
    deadline_s: Positive = 300.0
    max_steps: PositiveInt | None = 10_000_000
    memory_limit_mb: PositiveInt = 4096

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return self.models.paths_named()
