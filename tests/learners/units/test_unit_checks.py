"""Row numbers among the values are refused, telling gaps are said, copies are found."""

import numpy as np
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.units.signal_scaling import also_in, relative, row_hashes, scaled
from neurofleet.learners.units.unit_checks import check_labels
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.unit_labels import labelled_units
from neurofleet.learners.units.units import MODALITIES, UnitsRefused
from tests.learners.units.made_units import counts, made, npz, refused


@pytest.mark.parametrize("place", [0, 91])
def test_a_row_number_among_the_samples_is_refused(tmp_path, place):
    spoilt = np.insert(made()["waveform"], place, np.arange(30), axis=1)
    refused([npz(tmp_path / "a.npz", waveform=spoilt)], f"column {place} of 92", "row number")


@pytest.mark.parametrize("normalised", [False, True])
def test_a_row_number_among_the_counts_is_refused_even_when_rows_were_normalised(tmp_path, normalised):
    table = counts()[:, :80]
    table[:, 40:] += 1
    spoilt = np.insert(table * np.linspace(3, 1, 30).round()[:, None], 0, np.arange(1, 31), axis=1)
    if normalised:
        spoilt /= spoilt.sum(axis=1, keepdims=True)
    refused([npz(tmp_path / "a.npz", isi=spoilt)], "column 0 of 81", "row number")


def test_one_column_too_many_is_refused(tmp_path):
    refused([npz(tmp_path / "a.npz", isi=counts(bins=101))], "101 columns", "one more than the 100 bins")
    refused([npz(tmp_path / "b.npz", isi=counts(bins=51))], "51 columns", "one more than the 50 bins")


def test_a_table_sorted_by_firing_rate_is_not_refused(tmp_path):
    table = np.rint(counts() * np.linspace(1, 20, 30)[:, None])
    assert len(open_units([npz(tmp_path / "a.npz", isi=table)])) == 30


def test_self_pairs_in_an_autocorrelogram_are_no_row_number_and_do_not_count(tmp_path):
    table = made()["acg"]
    table[:, 100] = 1000 + np.arange(30)
    units = open_units([npz(tmp_path / "a.npz", acg=table)])
    np.testing.assert_array_equal(units.acg, open_units([npz(tmp_path / "b.npz")]).acg)


def test_a_class_without_any_data_is_refused_and_telling_gaps_are_said(tmp_path):
    shapes, first = made(60), made(60)["cell_type"] == "PV"
    shapes["waveform"][first] = 0
    units = open_units([npz(tmp_path / "a.npz", **shapes)])
    notes = " ".join(check_labels(units, "cell_type"))
    assert "No unit of PV (cell_type) has a waveform" in notes
    assert "missing in 100% of PV and 0% of SST" in notes
    shapes["isi"][first], shapes["acg"][first] = np.nan, 0
    units = open_units([npz(tmp_path / "b.npz", **shapes)])
    with pytest.raises(UnitsRefused, match=r"All units of PV .* miss waveform, isi, acg"):
        check_labels(units, "cell_type")


def test_gaps_that_tell_nothing_are_not_said(tmp_path):
    arrays = made(60)
    arrays["waveform"][:8] = np.nan
    units = open_units([npz(tmp_path / "a.npz", **arrays)])
    assert check_labels(units, "cell_type") == ()
    with pytest.raises(UnitsRefused, match="did you mean 'cell_type'"):
        check_labels(units, "cell_typ")


def test_scaled_rows_run_from_minus_one_to_one_or_are_zero(tmp_path):
    arrays = made()
    arrays["waveform"][3] = np.nan
    units = open_units([npz(tmp_path / "a.npz", **arrays)])
    result = scaled(units)
    assert set(result) == set(MODALITIES)
    for name, rows in result.items():
        assert rows.dtype == np.float32
        has = units.present[:, MODALITIES.index(name)]
        np.testing.assert_allclose(rows[has].min(axis=1), -1, atol=1e-6)
        np.testing.assert_allclose(rows[has].max(axis=1), 1, atol=1e-6)
        assert (rows[~has] == 0).all()
    logs = np.log1p(1000 * units.isi[0])
    truth = 2 * (logs - logs.min()) / (logs.max() - logs.min()) - 1
    np.testing.assert_allclose(result["isi"][0], truth, atol=1e-5)


def test_relative_waveforms_keep_the_height_of_the_peak(tmp_path):
    arrays = made()
    arrays["waveform"] = 40 * arrays["waveform"] + 3
    arrays["waveform"][3] = np.nan
    units = open_units([npz(tmp_path / "a.npz", **arrays)])
    result = relative(units)
    np.testing.assert_allclose(np.delete(result["waveform"][:, 20], 3), -1, atol=1e-6)
    np.testing.assert_allclose(np.delete(result["waveform"].max(axis=1), 3), 0.4, atol=0.02)
    assert (result["waveform"][3] == 0).all()
    np.testing.assert_allclose(result["isi"], np.log1p(1000 * units.isi), rtol=1e-5)


def test_copies_are_found_under_other_names_and_amplitudes(tmp_path):
    first = open_units([npz(tmp_path / "a.npz")])
    arrays = made()
    changed = {"waveform": 75.3 * arrays["waveform"][::3], "isi": arrays["isi"][::3], "acg": None}
    changed |= {"unit_id": np.array([f"x{k}" for k in range(10)]), "cell_type": None}
    second = open_units([npz(tmp_path / "b.npz", **changed)])
    assert (row_hashes(second)[:, 2] == "").all()
    assert np.flatnonzero(also_in(first, second)).tolist() == list(range(0, 30, 3))
    assert also_in(second, first).all()
    assert not also_in(first.take([1, 2]), second).any()


def test_copies_within_a_set_are_said(tmp_path):
    arrays = made()
    for name in MODALITIES:
        arrays[name][7] = arrays[name][6]
    units = open_units([npz(tmp_path / "a.npz", **arrays)])
    assert any("1 units are the same as others" in note and "u7" in note for note in units.notes)


def test_what_several_files_have_in_common_is_told_once_and_one_animal_is_no_group(tmp_path):
    same = {"waveform": None, "acg": None, "isi_bin_ms": 2.0, "animal": np.array(["m1"] * 30)}
    tables = {"a": counts(), "b": counts()[:, ::-1] + 1}
    units = open_units([npz(tmp_path / f"{name}.npz", isi=isi, **same) for name, isi in tables.items()])
    assert sum("bins of 2 ms became bins of 1 ms" in note for note in units.notes) == 1
    assert any(note.startswith("a.npz, isi (and 1 more): bins of 2 ms") for note in units.notes)
    with pytest.raises(LearnerError, match="have animal m1: a split by animal needs two or more"):
        labelled_units(units, "cell_type", group="animal")
    with pytest.raises(LearnerError, match=r"called 'mouse'.* There are: cell_type, animal, file\.$"):
        labelled_units(units, "cell_type", group="mouse")


def test_a_file_without_the_column_of_labels_is_told(tmp_path):
    others = {"waveform": None, "acg": None, "isi": counts()[:, ::-1] + 1}
    other = npz(tmp_path / "b.npz", cell_type=None, celltype=np.array(["PV"] * 30), **others)
    units = open_units([npz(tmp_path / "a.npz"), other])
    notes = labelled_units(units, "cell_type").notes
    assert any("b.npz: has no 'cell_type' (did you mean 'celltype'?), which other files have" in note for note in notes)
    assert not any("a.npz: has no" in note for note in notes)
