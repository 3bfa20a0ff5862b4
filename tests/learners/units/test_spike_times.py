"""Spike times become interval histograms and autocorrelograms; what is no list of seconds is refused."""

import numpy as np
import pytest

from neurofleet.learners.units.spike_timing import autocorrelogram_counts, interval_shares
from neurofleet.learners.units.unit_files import open_units
from tests.learners.units.made_units import made, npz, refused


def trains(n=4, seed=1):
    rng = np.random.default_rng(seed)
    return [np.cumsum(0.002 + rng.exponential(0.02, 300 + 50 * number)) for number in range(n)]


def brute_force(times):
    lags = 1000 * (times[None, :] - times[:, None])
    lags = lags[~np.eye(len(times), dtype=bool)]
    lags = np.sign(lags) * np.floor(np.abs(lags) + 0.5)
    return np.array([(lags == lag).sum() if lag else 0 for lag in range(-100, 101)])


def test_autocorrelogram_equals_a_brute_force_count():
    close = np.sort(np.random.default_rng(2).random(400) * 2)
    every = [*trains(), close, np.repeat(close, 2)]
    for times, found in zip(every, autocorrelogram_counts(every), strict=True):
        np.testing.assert_array_equal(found, brute_force(times))


def test_intervals_are_shares_of_all_intervals():
    times = np.array([0, 0.0015, 0.0040, 0.5, 0.5025])
    shares = interval_shares([times, times[:1]])
    assert shares[0, 1] == 0.25
    assert shares[0, 2] == 0.5
    assert shares[0].sum() == 0.75
    assert np.isnan(shares[1]).all()


def stored(tmp_path, times, **changes):
    n = len(times)
    arrays = {"spike_times": np.concatenate(times), "spike_times_index": np.cumsum([len(t) for t in times])}
    arrays |= {"isi": None, "acg": None, "waveform": made()["waveform"][:n]}
    arrays |= {name: made()[name][:n] for name in ("unit_id", "cell_type")}
    return npz(tmp_path / "spikes.npz", **(arrays | changes))


def test_spike_times_fill_the_two_modalities_they_tell(tmp_path):
    units = open_units([stored(tmp_path, trains())])
    assert units.present.all()
    np.testing.assert_allclose(units.isi, interval_shares(trains()), rtol=1e-6)
    assert units.acg.mean(axis=1) == pytest.approx(np.ones(4), rel=1e-5)
    assert (units.acg[:, 49:51] < 0.3).all()


def test_a_silent_unit_misses_both(tmp_path):
    units = open_units([stored(tmp_path, [*trains(3), np.array([])])])
    assert units.present[:, 1:].tolist() == [[True, True]] * 3 + [[False, False]]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t[::-1], ["ascending", "Sort"]),
        (lambda t: np.rint(t * 30_000), ["whole numbers", "sampling rate"]),
        (lambda t: t - 1, ["starts at 0"]),
        (lambda t: np.append(t, np.nan), ["NaN"]),
        (lambda t: t / 1000, ["microseconds", "seconds"]),
    ],
)
def test_what_is_no_list_of_seconds_is_refused(tmp_path, spoil, words):
    times = trains()
    times[2] = spoil(times[2])
    refused([stored(tmp_path, times)], "unit u2", "seconds", *words)


def test_a_wrong_index_is_refused(tmp_path):
    refused([stored(tmp_path, trains(), spike_times_index=np.array([10, 20, 30, 40]))], "must ascend and end")
    refused([stored(tmp_path, trains(), spike_times_index=None)], "spike_times_index", "only one")


@pytest.mark.parametrize("per_s", [1000, 1e6, 30_000])
def test_times_in_another_unit_are_refused_or_read_as_the_layout_says(tmp_path, per_s):
    path = stored(tmp_path, [per_s * times + 0.25 for times in trains()])
    refused([path], "spikes.npz", "spike times in seconds", "spike_times_per_s", "1000 for ms")
    units = open_units([path], {"spike_times_per_s": per_s})
    np.testing.assert_allclose(units.isi, interval_shares(trains()), atol=0.01)
    assert units.present.all()


def test_samples_as_whole_numbers_are_read_by_their_rate(tmp_path):
    path = stored(tmp_path, [np.rint(30_000 * times).astype(np.uint64) for times in trains()])
    refused([path], "whole numbers only (up to ", "spike_times_per_s")
    units = open_units([path], {"spike_times_per_s": 30_000})
    np.testing.assert_allclose(units.isi, interval_shares(trains()), atol=0.01)


def test_times_since_1970_are_seconds_unless_they_are_too_coarse(tmp_path):
    late = [1.7e9 + times for times in trains()]
    units = open_units([stored(tmp_path, late)])
    np.testing.assert_allclose(units.isi, interval_shares(trains()), atol=0.01)
    refused([stored(tmp_path, [times.astype(np.float32) for times in late])], "float32", "1.3e+02 s", "float64")


def test_rarely_firing_units_are_read(tmp_path):
    rng = np.random.default_rng(4)
    sparse = [np.cumsum(0.003 + rng.exponential(10, 400) * (rng.random(400) > 0.1)) for _ in range(4)]
    units = open_units([stored(tmp_path, sparse)])
    assert units.present.all()
    np.testing.assert_allclose(units.isi, interval_shares(sparse), rtol=1e-6)
    few = [np.arange(4) * 0.37 + 0.1 * number for number in range(4)]
    assert not open_units([stored(tmp_path, few)]).present[:, 1:].any()


def test_minutes_are_refused(tmp_path):
    refused([stored(tmp_path, [(times * 8 + 0.1) / 60 for times in trains()])], "more than neurons fire", "minutes")


def test_spikes_given_twice_are_refused_and_a_few_copies_are_told(tmp_path):
    times = trains()
    times[1] = np.repeat(times[1], 2)
    refused([stored(tmp_path, times)], "unit u1", "350 of 700 at the same time", "once")
    times = trains()
    times[1] = np.sort(np.append(times[1], times[1][:5]))
    units = open_units([stored(tmp_path, times)])
    assert any("5 of 1505 spikes are at the same time" in note for note in units.notes)


def test_one_unit_of_many_with_impossible_intervals_is_told(tmp_path):
    times = trains(12)
    times[3] = times[3] / 1000
    units = open_units([stored(tmp_path, times)])
    assert [note for note in units.notes if "unit u3 has half of its intervals below 0.5 ms" in note]
    np.testing.assert_allclose(units.isi[:3], interval_shares(times[:3]), rtol=1e-6)
