"""Events in calcium traces, and simple statistics of each neuron's activity as a baseline.

This stands in for spike inference (suite2p in the paper): an event is a rise from one frame to the next by
more than twice the robust s.d. of such differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurofleet.learners.neuprint.population_recordings import Recording, Recordings
from neurofleet.learners.neuprint.session_tensors import covariates

THRESHOLD_SD = 1.5
MAD_TO_SD = 1.4826
EVENT_WINDOW_FRAMES = 64
INTERVAL_EDGES = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 19, 24, 30, 38, 48, 64])  # frames, 16 bins


def events(recording: Recording) -> np.ndarray:
    """Return where activity rose by more than 1.5 robust s.d., (frames, neurons) bool.

    The robust s.d. is 1.4826 times the median absolute deviation of the neuron's differences between
    consecutive measured frames (or their plain s.d., where most differences are alike).
    """
    rise, both = differences(recording)
    seen = np.where(both, rise, np.nan)
    with np.errstate(invalid="ignore"):
        middle = np.nan_to_num(np.nanmedian(np.vstack([seen, np.zeros(seen.shape[1])]), axis=0))
        deviation = np.nan_to_num(np.nanmedian(np.abs(np.vstack([seen, middle]) - middle), axis=0))
    count = np.maximum(both.sum(axis=0), 1)
    plain = np.sqrt((np.where(both, rise, 0.0) ** 2).sum(axis=0) / count)
    limit = middle + THRESHOLD_SD * np.where(deviation > 0, MAD_TO_SD * deviation, plain)
    is_event = np.zeros(recording.activity.shape, dtype=bool)
    is_event[1:] = both & (rise > limit)
    return is_event


def differences(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Return activity minus that of the frame before, and where both were measured; (frames - 1, neurons)."""
    return np.diff(recording.activity, axis=0), recording.valid[1:] & recording.valid[:-1]


def interval_histograms(recording: Recording) -> np.ndarray:
    """Return, for each neuron and window of 64 frames, the shares of its intervals in 16 bins.

    Intervals lie between consecutive events of one window; bins are 1 frame wide up to 8 frames and grow
    to 64. A window with fewer than two events is all zeros. Frames after the last whole window do not count.

    Returns
    -------
    (neurons, windows, 16) float32
    """
    windows = recording.n_frames // EVENT_WINDOW_FRAMES
    bins = len(INTERVAL_EDGES) - 1
    neuron, frame = np.nonzero(events(recording)[: windows * EVENT_WINDOW_FRAMES].T)
    window = neuron * windows + frame // EVENT_WINDOW_FRAMES
    together = window[1:] == window[:-1]
    interval = np.diff(frame)[together]
    place = np.searchsorted(INTERVAL_EDGES, interval, side="right") - 1
    cells = recording.n_neurons * windows * bins
    counts = np.bincount(window[1:][together] * bins + place, minlength=cells)
    counts = counts.reshape(recording.n_neurons, windows, bins)
    return (counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)).astype(np.float32)


LAGS = (1, 2, 4, 8, 16, 32)
LAGS_WITH_POPULATION = (-2, 2)


@dataclass(frozen=True)
class HandStatistics:
    """Statistics of the distinct neurons of a set.

    Attributes
    ----------
    values : (neurons, n) float32
        Rows as in the table of neurons.
    names : tuple of str
    """

    values: np.ndarray
    names: tuple[str, ...]


def hand_statistics(recordings: Recordings, *, population: bool = True) -> HandStatistics:
    """Return statistics of z-scored activity, averaged over the recordings of each neuron.

    Variance of the differences between frames, autocorrelation at six lags, skewness, kurtosis, the 5th,
    50th and 95th percentile, events per s, correlation with the mean of the other neurons (also two frames
    before and after), and with each behaviour channel. Entries that were not measured do not count. A
    correlation with a channel which a recording lacks does not count, and is 0 where none has it.

    Parameters
    ----------
    recordings : Recordings
    population : bool
        With the correlations with the other neurons.
    """
    tables = [_statistics(recording, population) for recording in recordings.recordings]
    names = tuple(dict.fromkeys(name for table in tables for name in table))
    total = np.zeros((len(recordings.neurons), len(names)))
    count = np.zeros_like(total)
    for recording, table in zip(recordings.recordings, tables, strict=True):
        rows = recordings.number(recording)
        for place, name in enumerate(names):
            if name in table:
                total[rows, place] += table[name]
                count[rows, place] += 1
    return HandStatistics((total / np.maximum(count, 1)).astype(np.float32), names)


def _statistics(recording: Recording, population: bool) -> dict[str, np.ndarray]:
    x, valid = recording.activity.astype(np.float64), recording.valid
    frames = np.maximum(valid.sum(axis=0), 1)
    rise, both = differences(recording)
    kept = np.where(both, rise.astype(np.float64), 0.0)
    steps = np.maximum(both.sum(axis=0), 1)
    statistics = {"difference_variance": (kept**2).sum(axis=0) / steps - (kept.sum(axis=0) / steps) ** 2}
    for lag in LAGS:
        statistics[f"autocorrelation_{lag}"] = _correlation(x[lag:], x[:-lag], valid[lag:] & valid[:-lag])
    statistics["skewness"] = (x**3).sum(axis=0) / frames
    statistics["kurtosis"] = (x**4).sum(axis=0) / frames - 3.0
    quantiles = np.zeros((3, recording.n_neurons))
    for neuron in range(recording.n_neurons):
        quantiles[:, neuron] = np.quantile(x[valid[:, neuron], neuron], (0.05, 0.5, 0.95))
    statistics["percentile_5"], statistics["median"], statistics["percentile_95"] = quantiles
    statistics["events_per_s"] = events(recording).sum(axis=0) / steps * recording.rate_hz
    if population:
        others = covariates(recording, ("population",)).per_neuron[:, :, 0].astype(np.float64)
        statistics["with_population"] = _correlation(x, others, valid)
        for lag in LAGS_WITH_POPULATION:
            later, earlier = slice(abs(lag), None), slice(None, -abs(lag))
            mine, theirs = (later, earlier) if lag > 0 else (earlier, later)
            statistics[f"with_population_{lag:+d}"] = _correlation(x[mine], others[theirs], valid[mine])
    for place, name in enumerate(recording.behaviour_names):
        channel = np.broadcast_to(recording.behaviour[:, place : place + 1], x.shape).astype(np.float64)
        statistics[f"with_{name}"] = _correlation(x, channel, valid)
    return statistics


def _correlation(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the correlation of each column over its valid rows; 0 where there is none to speak of."""
    if not len(valid):
        return np.zeros(valid.shape[1])
    count = np.maximum(valid.sum(axis=0), 1)
    centred = [np.where(valid, values - np.where(valid, values, 0.0).sum(axis=0) / count, 0.0) for values in (x, y)]
    product, first, second = (
        (a * b).sum(axis=0) for a, b in ((centred[0], centred[1]), (centred[0],) * 2, (centred[1],) * 2)
    )
    spread = np.sqrt(first * second)
    return np.divide(product, spread, out=np.zeros_like(product), where=spread > 1e-9 * count)
