"""E-features that eFEL does not have, as BluePyOpt scores them.

`AISInitiation` checks that spikes begin in the axon, which eFEL once did. `PerisomaticFeature` scores the e-features
of perisomatic models: distances from their targets, and penalties for responses that have failed.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from bluepyopt.ephys.efeatures import EFeature

from neurofleet.neurosim.features.perisomatic_features import (
    MINIMUM_STD,
    Spikes,
    baseline_mV,
    even,
    features_from_spikes,
    find_spikes,
)
from neurofleet.neurosim.features.step_protocols import (
    AIS_FEATURE,
    BLOCK_CHECK,
    StepProtocol,
    TargetSet,
)
from neurofleet.neurosim.recordings.recorded_spikes import SPIKE_THRESHOLD_MV


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
    inside_only : bool
        Whether spikes outside of the step do not count.
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
        inside_only: bool = False,
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
        self.inside_only = inside_only
        self._seen: Mapping[str, Any] | None = None
        self._value: float | None = None

    def calculate_feature(self, responses: Mapping[str, Any], raise_warnings: bool = False) -> float | None:
        """Return 1.0, or None when the check fails or a response is missing; responses are analysed once."""
        if responses is not self._seen:
            self._value = self._calculate(responses, raise_warnings)
            self._seen = responses
        return self._value

    def _calculate(self, responses: Mapping[str, Any], raise_warnings: bool) -> float | None:
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
        settings = efel.get_settings()  # set back instead of efel.reset(), which reads its files each time
        before = {name: getattr(settings, name) for name in ("Threshold", "strict_stiminterval")}
        wanted = {"Threshold": threshold, "strict_stiminterval": self.inside_only}
        changed = [name for name, value in wanted.items() if value != before[name]]
        try:
            for name in changed:
                efel.set_setting(name, wanted[name])
            values = efel.get_feature_values([trace], ["AP_begin_time"], raise_warnings=raise_warnings)
        finally:
            for name in changed:
                efel.set_setting(name, before[name])
        return values[0]["AP_begin_time"]


MISSING_PENALTY = 20.0
FAILED_PENALTY, FAILED_LEAST, VARIANCE_WEIGHT = 250.0, 75.0, 0.1
BLOCKED_PENALTY = 75.0
BACK_WITHIN_MV, LEAST_SPIKES, BIMODAL = 2.0, 2, 3.0
VARIANCE_BEFORE_MS = 100.0
BLOCK_ABOVE_MV, BLOCK_BELOW_MV, BLOCK_MS = -50.0, -75.0, 50.0


def step_scoring(step: StepProtocol, recording: str, targets: TargetSet) -> "StepScoring":
    """Return how the targets of one step are scored; `recording` names the voltage at the soma there."""
    scored_features = {
        t.feature: (t.mean, t.std) for t in targets.targets if t.protocol == step.name and t.feature in MINIMUM_STD
    }
    check = targets.protocols.get(BLOCK_CHECK)
    scored = any(target.protocol == BLOCK_CHECK for target in targets.targets)
    rests = step.duration_ms - step.stop_ms >= step.start_ms - 1e-6
    about: tuple[Any, ...] = ()
    if check is not None and not scored:
        about = (recording.replace(step.name, BLOCK_CHECK, 1), check.start_ms, check.stop_ms)
    return StepScoring(
        recording,
        step.start_ms,
        step.stop_ms,
        scored_features,
        *about,
        comes_to_rest=rests,
        threshold_mV=targets.spike_threshold_mV,
    )


class StepScoring:
    """Scores of one step's e-features; the response is analysed once for all of them.

    Parameters
    ----------
    recording : str
        Name of the voltage that is scored.
    start_ms, stop_ms : float
    targets : mapping
        E-feature -> mean and standard deviation.
    block_recording : str, optional
        Voltage at a stronger step, which must not be blocked.
    block_start_ms, block_stop_ms : float
        Of that step.
    comes_to_rest : bool
        Whether the response is long enough after the step for the voltage to be back at rest.
    threshold_mV : float
        As of `find_spikes`.
    """

    def __init__(
        self,
        recording: str,
        start_ms: float,
        stop_ms: float,
        targets: Mapping[str, tuple[float, float]],
        block_recording: str | None = None,
        block_start_ms: float = 0.0,
        block_stop_ms: float = 0.0,
        *,
        comes_to_rest: bool = True,
        threshold_mV: float = SPIKE_THRESHOLD_MV,
    ) -> None:
        self.recording, self.start_ms, self.stop_ms = recording, start_ms, stop_ms
        self.targets = dict(targets)
        self.block_recording = block_recording
        self._block_step = (block_start_ms, block_stop_ms)
        self._comes_to_rest = comes_to_rest
        self._threshold_mV = threshold_mV
        seconds = (stop_ms - start_ms) / 1000.0
        recorded = round(self.targets["avg_rate"][0] * seconds) if "avg_rate" in self.targets else LEAST_SPIKES
        self._least_spikes = min(LEAST_SPIKES, recorded)  # no more than the recorded cell itself
        self._seen: Mapping[str, Any] | None = None
        self._values: dict[str, float] = {}
        self._penalty: float | None = None

    def values(self, responses: Mapping[str, Any]) -> dict[str, float]:
        """Return all e-features; none of a response that is missing."""
        self._read(responses)
        return self._values

    def score(self, responses: Mapping[str, Any], name: str, most: float) -> float:
        """Return the score of one e-feature, at most `most`."""
        self._read(responses)
        if not self._values:
            return most
        if self._penalty is not None:
            return min(self._penalty, most)
        return min(self._distance(name), most)

    def is_penalised(self, responses: Mapping[str, Any]) -> bool:
        """Whether the response has failed, so that its e-features have a penalty in place of their distances."""
        self._read(responses)
        return self._penalty is not None

    def _read(self, responses: Mapping[str, Any]) -> None:
        if responses is self._seen:
            return
        self._seen, self._values, self._penalty = responses, {}, None
        response = responses.get(self.recording)
        if response is None:
            return
        times, volts = _arrays(response)
        spikes = find_spikes(times, volts, self.start_ms, self.stop_ms, self._threshold_mV)
        rest_mV = baseline_mV(times, volts, self.start_ms)
        self._values = features_from_spikes(spikes, rest_mV, self.start_ms, self.stop_ms)
        if self._has_failed(times, volts, spikes, rest_mV):
            self._penalty = failed_penalty(times, volts, self.start_ms, self.stop_ms)
        elif self.block_recording is not None and self._mean_distance() < BLOCKED_PENALTY:
            check = responses.get(self.block_recording)
            if check is None or is_blocked(*_arrays(check), *self._block_step):
                self._penalty = BLOCKED_PENALTY

    def _mean_distance(self) -> float:
        return float(np.mean([self._distance(name) for name in self.targets]))

    def _distance(self, name: str) -> float:
        value = self._values[name]
        mean, std = self.targets[name]
        return MISSING_PENALTY if np.isnan(value) else abs(value - mean) / std

    def _has_failed(self, times: np.ndarray, volts: np.ndarray, spikes: Spikes, rest_mV: float) -> bool:
        return (
            (self._comes_to_rest and abs(float(volts[-1]) - rest_mV) > BACK_WITHIN_MV)
            or len(find_spikes(times, volts, 0.0, self.start_ms, self._threshold_mV)) > 0
            or len(spikes) < self._least_spikes
            or (len(spikes) > 0 and "peak_v" in self.targets and has_two_kinds(spikes.peak_mV, *self.targets["peak_v"]))
        )


def has_two_kinds(peaks_mV: np.ndarray, mean_mV: float, std_mV: float) -> bool:
    """Whether peaks scatter about the target far more than their mean is off it, and by more than its std.

    The 2018 code has the first condition alone, which also fails models whose mean is exactly right.
    """
    mean_distance = float(np.abs(peaks_mV - mean_mV).mean())
    return mean_distance > std_mV and mean_distance > BIMODAL * abs(float(peaks_mV.mean()) - mean_mV)


def failed_penalty(times: np.ndarray, volts: np.ndarray, start_ms: float, stop_ms: float) -> float:
    """Return the score of every e-feature of a failed response: less, the more the voltage moves."""
    window = (times >= start_ms - VARIANCE_BEFORE_MS) & (times < (start_ms + stop_ms) / 2)
    return max(FAILED_PENALTY - VARIANCE_WEIGHT * float(volts[window].var()), FAILED_LEAST)


def is_blocked(times: np.ndarray, volts: np.ndarray, start_ms: float, stop_ms: float) -> bool:
    """Whether the voltage stays above -50 mV, or falls below -75 mV, for more than 50 ms of a step.

    A voltage that never comes above -50 mV is blocked as well.
    """
    inside = volts[(times >= start_ms) & (times < stop_ms)]
    samples = BLOCK_MS / float(times[1] - times[0])
    high, low = inside > BLOCK_ABOVE_MV, inside < BLOCK_BELOW_MV
    if not high.any():
        return True
    return _longest(high) > samples or _longest(low[int(high.argmax()) :]) > samples


def _longest(flags: np.ndarray) -> int:
    """Return the length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _arrays(response: Any) -> tuple[np.ndarray, np.ndarray]:
    return even(np.asarray(response["time"], float), np.asarray(response["voltage"], float))


class PerisomaticFeature(EFeature):
    """One e-feature as BluePyOpt takes it; those of one step share what is read of the response.

    Parameters
    ----------
    name : str
        Of the objective.
    feature : str
        One of `neurofleet.neurosim.features.perisomatic_features.FEATURES`.
    scoring : StepScoring
    max_score : float
    """

    def __init__(self, name: str, *, feature: str, scoring: StepScoring, max_score: float = 250.0) -> None:
        super().__init__(name)
        self.feature, self.scoring, self.max_score = feature, scoring, max_score
        self.exp_mean, self.exp_std = scoring.targets[feature]

    def calculate_feature(self, responses: Mapping[str, Any], raise_warnings: bool = False) -> float | None:
        """Return the value, None where the response has none."""
        value = self.scoring.values(responses).get(self.feature, float("nan"))
        return None if np.isnan(value) else value

    def calculate_score(self, responses: Mapping[str, Any], trace_check: bool = False) -> float:
        """Return the distance from the target in standard deviations, or a penalty."""
        return self.scoring.score(responses, self.feature, self.max_score)
