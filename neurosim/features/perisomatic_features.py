"""The twelve e-features that perisomatic models are fitted to, of recorded sweeps and of models.

Spikes are detected by their slope, as in the Allen Cell Types Database.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofleet.neurosim.features.step_protocols import StepProtocol
from neurofleet.neurosim.recordings.recorded_spikes import SPIKE_THRESHOLD_MV
from neurofleet.neurosim.recordings.sweep import Sweep

DETECTION_MV_PER_MS = 20.0
THRESHOLD_OF_UPSTROKE = 0.05
END_OF_DOWNSTROKE = 0.01
LOWEST_PEAK_MV, LEAST_HEIGHT_MV, LONGEST_RISE_MS = -30.0, 2.0, 5.0
AFTER_DEPOLARISATION_MS, AFTER_DEPOLARISATION_MV, TOLERANCE_MV = 5.0, 10.0, 0.5
LIGHT_FILTER_HZ, HEAVY_FILTER_HZ = 10_000.0, 1_000.0


@dataclass(frozen=True)
class Spikes:
    """The spikes of a step; all arrays have shape (n,), NaN where a spike has no such property.

    Attributes
    ----------
    threshold_ms : ndarray
        When the slope passes 5 % of the mean upstroke.
    peak_ms, peak_mV : ndarray
    trough_ms : ndarray
        Of the lowest voltage before the next spike; NaN for the last spike.
    fast_trough_mV : ndarray
        Where the slope is back to 1 % of the downstroke.
    slow_trough_ms, slow_trough_mV : ndarray
        Of the lowest voltage after the fast trough, where it is a second trough.
    width_ms : ndarray
        At half of the height from the trough, or from the threshold where that half is higher.
    """

    threshold_ms: np.ndarray
    peak_ms: np.ndarray
    peak_mV: np.ndarray
    trough_ms: np.ndarray
    fast_trough_mV: np.ndarray
    slow_trough_ms: np.ndarray
    slow_trough_mV: np.ndarray
    width_ms: np.ndarray

    def __len__(self) -> int:
        return len(self.threshold_ms)


def find_spikes(
    time_ms: np.ndarray,
    voltage_mV: np.ndarray,
    start_ms: float,
    stop_ms: float,
    threshold_mV: float = SPIKE_THRESHOLD_MV,
) -> Spikes:
    """Find the spikes between two times.

    Parameters
    ----------
    time_ms : ndarray, shape (n,)
        In even steps.
    voltage_mV : ndarray, shape (n,)
    start_ms, stop_ms : float
        Spikes that peak later do not count.
    threshold_mV : float
        Of a cell whose spikes are small; peaks below it, and below -30 mV, do not count.
    """
    window = (time_ms >= start_ms) & (time_ms <= stop_ms)
    times, volts = time_ms[window], voltage_mV[window]
    if times.size < 20:
        return _table([])
    slope = _slope(times, volts, LIGHT_FILTER_HZ)
    calm = _slope(times, volts, HEAVY_FILTER_HZ)
    candidates = _candidates(times, volts, slope, min(LOWEST_PEAK_MV, threshold_mV))
    if not candidates:
        return _table([])
    upstrokes = [begin + int(slope[begin : peak + 1].argmax()) for begin, peak in candidates]
    level = THRESHOLD_OF_UPSTROKE * float(slope[upstrokes].mean())
    starts = []
    for i, upstroke in enumerate(upstrokes):
        low = candidates[i - 1][1] if i else 0
        below = np.flatnonzero(slope[low:upstroke] <= level)
        starts.append(low + int(below[-1]) if below.size else candidates[i][0])
    rows = []
    for i, (start, (_, peak)) in enumerate(zip(starts, candidates, strict=True)):
        last = i == len(candidates) - 1
        rows.append(_spike(times, volts, calm, start, peak, None if last else starts[i + 1]))
    return _table(rows)


def _slope(times: np.ndarray, volts: np.ndarray, cutoff_Hz: float) -> np.ndarray:
    """Return dV/dt (mV/ms) through a 4-pole Bessel filter, where the sampling rate allows one."""
    from scipy.signal import bessel, filtfilt

    step = float(times[1] - times[0])
    nyquist_Hz = 500.0 / step
    if cutoff_Hz < 0.95 * nyquist_Hz:
        volts = filtfilt(*bessel(4, cutoff_Hz / nyquist_Hz, "low"), volts)
    return np.gradient(volts, step)


def _candidates(
    times: np.ndarray, volts: np.ndarray, slope: np.ndarray, lowest_peak_mV: float
) -> list[tuple[int, int]]:
    """Return first sample and peak of each spike."""
    steep = slope >= DETECTION_MV_PER_MS
    begins = np.flatnonzero(steep[1:] & ~steep[:-1]) + 1
    apart = [b for k, b in enumerate(begins) if k == 0 or (slope[begins[k - 1] : b] < 0).any()]
    candidates = []
    for k, begin in enumerate(apart):
        end = apart[k + 1] if k + 1 < len(apart) else times.size
        peak = int(begin) + int(volts[begin:end].argmax())
        if (
            peak < times.size - 1
            and volts[peak] >= lowest_peak_mV
            and volts[peak] - volts[begin] >= LEAST_HEIGHT_MV
            and times[peak] - times[begin] <= LONGEST_RISE_MS
        ):
            candidates.append((int(begin), peak))
    return candidates


def _spike(
    times: np.ndarray,
    volts: np.ndarray,
    calm: np.ndarray,
    start: int,
    peak: int,
    following: int | None,
) -> tuple[float, ...]:
    """Return the properties of one spike, in the order of `Spikes`."""
    end = times.size if following is None else max(following, peak + 2)
    trough = peak + int(volts[peak:end].argmin())
    down = peak + int(calm[peak : trough + 1].argmin())
    over = np.flatnonzero(calm[down:end] >= END_OF_DOWNSTROKE * calm[down])
    fast = min(down + int(over[0]), trough) if over.size else trough
    slow = None if following is None else _slow_trough(times, volts, fast, end)
    missing = float("nan")
    return (
        float(times[start]),
        float(times[peak]),
        float(volts[peak]),
        missing if following is None else float(times[trough]),
        float(volts[fast]) if over.size else missing,
        missing if slow is None else float(times[slow]),
        missing if slow is None else float(volts[slow]),
        _width(times, volts, start, peak, trough),
    )


def _slow_trough(times: np.ndarray, volts: np.ndarray, fast: int, end: int) -> int | None:
    """Return where a second trough is: below the fast one, or after a small rise that follows it."""
    after = volts[fast:end]
    if after.size < 3:
        return None
    lowest = fast + int(after.argmin())
    if volts[lowest] < volts[fast] - TOLERANCE_MV:
        return lowest
    near = min(end, fast + int(np.searchsorted(times[fast:end] - times[fast], AFTER_DEPOLARISATION_MS)))
    top = fast + int(volts[fast:near].argmax())
    rise = volts[top] - volts[fast]
    if not TOLERANCE_MV < rise < AFTER_DEPOLARISATION_MV or top >= near - 1:
        return None
    second = top + int(volts[top:end].argmin())
    return second if volts[second] < volts[top] - TOLERANCE_MV else None


def _width(times: np.ndarray, volts: np.ndarray, start: int, peak: int, trough: int) -> float:
    half = (volts[peak] + volts[trough]) / 2
    if half < volts[start]:
        half = (volts[peak] + volts[start]) / 2
    before = np.flatnonzero(volts[start : peak + 1] <= half)
    after = np.flatnonzero(volts[peak : trough + 1] <= half)
    if trough == peak or not before.size or not after.size:
        return float("nan")
    rises, falls = start + int(before[-1]), peak + int(after[0]) - 1
    return _crossing(times, volts, falls, half) - _crossing(times, volts, rises, half)


def _crossing(times: np.ndarray, volts: np.ndarray, i: int, level: float) -> float:
    share = (level - volts[i]) / (volts[i + 1] - volts[i])
    return float(times[i] + share * (times[i + 1] - times[i]))


def _table(rows: list[tuple[float, ...]]) -> Spikes:
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 8)
    return Spikes(*columns.T)


MINIMUM_STD = {
    "avg_rate": 0.5,
    "peak_v": 2.0,
    "fast_trough_v": 2.0,
    "slow_trough_delta_v": 0.5,
    "slow_trough_norm_t": 0.05,
    "v_baseline": 2.0,
    "width": 0.1,
    "adapt": 0.001,
    "latency": 5.0,
    "isi_cv": 0.1,
    "mean_isi": 5.0,
    "first_isi": 1.0,
}
"""Name of each e-feature, and the least standard deviation of its target (Hz, mV, ms, or a plain number)."""

UNITS = {"avg_rate": "Hz"}
UNITS |= dict.fromkeys(("peak_v", "fast_trough_v", "slow_trough_delta_v", "v_baseline"), "mV")
UNITS |= dict.fromkeys(("width", "latency", "mean_isi", "first_isi"), "ms")
"""Of the e-features that have one."""

FEATURES = tuple(MINIMUM_STD)
BASELINE_MS = 100.0
SAMPLE_MS = 0.025
"""Models are read at this interval."""


def step_features(
    time_ms: np.ndarray,
    voltage_mV: np.ndarray,
    start_ms: float,
    stop_ms: float,
    threshold_mV: float = SPIKE_THRESHOLD_MV,
) -> dict[str, float]:
    """Return all e-features of one response to a step.

    Parameters
    ----------
    time_ms : ndarray, shape (n,)
        In even steps, as `even` returns them.
    voltage_mV : ndarray, shape (n,)
    start_ms, stop_ms : float
        Of the step.
    threshold_mV : float
        As of `find_spikes`.

    Returns
    -------
    dict of str to float
        `FEATURES` in their order, NaN where there is no such value. Properties of single spikes are means
        over the spikes that have them.
    """
    spikes = find_spikes(time_ms, voltage_mV, start_ms, stop_ms, threshold_mV)
    return features_from_spikes(spikes, baseline_mV(time_ms, voltage_mV, start_ms), start_ms, stop_ms)


def features_from_spikes(spikes: Spikes, rest_mV: float, start_ms: float, stop_ms: float) -> dict[str, float]:
    """Return all e-features of a response whose spikes and resting potential are known."""
    times = spikes.threshold_ms
    intervals = np.diff(times)
    fast, slow = spikes.fast_trough_mV, spikes.slow_trough_mV
    drop = np.where(np.isnan(slow), 0.0, fast - slow)
    second = np.where(np.isnan(spikes.slow_trough_ms), spikes.trough_ms, spikes.slow_trough_ms)
    pairs = intervals[1:] + intervals[:-1]
    missing = float("nan")
    return {
        "avg_rate": 1000.0 * len(spikes) / (stop_ms - start_ms),
        "peak_v": _mean(spikes.peak_mV),
        "fast_trough_v": _mean(fast),
        "slow_trough_delta_v": _mean(drop[:-1]),
        "slow_trough_norm_t": _mean((second[:-1] - times[:-1]) / intervals),
        "v_baseline": rest_mV,
        "width": _mean(spikes.width_ms),
        "adapt": float(np.mean(np.diff(intervals) / pairs)) if intervals.size > 1 else missing,
        "latency": float(times[0] - start_ms) if len(spikes) else missing,
        "isi_cv": float(intervals.std() / intervals.mean()) if intervals.size > 1 else missing,
        "mean_isi": _mean(intervals),
        "first_isi": float(intervals[0]) if intervals.size else missing,
    }


def baseline_mV(time_ms: np.ndarray, voltage_mV: np.ndarray, start_ms: float) -> float:
    """Return the mean voltage of the 100 ms before a step."""
    before = (time_ms >= start_ms - BASELINE_MS) & (time_ms < start_ms)
    return _mean(voltage_mV[before])


def even(time_ms: np.ndarray, voltage_mV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a response of a variable time step at even times."""
    times = np.arange(time_ms[0], time_ms[-1], SAMPLE_MS)
    return times, np.interp(times, time_ms, voltage_mV)


def sweep_features(protocol: "StepProtocol", sweep: "Sweep", threshold_mV: float) -> dict[str, float]:
    """Return all e-features of a recorded sweep."""
    return step_features(*_even_sweep(protocol, sweep), protocol.start_ms, protocol.stop_ms, threshold_mV)


def sweep_spikes(protocol: "StepProtocol", sweep: "Sweep", threshold_mV: float) -> Spikes:
    """Return the spikes of a recorded sweep during its step."""
    return find_spikes(*_even_sweep(protocol, sweep), protocol.start_ms, protocol.stop_ms, threshold_mV)


def _even_sweep(protocol: "StepProtocol", sweep: "Sweep") -> tuple[np.ndarray, np.ndarray]:
    time_ms, voltage_mV = protocol.align(sweep)
    return time_ms[:-1], voltage_mV[:-1]  # the last sample may not lie on the even grid


def target_statistics(name: str, values: Sequence[np.ndarray]) -> tuple[float, float, int]:
    """Return mean and standard deviation over sweeps, the latter not below its least, and their number."""
    flat = np.concatenate(values)
    return float(flat.mean()), max(float(flat.std()), MINIMUM_STD[name]), int(flat.size)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
