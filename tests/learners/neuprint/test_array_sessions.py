"""Folders of suite2p, results of CaImAn and npy files give the recording of an npz file with the same traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from neurofleet.learners.neuprint.population_recordings import RecordingsRefused
from neurofleet.learners.neuprint.recording_files import open_recordings

RNG = np.random.default_rng(7)
TRACES = np.cumsum(RNG.standard_normal((6, 80)), axis=1)
NEUROPIL = RNG.standard_normal((6, 80))
IS_CELL = np.array([[1, 0.9], [0, 0.2], [1, 0.8], [1, 0.7], [0, 0.1], [1, 0.6]])
CELLS = [0, 2, 3, 5]
KINDS = np.array(["EC", "IN", "EC", "IN", "IN", "EC"])


def standardised(traces: np.ndarray) -> np.ndarray:
    return ((traces - traces.mean(1, keepdims=True)) / traces.std(1, keepdims=True)).T


def suite2p(folder: Path, **changes: Any) -> Path:
    """Write a plane."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ({"F": TRACES, "Fneu": NEUROPIL, "iscell": IS_CELL, "spks": TRACES**2} | changes).items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    for name in ("ops", "stat"):
        (folder / f"{name}.npy").write_bytes(b"a pickle that is never looked at")
    return folder


def refused(path: Path, *words: str, **layout: Any) -> None:
    with pytest.raises(RecordingsRefused) as error:
        open_recordings(path, layout)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_cells_of_suite2p_are_read_without_neuropil(tmp_path: Path) -> None:
    plane = suite2p(tmp_path / "mouse1" / "day2" / "suite2p" / "plane0")
    for path in (plane, plane.parent, plane.parent.parent):
        recordings = open_recordings(path, {"rate_hz": 30})
        recording = recordings.recordings[0]
        np.testing.assert_allclose(recording.activity, standardised(TRACES - 0.7 * NEUROPIL)[:, CELLS], atol=1e-5)
        assert (recording.animal, recording.session, recording.rate_hz) == ("mouse1/day2", "mouse1/day2", 30.0)
    assert "plane0: activity is F - 0.7 Fneu of 4 cells among 6 regions." in recordings.notes
    assert any("the animal is called mouse1/day2" in note for note in recordings.notes)
    for name, truth in (("F", TRACES), ("spks", TRACES**2)):
        recording = open_recordings(plane, {"rate_hz": 30, "activity": name}).recordings[0]
        np.testing.assert_allclose(recording.activity, standardised(truth)[:, CELLS], atol=1e-5)


def test_labels_of_suite2p_are_of_all_regions_or_of_the_cells(tmp_path: Path) -> None:
    red = np.column_stack([[1, 0, 0, 1, 1, 0], np.full(6, 0.5)])
    plane = suite2p(tmp_path / "plane0", kind=KINDS, of_cells=KINDS[CELLS], redcell=red, animal="m1")
    layout = {"rate_hz": 30, "labels": {"class": "kind", "again": "of_cells", "red": "redcell"}}
    recordings = open_recordings(plane, layout)
    assert list(recordings.labels("class")) == ["EC", "EC", "IN", "EC"]
    assert list(recordings.labels("again")) == ["EC", "EC", "IN", "EC"]
    assert list(recordings.labels("red")) == ["1", "0", "1", "0"]
    assert recordings.animals == ("m1",)
    suite2p(plane, kind=KINDS[:5])
    refused(plane, "80 frames x 4 neurons, but there are 5 labels 'class'", rate_hz=30, labels={"class": "kind"})
    refused(plane, "no array 'cell_type'", "kind, of_cells", rate_hz=30, labels={"class": "cell_type"})


def test_what_suite2p_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    plane = suite2p(tmp_path / "suite2p" / "plane0")
    refused(plane.parent, "plane0: the frame rate is not known", "ops.npy, a pickle", "rate_hz: 30")
    refused(plane / "F.npy", "Give the folder")
    refused(suite2p(plane, iscell=IS_CELL[:5]), "a row for each of the 5 regions of iscell.npy", rate_hz=30)
    refused(suite2p(plane, F=TRACES[:, :70]), "(6, 70) and (6, 80)", rate_hz=30)
    refused(suite2p(plane, F=np.array([{}], dtype=object)), "F.npy", "without pickle", rate_hz=30)
    times = open_recordings(suite2p(plane, t=np.arange(80) / 15), {"frame_times": "t"}).recordings[0]
    assert times.rate_hz == pytest.approx(15.0)


