"""Extract from recorded sweeps the e-features that each stage of a fit is scored on, all-active or perisomatic."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofleet.errors import InputError, did_you_mean
from neurofleet.neurosim.features.perisomatic_features import (
    FEATURES,
    MINIMUM_STD,
    Spikes,
    sweep_features,
    sweep_spikes,
    target_statistics,
)
from neurofleet.neurosim.features.step_protocols import (
    AIS_FEATURE,
    BLOCK_CHECK,
    FeatureTarget,
    StepProtocol,
    TargetSet,
    group_sweeps,
)
from neurofleet.neurosim.recordings.current_step import amplitude_tolerance_nA
from neurofleet.neurosim.recordings.recorded_spikes import SPIKE_THRESHOLD_MV
from neurofleet.neurosim.recordings.recording import Recording
from neurofleet.neurosim.recordings.recording_checks import step_spikes
from neurofleet.neurosim.recordings.sweep import Sweep

SPIKES, SPIKES_IN_STEP = "spike_count", "spike_count_stimint"
SET_STD = 0.05  # of a target that is set to 1 (block, AIS), and of a mean of 0
RELATIVE_STD = 0.05

# Durations and slopes within a spike of about 1 ms need ten samples per millisecond.
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

    sweeps, efel_names = list(sweeps), [name for name in names if name not in MINIMUM_STD]
    perisomatic = {}
    if len(efel_names) < len(names):
        read = [sweep_features(protocol, sweep, spike_threshold_mV) for sweep in sweeps]
        perisomatic = {name: [_finite(np.array([features[name]])) for features in read] for name in MINIMUM_STD}
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
    efel.set_setting("strict_stiminterval", protocol.inside_only)
    efel_values = efel.get_feature_values(traces, efel_names, raise_warnings=False) if efel_names else []
    efel.reset()
    return {
        name: perisomatic[name] if name in perisomatic else [_finite(features[name]) for features in efel_values]
        for name in names
    }


def _finite(values: np.ndarray | None) -> np.ndarray:
    """Finite values; eFEL gives None for a missing feature, and NaN where a fit within it failed."""
    numbers = np.asarray([] if values is None else values, dtype=float)
    return numbers[np.isfinite(numbers)]


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
        counts = recorded_features(protocol, sweeps, [SPIKES_IN_STEP], recording.spike_threshold_mV)[SPIKES_IN_STEP]
        seconds = (protocol.stop_ms - protocol.start_ms) / 1000.0
        for sweep, count in zip(sweeps, counts, strict=True):
            spikes = int(count.sum())
            rate = FiringRate(sweep.number, protocol.name, sweep.amplitude_nA, spikes, spikes / seconds)
            rates.append(rate)
    return rates


class TargetExtraction:
    """Collects targets of a recording, and what had to be left out."""

    def __init__(self, recording: Recording) -> None:
        self._path = recording.path
        self._spike_threshold_mV = recording.spike_threshold_mV
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
        values = recorded_features(protocol, sweeps, supported, self._spike_threshold_mV)
        for name in supported:
            if sum(sweep_values.size for sweep_values in values[name]) == 0:
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
            spike_threshold_mV=self._spike_threshold_mV,
            warnings=tuple(self._warnings),
            sampling_rate_Hz=min(self._rates),
        )


SPIKE_COUNT = "Spikecount"
BLOCK_FEATURE = "depol_block"
BLOCK_CHECK_ABOVE_NA = 0.01  # the block check is this much stronger than the strongest spiking step

Group = tuple[StepProtocol, list[Sweep]]


def passive_targets(recording: Recording, features: Sequence[str], *, tail_ms: float | None = None) -> TargetSet:
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
    silent, _ = _split(groups, recording.spike_threshold_mV)
    if not silent:
        outside = sum(protocol.inside_only for protocol, _ in groups)
        active = f" ({outside} of them also outside of the step: spontaneous or rebound spikes)" if outside else ""
        raise InputError(
            f"{recording.path}: the passive stages need steps without a spike, but each of the "
            f"{len(groups)} protocols found has one{active}. Add a sub-threshold stimulus to `stimuli`."
        )
    extraction = TargetExtraction(recording)
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
    silent, spiking = _split(group_sweeps(recording, tail_ms=tail_ms), recording.spike_threshold_mV)
    training = _spiking_above_silent(recording, silent, spiking)
    strongest = _two_strongest(training)
    extraction = TargetExtraction(recording)
    if len(strongest) == 1:
        extraction.warn(f"expected two spiking amplitudes to train on, found only that of {strongest[0][0].name}")

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


def _split(groups: Sequence[Group], threshold_mV: float) -> tuple[list[Group], list[Group]]:
    """Protocols of which no repeat spikes at all, and those with a spike during a step; both weakest first.

    Protocols that spike only before or after the step (spontaneously, or on rebound) are neither.
    """
    silent: list[Group] = []
    spiking: list[Group] = []
    for protocol, sweeps in groups:
        everywhere = replace(protocol, inside_only=False)
        counts = recorded_features(everywhere, sweeps, [SPIKES, SPIKES_IN_STEP], threshold_mV)
        if not any(count.sum() for count in counts[SPIKES]):
            silent.append((protocol, sweeps))
        elif any(count.sum() for count in counts[SPIKES_IN_STEP]):
            spiking.append((protocol, sweeps))
    return silent, spiking


def _spiking_above_silent(recording: Recording, silent: Sequence[Group], spiking: Sequence[Group]) -> list[Group]:
    """Spiking depolarising protocols stronger than every silent one (a rebound spike is no threshold)."""
    spiking = [group for group in spiking if group[0].amplitude_nA > 0]
    if not spiking:
        strongest_nA = max(sweep.amplitude_nA for sweep in recording.sweeps)
        raise InputError(
            f"{recording.path}: the active stage needs depolarising steps with spikes, but none of the "
            f"{len(recording.sweeps)} sweeps (up to {strongest_nA * 1000:.4g} pA) is one. "
            "Add a stronger stimulus to `stimuli`."
        )
    loudest_silent_nA = max((protocol.amplitude_nA for protocol, _ in silent), default=-float("inf"))
    kept = [group for group in spiking if group[0].amplitude_nA > loudest_silent_nA]
    if not kept:
        raise InputError(
            f"{recording.path}: every spiking protocol is weaker than {silent[-1][0].name} "
            f"({loudest_silent_nA * 1000:.4g} pA), which is silent in all its repeats, so that its "
            "threshold is unknown. Leave that sweep out if the recording failed there."
        )
    return kept


def _two_strongest(groups: Sequence[Group]) -> list[Group]:
    """The strongest protocol and the next of a lower amplitude, weaker first."""
    top = groups[-1]
    tolerance_nA = amplitude_tolerance_nA(top[0].amplitude_nA)
    lower = [group for group in groups if group[0].amplitude_nA < top[0].amplitude_nA - tolerance_nA]
    return [*lower[-1:], top]


def _check_names(features: Sequence[str]) -> None:
    import efel

    known = [*efel.get_feature_names(), AIS_FEATURE, *MINIMUM_STD]
    unknown = [f"{name}{did_you_mean(name, known)}" for name in features if name not in known]
    if unknown:
        raise InputError(
            f"features: eFEL has no {', '.join(unknown)}. Use names of eFEL's features, "
            f"{AIS_FEATURE}, or those of perisomatic models."
        )


ABOVE_RHEOBASE_NA = 0.039
LEAST_RATE_HZ, LEAST_SPIKES = 5.0, 3
REGULAR_CV, MORE_REGULAR_BY = 0.3, 0.2
PAUSE, TRANSIENT = 3.0, 2.0
PERISOMATIC_BLOCK_CHECK_ABOVE_NA = 0.01
ROUNDING_NA = 0.0005
WIDE_MS = 0.8


@dataclass(frozen=True)
class ChosenStep:
    """A step and those of its sweeps that a model can be fitted to.

    Attributes
    ----------
    protocol : StepProtocol
    sweeps : list of Sweep
    features : list of dict
        All e-features of each sweep.
    """

    protocol: StepProtocol
    sweeps: list[Sweep]
    features: list[dict[str, float]]


def perisomatic_targets(recording: Recording, features: Sequence[str], *, block_check: bool = False) -> TargetSet:
    """Return the targets at the one step that a perisomatic model is fitted to.

    Parameters
    ----------
    recording : Recording
    features : sequence of str
        Of `neurofleet.neurosim.features.perisomatic_features.FEATURES`.
    block_check : bool
        Simulate the strongest recorded amplitude as well, at which the model must not be blocked.

    Raises
    ------
    InputError
        For an unknown e-feature, and when there is no step that a model can be fitted to.
    """
    check_perisomatic_names(features)
    chosen = choose_step(recording)
    step = chosen.protocol
    tail_ms = step.start_ms  # long enough for a model to return to rest, which is checked
    protocol = replace(step, duration_ms=max(step.duration_ms, step.stop_ms + tail_ms))
    extraction = TargetExtraction(recording)
    extraction.add(protocol, chosen.sweeps, features)
    targets = extraction.target_set()
    if not block_check:
        return targets
    strongest_nA = max(sweep.amplitude_nA for sweep in recording.sweeps)
    if strongest_nA <= step.amplitude_nA + ROUNDING_NA:
        strongest_nA = step.amplitude_nA + PERISOMATIC_BLOCK_CHECK_ABOVE_NA
    check = replace(protocol, name=BLOCK_CHECK, amplitude_nA=strongest_nA, sweeps=())
    return replace(targets, protocols=targets.protocols | {BLOCK_CHECK: check})


def check_perisomatic_names(features: Sequence[str]) -> None:
    """Raise `InputError` for e-features that are not of this recipe."""
    unknown = [f"{name}{did_you_mean(name, FEATURES)}" for name in features if name not in FEATURES]
    if unknown:
        raise InputError(
            f"features: a stage with `targets: perisomatic` has no {', '.join(unknown)}. Its e-features are "
            f"{', '.join(FEATURES)}."
        )


def choose_step(recording: Recording) -> ChosenStep:
    """Return the step to fit to: the weakest one, 39 pA or more above rheobase, at which the cell fires steadily.

    When its intervals vary (CV of 0.3 or more), a stronger step is taken whose CV is lower by a fifth.

    Raises
    ------
    InputError
        When no sweep spikes, or none fires steadily.
    """
    read = [
        (protocol, [sweep_spikes(protocol, sweep, recording.spike_threshold_mV) for sweep in sweeps], sweeps)
        for protocol, sweeps in group_sweeps(recording)
        if protocol.amplitude_nA > 0
    ]
    spiking = [protocol.amplitude_nA for protocol, spikes_of_sweeps, _ in read if any(len(s) for s in spikes_of_sweeps)]
    if not spiking:
        raise InputError(
            f"{recording.path}: a perisomatic fit needs a depolarising step with spikes, but none of the "
            f"{len(recording.sweeps)} sweeps is one. Add a stronger stimulus to `stimuli`."
        )
    rheobase_nA = min(spiking)
    chosen, cv, faults = None, np.inf, []
    for protocol, spikes_of_sweeps, sweeps in read:
        if protocol.amplitude_nA < rheobase_nA + ABOVE_RHEOBASE_NA - ROUNDING_NA:
            continue
        sweep_faults = [
            "spikes before the step"
            if step_spikes(sweep, recording.spike_threshold_mV).before.size
            else sweep_fault(spikes, protocol.start_ms, protocol.stop_ms)
            for sweep, spikes in zip(sweeps, spikes_of_sweeps, strict=True)
        ]
        kept = [i for i, fault in enumerate(sweep_faults) if not fault]
        faults += [f"sweep {s.number} {fault}" for s, fault in zip(sweeps, sweep_faults, strict=True) if fault]
        features = [sweep_features(protocol, sweeps[i], recording.spike_threshold_mV) for i in kept]
        values = [features_of_sweep["isi_cv"] for features_of_sweep in features]
        if kept and cv >= REGULAR_CV and max(values) < (1 - MORE_REGULAR_BY) * cv:
            chosen = ChosenStep(
                replace(protocol, sweeps=tuple(sweeps[i].number for i in kept)),
                [sweeps[i] for i in kept],
                features,
            )
            cv = float(np.mean(values))
    if chosen is None:
        listed = "; ".join(faults[:5]) or "there is none that strong"
        raise InputError(
            f"{recording.path}: a perisomatic fit needs a sweep at {1000 * ABOVE_RHEOBASE_NA:g} pA or more "
            f"above rheobase ({1000 * rheobase_nA:.4g} pA) with steady firing, found none: {listed}. Add a "
            "stronger or longer stimulus to `stimuli`."
        )
    return chosen


def sweep_fault(spikes: Spikes, start_ms: float, stop_ms: float) -> str:
    """Return why a model cannot be fitted to a sweep, empty when it can."""
    times = spikes.threshold_ms
    rate_Hz = 1000.0 * len(spikes) / (stop_ms - start_ms)
    if rate_Hz < LEAST_RATE_HZ:
        return f"fires at {rate_Hz:.3g} Hz, below {LEAST_RATE_HZ:g} Hz"
    if len(spikes) < LEAST_SPIKES:
        return f"has {len(spikes)} spikes, fewer than {LEAST_SPIKES}"
    intervals = np.diff(times)
    if stop_ms - times[-1] > TRANSIENT * float(intervals[-2:].mean()):
        return "stops firing before the end of the step"
    inner = intervals[1:-1]
    if ((inner > PAUSE * intervals[:-2]) & (inner > PAUSE * intervals[2:])).any():
        return "has a pause"
    return ""


def fit_note(recording: Recording, dendrite: str, recipe: str) -> str:
    """Return advice on which channels to fit, from the spike width; empty when there is none to give.

    Spiny cells are fitted with the channels of f6, and with those of f12 as well when their spikes are
    narrow (below 0.8 ms); aspiny cells with f12, and with f6 as well when they are wide (above 0.8 ms).
    """
    chosen = choose_step(recording)
    rate_Hz = min(sweep.sampling_rate_Hz for sweep in chosen.sweeps)
    if rate_Hz < LOWEST_RATE_HZ["width"]:
        return f"spike width cannot be read at {rate_Hz / 1000:g} kHz: the dendrite alone chose {recipe}"
    width_ms = float(np.nanmean([features["width"] for features in chosen.features]))
    both = width_ms < WIDE_MS if dendrite == "spiny" else width_ms > WIDE_MS
    if not both:
        return ""
    other = "perisomatic-f12" if dendrite == "spiny" else "perisomatic-f6"
    return (
        f"spikes of {width_ms:.2g} ms are {'narrow' if dendrite == 'spiny' else 'wide'} for a cell that is "
        f"{dendrite}: the 2018 recipe fits it with both sets of channels. This fit is {recipe}; run another "
        f"one with `recipe: {other}` and keep the better"
    )
