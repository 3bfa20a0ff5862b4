"""What a validation runs: each cell's models, the steps that were not trained, and the other stimuli."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UsageError
from jobs.validate.spec import ValidateSpec

if TYPE_CHECKING:
    from neurosim.population import Population
    from neurosim.targets import TargetSet
    from neurosim.validation.stimuli import PlayedStimulus


@dataclass(frozen=True)
class Validation:
    """A cell that is validated.

    Attributes
    ----------
    population : Population
    generalisation : TargetSet or None
    stimuli : list of PlayedStimulus
    """

    population: "Population"
    generalisation: "TargetSet | None"
    stimuli: "list[PlayedStimulus]"

    @property
    def cell(self) -> str:
        return self.population.cell


def read_validations(spec: ValidateSpec, folder: Path) -> tuple[list[Validation], list[str]]:
    """Read the models of a job and the recordings of their cells; relative paths start at `folder`.

    Returns
    -------
    list of Validation
    list of str
        What was left out, and why.

    Raises
    ------
    UsageError, InputError
        Models or recordings cannot be used, or there is nothing to validate a cell with.
    """
    from jobs.populations.models import read_populations
    from neurosim.validation.generalisation import generalisation_targets
    from neurosim.validation.stimuli import played_stimuli

    found, notes = [], []
    for population in read_populations(spec.models, folder):
        cell = population.cell
        generalisation: TargetSet | None = None
        stimuli: list[PlayedStimulus] = []
        said: list[str] = []
        if population.model.targets.targets:
            generalisation = generalisation_targets(population)
        if population.recording is not None:
            stimuli, said = played_stimuli(
                population.recording, noise=spec.noise, others=spec.others, sweeps_each=spec.sweeps_each
            )
        if generalisation is None and not stimuli and not population.model.targets.targets:
            raise UsageError(
                f"cell {cell}: there is nothing to validate its models with. Give the cell's `recordings:`"
                " or `targets:`."
            )
        if not population.model.targets.targets:
            said.append(
                "what its models were trained on is not known: no error of training or generalisation"
            )
        elif generalisation is None:
            said.append("no steps but those that were trained: generalisation is not known")
        else:
            said += generalisation.warnings
        if not any(stimulus.is_noise for stimulus in stimuli):
            said.append("no noise was recorded: the explained variance is not known")
        notes += [f"{cell}: {line}" for line in said]
        found.append(Validation(population, generalisation, stimuli))
    return found, notes
