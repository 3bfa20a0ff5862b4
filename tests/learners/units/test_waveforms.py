"""Waveforms of any rate become the same 50 points."""

import numpy as np
import pytest

from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.waveforms import OFFSETS_S, largest_channels
from tests.learners.units.made_units import made, npz, refused, spike_shape, waveforms


@pytest.mark.parametrize("rate_hz", [20_000, 24_414.0625, 30_000, 33_000, 100_000])
def test_any_rate_gives_the_waveform_at_the_50_times(tmp_path, rate_hz):
    times = np.arange(-round(0.0012 * rate_hz), round(0.0018 * rate_hz)) / rate_hz
    shape = np.array([spike_shape(times)] * 3)
    units = open_units([npz(tmp_path / "a.npz", waveform=shape, **few(3, rate_hz))])
    np.testing.assert_allclose(units.waveform[0], spike_shape(OFFSETS_S), atol=0.03)
    assert OFFSETS_S[0] == -1e-3
    assert OFFSETS_S[-1] == pytest.approx(1.45e-3)


def test_100_and_30_khz_agree_though_the_trough_lies_between_samples(tmp_path):
    results = []
    for rate_hz, late_s in ((100_000, 0.0), (30_000, 1.4e-5)):
        times = np.arange(-round(0.0012 * rate_hz), round(0.0018 * rate_hz)) / rate_hz + late_s
        shape = np.array([spike_shape(times)] * 3)
        results.append(open_units([npz(tmp_path / "a.npz", waveform=shape, **few(3, rate_hz))]))
    np.testing.assert_allclose(results[0].waveform, results[1].waveform, atol=0.03)
    np.testing.assert_allclose(results[0].hand[:, :4], results[1].hand[:, :4], atol=0.03)


def few(n: int, rate_hz: float) -> dict:
    arrays = {name: value[:n] for name, value in made().items() if isinstance(value, np.ndarray)}
    arrays.pop("waveform")
    return arrays | {"waveform_rate_hz": rate_hz}


def test_units_turned_upside_down_are_turned_back(tmp_path):
    upright = open_units([npz(tmp_path / "a.npz")])
    turned = open_units([npz(tmp_path / "b.npz", waveform=-made()["waveform"])])
    np.testing.assert_array_equal(upright.waveform, turned.waveform)
    assert any("upside down" in note for note in turned.notes)
    assert not any("upside down" in note for note in upright.notes)


def test_one_positive_unit_among_negative_ones_keeps_its_sign(tmp_path):
    shapes = made()["waveform"]
    shapes[4] *= -1
    units = open_units([npz(tmp_path / "a.npz", waveform=shapes)])
    assert units.waveform[4, 20] > 0.9
    assert units.waveform[5, 20] < -0.9


def test_a_short_window_holds_its_edges_and_says_so(tmp_path):
    units = open_units([npz(tmp_path / "a.npz", waveform=waveforms(30_000, 0.5, 0.8))])
    assert (units.waveform[:, :10] == units.waveform[:, [0]]).all()
    assert (units.waveform[:, 37:] == units.waveform[:, [-1]]).all()
    assert (units.waveform[:, 12] != units.waveform[:, 0]).all()
    assert any("0.50 ms before to 0.80 ms after" in note and "held" in note for note in units.notes)


def test_the_peak_is_looked_for_around_the_given_sample(tmp_path):
    shapes = made()["waveform"]
    shapes[:, -3] = -5
    at_glitch = open_units([npz(tmp_path / "a.npz", waveform=shapes)])
    at_spike = open_units([tmp_path / "a.npz"], {"waveform_peak_index": 36})
    assert (at_glitch.waveform[:, 20] == -5).all()
    np.testing.assert_allclose(at_spike.waveform[:, 20], -1, atol=0.05)
    assert any("may be noise" in note for note in at_spike.notes)


def test_missing_waveforms_are_zero_and_not_present(tmp_path):
    shapes = made()["waveform"]
    shapes[1, 7], shapes[2], shapes[3] = np.nan, 0, 0.7
    units = open_units([npz(tmp_path / "a.npz", waveform=shapes)])
    assert list(units.present[:5, 0]) == [True, False, False, False, True]
    assert (units.waveform[1:4] == 0).all()
    assert np.isnan(units.hand[1:4, :18]).all()
    assert np.isfinite(units.hand[1:4, 18:]).all()
    assert any("missing in 3 of 30" in note for note in units.notes)


