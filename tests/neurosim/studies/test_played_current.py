"""What a model is given must not tell it when the cell has spiked."""

import numpy as np
import pytest

from neurofleet.neurosim.recordings.sweep_entries import SweepFault
from neurofleet.neurosim.studies.generalisation import played_current

RATE_HZ = 10_000.0
TIMES = np.arange(0.0, 2000.0, 0.1)
SPIKES = np.array([600.0, 801.3, 1003.1, 1250.0])


def leak(amplitude_nA):
    """Biphasic transients at the spikes, as an amplifier leaves them in the current channel."""
    after = TIMES[:, None] - SPIKES
    return (amplitude_nA * np.where((after >= 0) & (after < 1.0), 1 - 2 * (after > 0.5), 0.0)).sum(axis=1)


def noise(seed=0):
    return 0.05 * np.repeat(np.random.default_rng(seed).standard_normal(TIMES.size // 40), 40)


def test_a_step_is_played_as_a_step_whatever_leaks_into_it():
    step = np.where((TIMES >= 500) & (TIMES < 1500), 0.25, -0.05)
    dirty = step + leak(0.5) + np.random.default_rng(1).normal(0, 0.002, TIMES.size)
    played = played_current(dirty, SPIKES, RATE_HZ)
    assert np.unique(played).size == 2
    assert np.abs(played - step)[(np.abs(TIMES - 500) > 1) & (np.abs(TIMES - 1500) > 1)].max() < 0.002


def test_noise_is_played_as_it_was_unless_spikes_leak_into_it():
    clean = noise()
    assert played_current(clean, SPIKES, RATE_HZ) is clean
    with pytest.raises(SweepFault, match="the cell's own spikes"):
        played_current(clean + leak(0.5), SPIKES, RATE_HZ)


def test_noise_that_makes_a_cell_spike_where_it_is_strongest_is_not_taken_for_a_leak():
    current = np.convolve(noise(3), np.ones(30) / 30, mode="same")
    rise = np.flatnonzero((current[1:] >= 0.06) & (current[:-1] < 0.06))
    assert len(rise) >= 3
    assert played_current(current, TIMES[rise], RATE_HZ) is current
