"""The twelve e-features that perisomatic models are fitted to, of a recorded sweep or a model's response."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neurosim.perisomatic.spikes import Spikes, find_spikes

if TYPE_CHECKING:
    from neurosim.protocols import StepProtocol
    from neurosim.recordings import Sweep

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

FEATURES = tuple(MINIMUM_STD)
BASELINE_MS = 100.0
SAMPLE_MS = 0.025
"""Models are read at this interval."""


def step_features(
    time_ms: np.ndarray, voltage_mV: np.ndarray, start_ms: float, stop_ms: float
) -> dict[str, float]:
    """Return all e-features of one response to a step.

    Parameters
    ----------
    time_ms : ndarray, shape (n,)
        In even steps; `even` makes them so.
    voltage_mV : ndarray, shape (n,)
    start_ms, stop_ms : float
        Of the step.

    Returns
    -------
    dict of str to float
        `FEATURES` in their order, NaN where there is no such value. Properties of single spikes are means
        over the spikes that have them.
    """
    spikes = find_spikes(time_ms, voltage_mV, start_ms, stop_ms)
    return features_of(spikes, baseline_mV(time_ms, voltage_mV, start_ms), start_ms, stop_ms)


def features_of(spikes: Spikes, rest_mV: float, start_ms: float, stop_ms: float) -> dict[str, float]:
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


def sweep_features(protocol: "StepProtocol", sweep: "Sweep") -> dict[str, float]:
    """Return all e-features of a recorded sweep."""
    return step_features(*_even_sweep(protocol, sweep), protocol.start_ms, protocol.stop_ms)


def sweep_spikes(protocol: "StepProtocol", sweep: "Sweep") -> Spikes:
    """Return the spikes of a recorded sweep during its step."""
    return find_spikes(*_even_sweep(protocol, sweep), protocol.start_ms, protocol.stop_ms)


def _even_sweep(protocol: "StepProtocol", sweep: "Sweep") -> tuple[np.ndarray, np.ndarray]:
    time_ms, voltage_mV = protocol.align(sweep)
    return time_ms[:-1], voltage_mV[:-1]  # the last sample may come at a time of its own


def target_statistics(name: str, values: Sequence[np.ndarray]) -> tuple[float, float, int]:
    """Return mean and standard deviation over sweeps, the latter not below its least, and their number."""
    flat = np.concatenate(values)
    return float(flat.mean()), max(float(flat.std()), MINIMUM_STD[name]), int(flat.size)


def _mean(values: np.ndarray) -> float:
    found = values[np.isfinite(values)]
    return float(found.mean()) if found.size else float("nan")
