"""Scores of the objectives of a model for many individuals at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from neurofleet.neurosim.cells.fit_model import AIS, INSIDE_ONLY, SOMA, FitModel, recording_name
from neurofleet.neurosim.cells.warm_evaluator import FeatureGroups, signed_residual
from neurofleet.neurosim.features.batch_features import (
    FEATURES,
    Ragged,
    StepResponses,
    TimeGrid,
    Voltages,
    spikes_begin_in_axon,
)
from neurofleet.neurosim.features.step_protocols import AIS_FEATURE
from neurofleet.neurosim.recordings.recorded_spikes import SPIKE_THRESHOLD_MV

SETTINGS_OF_ITS_OWN = ("interp_step", "stimulus_current", "double_settings", "string_settings")


class RecordedTogether:
    """The voltages of some individuals during one protocol, and what was calculated from them so far.

    Parameters
    ----------
    grid : TimeGrid
    soma_mV, axon_mV : ndarray, shape (n, t)
        `axon_mV` may be None.
    rows : ndarray of int, shape (k,)
        The individuals.
    """

    def __init__(self, grid: TimeGrid, soma_mV: np.ndarray, axon_mV: np.ndarray | None, rows: np.ndarray) -> None:
        self._grid, self._rows = grid, rows
        self._recorded = {SOMA: soma_mV, AIS: axon_mV}
        self._voltages: dict[str, Voltages] = {}
        self._steps: dict[tuple, StepResponses] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def step(
        self, place: str, window_ms: tuple[float, float], threshold_mV: float, inside_only: bool
    ) -> StepResponses | None:
        """Return the responses at a place; None where nothing was recorded."""
        recorded = self._recorded[place]
        if recorded is None:
            return None
        if place not in self._voltages:
            self._voltages[place] = Voltages(self._grid, recorded[self._rows])
        key = (place, window_ms, threshold_mV, inside_only)
        if key not in self._steps:
            self._steps[key] = StepResponses(self._voltages[place], *window_ms, threshold_mV, inside_only)
        return self._steps[key]


@dataclass(frozen=True)
class BatchObjective:
    """Target of a feature that `FEATURES` has, or of spikes that begin in the axon.

    Parameters
    ----------
    protocol, feature : str
    window_ms : (float, float)
        The step.
    threshold_mV, axon_threshold_mV : float
        eFEL's spike threshold at the soma and the axon.
    mean, std, max_score : float
    limited : bool
        Whether no score is above `max_score`, which a missing feature gets in any case.
    inside_only : bool
        Whether spikes outside of the step do not count.
    """

    protocol: str
    feature: str
    window_ms: tuple[float, float]
    threshold_mV: float
    axon_threshold_mV: float
    mean: float
    std: float
    max_score: float
    limited: bool
    inside_only: bool = False

    @classmethod
    def from_feature(cls, feature: Any, protocols: Iterable[str]) -> "BatchObjective | None":
        """Return the target of a BluePyOpt feature; None for a feature that only eFEL can calculate."""
        from bluepyopt.ephys.efeatures import eFELFeature

        from neurofleet.neurosim.features.bluepyopt_efeatures import AISInitiation

        at_soma = {recording_name(protocol, SOMA): protocol for protocol in protocols}
        if type(feature) is AISInitiation:
            protocol = at_soma.get(feature.soma_recording)
            if protocol is None or feature.axon_recording != recording_name(protocol, AIS):
                return None
            name, axon_threshold, limited = AIS_FEATURE, feature.axon_threshold, True
            inside_only = feature.inside_only
        elif type(feature) is eFELFeature and feature.efel_feature_name in FEATURES:
            protocol = at_soma.get(feature.recording_names.get(""))
            integers = feature.int_settings or {}
            inside_only = integers == INSIDE_ONLY
            if (
                protocol is None
                or len(feature.recording_names) > 1
                or (integers and not inside_only)
                or any(getattr(feature, setting) for setting in SETTINGS_OF_ITS_OWN)
            ):
                return None
            name, axon_threshold = feature.efel_feature_name, SPIKE_THRESHOLD_MV
            limited = feature.force_max_score
        else:
            return None
        threshold = SPIKE_THRESHOLD_MV if feature.threshold is None else feature.threshold
        return cls(
            protocol,
            name,
            (feature.stim_start, feature.stim_end),
            threshold,
            axon_threshold,
            feature.exp_mean,
            feature.exp_std,
            feature.max_score,
            limited,
            inside_only,
        )

    def fits(self, grid: TimeGrid) -> bool:
        """Return whether responses at these times can be scored."""
        return grid.regular and grid.covers(*self.window_ms)

    def scores(self, recorded: RecordedTogether) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean distance from the target, and the signed distance of the mean, in standard deviations.

        Returns
        -------
        scores : ndarray, shape (k,)
            NaN for individuals that only eFEL can score: see `StepResponses.undecided`.
        residuals : ndarray, shape (k,)
            NaN where the feature is missing.
        """
        steps = [recorded.step(SOMA, self.window_ms, self.threshold_mV, self.inside_only)]
        if self.feature == AIS_FEATURE:
            steps.append(recorded.step(AIS, self.window_ms, self.axon_threshold_mV, self.inside_only))
        recorded_steps = [step for step in steps if step is not None]
        if len(recorded_steps) < len(steps):
            return np.full(len(recorded), float(self.max_score)), np.full(len(recorded), np.nan)
        values = (
            spikes_begin_in_axon(*recorded_steps)
            if len(recorded_steps) == 2
            else FEATURES[self.feature](recorded_steps[0])
        )
        distance = Ragged(values.row, np.abs(values.value - self.mean), values.n_rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = distance.sum() / self.std / distance.count
            residuals = (values.sum() / values.count - self.mean) / self.std
        scores[np.isnan(scores)] = self.max_score
        scores = np.minimum(scores, self.max_score) if self.limited else scores
        scores[np.logical_or.reduce([step.undecided for step in recorded_steps])] = np.nan
        return scores, residuals


POINTS_AT_ONCE = 2**19  # recorded voltages looked at together, so that they stay in the cache


class VoltageRun(Protocol):
    """Voltages of all individuals during one protocol, as `vector_evaluator.VectorRun` has them."""

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
            BatchObjective.from_feature(objective.features[0], model.targets.protocols)
            for objective in self._objectives
        ]
        self._one_by_one: dict[tuple[int, ...], _OneByOne] = {}
        self.objective_names = tuple(objective.name for objective in self._objectives)

    def scores(self, runs: Mapping[str, VoltageRun], ok: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores as BluePyOpt's own calculator has them, and the residuals.

        Parameters
        ----------
        runs : mapping
            Name of each protocol -> its voltages, shape (n, t), at times of shape (t,).
        ok : ndarray of bool, shape (n,)

        Returns
        -------
        scores : ndarray, shape (n, M)
            In standard deviations; 0 for individuals that are not ok.
        residuals : ndarray, shape (n, M)
            As of `neurofleet.neurosim.cells.warm_evaluator.signed_residual`; NaN for individuals that are not ok.
        """
        scores = np.zeros((len(ok), len(self._objectives)))
        residuals = np.full(scores.shape, np.nan)
        rows = np.flatnonzero(ok)
        scores[rows] = np.nan
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
                    scores[chosen, j], residuals[chosen, j] = objective.scores(recorded)
        left = np.isnan(scores)
        for i in np.flatnonzero(left.any(axis=1)):
            scores[i, left[i]], residuals[i, left[i]] = self._alone(left[i]).scores(runs, int(i))
        return scores, residuals

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

    def scores(self, runs: Mapping[str, VoltageRun], i: int) -> tuple[list[float], list[float]]:
        """Return the scores and the residuals of the i-th individual."""
        responses = _responses(runs, i)
        with self._groups.calculated(responses):
            scores = [feature.calculate_score(responses) for feature in self._features]
            residuals = [signed_residual(feature, responses) for feature in self._features]
        return scores, residuals


def _responses(runs: Mapping[str, VoltageRun], i: int) -> dict[str, Any]:
    from bluepyopt.ephys.responses import TimeVoltageResponse

    responses = {}
    for protocol, run in runs.items():
        for place, voltage in ((SOMA, run.soma_mV), (AIS, run.axon_mV)):
            if voltage is not None:
                name = recording_name(protocol, place)
                responses[name] = TimeVoltageResponse(name, run.times_ms, voltage[i])
    return responses
