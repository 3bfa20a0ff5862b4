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
    times = np.arange(2.0, 8.0, 0.1)
    columns, _, notes = on_frame_clock({"speed": Channel(times, times)}, FRAMES_S, "here")
    assert np.ptp(columns[FRAMES_S <= 2.0, 0]) == 0
    assert np.ptp(columns[FRAMES_S >= 8.0, 0]) == 0
    assert "was not measured in 40% of the frames" in notes[0]


def test_a_channel_that_is_mostly_interpolated_is_told() -> None:
    values = np.where(np.arange(50) % 4 == 0, np.arange(50.0), np.nan)
    columns, _, notes = on_frame_clock({"pupil": Channel(values)}, FRAMES_S, "here")
    assert columns[1, 0] - columns[0, 0] == pytest.approx(columns[5, 0] - columns[4, 0], rel=1e-4)
    assert "was not measured (NaN) in 74% of its samples" in notes[0]


def test_times_in_ms_are_refused_or_read_as_the_layout_says() -> None:
    times_s = np.arange(0.0, 10.0, 0.05)
    in_ms = {"speed": Channel(np.sin(times_s), 1000 * times_s)}
    with pytest.raises(RecordingsRefused, match="0.50% of its samples are during them.*behaviour_times_per_s"):
        on_frame_clock(in_ms, FRAMES_S, "here")
    expected, _, _ = on_frame_clock({"speed": Channel(np.sin(times_s), times_s)}, FRAMES_S, "here")
    read, _, notes = on_frame_clock(in_ms, FRAMES_S, "here", 1000.0)
    np.testing.assert_allclose(read, expected, atol=1e-6)
    assert notes == []


def test_a_channel_longer_than_the_recording_is_read_and_told() -> None:
    times_s = np.arange(-9.0, 31.0, 0.05)
    columns, _, notes = on_frame_clock({"speed": Channel(times_s, times_s)}, FRAMES_S, "here")
    np.testing.assert_allclose(columns[:, 0], (FRAMES_S - FRAMES_S.mean()) / FRAMES_S.std(), atol=1e-5)
    assert "only 24% of its samples are during the frames" in notes[0]


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (Channel(np.arange(49.0)), "there are 50 frames.*behaviour_times"),
        (Channel(np.arange(9.0), np.arange(8.0)), "8 times for it"),
        (Channel(np.arange(4.0), np.array([0.0, 2.0, 1.0, 3.0])), "go back at sample 2"),
        (Channel(np.arange(4.0), np.arange(1000.0, 1004.0)), "one clock"),
        (Channel(np.arange(4.0), np.array([6.0, 8.0, 10.0, 12.0])), "40% of the frames have it.*at least 50%"),
        (Channel(np.arange(60.0), np.arange(60.0)), "found whole numbers"),
    ],
)
def test_channels_that_cannot_be_placed_are_refused(channel: Channel, message: str) -> None:
    with pytest.raises(RecordingsRefused, match=message):
        on_frame_clock({"speed": channel}, FRAMES_S, "here")
