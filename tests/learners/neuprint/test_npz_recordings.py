"""Recordings in npz files: names by layout, and the real worms and mouse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurofleet.learners.neuprint.recording_files import open_recordings

BEHAVIOUR = ["velocity", "angular_velocity", "head_angle", "worm_curvature", "reversal_vec"]
WORMS = {
    "labels": {"class": "neuron_class"},
    "confidence": "label_confidence",
    "least_confidence": 2.0,
    "behaviour": BEHAVIOUR,
}


def test_arrays_are_found_by_the_names_of_the_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    speed_times = np.linspace(0, 20, 300)
    np.savez(
        tmp_path / "x.npz",
        traces=rng.standard_normal((60, 4)),
        fps=np.array(3.0),
        mouse="M7",
        day="monday",
        kind=np.array(["Vip", "Unlabelled", "Sst", "Sst"]),
        sure=np.array([3.0, 5.0, 0.5, 2.0]),
        xyz=rng.uniform(0, 9, (4, 3)),
        speed=np.sin(speed_times),
        speed_t=speed_times,
    )
    layout = {
        "activity": "traces",
        "rate_hz": "fps",
        "animal": "mouse",
        "session": "day",
        "labels": {"subclass": "kind"},
        "confidence": "sure",
        "least_confidence": 2.0,
        "positions": "xyz",
        "behaviour": {"running": "speed"},
        "behaviour_times": {"running": "speed_t"},
    }
    recordings = open_recordings(str(tmp_path / "x.npz"), layout)
    recording = recordings.recordings[0]
    assert (recording.animal, recording.session, recording.rate_hz) == ("M7", "monday", 3.0)
    assert list(recordings.labels("subclass")) == ["Vip", "", "", "Sst"]
    assert list(recordings.neurons.index) == [f"M7/monday/#{number}" for number in range(4)]
    assert recording.behaviour_names == ("running",)
    expected = np.sin(np.arange(60) / 3.0)
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(recording.behaviour[:, 0], expected, atol=5e-3)
    assert recordings.notes == ()


def test_arrays_that_nobody_asked_for_are_noted(tmp_path: Path) -> None:
    activity = np.random.default_rng(0).standard_normal((60, 4))
    np.savez(tmp_path / "x.npz", activity=activity, rate_hz=3.0, speed=activity[:, 0], kind=np.arange(4))
    assert open_recordings(tmp_path / "x.npz").notes == ("x.npz: not used: kind, speed.",)


def test_the_five_worms(shared_data: Path) -> None:
    recordings = open_recordings(sorted((shared_data / "neuprint").glob("worm_*.npz")), WORMS)
    assert [recording.n_neurons for recording in recordings.recordings] == [146, 141, 145, 135, 140]
    for recording in recordings.recordings:
        assert recording.n_frames == 800
        assert recording.behaviour_names == tuple(BEHAVIOUR)
        assert recording.rate_hz == pytest.approx(1.667, abs=0.01)
        np.testing.assert_allclose(recording.activity.std(axis=0), 1.0, atol=1e-4)
    assert len(recordings.neurons) == 707
    assert recordings.animals == tuple(sorted(recordings.animals))
    counts = recordings.neurons["class"].value_counts().drop("")
    assert counts.index[0] == "IL1"
    assert (counts >= 8).sum() == 26


def test_the_mouse_under_the_mesoscope(shared_data: Path) -> None:
    layout = {"positions": "xyz", "labels": {"area": "area"}}
    recordings = open_recordings(shared_data / "neuprint" / "mesoscope_2p_mouse24617.npz", layout)
    recording = recordings.recordings[0]
    assert recording.activity.shape == (52035, 10)
    assert recording.rate_hz == pytest.approx(6.3)
    assert recording.positions_um.shape == (10, 3)
    assert set(recordings.labels("area")) <= {"V1", "LM", "AL", "RL"}
