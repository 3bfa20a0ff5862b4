"""The check that spikes begin in the axon, an e-feature that eFEL no longer has."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from bluepyopt.ephys.efeatures import EFeature

from neurofleet.neurosim.features.target_set import AIS_FEATURE, SPIKE_THRESHOLD_MV


class AISInitiation(EFeature):
    """1 when every somatic spike began in the axon initial segment first, missing otherwise.

    Missing too when the numbers of spikes differ, or there are none to compare. Spikes begin where eFEL's
    `AP_begin_time` says.

    Parameters
    ----------
    name : str
    soma_recording, axon_recording : str
        Names of the voltage recordings to compare.
    stim_start, stim_end : float
        Window of the step in ms.
    exp_mean, exp_std : float
        Target; the published one is 1 and 0.05.
    max_score : float
        Score of a missing value.
    threshold, axon_threshold : float
        eFEL's spike threshold in mV at the soma and the axon.
    """

    feature: ClassVar[str] = AIS_FEATURE

    def __init__(
        self,
        name: str,
        *,
        soma_recording: str,
        axon_recording: str,
        stim_start: float,
        stim_end: float,
        exp_mean: float = 1.0,
        exp_std: float = 0.05,
        max_score: float = 250.0,
        threshold: float = SPIKE_THRESHOLD_MV,
        axon_threshold: float = SPIKE_THRESHOLD_MV,
    ) -> None:
        super().__init__(name)
        self.soma_recording = soma_recording
        self.axon_recording = axon_recording
        self.stim_start = stim_start
        self.stim_end = stim_end
        self.exp_mean = exp_mean
        self.exp_std = exp_std
        self.max_score = max_score
        self.threshold = threshold
        self.axon_threshold = axon_threshold

    def calculate_feature(self, responses: Mapping[str, Any], raise_warnings: bool = False) -> float | None:
        """Return 1.0, or None when the check fails or a response is missing."""
        soma, axon = (
            self._begin_times(responses.get(recording), threshold, raise_warnings)
            for recording, threshold in (
                (self.soma_recording, self.threshold),
                (self.axon_recording, self.axon_threshold),
            )
        )
        if soma is None or axon is None or soma.size == 0 or soma.size != axon.size:
            return None
        return 1.0 if np.all(axon <= soma) else None

    def calculate_score(self, responses: Mapping[str, Any], trace_check: bool = False) -> float:
        """Return the distance from the target in standard deviations, `max_score` when missing."""
        value = self.calculate_feature(responses)
        if value is None:
            return self.max_score
        return min(abs(value - self.exp_mean) / self.exp_std, self.max_score)

    def _begin_times(self, response: Any, threshold: float, raise_warnings: bool) -> np.ndarray | None:
        import efel

        if response is None:
            return None
        trace = {
            "T": np.asarray(response["time"], dtype=float),
            "V": np.asarray(response["voltage"], dtype=float),
            "stim_start": [self.stim_start],
            "stim_end": [self.stim_end],
        }
        before = efel.get_settings().Threshold  # put back by hand: efel.reset reads its files anew each time
        efel.set_setting("Threshold", threshold)
        try:
            values = efel.get_feature_values([trace], ["AP_begin_time"], raise_warnings=raise_warnings)
        finally:
            efel.set_setting("Threshold", before)
        return values[0]["AP_begin_time"]
