"""Mean waveforms of any rate and length, brought to 2.5 ms around the main deflection at 20 kHz."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurofleet.learners.units.units import POINTS, UnitsRefused

RATE_HZ = 20_000
BEFORE_MS = 1.0
SEARCHED_MS = 0.5
"""How far from the common place of the main deflection a unit's own is looked for."""

OFFSETS_S = (np.arange(POINTS["waveform"]) - BEFORE_MS * RATE_HZ / 1000) / RATE_HZ
"""Times of the 50 points relative to the main deflection: -1.00 to +1.45 ms."""


@dataclass(frozen=True)
class Waveforms:
    """Waveforms of one file, still at their own rate.

    Attributes
    ----------
    values : (n, samples) float64 array
        Turned so that the main deflection of most units is negative; zeros where missing.
    peak : (n,) float array
        Sample of each unit's main deflection, between samples where it lies there.
    present : (n,) bool array
    rate_hz : float
    notes : tuple of str
    """

    values: np.ndarray
    peak: np.ndarray
    present: np.ndarray
    rate_hz: float
    notes: tuple[str, ...]


def is_measured(values: np.ndarray) -> np.ndarray:
    """Return which rows say something: all finite and not constant, as (n,) bool."""
    finite = np.isfinite(values).all(axis=1)
    rows = np.where(finite[:, None], values, 0)
    return finite & (np.ptp(rows, axis=1) > 1e-9 * np.abs(rows).max(axis=1))


def read_waveforms(values: np.ndarray, rate_hz: float, peak_index: int | None, name: str) -> Waveforms:
    """Find the main deflection of each unit, and turn the file's waveforms if most of them point upwards.

    Each unit's main deflection is the sample farthest from its median within 0.5 ms of the common place:
    `peak_index`, or the median over the units of the sample farthest from the median.

    Raises
    ------
    UnitsRefused
        If `peak_index` lies outside the waveform, or the waveform has fewer than 8 samples.
    """
    n, samples = values.shape
    if samples < 8:
        raise UnitsRefused(
            f"{name}: expected waveforms of at least 8 samples, found {samples}. Check which array it is."
        )
    if peak_index is not None and peak_index >= samples:
        raise UnitsRefused(
            f"{name}: waveform_peak_index is {peak_index}, but the waveforms have {samples} samples. It"
            " counts samples from 0."
        )
    present = is_measured(values)
    filled = np.where(present[:, None], values, 0.0)
    deviation = np.abs(filled - np.median(filled, axis=1, keepdims=True))
    farthest = deviation.argmax(axis=1)
    notes = []
    if not present.any():
        return Waveforms(filled, farthest.astype(float), present, rate_hz, ())
    common = int(np.median(farthest[present])) if peak_index is None else peak_index
    reach = max(1, round(SEARCHED_MS * rate_hz / 1000))
    first, last = max(common - reach, 0), min(common + reach + 1, samples)
    peak = first + deviation[:, first:last].argmax(axis=1)
    astray = int(((farthest < first) | (farthest >= last))[present].sum())
    if astray > 0.2 * present.sum():
        notes.append(
            f"{name}: in {astray} of {int(present.sum())} waveforms the largest deflection lies more than"
            f" {SEARCHED_MS:g} ms from sample {common}, where the spikes should be: they may be noise, of"
            " another channel, or not cut around the spike."
        )
    rows = np.arange(n)
    upwards = (filled[rows, peak] > np.median(filled, axis=1))[present].mean()
    if upwards > 0.5:
        filled = -filled
        notes.append(
            f"{name}: the main deflection of {upwards:.0%} of the units is positive; all waveforms were"
            " turned upside down."
        )
    before, after = common / rate_hz * 1000, (samples - 1 - common) / rate_hz * 1000
    if before < 1000 * -OFFSETS_S[0] - 0.05 or after < 1000 * OFFSETS_S[-1] - 0.05:
        notes.append(
            f"{name}: waveforms last from {before:.2f} ms before to {after:.2f} ms after the main deflection;"
            f" where that is less than {-1000 * OFFSETS_S[0]:.2f} ms and {1000 * OFFSETS_S[-1]:.2f} ms, the"
            " first and last value are held."
        )
    return Waveforms(filled, _between_samples(filled, peak), present, rate_hz, tuple(notes))


def _between_samples(values: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Return the top of the parabola through the peak and its two neighbours."""
    rows, samples = np.arange(len(values)), values.shape[1]
    inner = np.clip(peak, 1, samples - 2)
    left, middle, right = (values[rows, inner + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros(len(values)), where=bend != 0)
    return np.where(inner == peak, peak + np.clip(shift, -0.5, 0.5), peak)


def at_times(waveforms: Waveforms, times_s: np.ndarray) -> np.ndarray:
    """Interpolate linearly at times relative to the main deflection; the first and last value are held.

    No low-pass filter goes first: less than 1/10,000 of the energy of mean waveforms recorded at 100 kHz
    lies above 10 kHz.

    Returns
    -------
    (n, len(times_s)) float64 array
    """
    samples = waveforms.values.shape[1]
    place = np.clip(waveforms.peak[:, None] + times_s * waveforms.rate_hz, 0, samples - 1)
    left = np.minimum(place.astype(int), samples - 2)
    part = place - left
    rows = np.arange(len(place))[:, None]
    return waveforms.values[rows, left] * (1 - part) + waveforms.values[rows, left + 1] * part


def common_form(waveforms: Waveforms) -> np.ndarray:
    """Return the 50 points at 20 kHz, (n, 50) float32, zeros where missing."""
    return np.where(waveforms.present[:, None], at_times(waveforms, OFFSETS_S), 0).astype(np.float32)
