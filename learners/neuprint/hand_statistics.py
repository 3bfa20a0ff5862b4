"""Simple statistics of each neuron's activity, which every learned representation has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learners.neuprint.covariates import covariates
from learners.neuprint.events import differences, events
from learners.neuprint.recordings import Recording, Recordings

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
    found = {"difference_variance": (kept**2).sum(axis=0) / steps - (kept.sum(axis=0) / steps) ** 2}
    for lag in LAGS:
        found[f"autocorrelation_{lag}"] = _correlation(x[lag:], x[:-lag], valid[lag:] & valid[:-lag])
    found["skewness"] = (x**3).sum(axis=0) / frames
    found["kurtosis"] = (x**4).sum(axis=0) / frames - 3.0
    quantiles = np.zeros((3, recording.n_neurons))
    for neuron in range(recording.n_neurons):
        quantiles[:, neuron] = np.quantile(x[valid[:, neuron], neuron], (0.05, 0.5, 0.95))
    found["percentile_5"], found["median"], found["percentile_95"] = quantiles
    found["events_per_s"] = events(recording).sum(axis=0) / steps * recording.rate_hz
    if population:
        others = covariates(recording, ("population",)).own[:, :, 0].astype(np.float64)
        found["with_population"] = _correlation(x, others, valid)
        for lag in LAGS_WITH_POPULATION:
            later, earlier = slice(abs(lag), None), slice(None, -abs(lag))
            mine, theirs = (later, earlier) if lag > 0 else (earlier, later)
            found[f"with_population_{lag:+d}"] = _correlation(x[mine], others[theirs], valid[mine])
    for place, name in enumerate(recording.behaviour_names):
        channel = np.broadcast_to(recording.behaviour[:, place : place + 1], x.shape).astype(np.float64)
        found[f"with_{name}"] = _correlation(x, channel, valid)
    return found


def _correlation(one: np.ndarray, other: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the correlation of each column over its valid rows; 0 where there is none to speak of."""
    if not len(valid):
        return np.zeros(valid.shape[1])
    count = np.maximum(valid.sum(axis=0), 1)
    centred = [
        np.where(valid, values - np.where(valid, values, 0.0).sum(axis=0) / count, 0.0)
        for values in (one, other)
    ]
    product, first, second = (
        (a * b).sum(axis=0) for a, b in ((centred[0], centred[1]), (centred[0],) * 2, (centred[1],) * 2)
    )
    spread = np.sqrt(first * second)
    return np.divide(product, spread, out=np.zeros_like(product), where=spread > 1e-9 * count)
