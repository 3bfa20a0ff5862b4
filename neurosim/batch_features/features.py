"""The e-features that are calculated for many individuals at once, by eFEL's names and rules."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from neurosim.batch_features.block import not_blocked
from neurosim.batch_features.grid import Changes, TimeGrid, Voltages
from neurosim.batch_features.ragged import Ragged
from neurosim.batch_features.spikes import find_onsets, find_peaks, find_troughs

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
    """

    def __init__(self, voltages: Voltages, start_ms: float, stop_ms: float, threshold_mV: float) -> None:
        self.voltages = voltages
        self.start_ms, self.stop_ms, self.threshold_mV = start_ms, stop_ms, threshold_mV

    @property
    def grid(self) -> TimeGrid:
        return self.voltages.grid

    @cached_property
    def _changes(self) -> Changes:
        return self.voltages.changes(self.threshold_mV)

    @cached_property
    def undecided(self) -> np.ndarray:
        """Whose voltage is the threshold to the last bit at some time, shape (n,).

        There eFEL's spikes depend on the rounding of its interpolation, which some features repeat.
        """
        return (self.voltages.recorded == self.threshold_mV).any(axis=1)

    @cached_property
    def peaks(self) -> Ragged:
        """Samples of the peaks."""
        return find_peaks(self.voltages, self._changes, self.threshold_mV)

    @cached_property
    def troughs(self) -> Ragged:
        """Samples of the troughs after the peaks."""
        return find_troughs(self.voltages, self.peaks)

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
        return Ragged.one_each(self.voltages.mean_in_order(start, stop))

    @cached_property
    def steady_state_voltage_stimend(self) -> Ragged:
        begin = self.stop_ms - STEADY_SHARE * (self.stop_ms - self.start_ms)
        start, stop = self.grid.first_at(begin), self.grid.first_at(self.stop_ms)
        if stop == start:
            return Ragged(np.zeros(0, int), np.zeros(0), len(self.voltages))
        return Ragged.one_each(self.voltages.mean_in_order(start, stop))

    def times_ms(self, samples: Ragged) -> Ragged:
        """Return the times of samples."""
        return Ragged(samples.row, self.grid.times_ms[samples.value], samples.n_rows)

    def values_mV(self, samples: Ragged) -> Ragged:
        """Return the voltages of samples."""
        return Ragged(samples.row, self.voltages.at(samples.row, samples.value), samples.n_rows)

    def above_base(self, samples: Ragged) -> Ragged:
        """Return the voltages of samples less `voltage_base`; nothing where there is none."""
        found, base = self.values_mV(samples), self.voltage_base
        if not len(base.row):
            return base
        return Ragged(found.row, found.value - base.value[found.row], found.n_rows)


def _voltage_after_stim(step: StepResponses) -> Ragged:
    grid, stop = step.grid, step.stop_ms
    rest = grid.times_ms[-1] - stop
    last = int(np.searchsorted(grid.times_ms, stop + rest * 0.75, "right"))
    start, end = grid.first_at(stop + rest * 0.25), min(last + 1, len(grid))
    return Ragged.one_each(step.voltages.mean(start, end))


def _steady_state_voltage(step: StepResponses) -> Ragged:
    start = int(np.searchsorted(step.grid.times_ms, step.stop_ms, "right"))
    if start == len(step.grid):
        return Ragged.one_each(np.full(len(step.voltages), np.nan))
    return Ragged.one_each(step.voltages.mean(start, len(step.grid)))


def _mean_frequency(step: StepResponses) -> Ragged:
    times = step.peak_times_ms
    inside = times.where((times.value >= step.start_ms) & (times.value <= step.stop_ms))
    last = np.maximum(inside.max(), 0.0)
    past = last - step.start_ms
    with np.errstate(divide="ignore", invalid="ignore"):
        return Ragged.one_each(inside.count * 1000 / past, (times.count > 0) & (past != 0))


def _time_to_first_spike(step: StepResponses) -> Ragged:
    first = step.peak_times_ms.first(np.nan)
    return Ragged.one_each(first - step.start_ms, step.peaks.count > 0)


def _isi_cv(step: StepResponses) -> Ragged:
    intervals = step.peak_times_ms.differences()
    intervals = intervals.where(intervals.rank > 0)
    count = intervals.count
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = intervals.sum() / count
        squares = Ragged(intervals.row, (intervals.value - mean[intervals.row]) ** 2, intervals.n_rows)
        cv = np.sqrt(squares.sum() / (count - 1)) / mean
    return Ragged.one_each(cv, count >= 2)


def _adaptation_index2(step: StepResponses) -> Ragged:
    times = step.peak_times_ms
    inside = times.where((times.value >= step.start_ms) & (times.value <= step.stop_ms))
    intervals = inside.where(inside.rank > 0).differences()
    within = intervals.row[1:] == intervals.row[:-1]
    one, two = intervals.value[:-1][within], intervals.value[1:][within]
    index = Ragged(intervals.row[1:][within], (two - one) / (two + one), intervals.n_rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Ragged.one_each(index.sum() / index.count, inside.count >= 4)


def _ap_width(step: StepResponses) -> Ragged:
    """Time above the threshold from one trough to the next, the first from the beginning."""
    changes, level, times = step._changes, step.threshold_mV, step.grid.times_ms
    n, end = len(step.voltages), len(step.grid)
    row, stop = step.troughs.row, step.troughs.value
    start = np.where(step.troughs.rank == 0, 0, np.append(0, stop)[: len(stop)])

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
    return Ragged.one_each(np.ones(len(step.voltages)), free)


def _voltage_deflection_vb_ssse(step: StepResponses) -> Ragged:
    steady, base = step.steady_state_voltage_stimend, step.voltage_base
    if not (len(steady.row) and len(base.row)):
        return Ragged(np.zeros(0, int), np.zeros(0), len(step.voltages))
    return Ragged.one_each(steady.value - base.value)


def _sag_amplitude(step: StepResponses) -> Ragged:
    deflection = _voltage_deflection_vb_ssse(step)
    if not len(deflection.row):
        return deflection
    window = step.voltages.window(step.grid.first_at(step.start_ms), step.grid.first_at(step.stop_ms))
    sag = step.steady_state_voltage_stimend.value - window.min(axis=1)
    return Ragged.one_each(sag, deflection.value <= 0)


def _decay_time_constant_after_stim(step: StepResponses) -> Ragged:
    """A straight line through the logarithms, its sums added in eFEL's order: they cancel almost wholly."""
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
        return Ragged.one_each(np.abs(-1.0 / slope))


FEATURES: dict[str, Callable[[StepResponses], Ragged]] = {
    "voltage_base": lambda step: step.voltage_base,
    "voltage_after_stim": _voltage_after_stim,
    "steady_state_voltage": _steady_state_voltage,
    "steady_state_voltage_stimend": lambda step: step.steady_state_voltage_stimend,
    "voltage_deflection_vb_ssse": _voltage_deflection_vb_ssse,
    "sag_amplitude": _sag_amplitude,
    "decay_time_constant_after_stim": _decay_time_constant_after_stim,
    "Spikecount": lambda step: Ragged.one_each(step.peaks.count.astype(float)),
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
    ours, theirs = at_soma.where(same[at_soma.row]), at_axon.where(same[at_axon.row])
    late = Ragged(ours.row, (theirs.value > ours.value).astype(float), ours.n_rows).sum()
    return Ragged.one_each(np.ones(len(same)), same & (late == 0))
