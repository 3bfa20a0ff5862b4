"""Spikes and e-features of made-up voltages whose properties are known by hand."""

import numpy as np
import pytest

from neurofleet.neurosim.features.perisomatic_features import (
    FEATURES,
    even,
    features_from_spikes,
    find_spikes,
    step_features,
)

START, STOP, REST = 100.0, 300.0, -70.0
TIMES = np.arange(0.0, 400.0, 0.025)
KNOTS_MS, KNOTS_MV = [-6.0, -1.0, 0.0, 2.0, 20.0], [0.0, 10.0, 100.0, -10.0, 0.0]
"""Of a spike about its peak, above rest: a foot, a straight rise and fall, a trough that fades."""


def spiking(peaks_ms, knots=(KNOTS_MS, KNOTS_MV), rest=REST):
    voltage = np.full(TIMES.size, rest)
    for peak in peaks_ms:
        shape = np.interp(TIMES - peak, *knots, left=0.0, right=0.0)
        voltage = voltage + shape
    return voltage


def test_a_spike_has_the_properties_it_was_made_with():
    spikes = find_spikes(TIMES, spiking([150.0, 200.0, 260.0]), START, STOP)
    assert spikes.peak_ms == pytest.approx([150.0, 200.0, 260.0], abs=0.03)
    assert spikes.peak_mV == pytest.approx([30.0] * 3, abs=0.5)
    assert spikes.threshold_ms == pytest.approx([149.0, 199.0, 259.0], abs=0.3)
    assert spikes.trough_ms[:2] == pytest.approx([152.0, 202.0], abs=0.05)
    assert np.isnan(spikes.trough_ms[2])
    assert spikes.fast_trough_mV == pytest.approx([-80.0] * 3, abs=0.5)
    # half of 110 mV above the trough: 55/90 ms before the peak, and 55/110 of the fall of 2 ms after it
    assert spikes.width_ms == pytest.approx([55.0 / 90.0 + 1.0] * 3, abs=0.03)


def test_features_of_a_train_by_hand():
    peaks = [150.0, 170.0, 200.0, 240.0, 290.0]
    found = step_features(TIMES, spiking(peaks), START, STOP)
    assert tuple(found) == FEATURES
    intervals = np.array([20.0, 30.0, 40.0, 50.0])
    assert found["avg_rate"] == pytest.approx(5 / 0.2)
    assert found["first_isi"] == pytest.approx(20.0, abs=0.05)
    assert found["mean_isi"] == pytest.approx(35.0, abs=0.05)
    assert found["isi_cv"] == pytest.approx(intervals.std() / intervals.mean(), abs=0.002)
    assert found["adapt"] == pytest.approx(np.mean([10 / 50, 10 / 70, 10 / 90]), abs=0.002)
    assert found["latency"] == pytest.approx(49.0, abs=0.3)
    assert found["v_baseline"] == pytest.approx(REST)
    assert found["slow_trough_delta_v"] == 0.0
    assert found["slow_trough_norm_t"] == pytest.approx(np.mean([3 / i for i in intervals]), abs=0.02)


@pytest.mark.parametrize(
    ("after", "delta", "at_ms"),
    [
        ([-10.0, -9.0, -20.0, 0.0], 10.0, 15.0),  # falls on, below the fast trough
        ([-10.0, -5.0, -9.0, 0.0], -1.0, 15.0),  # rises by 5 mV within 3 ms, and falls again
        ([-10.0, -9.8, -9.8, 0.0], 0.0, 2.0),  # neither
    ],
)
def test_a_slow_trough_is_deeper_or_follows_a_small_rise(after, delta, at_ms):
    knots = ([-6.0, -1.0, 0.0, 2.0, 5.0, 15.0, 30.0], [0.0, 10.0, 100.0, *after])
    found = step_features(TIMES, spiking([150.0, 190.0], knots), START, STOP)
    assert found["slow_trough_delta_v"] == pytest.approx(delta, abs=0.6)
    assert found["slow_trough_norm_t"] == pytest.approx((at_ms + 1.0) / 40.0, abs=0.02)


def test_without_spikes_only_rate_and_baseline_are_there():
    found = step_features(TIMES, spiking([]), START, STOP)
    assert {name for name, value in found.items() if not np.isnan(value)} == {"avg_rate", "v_baseline"}
    assert found["avg_rate"] == 0.0


def test_small_slow_and_late_bumps_are_no_spikes():
    small = ([-2.0, 0.0, 2.0], [0.0, 30.0, 0.0])
    slow = ([-20.0, 0.0, 20.0], [0.0, 90.0, 0.0])
    assert len(find_spikes(TIMES, spiking([150.0], small), START, STOP)) == 0
    assert len(find_spikes(TIMES, spiking([150.0], slow), START, STOP)) == 0
    assert len(find_spikes(TIMES, spiking([150.0, 350.0]), START, STOP)) == 1


def test_a_model_of_uneven_steps_is_read_as_one_of_even_steps():
    voltage = spiking([150.0, 200.0])
    kept = (np.arange(TIMES.size) % 20 == 0) | (np.abs(TIMES - 150.0) < 8.0) | (np.abs(TIMES - 200.0) < 8.0)
    times, volts = even(TIMES[kept], voltage[kept])
    found, wanted = (step_features(*of, START, STOP) for of in ((times, volts), (TIMES, voltage)))
    for name in ("peak_v", "width", "mean_isi", "fast_trough_v"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-3)


def test_filters_that_the_sampling_rate_does_not_allow_are_left_out():
    slow = TIMES[::8]  # 5 kHz
    spikes = find_spikes(slow, spiking([150.0, 200.0])[::8], START, STOP)
    found = features_from_spikes(spikes, REST, START, STOP)
    assert found["mean_isi"] == pytest.approx(50.0, abs=0.5)
