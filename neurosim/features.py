"""e-features of recorded sweeps, and the targets that each stage of a fit is scored on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurosim.ais_initiation import AISInitiation
from neurosim.errors import InputError
from neurosim.faults import nearest
from neurosim.protocols import StepProtocol, amplitude_tolerance_nA, group_sweeps
from neurosim.published_targets import read_targets
from neurosim.recordings import Recording, Sweep
from neurosim.targets import AIS_FEATURE, BLOCK_CHECK, SPIKE_THRESHOLD_MV, FeatureTarget, TargetSet

__all__ = [
    "AISInitiation",
    "FeatureTarget",
    "FiringRate",
    "TargetSet",
    "feature_statistics",
    "firing_rates",
    "passive_targets",
    "read_targets",
    "recorded_features",
    "training_targets",
]

SPIKE_COUNT = "Spikecount"
SPIKES, SPIKES_IN_STEP = "spike_count", "spike_count_stimint"  # eFEL's newer names
BLOCK_FEATURE = "depol_block"
BLOCK_CHECK_ABOVE_NA = 0.01  # the block check is this much stronger than the strongest spiking step
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
    ],
    10_000.0,
)
HYPERPOLARISING_ONLY = ("sag_amplitude", "sag_ratio1", "sag_ratio2", "sag_time_constant")

Group = tuple[StepProtocol, list[Sweep]]


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
    """Extract e-features of each repeat of a protocol with eFEL.

    Returns
    -------
    dict of str to list of (k,) arrays
        For each name the values of each sweep; an empty array where eFEL finds none.
    """
    import efel

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
    found = efel.get_feature_values(traces, list(names), raise_warnings=False)
    efel.reset()
    return {name: [_finite(one[name]) for one in found] for name in names}


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
    if flat.size == 1 or std == 0:
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


def passive_targets(
    recording: Recording, features: Sequence[str], *, tail_ms: float | None = None
) -> TargetSet:
    """Targets of a stage without spikes: the features at every protocol of which no repeat spikes.

    Parameters
    ----------
    recording : Recording
    features : sequence of str
        eFEL names.
    tail_ms : float, optional
        Cut protocols this long after the step.

    Raises
    ------
    InputError
        For an unknown feature, and when every sweep spikes.
    """
    _check_names(features)
    groups = group_sweeps(recording, tail_ms=tail_ms)
    silent, _ = _split(groups)
    if not silent:
        raise InputError(
            f"{recording.path}: the passive stages need steps without a spike, but each of the "
            f"{len(groups)} protocols found has one. Add a sub-threshold stimulus to `stimuli`."
        )
    extraction = _Extraction(recording)
    for protocol, sweeps in silent:
        extraction.add(protocol, sweeps, features)
    return extraction.target_set()


def training_targets(
    recording: Recording,
    features: Sequence[str],
    ais: bool | None = None,
    *,
    tail_ms: float | None = None,
) -> TargetSet:
    """Targets of the active stage.

    All features are scored at the two strongest spiking amplitudes; `Spikecount` instead at rheobase (the
    weakest spiking step that is stronger than every silent one) and at the strongest silent step;
    `depol_block` also at a step 0.01 nA above the strongest, which was not recorded.

    Parameters
    ----------
    recording : Recording
    features : sequence of str
        eFEL names, `Spikecount` and `check_AISInitiation` among them where wanted.
    ais : bool, optional
        Whether to score that spikes begin in the axon; by default when `features` names it.
    tail_ms : float, optional
        Cut protocols this long after the step.

    Raises
    ------
    InputError
        For an unknown feature, and when no usable sweep spikes.
    """
    _check_names(features)
    ais = AIS_FEATURE in features if ais is None else ais
    silent, spiking = _split(group_sweeps(recording, tail_ms=tail_ms))
    training = _spiking_above_silent(recording, silent, spiking)
    strongest = _two_strongest(training)
    extraction = _Extraction(recording)
    if len(strongest) == 1:
        extraction.warn(
            f"two spiking amplitudes are wanted to train on, found only that of {strongest[0][0].name}"
        )

    if SPIKE_COUNT in features:
        above_rest = [group for group in silent if group[0].amplitude_nA > 0]
        if above_rest:
            extraction.add(*above_rest[-1], [SPIKE_COUNT])
        else:
            extraction.warn("no silent depolarising step: the strongest silent step is not scored")
        if training[0] not in strongest:
            extraction.add(*training[0], [SPIKE_COUNT])
    scored = [name for name in features if name not in (SPIKE_COUNT, AIS_FEATURE)]
    for protocol, sweeps in strongest:
        extraction.add(protocol, sweeps, scored)
        if ais:
            extraction.set_target(protocol, AIS_FEATURE)
    if BLOCK_FEATURE in features:
        top = strongest[-1][0]
        if extraction.has(top.name, BLOCK_FEATURE):
            amplitude_nA = top.amplitude_nA + BLOCK_CHECK_ABOVE_NA
            check = replace(top, name=BLOCK_CHECK, amplitude_nA=amplitude_nA, sweeps=())
            extraction.set_target(check, BLOCK_FEATURE)
        else:
            extraction.warn(f"{BLOCK_CHECK} is left out: the recorded cell is itself blocked at {top.name}")
    return extraction.target_set()


def _split(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Protocols of which no repeat spikes at all, and those with a spike during a step; both weakest first.

    Protocols that spike only before or after the step (spontaneously, or on rebound) are neither.
    """
    silent: list[Group] = []
    spiking: list[Group] = []
    for protocol, sweeps in groups:
        counts = recorded_features(protocol, sweeps, [SPIKES, SPIKES_IN_STEP])
        if not any(count.sum() for count in counts[SPIKES]):
            silent.append((protocol, sweeps))
        elif any(count.sum() for count in counts[SPIKES_IN_STEP]):
            spiking.append((protocol, sweeps))
    return silent, spiking


