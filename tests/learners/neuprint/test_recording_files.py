"""Opening recordings: one set from several files, and what is refused whatever the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofleet.learners.neuprint.population_recordings import RecordingsRefused
from neurofleet.learners.neuprint.recording_files import open_recordings

RNG = np.random.default_rng(5)


def write(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {"activity": RNG.standard_normal((40, 6)), "rate_hz": 4.3}
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_two_files_of_one_animal_share_neurons_of_the_same_id(tmp_path: Path) -> None:
    one = write(tmp_path / "one.npz", animal="m1", neuron_ids=np.arange(6))
    two = write(tmp_path / "two.npz", animal="m1", neuron_ids=np.arange(3, 9))
    other = write(tmp_path / "other.npz", animal="m2", neuron_ids=np.arange(6))
    recordings = open_recordings([one, two, other])
    assert [recording.session for recording in recordings.recordings] == ["one", "two", "other"]
    assert len(recordings.neurons) == 9 + 6
    assert list(recordings.number(recordings.recordings[1])) == [3, 4, 5, 6, 7, 8]


def test_traces_are_z_scored_over_what_was_measured_and_0_elsewhere(tmp_path: Path) -> None:
    activity = 50 + 9 * RNG.standard_normal((40, 6))
    activity[5:9, 2] = np.nan
    recordings = open_recordings(write(tmp_path / "a.npz", activity=activity))
    recording = recordings.recordings[0]
    assert recording.activity.dtype == np.float32
    np.testing.assert_array_equal(recording.valid, ~np.isnan(activity))
    assert (recording.activity[5:9, 2] == 0).all()
    expected = (activity - np.nanmean(activity, axis=0)) / np.nanstd(activity, axis=0)
    np.testing.assert_allclose(recording.activity, np.nan_to_num(expected), atol=1e-5)
    assert any("was not measured (NaN)" in note for note in recordings.notes)


def test_constant_and_unmeasured_neurons_are_dropped_with_what_belongs_to_them(tmp_path: Path) -> None:
    activity = RNG.standard_normal((40, 6))
    activity[:, 1], activity[:, 4] = 3.7, np.nan
    path = write(
        tmp_path / "a.npz",
        activity=activity,
        kind=np.array(list("abcdef")),
        positions_um=np.arange(12.0).reshape(6, 2),
        neuron_ids=np.arange(6),
    )
    recordings = open_recordings(path, {"labels": {"class": "kind"}})
    assert list(recordings.labels("class")) == ["a", "c", "d", "f"]
    assert list(recordings.recordings[0].positions_um[:, 0]) == [0.0, 4.0, 6.0, 10.0]
    assert list(recordings.neurons.index) == ["a/0", "a/2", "a/3", "a/5"]
    assert any("2 neurons with a constant or unmeasured trace" in note for note in recordings.notes)


def test_neurons_without_a_position_leave_no_positions(tmp_path: Path) -> None:
    positions = np.arange(12.0).reshape(6, 2)
    positions[3] = np.nan
    recordings = open_recordings(write(tmp_path / "a.npz", positions_um=positions))
    assert recordings.recordings[0].positions_um is None
    assert any("1 neurons have no position" in note for note in recordings.notes)


def test_the_rate_is_that_of_the_frame_times_and_pauses_are_noted(tmp_path: Path) -> None:
    times = np.arange(40) / 5.0
    times[20:] += 30.0
    recordings = open_recordings(write(tmp_path / "a.npz", rate_hz=None, frame_times=times))
    assert recordings.recordings[0].rate_hz == pytest.approx(5.0)
    assert any("frames pause 1 times" in note for note in recordings.notes)


BACK = np.arange(40) / 5.0
BACK[12] = 0.0


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        ({"frame_times": BACK}, {}, "frame times must ascend, but frame 12"),
        ({"frame_times": np.arange(39) / 4.3}, {}, "40 frames, but there are 39 times"),
        ({"frame_times": np.arange(40) / 2.0}, {}, "given as 4.3 Hz, but frames are 0.5 s apart"),
        ({"rate_hz": None}, {}, "neither frame times nor a frame rate"),
        ({"rate_hz": -1.0}, {}, "above 0 Hz"),
        ({"activity": np.full((40, 6), 2.5)}, {}, "all 6 traces are constant"),
        ({"activity": np.zeros((40, 6, 2))}, {}, "frames x neurons"),
        ({"neuron_ids": np.arange(7)}, {}, "6 neurons, but there are 7 ids"),
        ({"positions_um": np.zeros((40, 2))}, {}, "40 positions. If activity is neurons x frames, transpose"),
        ({"kind": np.array(["a"] * 5)}, {"labels": {"class": "kind"}}, "5 labels 'class'"),
        ({"speed": np.zeros(39)}, {"behaviour": ["speed"]}, "40 frames"),
        ({}, {"behaviour": ["speeed"]}, "no array 'speeed'"),
        ({"speed": np.zeros(40)}, {"behaviour": ["speeed"]}, "did you mean 'speed'"),
        ({}, {"behavior": ["speed"]}, "unknown key 'behavior' .did you mean 'behaviour'"),
        ({}, {"stimuli": ["Blank"]}, "means nothing for npz"),
        ({}, {"labels": ["class"]}, "Layout: labels: expected names by name"),
        ({"rate_hz": np.ones(40)}, {}, "as one number, found float64 of shape .40,"),
        (
            {"kind": np.arange(6), "sure": np.array(list("abcdef"))},
            {"labels": {"class": "kind"}, "confidence": "sure", "least_confidence": 1},
            "sure is no number",
        ),
        ({}, {"labels": {"animal": "kind"}}, "cannot be called 'animal'"),
        ({}, {"least_confidence": 2}, "belong together"),
        ({}, {"behaviour_times": {"speed": "t"}}, "no channel of 'behaviour'"),
        ({"activity": np.array([["a", "b"]], dtype=object)}, {}, "without pickle"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], layout: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.npz", **changes)
    with pytest.raises(RecordingsRefused, match=message):
        open_recordings(path, layout)


def test_paths_that_are_no_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingsRefused, match="No recording was given"):
        open_recordings([])
    with pytest.raises(RecordingsRefused, match="no such file"):
        open_recordings(tmp_path / "none.npz")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(RecordingsRefused, match="found .csv"):
        open_recordings(tmp_path / "a.csv")
    (tmp_path / "cut.npz").write_bytes(write(tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(RecordingsRefused, match=r"cut\.npz: cannot be read as npz"):
        open_recordings(tmp_path / "cut.npz")
    with pytest.raises(RecordingsRefused, match="both of animal and session"):
        open_recordings([tmp_path / "a.npz", tmp_path / "a.npz"])
