"""The sweeps that a perisomatic model is fitted to, and its targets there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurosim.errors import InputError
from neurosim.extraction import LOWEST_RATE_HZ, TargetExtraction
from neurosim.faults import nearest
from neurosim.perisomatic.features import FEATURES, sweep_features, sweep_spikes
from neurosim.perisomatic.spikes import Spikes
from neurosim.protocols import StepProtocol, group_sweeps
from neurosim.recordings import Recording, Sweep
from neurosim.targets import BLOCK_CHECK, TargetSet

ABOVE_RHEOBASE_NA = 0.039
LEAST_RATE_HZ, LEAST_SPIKES = 5.0, 3
REGULAR_CV, MORE_REGULAR_BY = 0.3, 0.2
PAUSE, TRANSIENT = 3.0, 2.0
BLOCK_CHECK_ABOVE_NA = 0.01
ROUNDING_NA = 0.0005
WIDE_MS = 0.8


@dataclass(frozen=True)
class ChosenStep:
    """A step and its sweeps that are fit to be fitted to.

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


def perisomatic_targets(
    recording: Recording, features: Sequence[str], *, block_check: bool = False
) -> TargetSet:
    """Targets at the one step that a perisomatic model is fitted to.

    Parameters
    ----------
    recording : Recording
    features : sequence of str
        Of `neurosim.perisomatic.features.FEATURES`.
    block_check : bool
        Simulate the strongest recorded amplitude as well, at which the model must not be blocked.

    Raises
    ------
    InputError
        For an unknown e-feature, and when no step is fit to be fitted to.
    """
    check_names(features)
    chosen = choose_step(recording)
    step = chosen.protocol
    tail_ms = step.start_ms  # so long that a model comes back to rest, which is checked
    protocol = replace(step, duration_ms=max(step.duration_ms, step.stop_ms + tail_ms))
    extraction = TargetExtraction(recording.path)
    extraction.add(protocol, chosen.sweeps, features)
    found = extraction.target_set()
    if not block_check:
        return found
    strongest_nA = max(sweep.amplitude_nA for sweep in recording.sweeps)
    if strongest_nA <= step.amplitude_nA + ROUNDING_NA:
        strongest_nA = step.amplitude_nA + BLOCK_CHECK_ABOVE_NA
    check = replace(protocol, name=BLOCK_CHECK, amplitude_nA=strongest_nA, sweeps=())
    return replace(found, protocols=found.protocols | {BLOCK_CHECK: check})


def check_names(features: Sequence[str]) -> None:
    """Raise `InputError` for e-features that are not of this recipe."""
    unknown = [f"{name}{nearest(name, FEATURES)}" for name in features if name not in FEATURES]
    if unknown:
        raise InputError(
            f"features: a stage with `targets: perisomatic` has no {', '.join(unknown)}. Its e-features are "
            f"{', '.join(FEATURES)}."
        )


def choose_step(recording: Recording) -> ChosenStep:
    """Return the step to fit to: the weakest at least 39 pA above rheobase at which the cell fires well.

    When its intervals vary (CV of 0.3 or more), a stronger step is taken whose CV is lower by a fifth.

    Raises
    ------
    InputError
        When no sweep spikes, or none fires well.
    """
    read = [
        (protocol, [sweep_spikes(protocol, sweep) for sweep in sweeps], sweeps)
        for protocol, sweeps in group_sweeps(recording)
        if protocol.amplitude_nA > 0
    ]
    spiking = [protocol.amplitude_nA for protocol, found, _ in read if any(len(s) for s in found)]
    if not spiking:
        raise InputError(
            f"{recording.path}: a perisomatic fit needs a depolarising step with spikes, but none of the "
            f"{len(recording.sweeps)} sweeps is one. Add a stronger stimulus to `stimuli`."
        )
    rheobase_nA = min(spiking)
    chosen, cv, faults = None, np.inf, []
    for protocol, found, sweeps in read:
        if protocol.amplitude_nA < rheobase_nA + ABOVE_RHEOBASE_NA - ROUNDING_NA:
            continue
        told = [sweep_fault(spikes, protocol.start_ms, protocol.stop_ms) for spikes in found]
        kept = [i for i, fault in enumerate(told) if not fault]
        faults += [f"sweep {s.number} {fault}" for s, fault in zip(sweeps, told, strict=True) if fault]
        features = [sweep_features(protocol, sweeps[i]) for i in kept]
        values = [one["isi_cv"] for one in features]
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
    """Return why a sweep is not fit to be fitted to, empty when it is."""
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
    """Return what the spike width says of which channels to fit, empty when it asks for nothing more.

    Spiny cells are fitted with the channels of f6, and with those of f12 as well when their spikes are
    narrow (below 0.8 ms); aspiny cells with f12, and with f6 as well when they are wide (above 0.8 ms).
    """
    chosen = choose_step(recording)
    rate_Hz = min(sweep.sampling_rate_Hz for sweep in chosen.sweeps)
    if rate_Hz < LOWEST_RATE_HZ["width"]:
        return f"spike width cannot be read at {rate_Hz / 1000:g} kHz: the dendrite alone chose {recipe}"
    width_ms = float(np.nanmean([found["width"] for found in chosen.features]))
    both = width_ms < WIDE_MS if dendrite == "spiny" else width_ms > WIDE_MS
    if not both:
        return ""
    other = "perisomatic-f12" if dendrite == "spiny" else "perisomatic-f6"
    return (
        f"spikes of {width_ms:.2g} ms are {'narrow' if dendrite == 'spiny' else 'wide'} for a cell that is "
        f"{dendrite}: the 2018 recipe fits it with both sets of channels. This fit is {recipe}; run another "
        f"one with `recipe: {other}` and keep the better"
    )
