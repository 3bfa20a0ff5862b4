"""The e-features of recipes for many individuals at once, equal to eFEL's on the same voltages.

eFEL interpolates every voltage to a grid of 0.1 ms and calculates one individual at a time. Here only those samples are
interpolated that a feature depends on, for all individuals together; where the sum of rounded numbers depends on its
order, eFEL's order is kept, so that scores agree to the last bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """Lists of numbers of different lengths, one list for each row.

    Attributes
    ----------
    row : ndarray of int, shape (k,)
        In ascending order.
    value : ndarray, shape (k,)
    n_rows : int
    """

    row: np.ndarray
    value: np.ndarray
    n_rows: int

    @classmethod
    def one_per_row(cls, value: np.ndarray, present: np.ndarray | None = None) -> "Ragged":
        """Return one value for each row, and none for rows that are not `present`."""
        row = np.arange(len(value)) if present is None else np.flatnonzero(present)
        return cls(row, value[row], len(value))

    @property
    def count(self) -> np.ndarray:
        """Number of values of each row, shape (n_rows,)."""
        return np.bincount(self.row, minlength=self.n_rows)

    @property
    def begin(self) -> np.ndarray:
        """Index of the first value of each row, shape (n_rows,)."""
        count = self.count
        return np.cumsum(count) - count

    @property
    def rank(self) -> np.ndarray:
        """Position of each value within its row, shape (k,)."""
        return np.arange(len(self.row)) - self.begin[self.row]

    def where(self, kept: np.ndarray) -> "Ragged":
        """Return the values that are `kept`, of shape (k,)."""
        return Ragged(self.row[kept], self.value[kept], self.n_rows)

    def sum(self) -> np.ndarray:
        """Return the sum of each row, shape (n_rows,), added one after the other."""
        return np.bincount(self.row, self.value, minlength=self.n_rows)

    def max(self) -> np.ndarray:
        """Return the largest value of each row, shape (n_rows,); -inf of a row without."""
        largest = np.full(self.n_rows, -np.inf)
        np.maximum.at(largest, self.row, self.value)
        return largest

    def first(self, otherwise: float) -> np.ndarray:
        """Return the first value of each row, shape (n_rows,)."""
        firsts = np.full(self.n_rows, otherwise, np.result_type(self.value, type(otherwise)))
        not_empty = self.count > 0
        firsts[not_empty] = self.value[self.begin[not_empty]]
        return firsts

    def at_rank(self, row: np.ndarray, rank: np.ndarray, otherwise: float) -> np.ndarray:
        """Return the values at places within rows, and `otherwise` beyond a row's end."""
        values = np.full(len(row), otherwise, np.result_type(self.value, type(otherwise)))
        there = rank < self.count[row]
        values[there] = self.value[self.begin[row[there]] + rank[there]]
        return values

    def differences(self) -> "Ragged":
        """Return each value minus the one before it in its row."""
        within = self.row[1:] == self.row[:-1]
        return Ragged(self.row[1:][within], np.diff(self.value)[within], self.n_rows)


