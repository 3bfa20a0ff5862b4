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
    assert any("2 neurons are left out: constant" in note for note in recordings.notes)


def test_neurons_without_a_position_leave_no_positions(tmp_path: Path) -> None:
    positions = np.arange(12.0).reshape(6, 2)
    positions[3] = np.nan
    recordings = open_recordings(write(tmp_path / "a.npz", positions_um=positions))
    assert recordings.recordings[0].positions_um is None
    assert any("1 neurons have no position" in note for note in recordings.notes)


@pytest.mark.parametrize("unit_um", [1e-6, 1e-3, 1e6])
def test_positions_in_another_unit_are_told_and_not_used(tmp_path: Path, unit_um: float) -> None:
    positions = np.random.default_rng(3).uniform(0, 500, (6, 3))
    assert open_recordings(write(tmp_path / "a.npz", positions_um=positions)).recordings[0].positions_um is not None
    recordings = open_recordings(write(tmp_path / "a.npz", positions_um=unit_um * positions))
    assert recordings.recordings[0].positions_um is None
    assert any("which cannot be, so no positions are used. Give them in µm" in note for note in recordings.notes)


def test_the_rate_is_that_of_the_frame_times_and_pauses_are_noted(tmp_path: Path) -> None:
    times = np.arange(40) / 5.0
    times[20:] += 30.0
    recordings = open_recordings(write(tmp_path / "a.npz", rate_hz=None, frame_times=times))
    assert recordings.recordings[0].rate_hz == pytest.approx(5.0)
    assert any("frames pause 1 times" in note for note in recordings.notes)


TRACES = np.cumsum(np.random.default_rng(6).standard_normal((40, 6)), axis=0)


def test_turned_activity_is_refused_or_turned_as_the_layout_says(tmp_path: Path) -> None:
    upright = open_recordings(write(tmp_path / "a.npz", activity=TRACES)).recordings[0]
    path = write(tmp_path / "a.npz", activity=TRACES.T)
    with pytest.raises(RecordingsRefused, match="found 6 x 40 values that are smooth.*neurons_first: true"):
        open_recordings(path)
    read = open_recordings(path, {"neurons_first": True}).recordings[0]
    np.testing.assert_array_equal(read.activity, upright.activity)
    as_it_is = open_recordings(path, {"neurons_first": False}).recordings[0]
    assert as_it_is.activity.shape == (6, 40)


@pytest.mark.parametrize(
    "more",
    [
        {"frame_times": np.arange(40) / 5.0, "rate_hz": None},
        {"neuron_ids": np.arange(6)},
        {"positions_um": np.arange(12.0).reshape(6, 2)},
    ],
)
def test_activity_is_turned_by_what_has_as_many_rows(tmp_path: Path, more: dict[str, Any]) -> None:
    upright = open_recordings(write(tmp_path / "a.npz", activity=TRACES, **more))
    turned = open_recordings(write(tmp_path / "a.npz", activity=TRACES.T, **more))
    np.testing.assert_array_equal(turned.recordings[0].activity, upright.recordings[0].activity)
    assert any("found 6 x 40 where there are" in note and "transposed" in note for note in turned.notes)
    assert not any("transposed" in note for note in upright.notes)


def test_as_many_frames_as_neurons_are_told_apart_by_their_values(tmp_path: Path) -> None:
    square = np.cumsum(np.random.default_rng(6).standard_normal((40, 40)), axis=0)
    assert open_recordings(write(tmp_path / "a.npz", activity=square)).recordings[0].n_frames == 40
    with pytest.raises(RecordingsRefused, match="smooth along the second axis"):
        open_recordings(write(tmp_path / "a.npz", activity=square.T, frame_times=np.arange(40) / 4.3))


def test_frame_times_in_ms_are_refused_or_read_as_the_layout_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", rate_hz=None, frame_times=np.arange(40) / 0.03 + 0.5)
    with pytest.raises(RecordingsRefused, match="frames 33.33 apart.*frame_times_per_s"):
        open_recordings(path)
    assert open_recordings(path, {"frame_times_per_s": 1000}).recordings[0].rate_hz == pytest.approx(30.0)


def test_frame_numbers_are_no_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", rate_hz=None, frame_times=np.arange(40))
    with pytest.raises(RecordingsRefused, match="whole numbers, frames 1 apart"):
        open_recordings(path)
    assert open_recordings(path, {"frame_times_per_s": 8}).recordings[0].rate_hz == pytest.approx(8.0)


def test_ids_and_labels_are_the_same_as_text_and_as_numbers(tmp_path: Path) -> None:
    kinds = {"labels": {"class": "kind"}}
    one = write(tmp_path / "one.npz", animal="m1", neuron_ids=np.arange(6), kind=np.array(list("112233")))
    floats = np.array([0.0, 1.0, 2.0, 3.0, np.nan, np.nan])
    two = write(tmp_path / "two.npz", animal="m1", neuron_ids=floats, kind=floats // 2 + 1)
    three = write(tmp_path / "three.npz", animal="m1", neuron_ids=floats.astype("S3"), kind=np.array(list("112233")))
    recordings = open_recordings([one, two, three], kinds)
    assert list(recordings.recordings[1].neuron_ids[:4]) == ["m1/0", "m1/1", "m1/2", "m1/3"]
    assert list(recordings.recordings[1].neuron_ids[4:]) == ["m1/two/#4", "m1/two/#5"]
    assert list(recordings.labels("class")[:6]) == list("112233")
    assert not any("different labels" in note for note in recordings.notes)


def test_a_recording_given_twice_under_two_names_is_refused_and_copied_neurons_are_told(tmp_path: Path) -> None:
    one = write(tmp_path / "one.npz", activity=TRACES)
    two = write(tmp_path / "two.npz", activity=TRACES)
    with pytest.raises(RecordingsRefused, match="6 of the 6 traces of two two are those of one one"):
        open_recordings([one, two])
    doubled = np.column_stack([TRACES, TRACES[:, 1]])
    notes = open_recordings(write(tmp_path / "a.npz", activity=doubled)).notes
    assert any("1 neurons have exactly the trace of another" in note for note in notes)


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
        ({"rate_hz": 0.04}, {}, "the time between frames, the rate is 25 Hz"),
        ({"rate_hz": 30_000.0}, {}, "up to 2000 Hz, found 30000"),
        ({"rate_hz": None, "frame_times": np.arange(40) * 1e-5}, {}, "up to 2000 Hz, found 100000"),
        ({"rate_hz": None, "frame_times": (1.7e9 + np.arange(40) / 5).astype("f4")}, {}, "stored as float32"),
        ({"kind": np.zeros((6, 2))}, {"labels": {"class": "kind"}}, "one value of 'class' per neuron"),
        ({"positions_um": np.zeros((2, 6))}, {}, "2 positions. Transpose them"),
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
        ({}, {"labels": ["class"]}, "Layout: labels: expected keys and values"),
        ({"rate_hz": np.ones(40)}, {}, "as one number, found float64 of shape .40,"),
        (
            {"kind": np.arange(6), "sure": np.array(list("abcdef"))},
            {"labels": {"class": "kind"}, "confidence": "sure", "least_confidence": 1},
            "sure is not a number",
        ),
        ({}, {"labels": {"animal": "kind"}}, "cannot be called 'animal'"),
        ({}, {"least_confidence": 2}, "belong together"),
        ({}, {"behaviour_times": {"speed": "t"}}, "not a channel of 'behaviour'"),
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
