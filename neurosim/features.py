"""The targets that each stage of a fit is scored on: which e-features at which protocols."""

from collections.abc import Sequence
from dataclasses import replace

from neurosim.ais_initiation import AISInitiation
from neurosim.errors import InputError
from neurosim.extraction import (
    SPIKES,
    SPIKES_IN_STEP,
    FiringRate,
    TargetExtraction,
    feature_statistics,
    firing_rates,
    recorded_features,
)
from neurosim.faults import nearest
from neurosim.perisomatic.features import MINIMUM_STD
from neurosim.protocols import StepProtocol, amplitude_tolerance_nA, group_sweeps
from neurosim.published_targets import read_targets
from neurosim.recordings import Recording, Sweep
from neurosim.targets import AIS_FEATURE, BLOCK_CHECK, FeatureTarget, TargetSet

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
BLOCK_FEATURE = "depol_block"
BLOCK_CHECK_ABOVE_NA = 0.01  # the block check is this much stronger than the strongest spiking step

Group = tuple[StepProtocol, list[Sweep]]


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
    extraction = TargetExtraction(recording.path)
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
    extraction = TargetExtraction(recording.path)
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
    loudest_silent_nA = max((protocol.amplitude_nA for protocol, _ in silent), default=-float("inf"))
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


def _check_names(features: Sequence[str]) -> None:
    import efel

    known = [*efel.get_feature_names(), AIS_FEATURE, *MINIMUM_STD]
    unknown = [f"{name}{nearest(name, known)}" for name in features if name not in known]
    if unknown:
        raise InputError(
            f"features: eFEL has no {', '.join(unknown)}. Use names of eFEL's features, "
            f"{AIS_FEATURE}, or those of perisomatic models."
        )