def test_one_of_several_planes_of_suite2p_is_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "day1" / "suite2p"
    for number in range(2):
        suite2p(folder / f"plane{number}", F=TRACES + number * NEUROPIL, Fneu=None)
    refused(folder, "expected one plane, found plane0, plane1", "'plane'", rate_hz=30)
    refused(folder, "no plane 'plane2'", "did you mean 'plane", rate_hz=30, plane="plane2")
    recording = open_recordings(folder, {"rate_hz": 30, "plane": "plane1"}).recordings[0]
    np.testing.assert_allclose(recording.activity, standardised(TRACES + NEUROPIL)[:, CELLS], atol=1e-5)
    assert recording.session.endswith("/day1/plane1")
    suite2p(folder / "combined", F=np.vstack([TRACES, NEUROPIL]), Fneu=None, iscell=np.ones((12, 2)), spks=None)
    recordings = open_recordings(folder, {"rate_hz": 30})
    assert recordings.recordings[0].n_neurons == 12
    assert any("combined is used" in note for note in recordings.notes)


def caiman(path: Path, **changes: Any) -> Path:
    """Write what CaImAn saves: None as a word, a sparse matrix as a group."""
    dims, footprints = (5, 4), np.zeros((20, 6))
    for number in range(6):
        footprints[number + 5, number], footprints[number + 6, number] = 1.0, 3.0
    rows, columns = np.nonzero(footprints.T)[1], np.arange(0, 13, 2)
    content = {
        "estimates/C": TRACES + 5,
        "estimates/F_dff": TRACES,
        "estimates/S": "NoneType",
        "estimates/idx_components": np.array(CELLS),
        "estimates/A/data": np.tile([1.0, 3.0], 6),
        "estimates/A/indices": rows,
        "estimates/A/indptr": columns,
        "estimates/A/shape": np.array([20, 6]),
        "estimates/dims": np.array(dims),
        "params/data/fr": 12.5,
        "params/data/dxy": np.array([2.0, 10.0]),
    }
    with h5py.File(path, "w") as file:
        for name, value in (content | {name.replace("__", "/"): value for name, value in changes.items()}).items():
            if value is not None:
                file[name] = value
    return path


def test_accepted_components_of_caiman_are_read_with_rate_and_centres(tmp_path: Path) -> None:
    recordings = open_recordings(caiman(tmp_path / "day1.hdf5"))
    recording = recordings.recordings[0]
    np.testing.assert_allclose(recording.activity, standardised(TRACES)[:, CELLS], atol=1e-5)
    assert (recording.session, recording.rate_hz) == ("day1", 12.5)
    # Pixels are counted along columns of 5: 5.75 is 0.75 down the second one, 10.75 down the third ends in the next.
    places = np.array([[n + 5.0, n + 6.0] for n in CELLS])
    truth = np.column_stack([places % 5 @ [0.25, 0.75] * 2.0, places // 5 @ [0.25, 0.75] * 10.0])
    np.testing.assert_allclose(recording.positions_um, truth)
    assert "day1.hdf5: activity is F_dff of 4 accepted among 6 components." in recordings.notes


def test_what_caiman_left_out_or_assumed_is_told(tmp_path: Path) -> None:
    path = caiman(tmp_path / "a.hdf5", estimates__F_dff="NoneType", params__data__fr=30, params__data__dxy=np.ones(2))
    recordings = open_recordings(path)
    np.testing.assert_allclose(recordings.recordings[0].activity, standardised(TRACES)[:, CELLS], atol=1e-5)
    assert recordings.recordings[0].positions_um is None
    assert any("30 Hz is what CaImAn assumes" in note for note in recordings.notes)
    assert open_recordings(path, {"rate_hz": 9}).recordings[0].rate_hz == 9.0
    everything = caiman(tmp_path / "b.hdf5", estimates__idx_components="NoneType")
    assert open_recordings(everything).recordings[0].n_neurons == 6
    refused(caiman(tmp_path / "c.hdf5", params__data__fr=None), "neither frame times nor a frame rate")
    refused(caiman(tmp_path / "d.hdf5", estimates__idx_components=np.array([3, 9])), "component 9, but F_dff has 6")
    refused(caiman(tmp_path / "e.hdf5", estimates__F_dff=None, estimates__C=None), "expected the results of CaImAn")
    (tmp_path / "f.hdf5").write_bytes(b"no HDF5")
    refused(tmp_path / "f.hdf5", "f.hdf5: cannot be read as HDF5")


def test_one_npy_file_is_read_with_what_lies_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "dff.npy", TRACES)
    np.save(tmp_path / "kind.npy", KINDS)
    refused(tmp_path / "dff.npy", "neurons_first: true", rate_hz=10)
    layout = {"rate_hz": 10, "neurons_first": True, "labels": {"class": "kind"}}
    recordings = open_recordings(tmp_path / "dff.npy", layout)
    np.testing.assert_allclose(recordings.recordings[0].activity, standardised(TRACES), atol=1e-5)
    assert list(recordings.labels("class")) == KINDS.tolist()
    (tmp_path / "a.pkl").write_bytes(b"")
    refused(tmp_path / "a.pkl", "found .pkl. A pickle can run any code")
