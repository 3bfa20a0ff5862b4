"""What a sensitivity analysis moves and measures: each cell's models, their problems and their protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.errors import UsageError
from jobs.populations.models import read_populations, refuse_missing_models
from jobs.sensitivity.protocol import protocol_of
from jobs.sensitivity.spec import SensitivitySpec
from neurosim.errors import InputError
from neurosim.faults import nearest
from neurosim.feature_measure import FeatureMeasure
from neurosim.population import Population
from neurosim.protocols import StepProtocol
from neurosim.sensitivity.conductances import default_conductances
from neurosim.sensitivity.problem import Problem
from neurosim.targets import AIS_FEATURE


@dataclass(frozen=True, eq=False)
class Subject:
    """One cell.

    Attributes
    ----------
    population : Population
    protocol : StepProtocol
    problems : tuple of Problem
        One for each model.
    columns : list of int
        Where the moved parameters are in a model's values.
    measure : FeatureMeasure
        What is run.
    """

    population: Population
    protocol: StepProtocol
    problems: tuple[Problem, ...]
    columns: list[int]
    measure: FeatureMeasure

    @property
    def cell(self) -> str:
        return self.population.cell

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.problems[0].parameters

    def individuals(self, model: int, nodes: np.ndarray) -> Sequence[np.ndarray]:
        """Return the values of all of a model's parameters at nodes, (n, P) -> n arrays."""
        found = np.repeat(self.population.values[model : model + 1], len(nodes), axis=0)
        found[:, self.columns] = nodes
        return list(found)


def read_subjects(spec: SensitivitySpec, folder: Path) -> tuple[list[Subject], list[str]]:
    """Read all cells; relative paths start at `folder`.

    Returns
    -------
    list of Subject
    list of str
        What is to be said of them.

    Raises
    ------
    UsageError, InputError
        Models that cannot be read, parameters that they do not have or that are zero in one of them, features
        that eFEL does not have, a protocol that is not there, or an engine that is not installed.
    """
    refuse_missing_models(spec, folder)
    if spec.engine == "uncertainpy":
        from neurosim.sensitivity.uncertainpy_engine import load_uncertainpy

        load_uncertainpy()
    _check_features(spec.features)
    subjects = [_subject(spec, population) for population in read_populations(spec.models, folder)]
    notes = [
        f"{subject.cell}: {_models(len(subject.population))} at {subject.protocol.name} "
        f"({1000 * subject.protocol.amplitude_nA:.0f} pA), {', '.join(subject.parameters)} moved by "
        f"±{100 * spec.half_width:g} %."
        for subject in subjects
    ]
    return subjects, notes


def _models(number: int) -> str:
    return "1 model" if number == 1 else f"{number} models"


def _subject(spec: SensitivitySpec, population: Population) -> Subject:
    try:
        names = tuple(spec.parameters or default_conductances(population.parameters))
    except InputError as error:
        raise UsageError(f"cell {population.cell}: {error}") from error
    columns = population.columns(names)
    protocol = protocol_of(spec, population)
    problems = []
    for values, seed, rank in zip(population.values, population.seeds, population.ranks, strict=True):
        try:
            problems.append(Problem(names, tuple(values[columns].tolist()), spec.half_width))
        except InputError as error:
            raise UsageError(
                f"parameters: cell {population.cell}, model {rank} (seed {seed}): {error}"
            ) from error
    asked = tuple((protocol.name, feature) for feature in spec.features)
    measure = FeatureMeasure(population.model, (protocol,), asked, spec.max_steps)
    return Subject(population, protocol, tuple(problems), columns, measure)


def _check_features(features: Sequence[str]) -> None:
    import efel

    known = efel.get_feature_names()
    unknown = [f"{name}{nearest(name, known)}" for name in features if name not in known]
    if unknown:
        told = f" {AIS_FEATURE} compares two voltages and is none." if AIS_FEATURE in features else ""
        raise UsageError(f"features: eFEL has no {', '.join(unknown)}.{told}")
