"""Scores of many individuals at once: their voltages from a kernel, their e-features together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neurosim.fit_model import AIS, SOMA, recording_name
from neurosim.vector.cell import VectorCell, VectorRun

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel

RECORD_EVERY = 2  # steps of 0.05 ms: the 0.1 ms that eFEL interpolates to
TAIL_DT_MS = 5.0


@dataclass(frozen=True, eq=False)
class VectorScores:
    """What became of the individuals of one batch.

    Attributes
    ----------
    scores : ndarray, shape (n, M)
        In standard deviations; those of an individual that is not ok mean nothing.
    ok : ndarray of bool, shape (n,)
        False for an individual that ran away in one of its protocols.
    """

    scores: np.ndarray
    ok: np.ndarray


class VectorEvaluator:
    """Evaluate individuals of one stage of one cell together.

    Parameters
    ----------
    model : FitModel

    Attributes
    ----------
    parameter_names : tuple of str, length P
    objective_names : tuple of str, length M

    Raises
    ------
    Unsupported
        The model has something that no kernel is made of; the message names it.
    InputError
        There is no C++ compiler.
    """

    def __init__(self, model: "FitModel") -> None:
        self._cell = VectorCell(model)
        self._protocols = dict(model.targets.protocols)
        self._scoring = _Scoring(model)
        self.parameter_names = self._cell.parameter_names
        self.objective_names = self._scoring.objective_names

    def evaluate(self, values: ArrayLike) -> VectorScores:
        """Return the scores of individuals, of which `values`, shape (n, P), has one in each row."""
        runs = {
            name: self._cell.run(
                values, protocol, dtype="float32", record_every=RECORD_EVERY, tail_dt_ms=TAIL_DT_MS
            )
            for name, protocol in self._protocols.items()
        }
        ok = np.logical_and.reduce([run.ok for run in runs.values()])
        return VectorScores(self._scoring.scores(runs, ok), ok)


class _Scoring:
    """eFEL, one individual after the other."""

    def __init__(self, model: "FitModel") -> None:
        from bluepyopt.ephys.objectivescalculators import ObjectivesCalculator

        from neurosim.grouped_features import FeatureGroups

        self._groups = FeatureGroups()
        self._calculator = ObjectivesCalculator(model.objectives())
        for objective in self._calculator.objectives:
            objective.features = self._groups.wrap(objective.features)
        self.objective_names = tuple(o.name for o in self._calculator.objectives)

    def scores(self, runs: Mapping[str, VectorRun], ok: np.ndarray) -> np.ndarray:
        found = np.zeros((len(ok), len(self.objective_names)))
        for i in np.flatnonzero(ok):
            responses = _responses(runs, int(i))
            self._groups.calculate(responses)
            scores = self._calculator.calculate_scores(responses)
            self._groups.forget()
            found[i] = [scores[name] for name in self.objective_names]
        return found


def _responses(runs: Mapping[str, VectorRun], i: int) -> dict[str, Any]:
    from bluepyopt.ephys.responses import TimeVoltageResponse

    found = {}
    for protocol, run in runs.items():
        for place, voltage in ((SOMA, run.soma_mV), (AIS, run.axon_mV)):
            if voltage is not None:
                name = recording_name(protocol, place)
                found[name] = TimeVoltageResponse(name, run.times_ms, voltage[i])
    return found
