"""Spike times: checked, and turned to interval histograms and autocorrelograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learners.units.units import POINTS, UnitsRefused

LAGS_MS = 100
SHORTEST_S = 0.5e-3
"""No unit has half of its intervals shorter than this."""


def check_spike_times(spike_times: Sequence[np.ndarray], unit_ids: Sequence[str], name: str) -> None:
    """Refuse spike times which are not seconds in ascending order.

    Raises
    ------
    UnitsRefused
        Naming the first unit with NaN, negative, unsorted or whole-number times (a count of samples).
    """
    for times, unit in zip(spike_times, unit_ids, strict=True):
        expected = f"{name}, unit {unit}: expected spike times in seconds, ascending, from 0 on; found"
        if not np.isfinite(times).all():
            raise UnitsRefused(
                f"{expected} {int((~np.isfinite(times)).sum())} of {len(times)} that are NaN or infinite."
                " Remove them before giving the file."
            )
        falls = np.flatnonzero(np.diff(times) < 0)
        if len(falls):
            place = falls[0]
            raise UnitsRefused(
                f"{expected} {times[place + 1]:g} after {times[place]:g} (spike {place + 1}). Sort each"
                " unit's spikes, and do not join recordings whose clocks start anew."
            )
        if len(times) and times[0] < 0:
            raise UnitsRefused(f"{expected} {times[0]:g}. Shift the clock so that the recording starts at 0.")
        if len(times) > 2 and (times == np.rint(times)).all():
            raise UnitsRefused(
                f"{expected} whole numbers only (up to {times[-1]:g}): these are samples or milliseconds."
                " Divide by the sampling rate."
            )
        if len(times) > 2 and np.median(np.diff(times)) < SHORTEST_S:
            raise UnitsRefused(
                f"{expected} intervals of {1e6 * np.median(np.diff(times)):.3g} microseconds (median), which"
                " no neuron can do: the times are in another unit. Give them in seconds."
            )


def interval_shares(spike_times: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of all intervals in bins of 1 ms from 0 to 100 ms, NaN for units of one spike or none.

    Returns
    -------
    (n, 100) float64 array
    """
    result = np.full((len(spike_times), POINTS["isi"]), np.nan)
    edges_s = np.arange(POINTS["isi"] + 1) / 1000
    for row, times in enumerate(spike_times):
        if len(times) > 1:
            intervals = np.diff(times)
            result[row] = np.histogram(intervals[intervals < edges_s[-1]], edges_s)[0] / len(intervals)
    return result


def autocorrelogram_counts(spike_times: Sequence[np.ndarray]) -> np.ndarray:
    """Return the number of pairs of spikes at each lag in bins of 1 ms around -100, -99, ... 100 ms.

    A spike is no pair with itself, and lags that round to 0 are left out.

    Returns
    -------
    (n, 201) float64 array
    """
    result = np.zeros((len(spike_times), 2 * LAGS_MS + 1))
    for row, times in enumerate(spike_times):
        for step in range(1, len(times)):
            lags = np.floor((times[step:] - times[:-step]) * 1000 + 0.5)
            lags = lags[lags <= LAGS_MS].astype(int)
            if len(lags) == 0:
                break
            counts = np.bincount(lags, minlength=LAGS_MS + 1)
            counts[0] = 0
            result[row, LAGS_MS:] += counts
            result[row, : LAGS_MS + 1] += counts[::-1]
    return result
