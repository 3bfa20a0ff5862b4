"""The current that a recorded cell was given, without what its own spikes add to the recorded channel.

Amplifiers let spikes leak into the current channel. Played into a model, such a channel tells it when the
cell has spiked.
"""

import numpy as np

from neurosim.stimulus import NotAStep, find_step
from neurosim.sweep_entries import SweepFault

AROUND_MS = 2.0
FEWEST_SPIKES = 3
RARE_PERCENT = 99.0


def played_current(current_nA: np.ndarray, spikes_ms: np.ndarray, rate_Hz: float) -> np.ndarray:
    """Return what is to be played of a recorded current.

    A square step is replaced by the step itself: its level, and the resting current outside of it. Any other
    current is played as it was recorded, if it moves at spikes no more than elsewhere.

    Parameters
    ----------
    current_nA : ndarray, shape (n,)
    spikes_ms : ndarray, shape (s,)
    rate_Hz : float

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    SweepFault
        The channel carries the cell's own spikes, and the current is no step.
    """
    try:
        step = find_step(current_nA, rate_Hz)
    except NotAStep:
        if _carries_spikes(current_nA, spikes_ms, rate_Hz):
            raise SweepFault(
                "its current channel carries the cell's own spikes, which would tell a model when to spike"
            ) from None
        return current_nA
    ideal = np.full(current_nA.size, step.rest_nA)
    ideal[step.start : step.last + 1] = step.level_nA
    return ideal


def _carries_spikes(current_nA: np.ndarray, spikes_ms: np.ndarray, rate_Hz: float) -> bool:
    """Whether the current moves more around a typical spike than it does nearly anywhere else."""
    if len(spikes_ms) < FEWEST_SPIKES:
        return False
    half = max(1, round(AROUND_MS * rate_Hz / 1000.0))
    windows = np.lib.stride_tricks.sliding_window_view(current_nA, 2 * half + 1)[:: max(1, half // 2)]
    middles = np.arange(len(windows)) * max(1, half // 2) + half
    moves = np.ptp(windows, axis=1)
    at = np.round(spikes_ms * rate_Hz / 1000.0).astype(int)
    distance = np.abs(middles[:, None] - at).min(axis=1)
    elsewhere = moves[distance > 4 * half]
    near = [moves[np.abs(middles - spike).argmin()] for spike in at]
    return bool(elsewhere.size and np.median(near) > np.percentile(elsewhere, RARE_PERCENT))