def test_the_rate_must_be_known_and_the_layout_wins(tmp_path):
    path = npz(tmp_path / "a.npz", waveform_rate_hz=None)
    refused([path], "sampling rate", "unknown", "waveform_rate_hz: 30000")
    assert open_units([path], {"without": ["waveform"]}).present.sum(axis=0).tolist() == [0, 30, 30]
    right = open_units([path], {"waveform_rate_hz": 30_000})
    wrong = npz(tmp_path / "b.npz", waveform_rate_hz=15_000.0)
    np.testing.assert_array_equal(open_units([wrong], {"waveform_rate_hz": 30_000}).waveform, right.waveform)
    assert not np.array_equal(open_units([wrong]).waveform, right.waveform)


def test_a_peak_outside_the_waveform_and_short_waveforms_are_refused(tmp_path):
    path = npz(tmp_path / "a.npz")
    refused([path], "waveform_peak_index is 400", "91 samples", waveform_peak_index=400)
    refused([npz(tmp_path / "b.npz", waveform=made()["waveform"][:, 30:35])], "at least 8 samples, found 5")
    refused([npz(tmp_path / "c.npz", waveform_rate_hz=-5.0)], "above 0 as waveform_rate_hz, found -5")


def test_a_rate_in_khz_is_refused_and_one_that_does_not_fit_the_spikes_is_told(tmp_path):
    path = npz(tmp_path / "a.npz", waveform_rate_hz=None)
    refused([path], "found 30", "give 30000", waveform_rate_hz=30)
    refused([path], "0.0115 ms wide", "the sampling rate is wrong", waveform_rate_hz=600_000)
    assert not any("ms wide" in note for note in open_units([path], {"waveform_rate_hz": 30_000}).notes)
    wide = open_units([path], {"waveform_rate_hz": 8_000}).notes
    assert any("at 8000 Hz the spikes are 0.8" in note and "check the sampling rate" in note for note in wide)


def test_a_rate_of_the_layout_that_contradicts_the_file_is_told(tmp_path):
    units = open_units([npz(tmp_path / "a.npz")], {"waveform_rate_hz": 20_000})
    assert any("the file states waveforms at 30000 Hz, the layout 20000 Hz" in note for note in units.notes)
    assert not any("the file states" in note for note in open_units([tmp_path / "a.npz"]).notes)


@pytest.mark.parametrize("n", [30, 91])
def test_samples_by_units_are_refused(tmp_path, n):
    turned = waveforms(30_000, n=n).T
    np.savez(tmp_path / "a.npz", waveform=turned, waveform_rate_hz=30_000.0)
    refused([tmp_path / "a.npz"], f"a table of 91 x {n} whose columns are smooth", "Transpose")


def on_channels(n_channels: int, n: int = 12) -> np.ndarray:
    """Units x samples x channels; the channel of largest amplitude is number 2."""
    rng = np.random.default_rng(8)
    amplitudes = np.exp(-np.abs(np.arange(n_channels) - 2) / 3)
    clean = 50 * waveforms(30_000, n=n)[:, :, None] * amplitudes
    return clean + rng.normal(0, 0.3, clean.shape)


@pytest.mark.parametrize("n_channels", [4, 32, 91])
@pytest.mark.parametrize("electrodes", [True, False])
def test_the_time_axis_is_found_by_electrodes_or_values(n_channels, electrodes):
    values = on_channels(n_channels)
    counts = np.full(len(values), n_channels) if electrodes else None
    usual = "samples, channels"
    largest, notes = largest_channels(values, None, counts, usual, "a")
    np.testing.assert_array_equal(largest, values[:, :, 2])
    assert notes == []
    largest, notes = largest_channels(values.swapaxes(1, 2), None, counts, usual, "a")
    np.testing.assert_array_equal(largest, values[:, :, 2])
    assert len(notes) == 1
    assert "expected samples x channels per unit, found channels x samples" in notes[0]
    stated, notes = largest_channels(values.swapaxes(1, 2), "channels, samples", counts, usual, "a")
    np.testing.assert_array_equal(stated, values[:, :, 2])
    assert notes == []


def test_noise_does_not_tell_the_time_axis():
    values = np.random.default_rng(9).normal(0, 1, (12, 40, 32))
    _, notes = largest_channels(values, None, None, "samples, channels", "a")
    assert len(notes) == 1
    assert "nothing in the file tells otherwise" in notes[0]


def test_a_peak_index_where_no_spike_is_is_refused(tmp_path):
    path = npz(tmp_path / "a.npz")
    assert not any("may be noise" in note for note in open_units([path], {"waveform_peak_index": 36}).notes)
    refused([path], "1.76 ms wide (median)", "waveform_peak_index is", waveform_peak_index=80)
