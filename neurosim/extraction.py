"""e-features of recorded sweeps, through eFEL, and their statistics as targets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurosim.errors import InputError
from neurosim.perisomatic.features import MINIMUM_STD, sweep_features, target_statistics
from neurosim.protocols import StepProtocol, group_sweeps
from neurosim.recordings import Recording, Sweep
from neurosim.targets import SPIKE_THRESHOLD_MV, FeatureTarget, TargetSet

SPIKES, SPIKES_IN_STEP = "spike_count", "spike_count_stimint"
SET_STD = 0.05  # of a target that is set to 1 (block, AIS), and of a mean of 0
RELATIVE_STD = 0.05

# Durations and slopes inside a spike of about 1 ms want ten samples a millisecond.
LOWEST_RATE_HZ = dict.fromkeys(
    [
        "AP_width",
        "AP_width_between_threshold",
        "AP_duration_half_width",
        "AP_duration",
        "AP_rise_time",
        "AP_fall_time",
        "AP_rise_rate",
        "AP_fall_rate",
        "AP_peak_upstroke",
        "AP_peak_downstroke",
        "AP_phaseslope",
        "AP1_width",
        "AP2_width",
        "APlast_width",
        "mean_AP_width",
        "spike_half_width",
        "width",
    ],
    10_000.0,
)
HYPERPOLARISING_ONLY = ("sag_amplitude", "sag_ratio1", "sag_ratio2", "sag_time_constant")


@dataclass(frozen=True)
class FiringRate:
    """Spikes of one sweep during its step."""

    sweep: int
    protocol: str
    amplitude_nA: float
    spikes: int
    rate_Hz: float


def recorded_features(
    protocol: StepProtocol,
    sweeps: Iterable[Sweep],
    names: Sequence[str],
    spike_threshold_mV: float = SPIKE_THRESHOLD_MV,
) -> dict[str, list[np.ndarray]]:
    """Extract e-features of each repeat of a protocol, with eFEL but for those of perisomatic models.

    Returns
    -------
    dict of str to list of (k,) arrays
        For each name the values of each sweep; an empty array where eFEL finds none.
    """
    import efel

    sweeps, others = list(sweeps), [name for name in names if name not in MINIMUM_STD]
    own = {}
    if len(others) < len(names):
        read = [sweep_features(protocol, sweep) for sweep in sweeps]
        own = {name: [_finite(np.array([one[name]])) for one in read] for name in MINIMUM_STD}
    traces = []
    for sweep in sweeps:
        time_ms, voltage_mV = protocol.align(sweep)
        traces.append(
            {
                "T": time_ms,
                "V": voltage_mV,
                "stim_start": [protocol.start_ms],
                "stim_end": [protocol.stop_ms],
            }
        )
    efel.reset()
    efel.set_setting("Threshold", spike_threshold_mV)
    found = efel.get_feature_values(traces, others, raise_warnings=False) if others else []
    efel.reset()
    return {name: own[name] if name in own else [_finite(one[name]) for one in found] for name in names}


def _finite(values: np.ndarray | None) -> np.ndarray:
    """Finite values; eFEL gives None for a missing feature, and NaN where a fit within it failed."""
    found = np.asarray([] if values is None else values, dtype=float)
    return found[np.isfinite(found)]


def feature_statistics(values: Sequence[np.ndarray]) -> tuple[float, float, int]:
    """Mean, standard deviation and number of all values of all repeats.

    A standard deviation that is 0, or of a single value, becomes 5 % of the mean, or 0.05 where that is 0.
    """
    flat = np.concatenate(values)
    mean, std = float(flat.mean()), float(flat.std())
    if std <= 1e-9 * abs(mean):  # equal values differ in their last digits at most
        std = RELATIVE_STD * abs(mean) if mean != 0 else SET_STD
    return mean, std, int(flat.size)


def firing_rates(recording: Recording) -> list[FiringRate]:
    """Count the spikes of each sweep during its step: the f-I curve, weakest step first."""
    rates = []
    for protocol, sweeps in group_sweeps(recording):
        counts = recorded_features(protocol, sweeps, [SPIKES_IN_STEP])[SPIKES_IN_STEP]
        seconds = (protocol.stop_ms - protocol.start_ms) / 1000.0
        for sweep, count in zip(sweeps, counts, strict=True):
            spikes = int(count.sum())
            rate = FiringRate(sweep.number, protocol.name, sweep.amplitude_nA, spikes, spikes / seconds)
            rates.append(rate)
    return rates


class TargetExtraction:
    """Targets as they are gathered, with what had to be left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._targets: list[FeatureTarget] = []
        self._protocols: dict[str, StepProtocol] = {}
        self._rates: list[float] = []
        self._missing: dict[str, list[str]] = {}
        self._too_slow: dict[str, float] = {}
        self._warnings: list[str] = []

    def add(self, protocol: StepProtocol, sweeps: Sequence[Sweep], names: Sequence[str]) -> None:
        """Extract features of the sweeps; leave out what has no value or needs a higher sampling rate."""
        rate_Hz = min(sweep.sampling_rate_Hz for sweep in sweeps)
        supported = []
        for name in names:
            if rate_Hz < LOWEST_RATE_HZ.get(name, 0.0):
                self._too_slow[name] = min(rate_Hz, self._too_slow.get(name, np.inf))
            elif name not in HYPERPOLARISING_ONLY or protocol.amplitude_nA < 0:
                supported.append(name)
        values = recorded_features(protocol, sweeps, supported)
        for name in supported:
            if sum(one.size for one in values[name]) == 0:
                self._missing.setdefault(name, []).append(protocol.name)
                continue
            if name in MINIMUM_STD:
                mean, std, n = target_statistics(name, values[name])
            else:
                mean, std, n = feature_statistics(values[name])
            self._append(protocol, FeatureTarget(protocol.name, "soma", name, mean, std, n))
            self._rates.append(rate_Hz)

    def set_target(self, protocol: StepProtocol, feature: str) -> None:
        """Add a target that is 1 by definition."""
        self._append(protocol, FeatureTarget(protocol.name, "soma", feature, 1.0, SET_STD, 0))

    def _append(self, protocol: StepProtocol, target: FeatureTarget) -> None:
        self._protocols[protocol.name] = protocol
        self._targets.append(target)

    def has(self, protocol: str, feature: str) -> bool:
        """True when the protocol has a target for the feature."""
        return any((target.protocol, target.feature) == (protocol, feature) for target in self._targets)

    def warn(self, text: str) -> None:
        self._warnings.append(f"{self._path.name}: {text}")

    def target_set(self) -> TargetSet:
        """Return the targets with one warning for each feature left out."""
        for name, rate_Hz in self._too_slow.items():
            self.warn(
                f"{name} is left out: it needs a sampling rate of {LOWEST_RATE_HZ[name] / 1000:g} kHz, "
                f"found {rate_Hz / 1000:g} kHz"
            )
        for name, protocols in self._missing.items():
            self.warn(f"{name} is left out at {', '.join(protocols)}: the recording has no value of it")
        if not self._targets:
            raise InputError(
                f"{self._path}: none of the features asked for has a value in the recording. "
                f"Found instead: {'; '.join(self._warnings)}."
            )
        return TargetSet(
            protocols=self._protocols,
            targets=tuple(self._targets),
            warnings=tuple(self._warnings),
            sampling_rate_Hz=min(self._rates),
        )
