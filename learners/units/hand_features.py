"""Numbers a physiologist would read off a waveform, an interval histogram and an autocorrelogram."""

from __future__ import annotations

import numpy as np

from neurofleet.learners.units.units import MODALITIES
from neurofleet.learners.units.waveforms import Waveforms, at_times

WAVEFORM_FEATURES = (
    "trough_to_peak_ms",
    "half_width_ms",
    "half_width_before_ms",
    "half_width_after_ms",
    "peak_width_ms",
    "peak_height",
    "pre_peak_height",
    "end_level",
    "repolarisation_slope_per_ms",
    "onset_slope_per_ms",
    "slow_slope_per_ms",
    "asymmetry",
    "after_area_ms",
    "zero_crossing_ms",
    "recovery_slope_per_ms",
    "energy_ms",
    "level_after_1.75_ms",
    "level_after_2.25_ms",
)
ISI_FEATURES = (
    "isi_mode_ms",
    "isi_mean_ms",
    "isi_cv",
    "isi_mass",
    "isi_below_3_ms",
    "isi_below_5_ms",
    "isi_below_10_ms",
    "isi_burst_ratio",
    "isi_entropy",
    "isi_refractory_ms",
    "isi_peak",
    "isi_quantile_10_ms",
    "isi_quantile_25_ms",
    "isi_quantile_50_ms",
    "isi_quantile_75_ms",
    "isi_quantile_90_ms",
)
ACG_FEATURES = (
    "acg_peak_lag_ms",
    "acg_peak",
    "acg_refractory_ms",
    "acg_rise_ms",
    "acg_below_10_ms",
    "acg_10_to_20_ms",
    "acg_20_to_50_ms",
    "acg_centre_ms",
    "acg_dip_after_peak",
)
HAND_FEATURES = (*WAVEFORM_FEATURES, *ISI_FEATURES, *ACG_FEATURES)

STEP_MS = 0.01
TIMES_MS = np.arange(-100, 146) * STEP_MS
LATE_MS = (1.75, 2.25)
LATE_HALF_MS = 0.15
TROUGH = 100
"""Place of time 0 in `TIMES_MS`."""


