"""Explained variance against answers worked out by hand, and against finer bins."""

import numpy as np
import pytest

from neurofleet.neurosim.studies.explained_variance import (
    explained_variance,
    explained_variance_ratio,
    psth_explained_variance,
    rates,
    smoothed,
    spike_times,
)


def trains(seed, n=4, spikes=60, duration_ms=3000.0, jitter_ms=4.0):
    random = np.random.default_rng(seed)
    common = np.sort(random.uniform(0, duration_ms, spikes))
    return [np.sort(common + random.normal(0, jitter_ms, spikes)) for _ in range(n)]


def test_a_spike_becomes_a_gaussian_of_area_one():
    rate = smoothed(np.array([500.0]), 1000.0)
    assert rate.sum() * 0.1 / 1000.0 == pytest.approx(1.0, rel=1e-4)
    assert rate.max() == pytest.approx(1000.0 / (10.0 * np.sqrt(2 * np.pi)), rel=1e-3)
    assert abs(rate.argmax() * 0.1 - 500.0) <= 0.1


def test_a_model_equal_to_every_trial_explains_all_and_its_mirror_nothing():
    signal = np.sin(np.linspace(0, 20, 500))
    trials = np.array([signal, signal])
    assert explained_variance(trials, signal) == pytest.approx(1.0)
    assert explained_variance(trials, -signal) == pytest.approx(-1.0)
    assert psth_explained_variance(trials, signal) == pytest.approx(100.0)


def test_both_definitions_by_hand():
    trials = np.array([[0.0, 2.0], [0.0, 4.0]])
    model = np.array([1.0, 3.0])
    # Centred: trials (-1, 1) and (-2, 2), model (-1, 1): variances 2 + 8 + 2 * 2 = 14, differences 0 + 2.
    assert explained_variance(trials, model) == pytest.approx(12 / 14)
    # The trials' mean (0, 3): variance 2.25, the model's 1, of the difference 0.25.
    assert psth_explained_variance(trials, model) == pytest.approx(100 * (3.25 - 0.25) / 3.25)
    # The mean explains 2 + 8 + 2 * 4.5 = 19, differences 0.5 + 0.5: 18 / 19.
    assert explained_variance_ratio(trials, model) == pytest.approx((12 / 14) / (18 / 19))


def test_the_mean_of_the_trials_has_ratio_one_and_an_unrelated_train_nearly_none():
    recorded = rates(trains(1), 3000.0)
    assert explained_variance_ratio(recorded, recorded.mean(axis=0)) == pytest.approx(1.0)
    other = smoothed(trains(2)[0], 3000.0)
    assert abs(explained_variance_ratio(recorded, other)) < 0.25


def test_bins_of_a_tenth_of_a_millisecond_are_as_good_as_the_released_ones():
    found, total_ms = trains(3, spikes=8, duration_ms=400.0), 400.0
    coarse = explained_variance_ratio(rates(found, total_ms), smoothed(found[0], total_ms))
    fine = np.array([smoothed(train, total_ms, bin_ms=0.005) for train in found])
    assert coarse == pytest.approx(explained_variance_ratio(fine, fine[0]), abs=1e-3)


def test_spikes_are_found_between_samples():
    time_ms = np.arange(6.0)
    voltage = np.array([-70.0, -40.0, 0.0, -60.0, -30.0, -10.0])
    assert spike_times(time_ms, voltage, -20.0) == pytest.approx([1.5, 4.5])


def test_a_silent_model_of_a_silent_cell_has_no_explained_variance():
    silent = np.zeros((3, 100))
    assert np.isnan(explained_variance_ratio(silent, np.zeros(100)))
    assert np.isnan(psth_explained_variance(silent, np.zeros(100)))
