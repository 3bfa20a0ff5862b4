"""Histograms of intervals and autocorrelograms of any bins become the common ones, or are refused."""

import numpy as np
import pytest
from scipy.stats import lognorm

from neurofleet.learners.units.unit_files import open_units
from tests.learners.units.made_units import counts, made, npz, refused, symmetric

LOG = {"isi_scale": "log10", "isi_log10_range_s": [-3, 1]}
INTERVALS = lognorm(s=0.9, scale=25)
"""In ms; 6 % are longer than 100 ms."""

TRUE_SHARES = np.diff(INTERVALS.cdf(np.arange(101)))
LOG_EDGES_MS = 1000 * np.logspace(-3, 1, 101)


def opened(tmp_path, isi, n=3, **layout):
    arrays = {name: value[:n] for name, value in made().items() if isinstance(value, np.ndarray)}
    arrays |= {"isi": np.tile(isi, (n, 1)), "isi_bin_ms": None}
    return open_units([npz(tmp_path / "a.npz", **arrays)], layout)


def test_log_bins_of_a_known_distribution_become_its_linear_histogram(tmp_path):
    mass = np.diff(INTERVALS.cdf(LOG_EDGES_MS))
    units = opened(tmp_path, mass, **LOG, isi_values="shares")
    assert np.abs(units.isi[0] - TRUE_SHARES).sum() < 0.02
    assert np.abs(units.isi[0] - mass).sum() > 0.5
    assert any("even in log time" in note for note in units.notes)


def test_mass_lies_evenly_in_log_time_within_a_log_bin(tmp_path):
    units = opened(tmp_path, [0.3, 0.5, 0.1, 0.1], isi_scale="log10", isi_log10_range_s=[-3, 1], isi_values="shares")
    middle = 10**1.5
    assert np.interp(middle, np.arange(101), np.append(0, units.isi[0].cumsum())) == pytest.approx(0.55, abs=0.001)
    assert units.isi[0, :10].sum() == pytest.approx(0.3)
    assert units.isi[0, 1] == pytest.approx(0.3 * np.log10(2))


@pytest.mark.parametrize("normalised", [False, True])
def test_log_densities_become_the_same_shares(tmp_path, normalised):
    density = 1000 * np.diff(INTERVALS.cdf(LOG_EDGES_MS)) / np.diff(LOG_EDGES_MS)
    units = opened(tmp_path, density / density.sum() if normalised else density, **LOG, isi_values="density")
    assert np.abs(units.isi[0] - TRUE_SHARES).sum() < 0.02


@pytest.mark.parametrize("width_ms", [0.5, 2.0])
def test_other_linear_widths_are_redistributed(tmp_path, width_ms):
    edges = np.arange(0, 200 + width_ms, width_ms)
    units = opened(tmp_path, np.diff(INTERVALS.cdf(edges)), isi_bin_ms=width_ms)
    assert np.abs(units.isi[0] - TRUE_SHARES).sum() < 0.03
    assert units.isi[0].sum() == pytest.approx(INTERVALS.cdf(100), abs=1e-5)


def test_counts_are_told_from_shares(tmp_path):
    table = counts()
    from_counts = open_units([npz(tmp_path / "a.npz", isi=table)])
    shares = table / table.sum(axis=1, keepdims=True)
    from_shares = open_units([npz(tmp_path / "b.npz", isi=shares)])
    np.testing.assert_allclose(from_counts.isi, from_shares.isi, rtol=1e-5)
    assert any("counts became shares" in note for note in from_counts.notes)
    part = open_units([npz(tmp_path / "c.npz", isi=0.6 * shares)])
    np.testing.assert_allclose(part.isi.sum(axis=1), 0.6, rtol=1e-5)


def test_a_window_that_ends_early_is_said(tmp_path):
    units = opened(tmp_path, np.diff(INTERVALS.cdf(np.arange(51))), isi_bin_ms=1)
    assert (units.isi[:, 50:] == 0).all()
    assert any("only known up to 50 ms" in note for note in units.notes)


