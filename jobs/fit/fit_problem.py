"""What is fitted: a cell through its stages, or a user's own evaluator in one. Both look alike to the fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from neurofleet.jobs.fit.campaign_state import Engine, EngineChoice
from neurofleet.jobs.fit.recorded_steps import RecordedSteps
from neurofleet.neurosim.cells.cell_model import UNIFORM, Accuracy, CellParameter
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology import MorphologyFile
from neurofleet.neurosim.cells.morphology_measures import MorphologySummary
from neurofleet.neurosim.cells.recipe import Recipe
from neurofleet.neurosim.cells.stage_bounds import next_stage_bounds
from neurofleet.neurosim.cells.user_model import ModelDescription, UserModel
from neurofleet.neurosim.evolution import FastConfig, PaperConfig
from neurofleet.neurosim.features.step_protocols import StepProtocol, TargetSet
from neurofleet.neurosim.mechanisms import UserMechanisms
from neurofleet.neurosim.recordings.recording import Recording
from neurofleet.neurosim.recordings.recording_table import RecordingTable
from neurofleet.neurosim.vector.vector_evaluator import SCORING_REVISION

# The active search is loose and its finalists are scored again; subthreshold stages take few steps, and a decay is
# read between them, so they are integrated tightly and sampled densely (docs/accuracy.md).
SEARCH_ATOL, FINAL_ATOL = 5e-3, 1e-4
PASSIVE_ATOL = 1e-5

VECTOR_REVISION = "vector_scoring_revision"
"""Key of `Problem.scoring`."""

Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Problem:
    """What one stage searches: the box, and the models that score an individual.

    `final_model` scores finalists again more tightly than NEURON's search; None where that is as tight already.
    `mechanisms_told` names the mechanisms of the cell, for messages.
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    fixed: Mapping[str, float]
    objectives: tuple[str, ...]
    model: FitModel | UserModel
    final_model: FitModel | None
    mechanisms_told: str = ""

    def final_model_of(self, engine: Engine) -> FitModel | None:
        """Return the model by which NEURON scores again what `engine` has found; None where its scores are NEURON's."""
        if engine == "vector" and isinstance(self.model, FitModel):
            return self.final_model or self.model
        return self.final_model

    def scoring(self, engine: Engine) -> dict[str, float]:
        """Return what scores depend on beside the job and the inputs; empty of a user's own model."""
        if self.targets is None:
            return {}
        revision = {VECTOR_REVISION: SCORING_REVISION} if engine == "vector" else {}
        return {"spike_threshold_mV": float(self.targets.spike_threshold_mV), **revision}

    @property
    def targets(self) -> TargetSet | None:
        """Targets and steps; None of a user's own model, which does not tell them."""
        return self.model.targets if isinstance(self.model, FitModel) else None

    @property
    def steps(self) -> Mapping[str, StepProtocol]:
        """Steps of current by name; empty of a user's own model."""
        return self.targets.protocols if self.targets else {}


FINALISTS = 32
HANDED_ON = 4  # finalists of a subthreshold stage, if only the best of them is needed


