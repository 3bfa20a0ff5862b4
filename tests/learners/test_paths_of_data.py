"""Cells, units and recordings by a pattern, from the home folder, and from a web server."""

import pytest

from neurofleet.errors import InputError
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.units.unit_files import open_units
from tests.file_server import FileServer, serve
from tests.jobs.test_hippie import write_units
from tests.jobs.test_neuprint import write_animal


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("cell,Gad1,Sst\nc1,1,0\nc2,0,3\n")
    (tmp_path / "b.csv").write_text("cell,Gad1,Sst\nc3,5,0\n")
    (tmp_path / "labels.tsv").write_text("cell\ttype\nc1\tx\nc2\ty\nc3\tx\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


def test_cells(home):
    cells = open_cells("~/?.csv", labels_path="~/labels.tsv")
    assert (cells.shape, list(cells.cell_ids)) == ((3, 2), ["c1", "c2", "c3"])
    with serve(FileServer({"/a.csv": (home / "a.csv").read_bytes()})) as server:
        elsewhere = open_cells([f"{server.address}/a.csv", str(home / "b.csv")])
    assert elsewhere.read([0, 1, 2]).toarray().tolist() == [[1, 0], [0, 3], [5, 0]]
    with pytest.raises(InputError, match=r"~/\*.h5ad: no file matches this pattern"):
        open_cells("~/*.h5ad")


def test_units_and_recordings(home):
    write_units(home / "units.npz")
    write_animal(home, 0)
    layout = {"waveform_rate_hz": 30000}
    here = open_units("~/un*.npz", layout)
    with serve(FileServer({"/units.npz": (home / "units.npz").read_bytes()})) as server:
        elsewhere = open_units(f"{server.address}/units.npz?download=1", layout)
    assert here.unit_ids.tolist() == elsewhere.unit_ids.tolist()
    assert (here.waveform == elsewhere.waveform).all()
    (recording,) = [path for path in home.glob("*.npz") if path.name != "units.npz"]
    assert len(open_recordings(f"~/{recording.name[:2]}*.npz").recordings) == 1
