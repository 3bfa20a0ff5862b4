"""The real sets of units, opened as a user would."""

import numpy as np
import pytest

from neurofleet.learners.units.hand_features import HAND_FEATURES
from neurofleet.learners.units.signal_scaling import also_in
from neurofleet.learners.units.unit_checks import check_labels
from neurofleet.learners.units.unit_files import open_units
from tests.learners.units.made_units import refused

CELLEXPLORER = {
    "waveform_rate_hz": 33_000,
    "isi": "isi_log10",
    "isi_scale": "log10",
    "isi_log10_range_s": [-3, 1],
    "isi_values": "density",
    "acg": "acg_narrow",
    "acg_bin_ms": 0.5,
}


@pytest.fixture
def folder(shared_data):
    folder = shared_data / "hippie"
    if not folder.is_dir():
        pytest.skip(f"real units not found at {folder}")
    return folder


def test_juxtacellular_units_need_no_layout(folder):
    units = open_units([folder / "juxta_s1.npz"])
    assert units.present.sum(axis=0).tolist() == [246, 246, 0]
    assert (np.abs(units.waveform.argmin(axis=1) - 20) <= 1).mean() > 0.97
    assert check_labels(units, "cell_type") == ()
    assert any("upside down" in note for note in units.notes)


def test_cellexplorer_units_agree_with_the_features_computed_by_its_authors(folder):
    path = folder / "cellexplorer.npz"
    units = open_units([path], CELLEXPLORER)
    theirs = np.load(path)["features"][:, 3]
    ours = units.hand[:, HAND_FEATURES.index("trough_to_peak_ms")]
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95
    assert abs(np.median(ours - theirs)) < 0.02
    assert len(set(units.column("animal"))) == 49
    both = np.flatnonzero(units.present.all(axis=1) & (units.isi[:, :10].sum(axis=1) > 0.05))
    intervals = units.isi[both, :10].reshape(len(both), 5, 2).sum(axis=2)
    pairs = units.acg[both, 50:55]
    assert len(both) > 300
    assert np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(intervals, pairs, strict=True)]) > 0.97


def test_cellexplorer_bins_are_not_taken_for_linear_ones(folder):
    path = folder / "cellexplorer.npz"
    refused([path], "sampling rate")
    refused([path], "'isi_log10'", "logarithmic", waveform_rate_hz=33_000)
    normalised = open_units([path], CELLEXPLORER | {"isi": "isi"})
    np.testing.assert_allclose(normalised.isi, open_units([path], CELLEXPLORER).isi, atol=2e-5)


def test_dandi_units_have_faults_which_are_said(folder):
    units = open_units([folder / "dandi_000041_cell_type.npz"], {"waveform_rate_hz": 20_000})
    assert units.present.sum(axis=0).tolist() == [201, 221, 221]
    notes = " ".join(units.notes)
    assert "in 18 units most intervals are shorter than 1 ms" in notes
    assert "may be noise" in notes


def test_no_unit_is_in_two_sets(folder):
    first = open_units([folder / "cellexplorer.npz"], CELLEXPLORER)
    second = open_units([folder / "juxta_s1.npz"])
    assert not also_in(first, second).any()
    assert also_in(first, first).all()
