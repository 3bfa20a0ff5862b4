"""Mean waveforms of any rate and length, brought to 2.5 ms around the main deflection at 20 kHz."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurofleet.learners.array_files import smoothness
from neurofleet.learners.units.units import POINTS, UnitsRefused

RATE_HZ = 20_000
BEFORE_MS = 1.0
SEARCHED_MS = 0.5
"""How far from the common place of the main deflection a unit's own is looked for."""

FEWEST_SAMPLES = 8
"""No mean waveform has fewer; recordings on several channels may have as few channels."""

LOWEST_RATE_HZ = 5_000
HALF_WIDTHS_MS = (0.02, 1.5)
USUAL_HALF_WIDTHS_MS = (0.08, 0.6)
"""Where the median of the half-widths of extracellular spikes can be; most are 0.1 to 0.4 ms wide."""

LARGEST_SIGN_DIFFERENCE = 0.2
UNITS_LOOKED_AT = 200
ITERATIONS = 5
"""Of the power method, which finds the one time course and the one set of amplitudes that say most of a waveform."""

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


def largest_channels(
    values: np.ndarray, axes: str | None, n_electrodes: np.ndarray | None, usual: str, name: str
) -> tuple[np.ndarray, list[str]]:
    """Return the channel of largest amplitude (peak to peak) of each unit, (n, samples), NaN where none is finite.

    Which axis is the time is said by `axes`, else by the number of electrodes of a unit, else by a number that is too
    small for the samples of a spike, else by the signs of the values: the amplitudes of a spike on the channels are
    mostly of one sign, those over time are not. Without any of these, the axes are in the `usual` order.

    Parameters
    ----------
    values : (n, samples, channels) or (n, channels, samples) array
    axes : "samples, channels" or "channels, samples" or None
        As the layout says.
    n_electrodes : (n,) int array or None
        How many electrodes the file names for each unit.
    usual : str
        As the format defines it.
    name : str
        File and array, for messages.
    """
    values = np.asarray(values, dtype=float)
    samples_first, notes = (axes or usual) == "samples, channels", []
    if axes is None:
        by_values, reason = _samples_first(values, n_electrodes)
        if by_values is None:
            notes.append(
                f"{name}: {values.shape[1]} x {values.shape[2]} values per unit are taken as {usual}, as the format"
                " defines it; nothing in the file tells otherwise. If it is the other way round, say waveform_axes in"
                " the layout."
            )
        elif by_values != samples_first:
            samples_first = by_values
            found = "samples x channels" if samples_first else "channels x samples"
            notes.append(
                f"{name}: expected {usual.replace(',', ' x')} per unit, found {found} ({reason}); the axes were"
                f" exchanged. To have it otherwise, say waveform_axes in the layout."
            )
    channels = values.swapaxes(1, 2) if samples_first else values
    size = np.where(np.isfinite(channels).all(axis=2), np.ptp(np.nan_to_num(channels), axis=2), -1)
    return channels[np.arange(len(channels)), size.argmax(axis=1)], notes


