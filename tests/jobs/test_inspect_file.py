"""``neurofleet inspect``: what is printed of a recording or a morphology, and its picture."""

import h5py
import numpy as np
import pytest

import neurofleet as nf
from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.inspect_file import InspectOptions, inspect_command, inspect_file
from tests.neurosim.cells.small_cells import AXON_SWC
from tests.neurosim.recordings.recording_files import membrane_voltage, step_current, write_series


def sweeps(electrode="el", amplitudes=(-0.1, 0.1)):
    for number, amplitude in enumerate(amplitudes):
        current = step_current(amplitude)
        names = (f"{electrode}_Sweep_{number}", f"{electrode}_Stim_{number}")
        yield {
            "names": names,
            "number": number,
            "current": current,
            "voltage": membrane_voltage(current),
            "electrode": electrode,
        }


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recording_is_printed_and_drawn(in_folder, capsys):
    flat = next(sweeps("el", (0.1,))) | {"names": ("Sweep_7", "Stim_7"), "number": 7, "voltage": np.full(5000, -70.0)}
    path = write_series(in_folder / "cell.nwb", [*sweeps(), flat])
    for _ in range(2):  # the default picture is replaced
        inspect_command(path, None, InspectOptions(junction_potential_mV=10.0), overwrite=False)
    told = capsys.readouterr().out
    assert "cell.nwb: 2 of 3 sweeps used (electrode el, 10 kHz); left out: sweep 7" in told
    assert "a junction potential of 10 mV subtracted" in told
    assert "warning: 1 of 3 sweeps cannot be used" in told
    assert told.rstrip().endswith("picture: cell.nwb.inspect.png")
    assert (in_folder / "cell.nwb.inspect.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_replaces_nothing_unasked(in_folder):
    path = write_series(in_folder / "cell.nwb", list(sweeps()))
    (in_folder / "mine.png").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.png exists already"):
        inspect_command(path, in_folder / "mine.png", InspectOptions(), overwrite=False)
    with pytest.raises(UsageError, match="is read"):
        inspect_command(path, path, InspectOptions(), overwrite=True)


def test_each_electrode_has_a_table(in_folder):
    path = write_series(in_folder / "pair.nwb", [*sweeps("e0"), *sweeps("e1", (0.2, 0.3, 0.4))])
    inspection = inspect_file(path)
    assert [len(table.rows) for table in inspection.tables] == [2, 3]
    assert inspection.warnings[0].startswith("2 electrodes: a fit of this file needs `electrode:`")
    (table,) = inspect_file(path, InspectOptions(electrode="e1")).tables
    assert [row[2] for row in table.rows] == ["200.0", "300.0", "400.0"]
    with pytest.raises(InputError, match="electrode: e0"):
        nf.open_recording(path)
    recording = nf.open_recording(path, electrode="e0", junction_potential_mV=0.0)
    assert [sweep.rest_mV for sweep in recording.sweeps] == [-70.0, -70.0]
    assert "2 of 2 sweeps used" in recording._repr_html_()


def test_other_files_are_refused(in_folder):
    (in_folder / "notes.txt").write_text("no recording")
    for name, said in (("notes.txt", "notes.txt"), ("nothing.nwb", "no such file")):
        with pytest.raises(InputError, match=said):
            inspect_file(in_folder / name)


def test_files_of_learners_are_told(in_folder):
    for name in ("sorted/spike_times.npy", "imaged/suite2p/plane0/F.npy"):
        (in_folder / name).parent.mkdir(parents=True)
        np.save(in_folder / name, np.zeros(3))
    with h5py.File(in_folder / "units.nwb", "w") as file:
        file.create_group("units")
    for name, learner in (("sorted", "hippie"), ("imaged", "neuprint"), ("units.nwb", "hippie")):
        with pytest.raises(InputError, match=f"`neurofleet new {learner} .*{name}` looks at it"):
            inspect_file(in_folder / name)


def test_a_morphology_is_printed_and_drawn(in_folder, capsys):
    (in_folder / "cell.swc").write_text(AXON_SWC + "30 3 100 100 0 0.3 22\n31 3 120 100 0 0.3 30\n")
    inspect_command(in_folder / "cell.swc", None, InspectOptions(), overwrite=False)
    told = capsys.readouterr().out
    assert "cell.swc: soma 804 µm² (as a sphere 16 µm); dendrites" in told
    assert "(24 points, soma drawn as point)" in told
    (basal,) = (line.split() for line in told.splitlines() if line.strip().startswith("basal"))
    assert basal[1:5] == ["1", "2", "274", "785"]  # trees, sections, um, um2
    assert "grow from its axon: only a fit with axon: full can have this cell" in told
    assert (in_folder / "cell.swc.inspect.png").read_bytes().startswith(b"\x89PNG")


def test_a_morphology_in_hdf5_is_told_from_a_recording(in_folder):
    with h5py.File(in_folder / "cell.h5", "w") as file:
        file["points"] = [[0, 0, 0, 16], [8, 0, 0, 2], [80, 0, 0, 2.0]]
        file["structure"] = [[0, 1, -1], [1, 3, 0]]
    inspection = inspect_file(in_folder / "cell.h5")
    assert inspection.lines[0].startswith("cell.h5: soma 804 µm²")
    assert inspection.lines[1] == "note: NEURON imports cell.swc, the same points as it can read them"
    (in_folder / "nano.swc").write_text("1 1 0 0 0 8000 -1\n2 3 0 0 0 1000 1\n3 3 90000 0 0 500 2\n")
    with pytest.raises(InputError, match="nano.swc: expected a cell in micrometres"):
        inspect_file(in_folder / "nano.swc")
