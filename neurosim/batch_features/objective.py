"""One objective that is scored for many individuals at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurosim.batch_features.features import FEATURES, StepResponses, spikes_begin_in_axon
from neurosim.batch_features.grid import TimeGrid, Voltages
from neurosim.batch_features.ragged import Ragged
from neurosim.fit_model import AIS, SOMA, recording_name
from neurosim.targets import AIS_FEATURE, SPIKE_THRESHOLD_MV

OWN_SETTINGS = ("interp_step", "stimulus_current", "double_settings", "int_settings", "string_settings")


class RecordedTogether:
    """The voltages of some individuals during one protocol, and what was found in them so far.

    Parameters
    ----------
    grid : TimeGrid
    soma_mV, axon_mV : ndarray, shape (n, t)
        `axon_mV` may be None.
    rows : ndarray of int, shape (k,)
        The individuals.
    """

    def __init__(
        self, grid: TimeGrid, soma_mV: np.ndarray, axon_mV: np.ndarray | None, rows: np.ndarray
    ) -> None:
        self._grid, self._rows = grid, rows
        self._recorded = {SOMA: soma_mV, AIS: axon_mV}
        self._voltages: dict[str, Voltages] = {}
        self._steps: dict[tuple, StepResponses] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def step(self, place: str, window_ms: tuple[float, float], threshold_mV: float) -> StepResponses | None:
        """Return the responses at a place; None where nothing was recorded."""
        recorded = self._recorded[place]
        if recorded is None:
            return None
        if place not in self._voltages:
            self._voltages[place] = Voltages(self._grid, recorded[self._rows])
        key = (place, window_ms, threshold_mV)
        if key not in self._steps:
            self._steps[key] = StepResponses(self._voltages[place], *window_ms, threshold_mV)
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

    @classmethod
    def of(cls, feature: Any, protocols: Iterable[str]) -> "BatchObjective | None":
        """Return what a feature of BluePyOpt's is here; None for one that only eFEL can calculate."""
        from bluepyopt.ephys.efeatures import eFELFeature

        from neurosim.ais_initiation import AISInitiation

        at_soma = {recording_name(protocol, SOMA): protocol for protocol in protocols}
        if type(feature) is AISInitiation:
            protocol = at_soma.get(feature.soma_recording)
            if protocol is None or feature.axon_recording != recording_name(protocol, AIS):
                return None
            name, axon_threshold, limited = AIS_FEATURE, feature.axon_threshold, True
        elif type(feature) is eFELFeature and feature.efel_feature_name in FEATURES:
            protocol = at_soma.get(feature.recording_names.get(""))
            if (
                protocol is None
                or len(feature.recording_names) > 1
                or any(getattr(feature, setting) for setting in OWN_SETTINGS)
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
        )

    def fits(self, grid: TimeGrid) -> bool:
        """Return whether responses at these times can be scored."""
        return grid.regular and grid.covers(*self.window_ms)

    def scores(self, recorded: RecordedTogether) -> np.ndarray:
        """Return the mean distance from the target in standard deviations, shape (k,).

        NaN for individuals that only eFEL can score: see `StepResponses.undecided`.
        """
        steps = [recorded.step(SOMA, self.window_ms, self.threshold_mV)]
        if self.feature == AIS_FEATURE:
            steps.append(recorded.step(AIS, self.window_ms, self.axon_threshold_mV))
        found = [step for step in steps if step is not None]
        if len(found) < len(steps):
            return np.full(len(recorded), float(self.max_score))
        values = spikes_begin_in_axon(*found) if len(found) == 2 else FEATURES[self.feature](found[0])
        distance = Ragged(values.row, np.abs(values.value - self.mean), values.n_rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = distance.sum() / self.std / distance.count
        scores[np.isnan(scores)] = self.max_score
        scores = np.minimum(scores, self.max_score) if self.limited else scores
        scores[np.logical_or.reduce([step.undecided for step in found])] = np.nan
        return scores
