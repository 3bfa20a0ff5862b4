"""Peaks, onsets and troughs of spikes where eFEL finds them (its SpikeEvent.cpp and SpikeShape.cpp)."""

import numpy as np

from neurosim.batch_features.grid import Changes, Voltages
from neurosim.batch_features.ragged import Ragged

ONSET_MV_PER_MS = 10.0  # eFEL's `DerivativeThreshold`
ONSET_SAMPLES = 3  # eFEL's `DerivativeWindow`
FIRST_LOOK, LONGEST_LOOK = 64, 4096  # samples; each look is twice as far as the one before


def find_peaks(voltages: Voltages, changes: Changes, threshold_mV: float) -> Ragged:
    """Return the samples of the peaks: the first highest one from each crossing up to its crossing down.

    The k-th crossing up goes with the k-th crossing down after the first one up.
    """
    n, row, sample = len(voltages), changes.row, changes.sample
    up = (changes.before < threshold_mV) & (changes.after > threshold_mV)
    down = (changes.before > threshold_mV) & (changes.after < threshold_mV)
    ups, downs = Ragged(row[up], sample[up], n), Ragged(row[down], sample[down], n)
    downs = downs.where(downs.value > ups.first(len(voltages.grid))[downs.row])
    ends = downs.at_rank(ups.row, ups.rank, -1)
    ups, ends = ups.where(ends >= ups.value), ends[ends >= ups.value]
    return Ragged(ups.row, voltages.highest(ups.row, ups.value, ends), n)


def find_troughs(voltages: Voltages, peaks: Ragged) -> Ragged:
    """Return the samples of the troughs after the peaks; a trough on the last sample is none.

    A trough is the first sample after a peak that neither of the next two is below, or the lowest one before
    the next peak.
    """
    end = len(voltages.grid)
    row, begin = peaks.row, peaks.value
    last = np.append(row[1:] != row[:-1], True) if len(row) else np.zeros(0, bool)
    stop = np.where(last, end, np.append(begin[1:], end)[: len(begin)])
    trough, lowest = stop.copy(), np.full(len(row), np.inf)
    open_, look, ahead = np.arange(len(row)), begin.copy(), FIRST_LOOK
    while open_.size:
        sample = look[open_, None] + np.arange(ahead + 2)
        within = sample < stop[open_, None]
        values = voltages.at(row[open_, None], np.minimum(sample, end - 1))
        known = np.where(within, values, -np.inf)
        here, one, two = known[:, :-2], known[:, 1:-1], known[:, 2:]
        turned = (one >= here) & (two >= here) & within[:, :-2]
        values = np.where(within, values, np.inf)[:, :-2]
        at = values.argmin(axis=1)
        value = values[np.arange(len(at)), at]
        lower = value < lowest[open_]
        lowest[open_[lower]] = value[lower]
        trough[open_[lower]] = (look[open_] + at)[lower]
        found = turned.any(axis=1)
        trough[open_[found]] = (look[open_] + turned.argmax(axis=1))[found]
        open_ = open_[~found & within[:, -2]]
        look[open_] += ahead
        ahead = min(2 * ahead, LONGEST_LOOK)
    troughs = Ragged(row, trough, len(voltages))
    return troughs.where(trough != end - 1)


def find_onsets(voltages: Voltages, peaks: Ragged, troughs: Ragged, start_ms: float) -> Ragged:
    """Return the samples where spikes of the step begin: where the slope passes 10 mV/ms for good."""
    grid = voltages.grid
    start = grid.first_at(start_ms)
    peaks = peaks.where(peaks.value > start)
    troughs = troughs.where(troughs.value > start)
    rank = peaks.rank
    earliest = troughs.at_rank(peaks.row, rank - 1, -1)
    earliest[rank == 0] = max(start - 2, 0)
    has_room = (troughs.count + 1 >= peaks.count)[peaks.row]
    onset = np.full(len(rank), -1)
    open_, stop, back = np.flatnonzero(has_room), peaks.value.copy(), FIRST_LOOK // 4
    reach = ONSET_SAMPLES + 1
    while open_.size:
        low = stop[open_, None] - back
        sample = low + np.arange(-1, back + reach)
        kept = np.clip(sample, 0, len(grid) - 1)
        values, times = voltages.at(peaks.row[open_, None], kept), grid.times_ms[kept]
        with np.errstate(invalid="ignore"):
            slope = ((values[:, 2:] - values[:, :-2]) / 2) / ((times[:, 2:] - times[:, :-2]) / 2)
        calm = slope[:, :back] <= ONSET_MV_PER_MS
        steep = slope >= ONSET_MV_PER_MS
        for k in range(1, reach):
            calm &= steep[:, k : k + back]
        candidate = low + np.arange(back)
        calm &= (candidate >= earliest[open_, None]) & (candidate + reach <= len(grid))
        found = calm.any(axis=1)
        latest = back - 1 - calm[:, ::-1].argmax(axis=1)
        onset[open_[found]] = (low[:, 0] + latest + 1)[found]
        open_ = open_[~found & (low[:, 0] > earliest[open_])]
        stop[open_] -= back
        back = min(2 * back, LONGEST_LOOK)
    return Ragged(peaks.row, onset, len(voltages)).where(onset >= 0)
