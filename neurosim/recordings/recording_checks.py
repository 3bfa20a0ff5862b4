"""What looks odd about the sweeps of a recording: units, rest, resistance, spikes, repeats that disagree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurofleet.neurosim.recordings.current_step import amplitude_tolerance_nA
from neurofleet.neurosim.recordings.recorded_spikes import (
    NEAR_MV,
    SPIKE_THRESHOLD_MV,
    SpikeShapes,
    SpikeThreshold,
    crossings_ms,
    find_spike_shapes,
)
from neurofleet.neurosim.recordings.recording_table import listed_sweeps
from neurofleet.neurosim.recordings.sweep import Sweep

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000.0, 1_000_000.0
USUAL_RATES_HZ = (2_000.0, 500_000.0)
REST_MV = (-110.0, -30.0)
DRIFT_MV = 10.0
POSSIBLE_RESISTANCE_MOHM, USUAL_RESISTANCE_MOHM = (0.2, 50_000.0), (5.0, 5_000.0)
SPIKE_WIDTH_MS = (0.1, 8.0)
EDGE_MS = 1.0  # spikes so close to an edge of the step are its artefacts
JUMP_MS, JUMP_SHARE, JUMP_MOHM = 0.3, 0.4, 10.0
ACCESS_MOHM = 30.0
MANY_LEFT_OUT = 0.25
LEAST_SWEEPS = 3
SMALL_DEFLECTION_MV = 1.0
SAME_HOLDING_PA = 20.0
INTERCEPT_MV = 3.0
MOST_CROSSINGS = 1.5  # of the threshold for each spike
LONGEST_STEP_MS = 60_000.0


@dataclass(frozen=True)
class SweepSpikes:
    """When a sweep spikes; all arrays have shape (n,), times in ms.

    Attributes
    ----------
    before, during, after : ndarray
        Of the step.
    """

    before: np.ndarray
    during: np.ndarray
    after: np.ndarray

    @property
    def outside(self) -> int:
        return self.before.size + self.after.size


def rate_fault(rate_Hz: float) -> str:
    """Return why a sampling rate cannot be one of a patch-clamp recording; empty for one that can."""
    if LOWEST_RATE_HZ <= rate_Hz <= HIGHEST_RATE_HZ:
        return ""
    text = (
        f"a sampling rate of {rate_Hz:.4g} Hz, expected {LOWEST_RATE_HZ / 1000:g} kHz to {HIGHEST_RATE_HZ / 1e6:g} MHz"
    )
    for factor, unit in ((1e3, "milliseconds (or the rate in kHz)"), (1e6, "microseconds"), (1e-3, "kiloseconds")):
        if USUAL_RATES_HZ[0] <= rate_Hz * factor <= USUAL_RATES_HZ[1]:
            return f"{text}: it would be {rate_Hz * factor / 1000:g} kHz if the times were stored in {unit}"
    return f"{text}: the time stamps or the rate are in another unit than seconds and Hz"


def inner_shapes(sweep: Sweep) -> SpikeShapes:
    """Return the spikes of a sweep by their shape, without artefacts at the edges of the step."""
    found = find_spike_shapes(sweep.voltage_mV, sweep.sampling_rate_Hz)
    times = found.peak * (1000.0 / sweep.sampling_rate_Hz)
    kept = (np.abs(times - sweep.start_ms) > EDGE_MS) & (np.abs(times - sweep.stop_ms) > EDGE_MS)
    return SpikeShapes(found.peak[kept], found.peak_mV[kept], found.onset_mV[kept], found.width_ms[kept])


def step_spikes(sweep: Sweep, threshold_mV: float) -> SweepSpikes:
    """Return when a sweep rises above the spike threshold before, during and after its step."""
    times = crossings_ms(sweep.time_ms, sweep.voltage_mV, threshold_mV)
    before, after = times < sweep.start_ms, times > sweep.stop_ms
    return SweepSpikes(times[before], times[~before & ~after], times[after])


def impossible(sweeps: Sequence[Sweep], shapes: Mapping[int, SpikeShapes]) -> str:
    """Return why the sweeps together cannot be recordings of a cell; empty where they can."""
    silent = [sweep for sweep in sweeps if not len(shapes[sweep.number])]
    moved = [sweep for sweep in silent if abs(sweep.deflection_mV) > SMALL_DEFLECTION_MV]
    against = [sweep for sweep in moved if sweep.deflection_mV * sweep.amplitude_nA < 0]
    if len(moved) >= LEAST_SWEEPS and len(against) > 0.5 * len(moved):
        return (
            f"the voltage moves against the current in {len(against)} of {len(moved)} silent sweeps "
            f"({listed_sweeps([sweep.number for sweep in against])}): the current has the wrong sign, or responses and "
            "stimuli are not paired rightly"
        )
    resistance = _resistance_MOhm(silent)
    low, high = POSSIBLE_RESISTANCE_MOHM
    if resistance is not None and not low <= resistance <= high:
        return (
            f"an input resistance of {resistance:.3g} MΩ (the median of {len(silent)} silent sweeps) is that of no "
            "cell: the unit or `conversion` of the current or of the voltage is wrong, probably by a thousand"
        )
    return ""


def _resistance_MOhm(silent: Sequence[Sweep]) -> float | None:
    if len(silent) < LEAST_SWEEPS:
        return None
    return float(np.median([sweep.deflection_mV / sweep.amplitude_nA for sweep in silent]))


def odd_about(
    sweeps: Sequence[Sweep],
    shapes: Mapping[int, SpikeShapes],
    found: SpikeThreshold,
    threshold_mV: float,
) -> Iterator[str]:
    """Yield what looks odd, a sentence each.

    Parameters
    ----------
    sweeps : sequence of Sweep
    shapes : mapping
        Sweep number -> its spikes by their shape.
    found : SpikeThreshold
        What was found about the heights of spikes.
    threshold_mV : float
        By which spikes are counted.
    """
    silent = [sweep for sweep in sweeps if not len(shapes[sweep.number])]
    yield from _spikes(sweeps, shapes, found, threshold_mV)
    yield from _rest(sweeps)
    yield from _resistances(sweeps, silent)
    yield from _pairing(silent)
    yield from _repeats(sweeps, threshold_mV)
    long = [sweep.number for sweep in sweeps if sweep.stop_ms - sweep.start_ms > LONGEST_STEP_MS]
    if long:
        yield f"the step lasts longer than {LONGEST_STEP_MS / 1000:g} s in {listed_sweeps(long)}: is the rate right?"


def _spikes(
    sweeps: Sequence[Sweep], shapes: Mapping[int, SpikeShapes], found: SpikeThreshold, threshold_mV: float
) -> Iterator[str]:
    if threshold_mV < SPIKE_THRESHOLD_MV and (found.small or found.lowered):
        peaks = (
            f"{found.near} of {found.spikes} spikes peak close to {SPIKE_THRESHOLD_MV:g} mV or below it (below "
            f"{NEAR_MV:g} mV"
            if found.lowered and not found.many_small
            else f"{found.small} of {found.spikes} spikes stay below {SPIKE_THRESHOLD_MV:g} mV (the highest reaches "
            f"{found.highest_small_mV:.3g} mV"
        )
        yield (
            f"{peaks} after the junction potential): spikes are counted from {threshold_mV:g} mV on, in the recording "
            "and in the models. `spike_threshold_mV:` of the cell sets another threshold"
        )
    elif found.small:
        yield (
            f"{found.small} of {found.spikes} spikes stay below the threshold of {threshold_mV:g} mV and are not "
            f"counted (the highest reaches {found.highest_small_mV:.3g} mV); `spike_threshold_mV:` of the cell sets "
            "another one"
        )
    counted = {sweep.number: step_spikes(sweep, threshold_mV) for sweep in sweeps}
    crossings = sum(spikes.during.size + spikes.outside for spikes in counted.values())
    if crossings > MOST_CROSSINGS * found.spikes + LEAST_SWEEPS:
        yield (
            f"the voltage rises above the spike threshold of {threshold_mV:g} mV {crossings} times, but only "
            f"{found.spikes} times with the shape of a spike: e-features of spikes will be wrong. Set "
            "`spike_threshold_mV:` of the cell, or leave sweeps out"
        )
        return
    before = [number for number, spikes in counted.items() if spikes.before.size]
    if before:
        yield (
            f"the cell spikes before the step in {listed_sweeps(before)}: e-features are read from the spikes inside "
            "the step only, and these sweeps are no targets of stages without spikes. Leave them out with "
            "`exclude_sweeps:` if the cell should not spike spontaneously"
        )
    after = [number for number, spikes in counted.items() if spikes.after.size and not spikes.before.size]
    if after:
        yield f"the cell spikes after the step in {listed_sweeps(after)}"
    widths = np.concatenate([np.empty(0), *(shape.width_ms for shape in shapes.values())])
    low, high = SPIKE_WIDTH_MS
    if widths.size >= LEAST_SWEEPS and not low <= np.median(widths) <= high:
        yield (
            f"spikes are {np.median(widths):.3g} ms wide at half their height, expected {low:g} to {high:g} ms: is the "
            "sampling rate right?"
        )


def _rest(sweeps: Sequence[Sweep]) -> Iterator[str]:
    rests = np.array([sweep.rest_mV for sweep in sweeps])
    middle = float(np.median(rests))
    if not REST_MV[0] <= middle <= REST_MV[1]:
        yield (
            f"the cell rests at {middle:.3g} mV (with the junction potential subtracted), expected {REST_MV[0]:g} to "
            f"{REST_MV[1]:g} mV: are the unit and `junction_potential_mV:` right, and was the cell healthy?"
        )
    if np.ptp(rests) > DRIFT_MV:
        low, high = int(rests.argmin()), int(rests.argmax())
        yield (
            f"the voltage before the step lies between {rests[low]:.3g} mV (sweep {sweeps[low].number}) and "
            f"{rests[high]:.3g} mV (sweep {sweeps[high].number}): did the cell drift, or are these several cells?"
        )


def _resistances(sweeps: Sequence[Sweep], silent: Sequence[Sweep]) -> Iterator[str]:
    resistance = _resistance_MOhm(silent)
    low, high = USUAL_RESISTANCE_MOHM
    if resistance is not None and not low <= resistance <= high:
        yield f"the input resistance is {resistance:.3g} MΩ, expected {low:g} to {high:g} MΩ: are the units right?"
    jumps = []
    for sweep in silent:
        at = round(sweep.start_ms * sweep.sampling_rate_Hz / 1000.0)
        later = min(at + max(1, round(JUMP_MS * sweep.sampling_rate_Hz / 1000.0)), sweep.voltage_mV.size - 1)
        jumps.append((sweep.voltage_mV[later] - sweep.voltage_mV[max(at - 1, 0)]) / sweep.amplitude_nA)
    if resistance and len(jumps) >= LEAST_SWEEPS:
        jump = float(np.median(jumps))
        if jump > JUMP_MOHM and jump > JUMP_SHARE * resistance:
            yield (
                f"the voltage jumps with the current by {jump:.3g} MΩ of the input resistance of {resistance:.3g} MΩ: "
                "the series resistance was not balanced, and voltages during steps are off by that much"
            )
    high_access = [
        sweep for sweep in sweeps if sweep.access_resistance_MOhm and sweep.access_resistance_MOhm > ACCESS_MOHM
    ]
    if high_access:
        worst = max(sweep.access_resistance_MOhm or 0.0 for sweep in high_access)
        yield (
            f"the access resistance is up to {worst:.3g} MΩ (above {ACCESS_MOHM:g} MΩ) in "
            f"{listed_sweeps([sweep.number for sweep in high_access])}"
        )
    unbalanced = [sweep.number for sweep in sweeps if sweep.bridge_balance_MOhm == 0.0 and sweep.access_resistance_MOhm]
    if unbalanced:
        yield f"the bridge was not balanced in {listed_sweeps(unbalanced)}, and an access resistance is stored"


def _pairing(silent: Sequence[Sweep]) -> Iterator[str]:
    """Warn when the deflections of silent sweeps are those of other currents, shifted by the same amount."""
    currents = np.array([sweep.amplitude_nA for sweep in silent])
    if len(silent) < LEAST_SWEEPS or np.ptp(currents) < 1e-3:
        return
    deflections = np.array([sweep.deflection_mV for sweep in silent])
    slope, intercept = np.polyfit(currents, deflections, 1)
    scatter = float((deflections - slope * currents - intercept).std())
    if abs(intercept) > INTERCEPT_MV and scatter < 0.3 * abs(intercept):
        yield (
            f"the deflections of the {len(silent)} silent sweeps point to {intercept:+.3g} mV without a current: each "
            "response may have the current of its neighbour, or the current has an offset"
        )


def _repeats(sweeps: Sequence[Sweep], threshold_mV: float) -> Iterator[str]:
    """Warn of repeats of one step that were held differently, or of which some are silent and others spike."""
    families: list[list[Sweep]] = []
    for sweep in sorted(sweeps, key=lambda sweep: (sweep.stimulus_name, round(sweep.start_ms), sweep.amplitude_nA)):
        first = families[-1][0] if families else None
        if (
            first is not None
            and first.stimulus_name == sweep.stimulus_name
            and round(first.start_ms) == round(sweep.start_ms)
            and sweep.amplitude_nA - first.amplitude_nA <= amplitude_tolerance_nA(first.amplitude_nA)
        ):
            families[-1].append(sweep)
        else:
            families.append([sweep])
    for family in families:
        holdings_pA = [1000.0 * sweep.holding_nA for sweep in family]
        if max(holdings_pA) - min(holdings_pA) > SAME_HOLDING_PA:
            yield (
                f"repeats of the {family[0].amplitude_nA * 1000:.4g} pA step were held at {min(holdings_pA):.4g} to "
                f"{max(holdings_pA):.4g} pA ({listed_sweeps([sweep.number for sweep in family])}): a model gets the "
                "mean. Leave those out that were held differently"
            )
        counts = [step_spikes(sweep, threshold_mV).during.size for sweep in family]
        if min(counts) == 0 and max(counts) >= LEAST_SWEEPS:
            told = ", ".join(f"{count} in sweep {sweep.number}" for count, sweep in zip(counts, family, strict=True))
            yield (
                f"repeats of the {family[0].amplitude_nA * 1000:.4g} pA step disagree: {told} (spikes). Leave those "
                "out in which the cell or the recording had failed"
            )


def left_out_warning(left_out: Sequence[str], asked: int) -> str:
    """Return a warning where many sweeps cannot be used; empty where few."""
    if asked and len(left_out) > MANY_LEFT_OUT * asked:
        return f"{len(left_out)} of {asked} sweeps cannot be used"
    return ""