def finalists(hall_of_fame: int, planned_evaluations: int) -> int:
    """Return how many of the best are scored again at most: up to 32, and not more than a tenth of the search."""
    return max(hall_of_fame, min(FINALISTS, planned_evaluations // 10))


@dataclass(frozen=True)
class StagePlan:
    """One stage: its seeds, how long each is searched, and with which engine.

    `choice` is None where nothing is to be chosen, or has been yet: the engine then is NEURON. `finalists` of each
    seed are scored again by NEURON after the search. A subthreshold stage has other seeds and finalists with the vector
    engine: `vector_seeds` and `vector_finalists`.
    """

    name: str
    seeds: tuple[int, ...]
    search: "PaperConfig | FastConfig"
    choice: EngineChoice | None = None
    finalists: int = 0
    vector_seeds: tuple[int, ...] = ()
    vector_finalists: int = 0

    @property
    def engine(self) -> Engine:
        return self.choice.engine if self.choice else "neuron"

    def for_engine(self, engine: Engine) -> "StagePlan":
        """Return the plan with the seeds and finalists that it has with an engine."""
        if engine == "neuron" or not self.vector_seeds:
            return self
        return replace(self, seeds=self.vector_seeds, finalists=self.vector_finalists)

    @property
    def planned_evaluations(self) -> int:
        """Evaluations of all its seeds together."""
        return len(self.seeds) * self.search.planned_evaluations


class Subject(Protocol):
    """What the fit needs to know of anything it can fit."""

    @property
    def id(self) -> str: ...

    @property
    def stages(self) -> tuple[StagePlan, ...]: ...

    @property
    def kind(self) -> str:
        """Equal for subjects whose models can start each other's fits."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    @property
    def recording_table(self) -> RecordingTable | None:
        """What is used of its recording; None where it is fitted to something else."""
        ...

    def problem(self, stage: int, winner: Mapping[str, float] | None) -> Problem:
        """Return what stage number `stage` searches after the stage before was won by `winner`."""
        ...

    def with_stages(self, stages: tuple[StagePlan, ...]) -> "Subject":
        """Return the same with other plans of its stages."""
        ...


@dataclass(frozen=True)
class CellSubject:
    """A cell with its recipe; `stage_numbers` are the recipe's stages that its data can score."""

    id: str
    summary: MorphologySummary
    axon: str
    recipe: "Recipe"
    stages: tuple[StagePlan, ...]
    stage_numbers: tuple[int, ...]
    targets: "tuple[TargetSet, ...]"
    own_bounds: Bounds
    recording: "Recording | None"
    junction_potential_mV: float
    warnings: tuple[str, ...]
    own_mechanisms: UserMechanisms
    recording_table: RecordingTable | None = None
    recorded: RecordedSteps | None = field(default=None, compare=False)

    @property
    def kind(self) -> str:
        return self.recipe.name

    @property
    def morphology(self) -> MorphologyFile:
        """The file in which NEURON imports the cell."""
        return self.summary.file

    @property
    def has_apical(self) -> bool:
        """Whether there is an apical tree."""
        return self.summary.has_apical

    def with_stages(self, stages: tuple[StagePlan, ...]) -> "CellSubject":
        return replace(self, stages=stages)

    def problem(self, stage: int, winner: Mapping[str, float] | None) -> Problem:
        bounds = self._bounds(self.stage_numbers[stage])
        free = dict(bounds)
        fixed: dict[str, float] = {}
        if winner is not None:
            own = self.recipe.stages[self.stage_numbers[stage]].hand_over
            free, fixed = next_stage_bounds(bounds, winner, self.recipe.hand_over, own)
        fixed |= self.recipe.fixed_until(self.stage_numbers[stage], self.has_apical)
        subthreshold = self.recipe.stages[self.stage_numbers[stage]].targets == "subthreshold"
        search, final = _accuracies(subthreshold)
        model = self.model(stage, free, fixed, search)
        return Problem(
            names=tuple(free),
            lower=tuple(low for low, _ in free.values()),
            upper=tuple(high for _, high in free.values()),
            fixed=fixed,
            objectives=tuple(target.objective for target in self.targets[stage].targets),
            model=model,
            final_model=None if final is None else replace(model, accuracy=final),
            mechanisms_told=model.mechanisms_told,
        )

    def _bounds(self, number: int) -> dict[str, tuple[float, float]]:
        bounds = self.recipe.bounds_until(number, self.has_apical)
        return {name: self.own_bounds.get(name, limits) for name, limits in bounds.items()}

    def model(self, stage: int, free: Bounds, fixed: Mapping[str, float], accuracy: "Accuracy") -> FitModel:
        """Return the model of stage number `stage` with these free and fixed parameters."""
        number = self.stage_numbers[stage]
        distributions = self.recipe.distributions_until(number)
        mechanisms = self.recipe.mechanisms_until(number, self.has_apical)
        return FitModel(
            cell=self.id,
            morphology=self.morphology,
            axon=self.axon,
            conditions=self.recipe.conditions.conditions(),
            mechanisms={section: tuple(names) for section, names in mechanisms.items()},
            free=tuple(
                CellParameter(parameter, section, low, high, distributions.get(f"{parameter}.{section}", UNIFORM))
                for (parameter, section), (low, high) in _split(free)
            ),
            fixed=dict(fixed),
            distributions=distributions,
            targets=self.targets[stage],
            accuracy=accuracy,
            user_mechanisms=self.own_mechanisms,
        )


def _split(free: Bounds) -> Iterator[tuple[tuple[str, str], tuple[float, float]]]:
    for name, bounds in free.items():
        parameter, _, section = name.rpartition(".")
        yield (parameter, section), bounds


def _accuracies(subthreshold: bool) -> "tuple[Accuracy, Accuracy | None]":
    if subthreshold:
        return Accuracy(PASSIVE_ATOL, dense=True), None
    return Accuracy(SEARCH_ATOL), Accuracy(FINAL_ATOL)


@dataclass(frozen=True)
class UserSubject:
    """A BluePyOpt evaluator of the user's own: one stage, its own bounds and objectives, its own accuracy."""

    id: str
    user_model: "UserModel"
    description: "ModelDescription"
    stages: tuple[StagePlan, ...]
    warnings: tuple[str, ...] = ()
    recording_table: None = None

    @property
    def kind(self) -> str:
        return self.id

    def with_stages(self, stages: tuple[StagePlan, ...]) -> "UserSubject":
        return replace(self, stages=stages)

    def problem(self, stage: int, winner: Mapping[str, float] | None) -> Problem:
        return Problem(
            names=tuple(self.description.parameters),
            lower=tuple(self.description.lower),
            upper=tuple(self.description.upper),
            fixed={},
            objectives=tuple(self.description.objectives),
            model=self.user_model,
            final_model=None,
            mechanisms_told=f"The mechanisms in the cell are {', '.join(self.description.mechanisms) or 'not known'}",
        )
