"""Find the spikes of a recorded voltage by their shape, and the threshold by which they can be counted."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SPIKE_THRESHOLD_MV = -20.0
"""eFEL's threshold, with which spikes are counted unless a cell's spikes stay below it, or hardly reach it."""

RISE_MV, RISE_MS = 10.0, 2.0
FALL_MV, FALL_MS = 10.0, 4.0
APART_MS = 1.0
SMALL_SHARE = 0.2  # of the spikes of a recording; fewer small ones are told, and the threshold stays
NEAR_MV = SPIKE_THRESHOLD_MV + 10.0
"""Above it should spikes peak: closer to the threshold, a tenth of a mV decides whether a model has one."""


@dataclass(frozen=True)
class SpikeShapes:
    """Spikes of one sweep that were found by their shape; all arrays have shape (n,).

    Attributes
    ----------
    peak : ndarray of int
        Samples.
    peak_mV, onset_mV : ndarray
        Voltage at the peak, and the lowest one in the 2 ms before it.
    width_ms : ndarray
        At half of the height above the onset.
    """

    peak: np.ndarray
    peak_mV: np.ndarray
    onset_mV: np.ndarray
    width_ms: np.ndarray

    def __len__(self) -> int:
        return len(self.peak)


def find_spike_shapes(voltage_mV: np.ndarray, rate_Hz: float) -> SpikeShapes:
    """Find rises of 10 mV or more within 2 ms that fall again by as much within 4 ms, at whatever voltage.

    Parameters
    ----------
    voltage_mV : ndarray, shape (n,)
    rate_Hz : float
    """
    before, after = (max(1, round(ms * rate_Hz / 1000.0)) for ms in (RISE_MS, FALL_MS))
    v = voltage_mV
    top = np.flatnonzero((v[1:-1] >= v[:-2]) & (v[1:-1] > v[2:])) + 1
    # Most maxima are noise: whatever is not far below them nearby cannot have a steep flank.
    near = [np.maximum(top - before, 0), np.maximum(top - before // 2, 0), np.maximum(top - max(1, before // 4), 0)]
    top = top[v[top] - np.min([v[index] for index in near], axis=0) >= RISE_MV / 2]
    rising = _windows(v, top, -before, 0)
    falling = _windows(v, top, 1, after + 1)
    spikes = (v[top] - rising.min(axis=1) >= RISE_MV) & (v[top] - falling.min(axis=1) >= FALL_MV)
    top, rising, falling = top[spikes], rising[spikes], falling[spikes]
    first = np.flatnonzero(np.diff(top, prepend=-(10**9)) > APART_MS * rate_Hz / 1000.0)
    groups = np.split(np.arange(top.size), first[1:]) if top.size else []
    kept = np.array([group[v[top[group]].argmax()] for group in groups], dtype=int)
    top, rising, falling = top[kept], rising[kept], falling[kept]
    onset = rising.min(axis=1) if top.size else np.empty(0)
    half = (0.5 * (v[top] + onset))[:, None]
    samples = 1 + sum(np.cumprod(side > half, axis=1).sum(axis=1) for side in (rising[:, ::-1], falling))
    return SpikeShapes(top, v[top], onset, samples * (1000.0 / rate_Hz))


def _windows(values: np.ndarray, centre: np.ndarray, first: int, stop: int) -> np.ndarray:
    return values[np.clip(centre[:, None] + np.arange(first, stop), 0, values.size - 1)]


def crossings_ms(time_ms: np.ndarray, voltage_mV: np.ndarray, threshold_mV: float) -> np.ndarray:
    """Return when the voltage rises above a threshold, shape (n,)."""
    above = voltage_mV > threshold_mV
    return time_ms[1:][above[1:] & ~above[:-1]]


@dataclass(frozen=True)
class SpikeThreshold:
    """A threshold by which the spikes of a recording are counted.

    Attributes
    ----------
    threshold_mV : float
    small, spikes : int
        Spikes that stay below eFEL's threshold, of all spikes.
    highest_small_mV : float
        Peak of the highest of the small ones.
    near : int
        Spikes that stay below `NEAR_MV`, the small ones among them.
    """

    threshold_mV: float
    small: int
    spikes: int
    highest_small_mV: float = float("nan")
    near: int = 0

    @property
    def lowered(self) -> bool:
        """Whether it is below eFEL's."""
        return self.threshold_mV < SPIKE_THRESHOLD_MV

    @property
    def many_small(self) -> bool:
        """Whether the small spikes alone are enough to lower it."""
        return self.small >= SMALL_SHARE * self.spikes


def choose_threshold(sweeps: Iterable[SpikeShapes]) -> SpikeThreshold:
    """Return eFEL's threshold, or a lower one for a cell of which many spikes stay below it, or peak close above it.

    The lower one is half-way between the onsets and the peaks of the spikes.
    """
    shapes = list(sweeps)
    peaks = np.concatenate([np.empty(0), *(shape.peak_mV for shape in shapes)])
    onsets = np.concatenate([np.empty(0), *(shape.onset_mV for shape in shapes)])
    if not peaks.size:
        return SpikeThreshold(SPIKE_THRESHOLD_MV, 0, 0)
    small = peaks[peaks <= SPIKE_THRESHOLD_MV]
    near = peaks < NEAR_MV
    threshold_mV = SPIKE_THRESHOLD_MV
    if near.mean() >= SMALL_SHARE:
        low, high = np.percentile(onsets, 90), np.percentile(peaks, 10, method="lower")  # of a spike, not between two
        half = float(np.round(0.5 * (low + high))) if high - low > 2.0 else float(np.round(low + 1.0))
        threshold_mV = min(half, SPIKE_THRESHOLD_MV)
    highest_mV = float(small.max()) if small.size else float("nan")
    return SpikeThreshold(threshold_mV, small.size, peaks.size, highest_mV, int(near.sum()))
