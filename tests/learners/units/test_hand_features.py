"""Hand features against shapes whose features are known."""

import numpy as np
import pytest

from neurofleet.learners.units.hand_features import HAND_FEATURES, acg_features, isi_features, waveform_features
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.waveforms import Waveforms, read_waveforms
from tests.learners.units.made_units import made, npz

RATE_HZ = 50_000
TIMES_MS = np.arange(-60, 90) / RATE_HZ * 1000


def read(shape):
    found = waveform_features(read_waveforms(np.atleast_2d(shape), RATE_HZ, 60, "made"))[0]
    return dict(zip(HAND_FEATURES, found, strict=False))


def test_a_triangle_with_a_later_triangle():
    shape = -np.clip(1 - np.abs(TIMES_MS) / 0.3, 0, 1) + 0.4 * np.clip(1 - np.abs(TIMES_MS - 0.8) / 0.2, 0, 1)
    found = read(17 * shape)
    assert found["trough_to_peak_ms"] == pytest.approx(0.8, abs=0.011)
    assert found["half_width_before_ms"] == pytest.approx(0.15, abs=0.005)
    assert found["half_width_after_ms"] == pytest.approx(0.15, abs=0.005)
    assert found["half_width_ms"] == pytest.approx(0.3, abs=0.01)
    assert found["peak_width_ms"] == pytest.approx(0.2, abs=0.021)
    assert found["peak_height"] == pytest.approx(0.4, abs=0.01)
    assert found["pre_peak_height"] == pytest.approx(0, abs=1e-6)
    assert found["asymmetry"] == pytest.approx(1)
    assert found["repolarisation_slope_per_ms"] == pytest.approx(1 / 0.3, rel=0.02)
    assert found["onset_slope_per_ms"] == pytest.approx(-1 / 0.3, rel=0.02)
    assert found["end_level"] == pytest.approx(0, abs=1e-6)
    assert found["after_area_ms"] == pytest.approx(0.08 - 0.1**2 / 0.3 / 2, abs=0.003)


def test_levels_of_a_longer_window_are_read_where_it_was_recorded():
    times_ms = np.arange(-100, 251) / 100
    ramp = np.where(times_ms > 1, 0.1 * (times_ms - 1), 0) - np.exp(-((times_ms / 0.1) ** 2))
    waveforms = Waveforms(ramp[None], np.array([100.0]), np.array([True]), 100_000.0, ())
    late = waveform_features(waveforms)[0, -2:]
    assert late == pytest.approx([0.075, 0.125], abs=1e-3)
    short = Waveforms(ramp[None, :300], np.array([100.0]), np.array([True]), 100_000.0, ())
    assert waveform_features(short)[0, -2:] == pytest.approx([0.075, np.nan], abs=1e-3, nan_ok=True)


def test_amplitude_and_offset_do_not_matter():
    shape = np.random.default_rng(3).normal(size=150).cumsum() - 30 * np.exp(-((TIMES_MS / 0.1) ** 2))
    first, second = read(shape), read(0.002 * shape + 5)
    assert first == pytest.approx(second, rel=1e-6, abs=1e-6, nan_ok=True)


def test_intervals_of_a_regular_and_of_an_irregular_unit():
    regular = np.zeros(100)
    regular[48:53] = [0.1, 0.2, 0.2, 0.2, 0.1]
    even = np.full(100, 0.01)
    names = [name for name in HAND_FEATURES if name.startswith("isi_")]
    first, second = (dict(zip(names, row, strict=True)) for row in isi_features(np.array([regular, even])))
    assert first["isi_mode_ms"] == 50.5
    assert first["isi_mean_ms"] == pytest.approx(50.5)
    assert first["isi_cv"] < 0.05
    assert first["isi_mass"] == pytest.approx(0.8)
    assert first["isi_refractory_ms"] == 47
    assert first["isi_quantile_50_ms"] == pytest.approx(50.5)
    assert first["isi_below_10_ms"] == 0
    assert second["isi_cv"] == pytest.approx(1 / np.sqrt(3), rel=1e-3)
    assert second["isi_entropy"] == pytest.approx(1)
    assert second["isi_burst_ratio"] == pytest.approx(-1 / 3)
    assert second["isi_quantile_90_ms"] == pytest.approx(90)
    assert second["isi_below_3_ms"] == pytest.approx(0.03)


def test_autocorrelogram_of_a_flat_unit_with_a_gap():
    lags = np.abs(np.arange(-99, 100, 2))
    gap = (lags > 6).astype(float)
    rhythm = 1 + np.cos(2 * np.pi * lags / 50) * (lags > 4)
    names = [name for name in HAND_FEATURES if name.startswith("acg_")]
    first, second = (dict(zip(names, row, strict=True)) for row in acg_features(np.array([gap, rhythm])))
    assert first["acg_peak"] == pytest.approx(0, abs=1e-9)
    assert first["acg_refractory_ms"] == 4
    assert first["acg_20_to_50_ms"] == pytest.approx(0.5)
    assert first["acg_below_10_ms"] == pytest.approx(0.4 / 1.4)
    assert first["acg_dip_after_peak"] == pytest.approx(0, abs=1e-9)
    assert second["acg_dip_after_peak"] > 0.8


def test_all_are_finite_where_present_and_the_same_each_time(tmp_path):
    path = npz(tmp_path / "a.npz")
    units = open_units([path])
    assert units.hand.shape == (30, 43) == (30, len(HAND_FEATURES))
    late = [name.startswith("level_after") for name in HAND_FEATURES]
    assert np.isfinite(units.hand[:, ~np.array(late)]).all()
    assert np.isnan(units.hand[:, late]).all()  # the made waveforms end 1.8 ms after the spike
    np.testing.assert_array_equal(units.hand, open_units([path]).hand)
    order = np.arange(30)[::-1]
    arrays = {name: value[order] for name, value in made().items() if isinstance(value, np.ndarray)}
    turned = open_units([npz(tmp_path / "b.npz", **arrays)])
    np.testing.assert_allclose(turned.hand, units.hand[order], rtol=1e-5, atol=1e-6)
