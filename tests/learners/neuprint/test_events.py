"""Events by a thresholded derivative, and the intervals between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurofleet.learners.neuprint.activity_statistics import INTERVAL_EDGES, events, interval_histograms
from neurofleet.learners.neuprint.population_recordings import Recording


def recording(activity: np.ndarray, valid: np.ndarray | None = None) -> Recording:
    frames, neurons = activity.shape
    return Recording(
        animal="m",
        session="s",
        activity=activity.astype(np.float32),
        valid=np.ones((frames, neurons), dtype=bool) if valid is None else valid,
        behaviour=np.zeros((frames, 0), dtype=np.float32),
        behaviour_names=(),
        rate_hz=4.0,
        neuron_ids=np.array([f"m/{number}" for number in range(neurons)]),
    )


def with_jumps(frames: int, jumps: list[list[int]]) -> np.ndarray:
    """Return small noise on which the trace of neuron i jumps up at the frames jumps[i] and decays."""
    activity = 0.01 * np.random.default_rng(0).uniform(-1, 1, (frames, len(jumps)))
    for neuron, places in enumerate(jumps):
        for place in places:
            activity[place:, neuron] += 5 * 0.5 ** np.arange(frames - place)
    return activity


def test_events_are_where_the_trace_jumps_up_and_nowhere_it_falls() -> None:
    jumps = [[10, 30, 33], [50]]
    found = events(recording(with_jumps(64, jumps)))
    big = [[frame for frame in np.flatnonzero(found[:, neuron]) if frame in jumps[neuron]] for neuron in (0, 1)]
    assert big == jumps
    assert not found[[11, 31, 51]].any()
    assert not found[0].any()


def test_a_rise_next_to_a_gap_is_no_event() -> None:
    activity = with_jumps(64, [[20]])
    valid = np.ones((64, 1), dtype=bool)
    valid[19] = False
    activity[19] = 0.0
    found = events(recording(activity, valid))
    assert not found[[19, 20]].any()


def test_steps_of_a_trace_that_mostly_rests_are_events() -> None:
    activity = np.zeros((64, 1))
    activity[20:] = 1.0
    assert list(np.flatnonzero(events(recording(activity))[:, 0])) == [20]


def test_scaling_a_trace_leaves_its_events_as_they_are() -> None:
    rng = np.random.default_rng(1)
    one = recording(rng.standard_normal((300, 5)))
    np.testing.assert_array_equal(events(one), events(replace(one, activity=one.activity * 4)))
    assert 0.02 < events(one).mean() < 0.3


def test_intervals_are_counted_within_windows_of_64_frames() -> None:
    steps = np.zeros((150, 2))
    steps[[3, 4, 9, 60, 70, 100], 0] = 1.0  # window 0: intervals 1, 5, 51; window 1: 30; then a part of one
    steps[[40], 1] = 1.0
    histograms = interval_histograms(recording(np.cumsum(steps, axis=0)))
    assert histograms.shape == (2, 2, 16)
    bins = [int(np.searchsorted(INTERVAL_EDGES, frames, side="right")) - 1 for frames in (1, 5, 51, 30)]
    expected = np.zeros((2, 2, 16))
    expected[0, 0, bins[:3]] = 1 / 3
    expected[0, 1, bins[3]] = 1.0
    np.testing.assert_allclose(histograms, expected)