def _spiking_above_silent(
    recording: Recording, silent: Sequence[Group], spiking: Sequence[Group]
) -> list[Group]:
    """Spiking depolarising protocols stronger than every silent one (a rebound spike is no threshold)."""
    spiking = [group for group in spiking if group[0].amplitude_nA > 0]
    if not spiking:
        strongest_nA = max(sweep.amplitude_nA for sweep in recording.sweeps)
        raise InputError(
            f"{recording.path}: the active stage needs depolarising steps with spikes, but none of the "
            f"{len(recording.sweeps)} sweeps (up to {strongest_nA * 1000:.4g} pA) is one. "
            "Add a stronger stimulus to `stimuli`."
        )
    loudest_silent_nA = max((protocol.amplitude_nA for protocol, _ in silent), default=-np.inf)
    kept = [group for group in spiking if group[0].amplitude_nA > loudest_silent_nA]
    if not kept:
        raise InputError(
            f"{recording.path}: every spiking protocol is weaker than {silent[-1][0].name} "
            f"({loudest_silent_nA * 1000:.4g} pA), which is silent in all its repeats, so that no threshold "
            "can be told. Leave that sweep out if the recording failed there."
        )
    return kept


def _two_strongest(groups: Sequence[Group]) -> list[Group]:
    """The strongest protocol and the next of a lower amplitude, weaker first."""
    top = groups[-1]
    tolerance_nA = amplitude_tolerance_nA(top[0].amplitude_nA)
    lower = [group for group in groups if group[0].amplitude_nA < top[0].amplitude_nA - tolerance_nA]
    return [*lower[-1:], top]


class _Extraction:
    """Targets as they are gathered, with what had to be left out."""

    def __init__(self, recording: Recording) -> None:
        self._path = recording.path
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


def _check_names(features: Sequence[str]) -> None:
    import efel

    known = [*efel.get_feature_names(), AIS_FEATURE]
    unknown = [f"{name}{nearest(name, known)}" for name in features if name not in known]
    if unknown:
        raise InputError(
            f"features: eFEL has no {', '.join(unknown)}. Use names of eFEL's features, or {AIS_FEATURE}."
        )
