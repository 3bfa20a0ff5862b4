"""What a sample draws from: each cell's model with its targets, and the box of its parameters."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.errors import UsageError
from jobs.sample.spec import SampleSpec
from neurosim.faults import nearest
from neurosim.fit_model import FitModel
from neurosim.sampling import Design, with_bounds, with_features


@dataclass(frozen=True)
class Sampling:
    """A cell that is sampled.

    Attributes
    ----------
    cell : str
    model : FitModel
        Its free parameters are drawn; its targets decide.
    design : Design
    """

    cell: str
    model: FitModel
    design: Design


def read_samplings(spec: SampleSpec, folder: Path) -> tuple[list[Sampling], list[str]]:
    """Read all cells; relative paths start at `folder`.

    Returns
    -------
    list of Sampling
    list of str
        What is to be said of them.

    Raises
    ------
    UsageError, InputError
        Files that are not there or cannot be used, and parameters or features that a cell does not have.
    """
    from jobs.fit.prepare import prepare
    from jobs.fit.subjects import CellSubject

    found, notes = [], []
    for subject in prepare(spec.as_fit(), folder, keep_recordings=False):
        assert isinstance(subject, CellSubject)
        problem = subject.problem(len(subject.stages) - 1, None)
        model = problem.model
        assert isinstance(model, FitModel)
        model = _restricted(spec, subject.id, model)
        found.append(Sampling(subject.id, model, _design(spec, model)))
        notes += [f"{subject.id}: {warning}" for warning in subject.warnings]
    return found, notes


def _restricted(spec: SampleSpec, cell: str, model: FitModel) -> FitModel:
    names = [parameter.full_name for parameter in model.free]
    unknown = [f"{name}{nearest(name, names)}" for name in (*spec.bounds, *spec.fixed) if name not in names]
    if unknown:
        raise UsageError(
            f"cell {cell}: expected free parameters of {spec.recipe}, found {', '.join(unknown)}."
        )
    if spec.features is not None:
        known = list(dict.fromkeys(target.feature for target in model.targets.targets))
        strange = [f"{name}{nearest(name, known)}" for name in spec.features if name not in known]
        if strange:
            raise UsageError(
                f"features: cell {cell} has no target for {', '.join(strange)}; it has {', '.join(known)}."
            )
        model = with_features(model, spec.features)
    model = with_bounds(model, spec.bounds, spec.fixed)
    if not model.free:
        raise UsageError(f"fixed: every parameter of cell {cell} is fixed; leave at least one to be drawn.")
    return model


def _design(spec: SampleSpec, model: FitModel) -> Design:
    from neurosim.evolution import ParameterSpace

    names = [parameter.full_name for parameter in model.free]
    lower = np.array([parameter.lower for parameter in model.free])
    upper = np.array([parameter.upper for parameter in model.free])
    space = ParameterSpace.from_bounds(names, lower, upper)
    if spec.scale == "linear":
        space = ParameterSpace(space.names, lower, upper, np.zeros(len(names), bool))
    return Design(space, spec.draws, spec.design, spec.seed)
