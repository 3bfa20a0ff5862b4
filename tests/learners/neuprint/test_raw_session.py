"""Behaviour on the frame clock."""

from __future__ import annotations

import numpy as np
import pytest

from neurofleet.learners.neuprint.population_recordings import RecordingsRefused
from neurofleet.learners.neuprint.raw_session import Channel, on_frame_clock

FRAMES_S = np.arange(50) / 5.0


def test_a_ramp_measured_on_another_clock_stays_a_ramp_also_over_gaps() -> None:
    times = np.linspace(-1.0, 12.0, 400)
    values = 3.0 + 2.0 * times
    values[100:140] = np.nan
    columns, names, notes = on_frame_clock({"speed": Channel(values, times)}, FRAMES_S, "here")
    expected = (FRAMES_S - FRAMES_S.mean()) / FRAMES_S.std()
    np.testing.assert_allclose(columns[:, 0], expected, atol=1e-6)
    assert columns.dtype == np.float32
    assert names == ("speed",)
    assert notes == []


def test_half_way_between_two_samples_is_their_mean() -> None:
    frames = np.array([0.5, 1.5, 2.5])
    samples = np.array([1.0, 5.0, 2.0, 8.0])
    columns, _, _ = on_frame_clock({"pupil": Channel(samples, np.arange(4.0))}, frames, "here")
    means = np.array([3.0, 3.5, 5.0])
    np.testing.assert_allclose(columns[:, 0], (means - means.mean()) / means.std(), atol=1e-6)


def test_constant_and_unmeasured_channels_are_dropped_with_a_note() -> None:
    channels = {
        "still": Channel(np.full(50, 7.5)),
        "never": Channel(np.full(50, np.nan)),
        "state": Channel((np.arange(50) % 2).astype(float)),
    }
    columns, names, notes = on_frame_clock(channels, FRAMES_S, "here")
    assert names == ("state",)
    assert columns.shape == (50, 1)
    assert any("'still' is constant" in note for note in notes)
    assert any("'never' was never measured" in note for note in notes)


def test_frames_outside_of_the_measurement_hold_its_nearest_value_and_are_noted() -> None:
    times = np.arange(3.0, 7.0, 0.1)
    columns, _, notes = on_frame_clock({"speed": Channel(times, times)}, FRAMES_S, "here")
    assert np.ptp(columns[FRAMES_S <= 3.0, 0]) == 0
    assert np.ptp(columns[FRAMES_S >= 7.0, 0]) == 0
    assert "was not measured in" in notes[0]


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (Channel(np.arange(49.0)), "there are 50 frames.*behaviour_times"),
        (Channel(np.arange(9.0), np.arange(8.0)), "8 times for it"),
        (Channel(np.arange(4.0), np.array([0.0, 2.0, 1.0, 3.0])), "go back at sample 2"),
        (Channel(np.arange(4.0), np.arange(1000.0, 1004.0)), "one clock"),
    ],
)
def test_channels_that_cannot_be_placed_are_refused(channel: Channel, message: str) -> None:
    with pytest.raises(RecordingsRefused, match=message):
        on_frame_clock({"speed": channel}, FRAMES_S, "here")
