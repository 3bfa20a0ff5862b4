"""Events in calcium traces by a thresholded derivative, and histograms of the intervals between them.

This stands in for spike inference (suite2p in the paper): an event is a rise from one frame to the next by
more than twice the robust s.d. of such differences.
"""

from __future__ import annotations

import numpy as np

from learners.neuprint.recordings import Recording

THRESHOLD_SD = 1.5
MAD_TO_SD = 1.4826
WINDOW_FRAMES = 64
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
    found = np.zeros(recording.activity.shape, dtype=bool)
    found[1:] = both & (rise > limit)
    return found


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
    windows = recording.n_frames // WINDOW_FRAMES
    bins = len(INTERVAL_EDGES) - 1
    neuron, frame = np.nonzero(events(recording)[: windows * WINDOW_FRAMES].T)
    window = neuron * windows + frame // WINDOW_FRAMES
    together = window[1:] == window[:-1]
    interval = np.diff(frame)[together]
    place = np.searchsorted(INTERVAL_EDGES, interval, side="right") - 1
    cells = recording.n_neurons * windows * bins
    counts = np.bincount(window[1:][together] * bins + place, minlength=cells)
    counts = counts.reshape(recording.n_neurons, windows, bins)
    return (counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)).astype(np.float32)
