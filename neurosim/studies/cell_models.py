"""The models of one cell: what they have in common, the parameter values of each, and their conductances."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofleet.errors import InputError, did_you_mean
from neurofleet.neurosim.cells.cell_model import Accuracy, CellParameter, reversal_of
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology import MorphologyFile
from neurofleet.neurosim.exchange.allen_fit import AllenFit
from neurofleet.neurosim.features.step_protocols import StepProtocol, TargetSet
from neurofleet.neurosim.recordings.recording import RecordingSource

PUBLISHED_SEED = 0
FINAL_ATOL = 1e-4


@dataclass(frozen=True, eq=False)
class CellModels:
    """Models of one cell, best first.

    Attributes
    ----------
    cell : str
    model : FitModel
        With the parameters of `values` free; its bounds are wide around them. Its targets are those the
        models were fitted to, empty where they are not known.
    values : ndarray, shape (n, P)
    seeds, ranks : ndarray of int, shape (n,)
        Of each model in its cell's hall of fame; seed 0 for a published model.
    trained : tuple of StepProtocol
        All steps that any stage of the fit was scored at.
    recording : RecordingSource or None
    notes : tuple of str
        What looks odd about the files that the models come from.
    """

    cell: str
    model: FitModel
    values: np.ndarray
    seeds: np.ndarray
    ranks: np.ndarray
    trained: "tuple[StepProtocol, ...]" = ()
    recording: RecordingSource | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Full names of the free parameters, in the order of `values`."""
        return tuple(parameter.full_name for parameter in self.model.free)

    def columns(self, names: Sequence[str]) -> list[int]:
        """Return the positions of parameters in `values`.

        Raises
        ------
        InputError
            For one that the models do not have, with the nearest name.
        """
        known = self.parameters
        unknown = [name for name in names if name not in known]
        if unknown:
            listed = ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown)
            raise InputError(f"cell {self.cell}: expected free parameters of its models, found {listed}.")
        return [known.index(name) for name in names]

    def best(self, number: int | None) -> "CellModels":
        """Return the first `number` of the models, all without a number."""
        kept = slice(number)
        return replace(self, values=self.values[kept], seeds=self.seeds[kept], ranks=self.ranks[kept])


def make_cell_models(
    model: FitModel,
    values: np.ndarray,
    seeds: np.ndarray,
    ranks: np.ndarray,
    trained: "tuple[StepProtocol, ...]" = (),
    recording: RecordingSource | None = None,
) -> CellModels:
    """Return models as a population; the bounds of their parameters are wide enough to vary each of them.

    Parameters
    ----------
    model : FitModel
    values : ndarray, shape (n, P)
        In the order of ``model.free``.
    seeds, ranks : ndarray, shape (n,)
    trained : tuple of StepProtocol
    recording : RecordingSource, optional
    """
    low, high = values.min(axis=0), values.max(axis=0)
    room = np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-9)
    free = tuple(
        replace(parameter, lower=float(lower), upper=float(upper))
        for parameter, lower, upper in zip(model.free, low - room, high + room, strict=True)
    )
    return CellModels(model.cell, replace(model, free=free), values, seeds, ranks, trained, recording)


def published_cell_models(
    cell: str,
    fit: "AllenFit",
    morphology: MorphologyFile,
    axon: str,
    targets: "TargetSet | None" = None,
    recording: RecordingSource | None = None,
) -> CellModels:
    """Return one published model as a population of one, every parameter of its file free.

    Parameters
    ----------
    cell : str
    fit : AllenFit
    morphology : MorphologyFile
    axon : str
        Axon mode it was fitted with, which the file does not have.
    targets : TargetSet, optional
        What it was fitted to.
    recording : RecordingSource, optional
    """
    known = fit.user_mechanisms.known
    reversal = {n: mV for n, mV in fit.parameters.items() if reversal_of(n.rpartition(".")[0], known) is not None}
    values = {name: value for name, value in fit.parameters.items() if name not in reversal}
    free = []
    for name, value in values.items():
        parameter, _, section = name.rpartition(".")
        free.append(CellParameter(parameter, section, value - 1.0, value + 1.0))
    model = FitModel(
        cell=cell,
        morphology=morphology,
        axon=axon,
        conditions=fit.conditions,
        mechanisms=fit.mechanisms,
        free=tuple(free),
        fixed=reversal,
        distributions={},
        targets=targets or TargetSet({}, ()),
        accuracy=Accuracy(FINAL_ATOL),
        user_mechanisms=fit.user_mechanisms,
    )
    only_model = np.array([list(values.values())])
    trained = tuple(targets.protocols.values()) if targets else ()
    return make_cell_models(model, only_model, np.array([PUBLISHED_SEED]), np.array([0]), trained, recording)


def conductances(names: Collection[str]) -> list[str]:
    """Return those of the parameters that are maximal conductances of channels."""
    return [name for name in names if name.startswith("gbar_")]


def parameters_by_name(population: CellModels, model: int) -> Mapping[str, float]:
    """Return the parameters of model number `model` by full name."""
    return dict(zip(population.parameters, population.values[model].tolist(), strict=True))


SPIKE_SHAPING_CHANNELS = (
    ("NaTs2_t", "NaTa_t", "NaTs", "NaTa", "NaV"),  # transient sodium, as each recipe calls it
    ("Kv3_1",),
    ("K_Tst", "K_T"),
)
SPIKE_SHAPING_SECTIONS = ("soma", "axon")


def default_conductances(parameters: Sequence[str]) -> tuple[str, ...]:
    """Return transient sodium, Kv3.1 and the transient potassium conductance, in soma and axon.

    Parameters
    ----------
    parameters : sequence of str
        Full names that a model has.

    Raises
    ------
    InputError
        When the model has fewer than two of them.
    """
    chosen = []
    for section in SPIKE_SHAPING_SECTIONS:
        for channels in SPIKE_SHAPING_CHANNELS:
            named = (f"gbar_{channel}.{section}" for channel in channels)
            chosen += [name for name in named if name in parameters][:1]
    if len(chosen) < 2:
        raise InputError(
            "parameters: expected transient sodium, Kv3.1 or K_T in the soma or the axon of the models, "
            f"found {', '.join(chosen) or 'none'}. Name the parameters; the models have "
            f"{', '.join(conductances(parameters) or parameters)}."
        )
    return tuple(chosen)