def _samples_first(values: np.ndarray, n_electrodes: np.ndarray | None) -> tuple[bool | None, str]:
    """Return whether the first axis after the units is the time, None where nothing tells, and what told it."""
    first, second = values.shape[1:]
    if n_electrodes is not None and len(n_electrodes):
        by_first, by_second = bool((n_electrodes == first).all()), bool((n_electrodes == second).all())
        if by_first != by_second:
            return by_second, f"units have {n_electrodes[0]} electrodes"
    if (first < FEWEST_SAMPLES) != (second < FEWEST_SAMPLES):
        return second < FEWEST_SAMPLES, f"{min(first, second)} samples are too few for a spike"
    known = np.nan_to_num(values, posinf=0, neginf=0)
    known = known[np.abs(known).max(axis=(1, 2), initial=0) > 0]
    if not len(known):
        return None, ""
    known = known[:: max(1, len(known) // UNITS_LOOKED_AT)]
    right = known[np.arange(len(known)), (known**2).sum(axis=2).argmax(axis=1)]
    for _ in range(ITERATIONS):
        left = np.einsum("nab,nb->na", known, right)
        right = np.einsum("nab,na->nb", known, left / np.abs(left).max(axis=1, keepdims=True))
    one_sign = _share_of_one_sign(right) - _share_of_one_sign(left)
    if abs(np.median(one_sign)) < LARGEST_SIGN_DIFFERENCE or 0.2 < (one_sign > 0).mean() < 0.8:
        return None, ""
    return bool(np.median(one_sign) > 0), "amplitudes over channels have one sign, over time they have not"


def _share_of_one_sign(rows: np.ndarray) -> np.ndarray:
    return np.abs(rows.sum(axis=1)) / np.abs(rows).sum(axis=1)


def refuse_turned(values: np.ndarray, name: str) -> None:
    """Refuse a table whose columns are smooth and whose rows are not: samples x units.

    Raises
    ------
    UnitsRefused
        The table is turned.
    """
    measured = values[is_measured(values)]
    if min(measured.shape) < FEWEST_SAMPLES:
        return
    along_rows, along_columns = smoothness(measured), smoothness(measured.T)
    if along_columns > 0.5 and along_columns > along_rows + 0.3:
        raise UnitsRefused(
            f"{name}: expected units x samples, found a table of {values.shape[0]} x {values.shape[1]} whose columns"
            f" are smooth (correlation of neighbours {along_columns:.2f}) and whose rows are not ({along_rows:.2f}): it"
            " is samples x units. Transpose it, so that each row is a unit."
        )


def read_waveforms(values: np.ndarray, rate_hz: float, peak_index: int | None, name: str) -> Waveforms:
    """Find the main deflection of each unit, and turn the file's waveforms if most of them point upwards.

    Each unit's main deflection is the sample farthest from its median within 0.5 ms of the common place:
    `peak_index`, or the median over the units of the sample farthest from the median.

    Raises
    ------
    UnitsRefused
        If `peak_index` lies outside the waveform, the waveform has fewer than 8 samples, or the rate cannot be.
    """
    n, samples = values.shape
    if samples < FEWEST_SAMPLES:
        raise UnitsRefused(
            f"{name}: expected waveforms of at least {FEWEST_SAMPLES} samples, found {samples}. Check which array it"
            " is."
        )
    if rate_hz < LOWEST_RATE_HZ:
        in_kHz = f" If it is in kHz, give {1000 * rate_hz:g}." if rate_hz >= LOWEST_RATE_HZ / 1000 else ""
        raise UnitsRefused(
            f"{name}: expected the sampling rate of spikes in Hz (most are 20000 to 30000), found {rate_hz:g}.{in_kHz}"
            " Give waveform_rate_hz in the layout."
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


def check_half_widths(half_widths_ms: np.ndarray, rate_hz: float, name: str) -> list[str]:
    """Return a note where spikes are unusually wide or narrow.

    Parameters
    ----------
    half_widths_ms : (n,) array
        Widths of the main deflections at half of their depth; NaN where unknown.

    Raises
    ------
    UnitsRefused
        If no neuron has spikes of such a width: the sampling rate is wrong.
    """
    known = half_widths_ms[np.isfinite(half_widths_ms)]
    if not len(known):
        return []
    width, told = float(np.median(known)), f"at {rate_hz:g} Hz the spikes are"
    usual = "Most extracellular spikes are 0.1 to 0.4 ms wide at half of their depth"
    if not HALF_WIDTHS_MS[0] <= width <= HALF_WIDTHS_MS[1]:
        raise UnitsRefused(
            f"{name}: {told} {width:.3g} ms wide (median). {usual}: the sampling rate is wrong, waveform_peak_index is,"
            " or these are no spikes. Give the right one in the layout, or go without (without: [waveform])."
        )
    if USUAL_HALF_WIDTHS_MS[0] <= width <= USUAL_HALF_WIDTHS_MS[1]:
        return []
    return [f"{name}: {told} {width:.2g} ms wide (median). {usual}; check the sampling rate."]


def common_form(waveforms: Waveforms) -> np.ndarray:
    """Return the 50 points at 20 kHz, (n, 50) float32, zeros where missing."""
    return np.where(waveforms.present[:, None], at_times(waveforms, OFFSETS_S), 0).astype(np.float32)