def hand_features(waveforms: Waveforms | None, isi: np.ndarray, acg: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the `HAND_FEATURES`; times in ms, all else free of the amplitude's unit.

    Parameters
    ----------
    waveforms : Waveforms
        At their own rate; None where a file has none.
    isi : (n, 100) array
        Shares in bins of 1 ms.
    acg : (n, 100) array
        From -100 to 100 ms in bins of 2 ms.
    present : (n, 3) bool array

    Returns
    -------
    (n, 43) float32 array, NaN where the modality is missing.
    """
    result = np.full((len(present), len(HAND_FEATURES)), np.nan, dtype=np.float32)
    first = 0
    for number, modality in enumerate(MODALITIES):
        has = present[:, number]
        if modality == "waveform":
            width = len(WAVEFORM_FEATURES)
            values = None if waveforms is None else waveform_features(waveforms)[has]
        elif modality == "isi":
            width, values = len(ISI_FEATURES), isi_features(isi[has])
        else:
            width, values = len(ACG_FEATURES), acg_features(acg[has])
        if values is not None:
            result[has, first : first + width] = values
        first += width
    return result


def waveform_features(waveforms: Waveforms) -> np.ndarray:
    """Return the 18 features of the waveform, (n, 18), read every 0.01 ms between the recorded samples.

    The level of 1.0 to 0.5 ms before the main deflection counts as 0, the main deflection as -1.
    """
    values = at_times(waveforms, TIMES_MS / 1000)
    values = values - np.median(values[:, TIMES_MS <= -0.5], axis=1, keepdims=True)
    depth = -values[:, [TROUGH]]
    x = np.divide(values, depth, out=np.zeros_like(values), where=depth != 0)
    before, after = x[:, TROUGH::-1], x[:, TROUGH:]
    left, right = _first_above(before, -0.5) * STEP_MS, _first_above(after, -0.5) * STEP_MS
    rows = np.arange(len(x))
    peak = after.argmax(axis=1)
    height = after[rows, peak]
    past_half = (after >= np.maximum(height, 0)[:, None] / 2) & (height > 0)[:, None]
    width = _run_around(past_half, peak) * STEP_MS
    pre_height = x[:, :TROUGH].max(axis=1)
    slopes = np.gradient(x, STEP_MS, axis=1)
    climb = np.where(np.arange(after.shape[1]) <= peak[:, None], slopes[:, TROUGH:], -np.inf).max(axis=1)
    slow = _level(x, 0.65, 0.75) - _level(x, 0.35, 0.45)
    total = np.abs(height) + np.abs(pre_height)
    return np.column_stack(
        [
            peak * STEP_MS,
            left + right,
            left,
            right,
            width,
            height,
            pre_height,
            _level(x, 1.35, 1.45),
            climb,
            slopes[:, (TIMES_MS >= -0.5) & (TIMES_MS <= 0)].min(axis=1),
            slow / 0.3,
            np.divide(height - pre_height, total, out=np.zeros(len(x)), where=total > 0),
            after[:, 20:].sum(axis=1) * STEP_MS,
            _first_above(after, 0.0) * STEP_MS,
            slopes[:, TROUGH:].min(axis=1),
            np.square(x).sum(axis=1) * STEP_MS,
            _late_levels(waveforms, values, depth),
        ]
    )


def _late_levels(waveforms: Waveforms, values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return levels later than the common 2.5 ms hold, (n, 2); NaN where none was recorded."""
    last_ms = (waveforms.values.shape[1] - 1 - waveforms.peak) / waveforms.rate_hz * 1000
    zero = at_times(waveforms, TIMES_MS[:1] / 1000)[:, 0] - values[:, 0]
    levels = []
    for centre_ms in LATE_MS:
        times_ms = centre_ms + np.linspace(-LATE_HALF_MS, LATE_HALF_MS, 31)
        level = at_times(waveforms, times_ms / 1000).mean(axis=1) - zero
        relative = np.divide(level, depth[:, 0], out=np.zeros(len(level)), where=depth[:, 0] != 0)
        levels.append(np.where(last_ms >= times_ms[-1] - 0.01, relative, np.nan))
    return np.column_stack(levels)


def isi_features(shares: np.ndarray) -> np.ndarray:
    """Return the 16 features of the intervals, (n, 16); all but the mass are of the intervals below 100"
    " ms."""
    n_bins = shares.shape[1]
    mass = shares.sum(axis=1)
    p = shares / mass[:, None]
    centres = np.arange(n_bins) + 0.5
    mean = p @ centres
    sd = np.sqrt(np.maximum(p @ centres**2 - mean**2, 0))
    below = np.hstack([np.zeros((len(p), 1)), np.cumsum(p, axis=1)])
    early, later = below[:, 10], below[:, 30] - below[:, 10]
    either = early + later
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    smooth = _smoothed(p)
    quantiles = [_quantile(below, share) for share in (0.1, 0.25, 0.5, 0.75, 0.9)]
    return np.column_stack(
        [
            smooth.argmax(axis=1) + 0.5,
            mean,
            sd / mean,
            mass,
            below[:, 3],
            below[:, 5],
            early,
            np.divide(early - later, either, out=np.zeros(len(p)), where=either > 0),
            -(p * logs).sum(axis=1) / np.log(n_bins),
            (smooth >= 0.1 * smooth.max(axis=1, keepdims=True)).argmax(axis=1),
            p.max(axis=1),
            *quantiles,
        ]
    )


def acg_features(acg: np.ndarray) -> np.ndarray:
    """Return the 9 features of the autocorrelogram, (n, 9), relative to its level at 60 to 100 ms.

    Where there is no pair of spikes that far apart, it is relative to the mean.
    """
    half = acg.shape[1] // 2
    side = (acg[:, half:] + acg[:, half - 1 :: -1]) / 2
    bin_ms = 100 / half
    lags = (np.arange(half) + 0.5) * bin_ms
    tail = side[:, lags > 60].mean(axis=1)
    level = np.where(tail > 0, tail, side.mean(axis=1))[:, None]
    smooth = _smoothed(side) / level
    peak = smooth.argmax(axis=1)
    height = smooth.max(axis=1)
    past = np.where(np.arange(half) >= peak[:, None], smooth, np.inf).min(axis=1)

    def share(first_ms: float, last_ms: float) -> np.ndarray:
        part = (side[:, (lags > first_ms) & (lags < last_ms)] / level).mean(axis=1)
        return part / (1 + part)

    refractory = (smooth >= 0.25).argmax(axis=1)
    return np.column_stack(
        [
            lags[peak],
            np.log(height),
            refractory * bin_ms,
            ((smooth >= 0.9 * height[:, None]).argmax(axis=1) - refractory) * bin_ms,
            share(0, 10),
            share(10, 20),
            share(20, 50),
            side @ lags / side.sum(axis=1),
            (height - past) / (height + past),
        ]
    )


def _first_above(values: np.ndarray, limit: float) -> np.ndarray:
    """Return where each row first exceeds `limit`, between two places; the last place if it never does."""
    above = values > limit
    place = np.where(above.any(axis=1), above.argmax(axis=1), values.shape[1] - 1)
    rows = np.arange(len(values))
    previous = np.maximum(place - 1, 0)
    low, high = values[rows, previous], values[rows, place]
    crossed = (low <= limit) & (high > limit)
    part = np.divide(limit - low, high - low, out=np.ones(len(values)), where=crossed)
    return np.where(crossed, previous + part, place)


def _run_around(inside: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return how many neighbouring places around `place` are inside, per row."""
    columns = np.arange(inside.shape[1])
    last_out = np.where(~inside & (columns <= place[:, None]), columns, -1).max(axis=1)
    next_out = np.where(~inside & (columns >= place[:, None]), columns, len(columns)).min(axis=1)
    return np.where(inside[np.arange(len(inside)), place], next_out - last_out - 1, 0)


def _level(x: np.ndarray, first_ms: float, last_ms: float) -> np.ndarray:
    return x[:, (first_ms <= TIMES_MS) & (last_ms >= TIMES_MS)].mean(axis=1)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return the mean over three neighbours."""
    wide = np.pad(values, ((0, 0), (1, 1)), mode="edge")
    return (wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]) / 3


def _quantile(below: np.ndarray, share: float) -> np.ndarray:
    """Return where cumulative shares, which start at 0, reach `share`, between bins."""
    place = np.maximum((below >= share - 1e-6).argmax(axis=1), 1)
    rows = np.arange(len(below))
    low, high = below[rows, place - 1], below[rows, place]
    part = np.divide(share - low, high - low, out=np.ones(len(below)), where=high > low)
    return place - 1 + np.clip(part, 0, 1)