def test_what_cannot_be_told_is_refused(tmp_path):
    table = counts()
    refused([npz(tmp_path / "a.npz", isi=table * 1.37)], "isi_values", "whole numbers")
    refused([npz(tmp_path / "b.npz", isi=table[:, :60], isi_bin_ms=None)], "60 bins of unknown width")
    refused([npz(tmp_path / "c.npz", isi=table - 1)], "negative")
    shares = table / table.sum(axis=1, keepdims=True)
    path = npz(tmp_path / "d.npz", isi=shares, isi_bin_ms=None)
    refused([path], "logarithmic", "density", **LOG)
    refused([path], "isi_log10_range_s", isi_scale="log10")
    refused([path], "log10 of seconds", isi_scale="log10", isi_log10_range_s=[1, 10000])
    refused([npz(tmp_path / "e.npz", isi=table)], "shares add up to at most 1", isi_values="shares")


def test_log_bins_which_pose_as_linear_ones_are_refused(tmp_path):
    table = counts()
    shares = table / table.sum(axis=1, keepdims=True)
    path = npz(tmp_path / "a.npz", isi=shares, isi_log10=table)
    refused([path], "'isi_log10'", "logarithmic", "isi_scale: log10")


def test_units_without_short_intervals_have_no_isi(tmp_path):
    table = counts(bins=200)
    table[3, :100] = 0
    units = open_units([npz(tmp_path / "a.npz", isi=table)])
    assert not units.present[3, 1]
    assert units.present[:, 1].sum() == 29
    assert np.isnan(units.hand[3, 18:34]).all()


def test_impossible_intervals_are_said(tmp_path):
    table = counts()
    table[:4, 0] = 10_000
    units = open_units([npz(tmp_path / "a.npz", isi=table)])
    assert any("in 4 units most intervals are shorter than 1 ms" in note for note in units.notes)


def test_autocorrelograms_of_other_bins_are_resampled(tmp_path):
    lags = np.arange(-400, 401) * 0.5
    shape = 1 - np.exp(-np.abs(lags) / 20)
    fine = open_units([npz(tmp_path / "a.npz", acg=np.tile(shape, (30, 1)), acg_bin_ms=0.5)])
    coarse = open_units([npz(tmp_path / "b.npz", acg=np.tile(shape[::2], (30, 1)), acg_bin_ms=1.0)])
    centres = np.arange(-99, 100, 2)
    truth = 1 - np.exp(-np.abs(centres) / 20)
    for units in (fine, coarse):
        np.testing.assert_allclose(units.acg[0], truth / truth.mean(), atol=0.02)


def test_a_short_autocorrelogram_holds_its_ends(tmp_path):
    units = open_units([npz(tmp_path / "a.npz", acg_bin_ms=0.5)])
    np.testing.assert_array_equal(units.acg[:, :24], units.acg[:, [24]] * np.ones(24))
    assert any("50.25 ms" in note for note in units.notes)


def test_the_unit_of_an_autocorrelogram_does_not_matter(tmp_path):
    first = open_units([npz(tmp_path / "a.npz")])
    second = open_units([npz(tmp_path / "b.npz", acg=symmetric() * 0.013)])
    np.testing.assert_allclose(first.acg, second.acg, rtol=1e-5)


def test_one_sided_autocorrelograms_are_mirrored_or_refused(tmp_path):
    whole = symmetric()
    decay = np.exp(-np.arange(101) / 10)
    one_side = whole[:, 100:] * decay
    path = npz(tmp_path / "a.npz", acg=one_side)
    refused([path], "symmetric", "acg_one_sided")
    both = npz(tmp_path / "b.npz", acg=np.hstack([one_side[:, :0:-1], one_side]))
    np.testing.assert_array_equal(open_units([path], {"acg_one_sided": True}).acg, open_units([both]).acg)


def test_widths_of_bins_in_seconds_are_refused(tmp_path):
    refused([npz(tmp_path / "a.npz", isi_bin_ms=0.001)], "isi_bin_ms", "found 0.001. If it is in s, give 1.")
    refused([npz(tmp_path / "b.npz", acg_bin_ms=None)], "acg_bin_ms", "found 1000.", acg_bin_ms=1000)
    narrow = npz(tmp_path / "c.npz", isi_bin_ms=0.01)
    refused([narrow], "in 30 of 30 units most intervals are shorter than 1 ms")
