"""NWB files with optical physiology, on small files made here."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import BehavioralTimeSeries, PupilTracking
from pynwb.file import Subject
from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel

from neurofleet.learners.neuprint.population_recordings import RecordingsRefused
from neurofleet.learners.neuprint.recording_files import open_recordings

FRAMES, REGIONS = 80, 5
KINDS = ["EC", "IN", "", "IN", "EC"]


def write(
    path: Path,
    *,
    dff: int = 1,
    spacing: bool = True,
    timestamps: bool = False,
    subject: bool = True,
    in_ms: float = 1.0,
) -> tuple[Path, np.ndarray]:
    """Write a file with raw fluorescence, `dff` series of DfOverF, neuropil, and behaviour."""
    rng = np.random.default_rng(3)
    file = NWBFile("a session", path.stem, datetime(2020, 1, 1, tzinfo=UTC))
    if subject:
        file.subject = Subject(subject_id="mouse-7")
    channel = OpticalChannel(name="green", description="green", emission_lambda=520.0)
    more: dict[str, Any] = {"grid_spacing": [2e-6, 2e-6], "grid_spacing_unit": "meters"} if spacing else {}
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="plane",
        device=file.create_device("microscope"),
        excitation_lambda=920.0,
        indicator="GCaMP6s",
        location="V1",
        imaging_rate=30.0,
        **more,
    )
    ophys = file.create_processing_module("ophys", "ophys")
    segmentation = ImageSegmentation()
    ophys.add(segmentation)
    table = segmentation.create_plane_segmentation(name="regions", description="regions", imaging_plane=plane)
    for region in range(REGIONS):
        mask = np.zeros((40, 40))
        mask[10 + region : 13 + region, 20:23] = 1.0
        table.add_roi(image_mask=mask)
    table.add_column("kind", "type", data=KINDS)
    table.add_column("sure", "confidence", data=[3.0, 3.0, 3.0, 1.0, 3.0])
    table.add_column("matched", "id over sessions", data=[7.0, 8.0, np.nan, 9.0, 10.0])
    data = rng.standard_normal((FRAMES, 4))
    clock: dict[str, Any] = {"rate": 6.0}
    if timestamps:
        clock = {"timestamps": in_ms * (5 + np.arange(FRAMES) / 6.0)}
    for container, count in ((Fluorescence(), 1), (DfOverF(), dff), (Fluorescence(name="Neuropil"), 1)):
        if count:
            ophys.add(container)
        for number in range(count):
            regions = table.create_roi_table_region("four of five", region=[4, 1, 2, 3])
            values = data if type(container) is DfOverF else data[::-1] + 5
            container.create_roi_response_series(
                name=f"{container.name}{number}",
                data=values,
                rois=regions,
                unit="a.u.",
                **clock,
            )
    behaviour = file.create_processing_module("behavior", "behaviour")
    fine = np.arange(400) / 20.0
    speed = TimeSeries(name="running_speed", data=np.sin(fine), unit="cm/s", timestamps=fine)
    behaviour.add(BehavioralTimeSeries(time_series=speed))
    pupil = TimeSeries(name="pupil_area", data=np.cos(fine), unit="px", rate=20.0, starting_time=0.0)
    behaviour.add(PupilTracking(time_series=pupil))
    file.add_acquisition(TimeSeries(name="licks", data=fine % 3, unit="V", timestamps=fine))
    with NWBHDF5IO(str(path), "w") as writer:
        writer.write(file)
    return path, data


def test_activity_clock_behaviour_and_positions_are_found(tmp_path: Path) -> None:
    path, data = write(tmp_path / "day1.nwb")
    recordings = open_recordings(path)
    recording = recordings.recordings[0]
    assert (recording.animal, recording.session) == ("mouse-7", "day1")
    expected = (data - data.mean(axis=0)) / data.std(axis=0)
    np.testing.assert_allclose(recording.activity, expected, atol=1e-5)
    assert recording.rate_hz == pytest.approx(6.0)
    assert sorted(recording.behaviour_names) == ["pupil_area", "running_speed"]
    running = np.sin(np.arange(FRAMES) / 6.0)
    running = (running - running.mean()) / running.std()
    column = recording.behaviour_names.index("running_speed")
    np.testing.assert_allclose(recording.behaviour[:, column], running, atol=2e-3)
    centres_um = 2.0 * np.array([[15, 21], [12, 21], [13, 21], [14, 21]])
    np.testing.assert_allclose(recording.positions_um, centres_um)
    assert "day1.nwb: activity is DfOverF/DfOverF0." in recordings.notes


def test_labels_and_ids_are_those_of_the_regions_that_the_series_names(tmp_path: Path) -> None:
    path, _ = write(tmp_path / "day1.nwb")
    layout = {
        "labels": {"class": "kind"},
        "confidence": "sure",
        "least_confidence": 2.0,
        "neuron_ids": "matched",
        "behaviour": {"licking": "licks"},
    }
    recordings = open_recordings(path, layout)
    ids = ["mouse-7/10", "mouse-7/8", "mouse-7/day1/#2", "mouse-7/9"]
    assert list(recordings.neurons.index) == ids
    assert list(recordings.labels("class")) == ["EC", "IN", "", ""]
    assert recordings.recordings[0].behaviour_names == ("licking",)


def test_timestamps_give_the_rate_and_the_clock(tmp_path: Path) -> None:
    path, _ = write(tmp_path / "day1.nwb", timestamps=True, spacing=False, subject=False)
    recording = open_recordings(path).recordings[0]
    assert recording.rate_hz == pytest.approx(6.0)
    assert recording.positions_um is None
    assert recording.animal == "day1"
    running = np.sin(5 + np.arange(FRAMES) / 6.0)
    running = (running - running.mean()) / running.std()
    column = recording.behaviour_names.index("running_speed")
    np.testing.assert_allclose(recording.behaviour[:, column], running, atol=2e-3)


def test_fluorescence_serves_where_there_is_no_dff_and_several_must_be_named(tmp_path: Path) -> None:
    raw, data = write(tmp_path / "raw.nwb", dff=0)
    assert "raw.nwb: activity is Fluorescence/Fluorescence0." in open_recordings(raw).notes
    path, _ = write(tmp_path / "two.nwb", dff=2)
    with pytest.raises(RecordingsRefused, match="expected one series of activity, found .*DfOverF1"):
        open_recordings(path)
    for name in ("DfOverF1", "DfOverF/DfOverF1"):
        recording = open_recordings(path, {"activity": name}).recordings[0]
        assert recording.activity[0, 0] == pytest.approx((data[0, 0] - data[:, 0].mean()) / data[:, 0].std(), abs=1e-5)


@pytest.mark.filterwarnings("ignore:RoiResponseSeries")
@pytest.mark.parametrize("timestamps", [False, True])
def test_series_of_regions_by_frames_are_turned_and_told(tmp_path: Path, timestamps: bool) -> None:
    path, data = write(tmp_path / "day1.nwb", timestamps=timestamps)
    with h5py.File(path, "r+") as file:  # pynwb reads such files, and writes none
        for series in ("Fluorescence/Fluorescence0", "DfOverF/DfOverF0", "Neuropil/Neuropil0"):
            group = file[f"processing/ophys/{series}"]
            values, attributes = group["data"][:].T, dict(group["data"].attrs)
            del group["data"]
            group["data"] = values
            group["data"].attrs.update(attributes)
    recordings = open_recordings(path)
    recording = recordings.recordings[0]
    expected = (data - data.mean(axis=0)) / data.std(axis=0)
    np.testing.assert_allclose(recording.activity, expected, atol=1e-5)
    assert recording.behaviour.shape == (FRAMES, 2)
    assert recording.rate_hz == pytest.approx(6.0)
    assert any("found 4 x 80 where there are 4 neurons; it was transposed" in note for note in recordings.notes)


def test_a_rate_that_is_not_that_of_the_plane_is_told(tmp_path: Path) -> None:
    notes = open_recordings(write(tmp_path / "day1.nwb")[0]).notes
    assert "day1.nwb: the series has 6 frames per second, which is used; the imaging plane states 30." in notes


def test_regions_that_the_table_lacks_are_refused(tmp_path: Path) -> None:
    path, _ = write(tmp_path / "day1.nwb")
    with h5py.File(path, "r+") as file:
        file["processing/ophys/DfOverF/DfOverF0/rois"][0] = 7
    with pytest.raises(RecordingsRefused, match=r"day1\.nwb: DfOverF/DfOverF0 names regions of interest 1 to 7.*has 5"):
        open_recordings(path)
    with h5py.File(path, "r+") as file:
        rois = file["processing/ophys/DfOverF/DfOverF0/rois"]
        attributes = dict(rois.attrs)
        del file["processing/ophys/DfOverF/DfOverF0/rois"]
        file["processing/ophys/DfOverF/DfOverF0/rois"] = [1, 2, 3]
        file["processing/ophys/DfOverF/DfOverF0/rois"].attrs.update(attributes)
    with pytest.raises(RecordingsRefused, match="4 neurons, but the file names 3 regions of interest"):
        open_recordings(path)


def test_frame_times_in_ms_are_refused_or_read_as_the_layout_says(tmp_path: Path) -> None:
    path, _ = write(tmp_path / "day1.nwb", timestamps=True, in_ms=1000.0)
    with pytest.raises(RecordingsRefused, match="frames 166.7 apart.*frame_times_per_s"):
        open_recordings(path)
    recording = open_recordings(path, {"frame_times_per_s": 1000}).recordings[0]
    assert recording.rate_hz == pytest.approx(6.0)
    running = np.sin(5 + np.arange(FRAMES) / 6.0)
    running = (running - running.mean()) / running.std()
    column = recording.behaviour_names.index("running_speed")
    np.testing.assert_allclose(recording.behaviour[:, column], running, atol=2e-3)


def two_planes(path: Path) -> tuple[Path, list[np.ndarray]]:
    """Write two planes whose modules, containers and series have the same names but for the modules and planes."""
    rng = np.random.default_rng(5)
    file = NWBFile("a session", path.stem, datetime(2020, 1, 1, tzinfo=UTC))
    device, data = file.create_device("microscope"), []
    for number in range(2):
        plane = file.create_imaging_plane(
            name=f"plane{number}",
            optical_channel=OpticalChannel(name="green", description="green", emission_lambda=520.0),
            description="plane",
            device=device,
            excitation_lambda=920.0,
            indicator="GCaMP6s",
            location="V1",
        )
        module = file.create_processing_module(f"ophys_{number}", "ophys")
        segmentation = ImageSegmentation()
        module.add(segmentation)
        table = segmentation.create_plane_segmentation(name="regions", description="regions", imaging_plane=plane)
        for region in range(3 + number):
            table.add_roi(pixel_mask=[(region, 1, 1.0)])
        fluorescence = Fluorescence()
        module.add(fluorescence)
        data.append(rng.standard_normal((FRAMES, 3 + number)))
        fluorescence.create_roi_response_series(
            name="RoiResponseSeries",
            data=data[-1],
            rois=table.create_roi_table_region("all", region=list(range(3 + number))),
            unit="a.u.",
            rate=6.0,
        )
        for name in ("left", "right"):
            speed = TimeSeries(name="speed", data=np.sin(np.arange(80.0) + number), unit="cm/s", rate=6.0)
            module.add(BehavioralTimeSeries(name=f"{name}{number}", time_series=speed))
    with NWBHDF5IO(str(path), "w") as writer:
        writer.write(file)
    return path, data


def test_one_of_several_planes_is_chosen_by_its_name(tmp_path: Path) -> None:
    path, data = two_planes(tmp_path / "day1.nwb")
    with pytest.raises(RecordingsRefused, match=r"ophys_0/.*, ophys_1/.*\('plane'\): plane0, plane1"):
        open_recordings(path)
    with pytest.raises(RecordingsRefused, match="'plane2' .did you mean 'plane"):
        open_recordings(path, {"plane": "plane2"})
    for number, values in enumerate(data):
        for layout in ({"plane": f"plane{number}"}, {"activity": f"ophys_{number}/Fluorescence/RoiResponseSeries"}):
            recording = open_recordings(path, layout).recordings[0]
            np.testing.assert_allclose(recording.activity, (values - values.mean(0)) / values.std(0), atol=1e-5)


def test_channels_of_one_name_are_told_apart_by_where_they_are(tmp_path: Path) -> None:
    path, _ = two_planes(tmp_path / "day1.nwb")
    names = open_recordings(path, {"plane": "plane0"}).recordings[0].behaviour_names
    assert sorted(names) == ["left0/speed", "left1/speed", "right0/speed", "right1/speed"]
    with pytest.raises(RecordingsRefused, match="no time series 'speed' .*There are: left0/speed, left1/speed"):
        open_recordings(path, {"plane": "plane0", "behaviour": ["speed"]})
    chosen = open_recordings(path, {"plane": "plane0", "behaviour": {"speed": "right1/speed"}}).recordings[0]
    assert chosen.behaviour_names == ("speed",)
    expected = np.sin(np.arange(80.0) + 1)
    np.testing.assert_allclose(chosen.behaviour[:, 0], (expected - expected.mean()) / expected.std(), atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"activity": "DfOverf0"}, "did you mean 'DfOverF0'"),
        ({"labels": {"class": "kinds"}}, "did you mean 'kind'"),
        ({"behaviour": ["running_sped"]}, "did you mean 'running_speed'"),
        ({"frame_times": "t"}, "means nothing for nwb"),
        ({"positions": "sure"}, "2 or 3 coordinates"),
    ],
)
def test_names_that_the_file_lacks_are_refused(tmp_path: Path, layout: dict[str, Any], message: str) -> None:
    path, _ = write(tmp_path / "day1.nwb")
    with pytest.raises(RecordingsRefused, match=message):
        open_recordings(path, layout)


def test_files_without_optical_physiology_are_refused(tmp_path: Path) -> None:
    file = NWBFile("nothing", "none", datetime(2020, 1, 1, tzinfo=UTC))
    with NWBHDF5IO(str(tmp_path / "none.nwb"), "w") as writer:
        writer.write(file)
    with pytest.raises(RecordingsRefused, match="no optical physiology"):
        open_recordings(tmp_path / "none.nwb")
    (tmp_path / "text.nwb").write_text("not a file of this kind")
    with pytest.raises(RecordingsRefused, match=r"text\.nwb: cannot be read as NWB"):
        open_recordings(tmp_path / "text.nwb")
