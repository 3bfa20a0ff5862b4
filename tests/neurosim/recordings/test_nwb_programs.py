"""NWB 2 as MIES, ipfx and NeuroConv write it: headstages, stimulus sets, tables, compressed data."""

import sys
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recording import read_recording
from neurofleet.neurosim.recordings.recording_formats import open_entries
from tests.neurosim.recordings.recording_files import RATE_HZ, membrane_voltage, step_current, write_series

pynwb = pytest.importorskip("pynwb")
icephys = pynwb.icephys


def new_file():
    nwbfile = pynwb.NWBFile("made up", "cell", datetime(2020, 1, 1, tzinfo=UTC))
    rig = nwbfile.create_device(name="ITC18USB_Dev_0")
    electrodes = [
        nwbfile.create_icephys_electrode(name=f"electrode_{number}", description="headstage", device=rig)
        for number in range(2)
    ]
    return nwbfile, electrodes


def write(nwbfile, path):
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    return path


def fields(electrode, **others):
    return {"electrode": electrode, "gain": np.nan, "rate": RATE_HZ, "starting_time": 0.0} | others


def write_mies(path, driven=((0, 1), (0, 1), (1,))):
    """Three sweeps of two headstages (AD2 with DA0, AD0 with DA1), of which those in `driven` get a step.

    A test pulse comes before each step; a photodiode and a trigger are recorded as well.
    """
    nwbfile, electrodes = new_file()
    pulse = step_current(-0.05, 10.0, 10.0)
    for sweep, headstages in enumerate(driven):
        for headstage, (reads, writes) in enumerate(((2, 0), (0, 1))):
            current = step_current(0.1 * (1 + headstage) + 0.01 * sweep) + pulse
            name = {"sweep_number": np.uint64(sweep), "stimulus_description": f"Steps{headstage}_DA_0"}
            common = fields(electrodes[headstage], **name)
            moved = current if headstage in headstages else np.zeros_like(current)
            nwbfile.add_acquisition(
                icephys.CurrentClampSeries(
                    name=f"data_{sweep:05d}_AD{reads}", data=membrane_voltage(moved) * 1e-3, **common
                )
            )
            if headstage in headstages:
                nwbfile.add_stimulus(
                    icephys.CurrentClampStimulusSeries(
                        name=f"data_{sweep:05d}_DA{writes}", data=current, conversion=1e-9, **common
                    )
                )
        for name, to in (
            (f"data_{sweep:05d}_AD4", nwbfile.add_acquisition),
            (f"data_{sweep:05d}_TTL_1", nwbfile.add_stimulus),
        ):
            to(pynwb.TimeSeries(name=name, data=np.zeros(5000), unit="volts", rate=RATE_HZ, starting_time=0.0))
    return write(nwbfile, path)


def test_headstages_of_mies_have_their_own_stimulus_sets(tmp_path):
    path = write_mies(tmp_path / "mies.nwb")
    with pytest.raises(InputError, match='2 electrodes: "electrode_0"'):
        read_recording(path, stimuli=["Steps?"])
    for headstage, amplitudes in ((0, [0.1, 0.11]), (1, [0.2, 0.21, 0.22])):
        recording = read_recording(path, stimuli=[f"Steps{headstage}"], electrode=f"electrode_{headstage}")
        assert [sweep.stimulus_name for sweep in recording.sweeps] == [f"Steps{headstage}_DA_0"] * len(amplitudes)
        assert [sweep.amplitude_nA for sweep in recording.sweeps] == pytest.approx(amplitudes)
        assert {(sweep.start_ms, sweep.stop_ms) for sweep in recording.sweeps} == {(100.0, 299.9)}


def test_a_headstage_without_a_stimulus_does_not_get_that_of_another(tmp_path):
    path = write_mies(tmp_path / "mies.nwb")
    recording = read_recording(path, stimuli=["Steps0*"], electrode="electrode_0")
    assert [sweep.number for sweep in recording.sweeps] == [0, 1]
    assert recording.refused == {2: "no current stimulus series belongs to it"}


def test_the_type_of_stimulus_of_sequential_recordings_names_the_sweeps(tmp_path):
    nwbfile, electrodes = new_file()
    together = []
    for number, kind in enumerate(("IV", "IV", "ramp")):
        current = step_current(0.1 + 0.1 * number)
        row = nwbfile.add_intracellular_recording(
            electrode=electrodes[0],
            response=icephys.CurrentClampSeries(
                name=f"current_clamp-response-{number + 1:02d}-ch-0",
                data=membrane_voltage(current),
                conversion=1e-3,
                **fields(electrodes[0], stimulus_description="N/A"),
            ),
            stimulus=icephys.CurrentClampStimulusSeries(
                name=f"stimulus-{number + 1:02d}-ch-0",
                data=current,
                conversion=1e-9,
                description=rf"Stim type: steps of {kind}.pro",
                **fields(electrodes[0], stimulus_description="N/A"),
            ),
        )
        together.append((kind, nwbfile.add_icephys_simultaneous_recording(recordings=[row])))
    for kind in ("IV", "ramp"):
        nwbfile.add_icephys_sequential_recording(
            simultaneous_recordings=[row for name, row in together if name == kind], stimulus_type=kind
        )
    path = write(nwbfile, tmp_path / "tables.nwb")
    with open_entries(path) as entries:
        assert [(entry.number, entry.stimulus_name) for entry in entries] == [(1, "IV"), (2, "IV"), (3, "ramp")]
    assert [sweep.amplitude_nA for sweep in read_recording(path, stimuli=["iv"]).sweeps] == pytest.approx([0.1, 0.2])
    (sweep,) = read_recording(path, stimuli=["steps of ramp"]).sweeps
    assert sweep.amplitude_nA == pytest.approx(0.3)


def test_nwb_1_that_is_not_allens_says_how_to_convert_it(tmp_path):
    with h5py.File(tmp_path / "a.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.5"
        file.create_group("epochs")
        file["acquisition/timeseries/data_00000_AD0/data"] = np.zeros(5)
    with pytest.raises(InputError, match="another layout than Allen's.*MIES exports"):
        read_recording(tmp_path / "a.nwb")


def compressed(path, filter_of_hdf5):
    """Write a recording whose voltage is compressed with one of hdf5plugin's filters."""
    series = {"names": ("Sweep_1", "Stim_1"), "current": step_current(), "voltage": membrane_voltage(step_current())}
    write_series(path, [series])
    with h5py.File(path, "a") as file:
        response = file["acquisition/Sweep_1"]
        stored, attributes = response["data"][()], dict(response["data"].attrs)
        del response["data"]
        response.create_dataset("data", data=stored, **filter_of_hdf5).attrs.update(attributes)
    return path


def test_filters_of_hdf5plugin_are_loaded_or_named(tmp_path, monkeypatch):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = compressed(tmp_path / "a.nwb", hdf5plugin.Zstd())
    (sweep,) = read_recording(path).sweeps
    assert sweep.amplitude_nA == pytest.approx(0.1)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: code < 256)  # those of HDF5 itself
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(InputError, match=r"compressed with .* \(HDF5 filter 32015\), which is not installed.*h5repack"):
        read_recording(path)