def spans(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers of half-open spans one after the other, and the number of the span of each."""
    length = np.maximum(stop - start, 0)
    number = np.repeat(np.arange(len(start)), length)
    return np.arange(len(number)) - np.repeat(np.cumsum(length) - length, length) + start[number], number


def without_repeats(ascending: np.ndarray) -> np.ndarray:
    """Return which numbers of an ascending array differ from the one before, shape (k,)."""
    return np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]


def begins(ascending: np.ndarray) -> np.ndarray:
    """Return the index of the first of each run of equal numbers."""
    return np.flatnonzero(without_repeats(ascending))


INTERPOLATION_MS = 0.1  # eFEL's `interp_step`
ROUNDING_MV = 1e-6  # more than an interpolated voltage can be above both of its points


class TimeGrid:
    """eFEL's samples of recordings that share their times.

    eFEL adds the step to the first time repeatedly, so later times carry rounding errors. The last sample may
    lie behind the last recorded time; it then has the last voltage.

    Parameters
    ----------
    recorded_ms : ndarray, shape (t,)

    Attributes
    ----------
    times_ms : ndarray, shape (T,)
    regular : bool
        False when times are not all finite and ascending; such recordings are left to eFEL.
    """

    def __init__(self, recorded_ms: np.ndarray) -> None:
        recorded = np.asarray(recorded_ms, np.float64)
        self.n_recorded = len(recorded)
        self.regular = self.n_recorded > 2 and bool(np.isfinite(recorded).all() and (np.diff(recorded) > 0).all())
        if not self.regular:
            return
        first, last = recorded[0], recorded[-1]
        steps = np.full(int(np.ceil((last - first) / INTERPOLATION_MS)) + 1, INTERPOLATION_MS)
        steps[0] = first
        times = np.cumsum(steps)
        if times[-2] >= last:
            times = times[:-1]
        self.regular = bool(times[-2] <= last)
        left = np.maximum(np.searchsorted(recorded, times) - 1, 0)
        if times[-1] > last:
            left[-1] = self.n_recorded - 1
        self.times_ms = times
        self._left, self._right = left, np.minimum(left + 1, self.n_recorded - 1)
        self._offset = times - recorded[left]
        self._gap = np.where(self._right > left, recorded[self._right] - recorded[left], 1.0)
        self._first_sample = np.searchsorted(left, np.arange(self.n_recorded + 1))

    def __len__(self) -> int:
        return len(self.times_ms)

    def covers(self, start_ms: float, stop_ms: float) -> bool:
        """Return whether a window lies within the samples."""
        return bool(self.times_ms[0] <= start_ms < stop_ms <= self.times_ms[-1])

    def first_at(self, time_ms: float) -> int:
        """Return the first sample at a time or after it."""
        return int(np.searchsorted(self.times_ms, time_ms))

    def point_before(self, sample: np.ndarray | int) -> np.ndarray:
        """Return the recorded points from which samples are interpolated, together with the next points."""
        return self._left[sample]

    def samples_between(self, point: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first sample after points, and the first after later ones."""
        n = self.n_recorded
        return self._first_sample[np.clip(point, 0, n)], self._first_sample[np.clip(later, 0, n)]

    def interpolate(self, recorded: np.ndarray, row: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """Return the voltage of rows of `recorded`, shape (n, t), at samples."""
        flat, begin = recorded.reshape(-1), row * self.n_recorded
        before = flat[begin + self._left[sample]].astype(np.float64)
        after = flat[begin + self._right[sample]].astype(np.float64)
        return before + (after - before) / self._gap[sample] * self._offset[sample]

    def window(self, recorded: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Return the voltages of all rows at the samples from `start` to before `stop`."""
        before = recorded[:, self._left[start:stop]].astype(np.float64)
        after = recorded[:, self._right[start:stop]].astype(np.float64)
        return before + (after - before) / self._gap[start:stop] * self._offset[start:stop]

    def mean(self, recorded: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Return the mean of each row over the samples from `start` to before `stop`, shape (n,).

        In one sum over the recorded points: no sample is interpolated.
        """
        left, right = self._left[start:stop], self._right[start:stop]
        share = self._offset[start:stop] / self._gap[start:stop]
        low = int(left[0])
        weight = np.bincount(left - low, 1 - share, minlength=int(right[-1]) - low + 1)
        weight += np.bincount(right - low, share, minlength=len(weight))
        # Not a matrix product: its rounding depends on the number of rows, and scores must not depend on the batch.
        weighted = recorded[:, low : low + len(weight)] * weight
        return weighted.sum(axis=1) / (stop - start)


class Voltages:
    """Voltages of one recording of many individuals.

    Parameters
    ----------
    grid : TimeGrid
    recorded_mV : ndarray, shape (n, t)
    """

    def __init__(self, grid: TimeGrid, recorded_mV: np.ndarray) -> None:
        self.grid = grid
        self.recorded = np.ascontiguousarray(recorded_mV)

    def __len__(self) -> int:
        return len(self.recorded)

    def at(self, row: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """Return voltages at samples of rows."""
        return self.grid.interpolate(self.recorded, row, sample)

    def mean(self, start: int, stop: int) -> np.ndarray:
        """Return each row's mean over the samples from `start` to before `stop`, shape (n,)."""
        return self.grid.mean(self.recorded, start, stop)

    def mean_in_order(self, start: int, stop: int) -> np.ndarray:
        """Return the means as `mean` does, to the last bit of what eFEL's adding up gives."""
        return np.cumsum(self.window(start, stop), axis=1)[:, -1] / (stop - start)

    def window(self, start: int, stop: int) -> np.ndarray:
        """Return the samples from `start` to before `stop`, shape (n, stop - start)."""
        return self.grid.window(self.recorded, start, stop)

    def changes(self, level_mV: np.ndarray | float, start: int = 0, stop: int | None = None) -> "Changes":
        """Return the neighbouring samples between which the voltage crosses a level, and some others.

        Parameters
        ----------
        level_mV : float, or ndarray of shape (n, 1)
        start, stop : int
            Samples to look at; a few more may be included.
        """
        first = int(self.grid.point_before(start))
        last = self.grid.n_recorded if stop is None else int(self.grid.point_before(stop - 1)) + 2
        recorded = self.recorded[:, first:last]
        above = recorded > level_mV
        changed = above[:, 1:] != above[:, :-1]
        row, point = np.divmod(np.flatnonzero(changed), changed.shape[1])
        begin, end = self.grid.samples_between(point + first, point + first + 1)
        sample, number = spans(np.maximum(begin, 1), np.minimum(end + 1, len(self.grid)))
        row = row[number]
        kept = without_repeats(row * len(self.grid) + sample)
        return Changes(self, row[kept], sample[kept])

    def highest(self, row: np.ndarray, start: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the first highest sample of each span of a row, from `start` to `last`.

        The highest recorded point is found first. Only samples beside points that are as high as the samples
        beside that one have to be interpolated.
        """
        if not len(row):
            return start
        grid = self.grid
        point, number = spans(grid.point_before(start), grid.point_before(last) + 2)
        point = np.minimum(point, grid.n_recorded - 1)
        values = self.recorded.reshape(-1)[row[number] * grid.n_recorded + point]
        top = np.maximum.reduceat(values, begins(number))
        tops = np.flatnonzero(values == top[number])
        tops = tops[without_repeats(number[tops])]
        beside, _ = grid.samples_between(point[tops], point[tops])
        least = np.maximum(*(self.at(row, np.clip(sample, start, last)) for sample in (beside - 1, beside)))
        high = np.flatnonzero(values >= (least - ROUNDING_MV)[number])
        number = number[high]
        begin, end = grid.samples_between(point[high] - 1, point[high] + 1)
        begin, end = np.maximum(begin, start[number]), np.minimum(end, last[number] + 1)
        sample, high = spans(begin, end)
        number = number[high]
        values = self.at(row[number], sample)
        begin = begins(number)
        top = np.maximum.reduceat(values, begin)
        return np.minimum.reduceat(np.where(values == top[number], sample, len(grid)), begin)


class Changes:
    """Pairs of neighbouring samples.

    Attributes
    ----------
    row, sample : ndarrays of int, shape (k,)
        The later sample of each pair; in ascending order.
    before, after : ndarrays, shape (k,)
        Voltages of the two.
    """

    def __init__(self, voltages: Voltages, row: np.ndarray, sample: np.ndarray) -> None:
        self._voltages, self.row, self.sample = voltages, row, sample

    @cached_property
    def before(self) -> np.ndarray:
        return self._voltages.at(self.row, self.sample - 1)

    @cached_property
    def after(self) -> np.ndarray:
        return self._voltages.at(self.row, self.sample)


ONSET_MV_PER_MS = 10.0  # eFEL's `DerivativeThreshold`
ONSET_SAMPLES = 3  # eFEL's `DerivativeWindow`
FIRST_LOOK, LONGEST_LOOK = 64, 4096  # samples searched at a time, doubled until something is found


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


def find_troughs(voltages: Voltages, peaks: Ragged, end: int) -> Ragged:
    """Return the samples of the troughs after the peaks and before `end`; a trough on the last sample is none.

    A trough is the first sample after a peak that neither of the next two is below, or the lowest one before
    the next peak.
    """
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
        current, next_, second_next = known[:, :-2], known[:, 1:-1], known[:, 2:]
        turned = (next_ >= current) & (second_next >= current) & within[:, :-2]
        values = np.where(within, values, np.inf)[:, :-2]
        at = values.argmin(axis=1)
        value = values[np.arange(len(at)), at]
        lower = value < lowest[open_]
        lowest[open_[lower]] = value[lower]
        trough[open_[lower]] = (look[open_] + at)[lower]
        ended = turned.any(axis=1)
        trough[open_[ended]] = (look[open_] + turned.argmax(axis=1))[ended]
        open_ = open_[~ended & within[:, -2]]
        look[open_] += ahead
        ahead = min(2 * ahead, LONGEST_LOOK)
    troughs = Ragged(row, trough, len(voltages))
    return troughs.where(trough != end - 1)


def find_onsets(voltages: Voltages, peaks: Ragged, troughs: Ragged, start_ms: float) -> Ragged:
    """Return the samples where spikes of the step begin: where the slope last passes 10 mV/ms before the peak."""
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
        ended = calm.any(axis=1)
        latest = back - 1 - calm[:, ::-1].argmax(axis=1)
        onset[open_[ended]] = (low[:, 0] + latest + 1)[ended]
        open_ = open_[~ended & (low[:, 0] > earliest[open_])]
        stop[open_] -= back
        back = min(2 * back, LONGEST_LOOK)
    return Ragged(peaks.row, onset, len(voltages)).where(onset >= 0)


LONGEST_MS = 50.0  # eFEL's `depol_block_min_duration`
HYPERPOLARISED_MV = -75.0


def not_blocked(voltages: Voltages, onsets: Ragged, start_ms: float, stop_ms: float) -> np.ndarray:
    """Return whether each individual is free of a block, shape (n,).

    One that spikes is free when it neither stays above the mean voltage at the onsets of its spikes for more
    than 50 ms, nor within the step below -75 mV for as long. One without spikes is free.
    """
    grid = voltages.grid
    start, stop = grid.first_at(start_ms), grid.first_at(stop_ms)
    spikes = onsets.count > 0
    level = np.full(len(voltages), np.inf)
    onset_mV = Ragged(onsets.row, voltages.at(onsets.row, onsets.value), len(voltages))
    level[spikes] = onset_mV.sum()[spikes] / onsets.count[spikes]
    rises, falls = _crossings(voltages, level)
    above = _longest_ms(grid.times_ms, rises, falls, stop)
    rises, falls = _crossings(voltages, np.full(len(voltages), HYPERPOLARISED_MV), start, stop + 1)
    falls = falls.where((falls.value > start) & (falls.value < stop))
    rises = rises.where((rises.value > start) & (rises.value < stop) & (rises.value > falls.first(stop)[rises.row]))
    below = _longest_ms(grid.times_ms, falls, rises, stop)
    return ~spikes | ((above > -np.inf) & (above <= LONGEST_MS) & (below <= LONGEST_MS))


def _crossings(
    voltages: Voltages, level_mV: np.ndarray, start: int = 0, stop: int | None = None
) -> tuple[Ragged, Ragged]:
    """Return the last samples before the voltage rises above a level, and before it falls to it."""
    changes = voltages.changes(level_mV[:, None], start, stop)
    level = level_mV[changes.row]
    before, after = changes.before > level, changes.after > level
    rise, fall = after & ~before, before & ~after
    return (
        Ragged(changes.row[rise], changes.sample[rise] - 1, len(voltages)),
        Ragged(changes.row[fall], changes.sample[fall] - 1, len(voltages)),
    )


def _longest_ms(times_ms: np.ndarray, begins: Ragged, ends: Ragged, last: int) -> np.ndarray:
    """Return the longest time from the k-th beginning to the k-th end, -inf without a beginning."""
    end = ends.at_rank(begins.row, begins.rank, last)
    return Ragged(begins.row, times_ms[end] - times_ms[begins.value], begins.n_rows).max()


BASE_BEGINS = 0.9  # of the time before the step; eFEL's `voltage_base_start_perc`
PRECISION_MS = 1e-10  # eFEL's `precision_threshold`
STEADY_SHARE = 0.1  # of the step, at its end
DECAY_MS = (1.0, 10.0)  # after the step


class StepResponses:
    """The responses of many individuals to one step, recorded at one place.

    Parameters
    ----------
    voltages : Voltages
    start_ms, stop_ms : float
        Of the step.
    threshold_mV : float
        eFEL's spike threshold.
    inside_only : bool
        Whether spikes outside of the step do not count: eFEL's `strict_stiminterval`.
    """

    def __init__(
        self,
        voltages: Voltages,
        start_ms: float,
        stop_ms: float,
        threshold_mV: float,
        inside_only: bool = False,
    ) -> None:
        self.voltages = voltages
        self.start_ms, self.stop_ms, self.threshold_mV = start_ms, stop_ms, threshold_mV
        self.inside_only = inside_only

    @property
    def grid(self) -> TimeGrid:
        return self.voltages.grid

    @cached_property
    def _changes(self) -> Changes:
        return self.voltages.changes(self.threshold_mV)

    @cached_property
    def undecided(self) -> np.ndarray:
        """Whose voltage equals the threshold to the last bit at some time, shape (n,).

        eFEL's spikes then depend on how its interpolation rounds, so these individuals are left to eFEL.
        """
        return (self.voltages.recorded == self.threshold_mV).any(axis=1)

    @cached_property
    def peaks(self) -> Ragged:
        """Samples of the peaks."""
        peaks = find_peaks(self.voltages, self._changes, self.threshold_mV)
        if not self.inside_only:
            return peaks
        times = self.grid.times_ms[peaks.value]
        return peaks.where((times >= self.start_ms) & (times <= self.stop_ms))

    @cached_property
    def troughs(self) -> Ragged:
        """Samples of the troughs after the peaks."""
        end = self.grid.first_at(self.stop_ms) if self.inside_only else len(self.grid)
        return find_troughs(self.voltages, self.peaks, end)

    @cached_property
    def onsets(self) -> Ragged:
        """Samples where the spikes of the step begin."""
        return find_onsets(self.voltages, self.peaks, self.troughs, self.start_ms)

    @cached_property
    def peak_times_ms(self) -> Ragged:
        return self.times_ms(self.peaks)

    @cached_property
    def voltage_base(self) -> Ragged:
        begin, end = BASE_BEGINS * self.start_ms, self.start_ms
        if begin >= end:
            return Ragged(np.zeros(0, int), np.zeros(0), len(self.voltages))
        start = self.grid.first_at(begin)
        stop = int(np.searchsorted(self.grid.times_ms - end, PRECISION_MS))
        return Ragged.one_per_row(self.voltages.mean_in_order(start, stop))

    @cached_property
    def steady_state_voltage_stimend(self) -> Ragged:
        begin = self.stop_ms - STEADY_SHARE * (self.stop_ms - self.start_ms)
        start, stop = self.grid.first_at(begin), self.grid.first_at(self.stop_ms)
        if stop == start:
            return Ragged(np.zeros(0, int), np.zeros(0), len(self.voltages))
        return Ragged.one_per_row(self.voltages.mean_in_order(start, stop))

    def times_ms(self, samples: Ragged) -> Ragged:
        """Return the times of samples."""
        return Ragged(samples.row, self.grid.times_ms[samples.value], samples.n_rows)

    def values_mV(self, samples: Ragged) -> Ragged:
        """Return the voltages of samples."""
        return Ragged(samples.row, self.voltages.at(samples.row, samples.value), samples.n_rows)

    def above_base(self, samples: Ragged) -> Ragged:
        """Return the voltages of samples less `voltage_base`; nothing where there is none."""
        voltages, base = self.values_mV(samples), self.voltage_base
        if not len(base.row):
            return base
        return Ragged(voltages.row, voltages.value - base.value[voltages.row], voltages.n_rows)


def _voltage_after_stim(step: StepResponses) -> Ragged:
    grid, stop = step.grid, step.stop_ms
    rest = grid.times_ms[-1] - stop
    last = int(np.searchsorted(grid.times_ms, stop + rest * 0.75, "right"))
    start, end = grid.first_at(stop + rest * 0.25), min(last + 1, len(grid))
    return Ragged.one_per_row(step.voltages.mean(start, end))


def _steady_state_voltage(step: StepResponses) -> Ragged:
    start = int(np.searchsorted(step.grid.times_ms, step.stop_ms, "right"))
    if start == len(step.grid):
        return Ragged.one_per_row(np.full(len(step.voltages), np.nan))
    return Ragged.one_per_row(step.voltages.mean(start, len(step.grid)))


def _mean_frequency(step: StepResponses) -> Ragged:
    times = step.peak_times_ms
    inside = times.where((times.value >= step.start_ms) & (times.value <= step.stop_ms))
    last = np.maximum(inside.max(), 0.0)
    past = last - step.start_ms
    with np.errstate(divide="ignore", invalid="ignore"):
        return Ragged.one_per_row(inside.count * 1000 / past, (times.count > 0) & (past != 0))


def _time_to_first_spike(step: StepResponses) -> Ragged:
    first = step.peak_times_ms.first(np.nan)
    return Ragged.one_per_row(first - step.start_ms, step.peaks.count > 0)


def _isi_cv(step: StepResponses) -> Ragged:
    intervals = step.peak_times_ms.differences()
    intervals = intervals.where(intervals.rank > 0)
    count = intervals.count
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = intervals.sum() / count
        squares = Ragged(intervals.row, (intervals.value - mean[intervals.row]) ** 2, intervals.n_rows)
        cv = np.sqrt(squares.sum() / (count - 1)) / mean
    return Ragged.one_per_row(cv, count >= 2)


def _adaptation_index2(step: StepResponses) -> Ragged:
    times = step.peak_times_ms
    inside = times.where((times.value >= step.start_ms) & (times.value <= step.stop_ms))
    intervals = inside.where(inside.rank > 0).differences()
    within = intervals.row[1:] == intervals.row[:-1]
    first, second = intervals.value[:-1][within], intervals.value[1:][within]
    index = Ragged(intervals.row[1:][within], (second - first) / (second + first), intervals.n_rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Ragged.one_per_row(index.sum() / index.count, inside.count >= 4)


def _ap_width(step: StepResponses) -> Ragged:
    """Time above the threshold from one trough to the next, the first from the beginning."""
    changes, level, times = step._changes, step.threshold_mV, step.grid.times_ms
    n, end = len(step.voltages), len(step.grid)
    row, stop = step.troughs.row, step.troughs.value
    first = step.grid.first_at(step.start_ms) if step.inside_only else 0
    start = np.where(step.troughs.rank == 0, first, np.append(0, stop)[: len(stop)])

    def following(chosen: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """Return the next chosen change after samples of `row`."""
        keys = changes.row[chosen] * end + changes.sample[chosen]
        place = np.searchsorted(keys, row * end + sample, "right")
        return np.append(keys, n * end)[place] - row * end

    onset = np.where(step.voltages.at(row, start) > level, start, following(changes.after > level, start))
    onset = np.minimum(onset, stop)
    over = np.minimum(following(changes.after < level, onset), stop)
    return Ragged(row, times[over] - times[onset], n)


def _depol_block(step: StepResponses) -> Ragged:
    free = not_blocked(step.voltages, step.onsets, step.start_ms, step.stop_ms)
    return Ragged.one_per_row(np.ones(len(step.voltages)), free)


def _voltage_deflection_vb_ssse(step: StepResponses) -> Ragged:
    steady, base = step.steady_state_voltage_stimend, step.voltage_base
    if not (len(steady.row) and len(base.row)):
        return Ragged(np.zeros(0, int), np.zeros(0), len(step.voltages))
    return Ragged.one_per_row(steady.value - base.value)


def _sag_amplitude(step: StepResponses) -> Ragged:
    deflection = _voltage_deflection_vb_ssse(step)
    if not len(deflection.row):
        return deflection
    window = step.voltages.window(step.grid.first_at(step.start_ms), step.grid.first_at(step.stop_ms))
    sag = step.steady_state_voltage_stimend.value - window.min(axis=1)
    return Ragged.one_per_row(sag, deflection.value <= 0)


def _decay_time_constant_after_stim(step: StepResponses) -> Ragged:
    """Fit a line to the logarithms, with sums in eFEL's order: they nearly cancel, so the order of rounding matters."""
    grid = step.grid
    start, stop = (grid.first_at(step.stop_ms + after) for after in DECAY_MS)
    if stop == start:
        return Ragged(np.zeros(0, int), np.zeros(0), len(step.voltages))
    reference = grid.first_at(step.start_ms)
    x = grid.times_ms[start:stop]
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = step.voltages.window(reference, reference + 1)
        y = np.log(np.abs(step.voltages.window(start, stop) - rest))
        sum_x, sum_xx = np.cumsum(x)[-1], np.cumsum(x * x)[-1]
        sum_y, sum_xy = np.cumsum(y, axis=1)[:, -1], np.cumsum(x * y, axis=1)[:, -1]
        slope = (len(x) * sum_xy - sum_x * sum_y) / (len(x) * sum_xx - sum_x * sum_x)
        return Ragged.one_per_row(np.abs(-1.0 / slope))


FEATURES: dict[str, Callable[[StepResponses], Ragged]] = {
    "voltage_base": lambda step: step.voltage_base,
    "voltage_after_stim": _voltage_after_stim,
    "steady_state_voltage": _steady_state_voltage,
    "steady_state_voltage_stimend": lambda step: step.steady_state_voltage_stimend,
    "voltage_deflection_vb_ssse": _voltage_deflection_vb_ssse,
    "sag_amplitude": _sag_amplitude,
    "decay_time_constant_after_stim": _decay_time_constant_after_stim,
    "Spikecount": lambda step: Ragged.one_per_row(step.peaks.count.astype(float)),
    "mean_frequency": _mean_frequency,
    "time_to_first_spike": _time_to_first_spike,
    "ISI_CV": _isi_cv,
    "adaptation_index2": _adaptation_index2,
    "AP_amplitude_from_voltagebase": lambda step: step.above_base(step.peaks),
    "AHP_depth": lambda step: step.above_base(step.troughs),
    "AP_width": _ap_width,
    "depol_block": _depol_block,
}


def spikes_begin_in_axon(soma: StepResponses, axon: StepResponses) -> Ragged:
    """Return 1 for each individual whose spikes all begin in the axon no later than in the soma."""
    at_soma, at_axon = soma.times_ms(soma.onsets), axon.times_ms(axon.onsets)
    same = (at_soma.count == at_axon.count) & (at_soma.count > 0)
    somatic, axonal = at_soma.where(same[at_soma.row]), at_axon.where(same[at_axon.row])
    late = Ragged(somatic.row, (axonal.value > somatic.value).astype(float), somatic.n_rows).sum()
    return Ragged.one_per_row(np.ones(len(same)), same & (late == 0))
