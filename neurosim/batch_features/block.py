"""Depolarisation block as eFEL's `depol_block` sees it."""

import numpy as np

from neurosim.batch_features.grid import Voltages
from neurosim.batch_features.ragged import Ragged

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
    rises = rises.where(
        (rises.value > start) & (rises.value < stop) & (rises.value > falls.first(stop)[rises.row])
    )
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
