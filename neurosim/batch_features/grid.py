"""Voltages between recorded times, interpolated as eFEL does it before it calculates any feature."""

from functools import cached_property

import numpy as np

from neurosim.batch_features.ragged import begins, spans, without_repeats

INTERPOLATION_MS = 0.1  # eFEL's `interp_step`
ROUNDING_MV = 1e-6  # more than an interpolated voltage can be above both of its points


class TimeGrid:
    """eFEL's samples of recordings that share their times.

    The step is added to the first time again and again, so that later times are off by rounding errors;
    the last one may lie behind the last recorded time and has the last voltage.

    Parameters
    ----------
    recorded_ms : ndarray, shape (t,)

    Attributes
    ----------
    times_ms : ndarray, shape (T,)
    regular : bool
        False for times that are not all finite and ascending, which are left to eFEL.
    """

    def __init__(self, recorded_ms: np.ndarray) -> None:
        recorded = np.asarray(recorded_ms, np.float64)
        self.n_recorded = len(recorded)
        self.regular = self.n_recorded > 2 and bool(
            np.isfinite(recorded).all() and (np.diff(recorded) > 0).all()
        )
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
        # No product of matrices: how that rounds depends on how many rows there are.
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
            Samples to look at, more or less.
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

        The highest recorded point is looked for first: only samples beside points as high as the samples
        beside that one need be interpolated.
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
