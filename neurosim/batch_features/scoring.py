"""Scores of the objectives of a model for many individuals at once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurosim.batch_features.grid import TimeGrid
from neurosim.batch_features.objective import BatchObjective, RecordedTogether
from neurosim.fit_model import AIS, SOMA, recording_name
from neurosim.grouped_features import FeatureGroups

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel

POINTS_AT_ONCE = 2**19  # recorded voltages looked at together, so that they stay in the cache


class Run(Protocol):
    """Voltages of all individuals during one protocol, as `neurosim.vector.cell.VectorRun` has them."""

    @property
    def times_ms(self) -> np.ndarray: ...
    @property
    def soma_mV(self) -> np.ndarray: ...
    @property
    def axon_mV(self) -> np.ndarray | None: ...


class BatchScoring:
    """The objectives of one stage of one cell.

    The features of recipes and of published targets are calculated for all individuals together. All others
    are left to eFEL, one individual after the other; so are voltages at times that do not ascend or that end
    before the step, and those that are a spike threshold to the last bit.

    Parameters
    ----------
    model : FitModel

    Attributes
    ----------
    objective_names : tuple of str, length M
    """

    def __init__(self, model: "FitModel") -> None:
        self._objectives = model.objectives()
        self._batch = [
            BatchObjective.of(objective.features[0], model.targets.protocols)
            for objective in self._objectives
        ]
        self._one_by_one: dict[tuple[int, ...], _OneByOne] = {}
        self.objective_names = tuple(objective.name for objective in self._objectives)

    def scores(self, runs: Mapping[str, Run], ok: np.ndarray) -> np.ndarray:
        """Return the scores as BluePyOpt's own calculator has them.

        Parameters
        ----------
        runs : mapping
            Name of each protocol -> its voltages, shape (n, t), at times of shape (t,).
        ok : ndarray of bool, shape (n,)

        Returns
        -------
        ndarray, shape (n, M)
            In standard deviations; 0 for individuals that are not ok.
        """
        found = np.zeros((len(ok), len(self._objectives)))
        rows = np.flatnonzero(ok)
        found[rows] = np.nan
        for protocol, run in runs.items():
            grid = TimeGrid(run.times_ms)
            together = {
                j: objective
                for j, objective in enumerate(self._batch)
                if objective is not None and objective.protocol == protocol and objective.fits(grid)
            }
            at_once = max(POINTS_AT_ONCE // len(run.times_ms), 1)
            for begin in range(0, len(rows), at_once) if together else ():
                chosen = rows[begin : begin + at_once]
                recorded = RecordedTogether(grid, run.soma_mV, run.axon_mV, chosen)
                for j, objective in together.items():
                    found[chosen, j] = objective.scores(recorded)
        left = np.isnan(found)
        for i in np.flatnonzero(left.any(axis=1)):
            found[i, left[i]] = self._alone(left[i]).scores(runs, int(i))
        return found

    def _alone(self, chosen: np.ndarray) -> "_OneByOne":
        key = tuple(np.flatnonzero(chosen).tolist())
        if key not in self._one_by_one:
            self._one_by_one[key] = _OneByOne([self._objectives[j] for j in key])
        return self._one_by_one[key]


class _OneByOne:
    """eFEL, one individual after the other."""

    def __init__(self, objectives: list[Any]) -> None:
        self._groups = FeatureGroups()
        self._features = self._groups.wrap(objective.features[0] for objective in objectives)

    def scores(self, runs: Mapping[str, Run], i: int) -> list[float]:
        """Return the scores of the i-th individual."""
        responses = _responses(runs, i)
        self._groups.calculate(responses)
        found = [feature.calculate_score(responses) for feature in self._features]
        self._groups.forget()
        return found


def _responses(runs: Mapping[str, Run], i: int) -> dict[str, Any]:
    from bluepyopt.ephys.responses import TimeVoltageResponse

    found = {}
    for protocol, run in runs.items():
        for place, voltage in ((SOMA, run.soma_mV), (AIS, run.axon_mV)):
            if voltage is not None:
                name = recording_name(protocol, place)
                found[name] = TimeVoltageResponse(name, run.times_ms, voltage[i])
    return found
