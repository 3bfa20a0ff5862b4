"""Cells that occur twice are found whatever was done to their values, and others are not."""

import numpy as np
import pytest
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_copies import KnownCells, ProfileMaker, Profiles, find_copies, looked_at
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import confounded, read_labels
from neurofleet.learners.cells.normalisation import normalisation, recognise
from neurofleet.learners.sims.train_sims import prepare_reference
from tests.learners.cells.made_cells import made_counts, made_genes, written


def rich_counts(n_cells=60, n_genes=400, seed=0):
    generator = np.random.default_rng(seed)
    return generator.poisson(generator.gamma(0.5, 2, n_genes) * generator.uniform(0.5, 2, (n_cells, 1))).astype(
        np.float32
    )


def logs_of(counts):
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)


def profiles(values, genes=None):
    return ProfileMaker(made_genes(values.shape[1]) if genes is None else genes).of(sp.csr_matrix(values))


def copies(values):
    return find_copies(profiles(values), np.arange(len(values)))


def test_cells_that_differ_are_no_copies():
    assert len(copies(rich_counts()).rows) == 0
    assert len(copies(made_counts(300).X.toarray()).rows) == 0


@pytest.mark.parametrize("change", [lambda x: x, lambda x: 3 * x, logs_of, np.sqrt, lambda x: x * (1 + 1e-6)])
def test_a_copy_is_found_whatever_its_values_were_made_to(change):
    counts = rich_counts()
    found = copies(np.vstack([counts, change(counts[[5, 9]])]))
    assert found.rows.tolist() == [60, 61]
    assert found.original[found.rows].tolist() == [5, 9]


def test_copies_of_equal_values_are_told_from_near_ones():
    counts = rich_counts()
    near = counts[[5]].copy()
    near[0, np.flatnonzero(near[0] == 0)[:2]] = 1
    near[0, np.flatnonzero(near[0])[5]] = 0
    found = copies(np.vstack([counts, counts[[9]], near]))
    assert found.original[[60, 61]].tolist() == [9, 5]
    assert found.identical[[60, 61]].tolist() == [True, False]


def test_dense_and_scaled_values():
    dense = np.random.default_rng(0).gamma(2, 1, (50, 200)).astype(np.float32)
    assert copies(np.vstack([dense, dense[[3]]])).rows.tolist() == [50]
    scaled = (dense - dense.mean(0)) / dense.std(0)
    assert copies(np.vstack([scaled, scaled[[3]]])).rows.tolist() == [50]


def test_cells_of_few_genes_are_copies_only_with_equal_values():
    panel = np.random.default_rng(0).poisson(2, (200, 20)).astype(np.float32)
    assert copies(np.vstack([panel, panel[[3]]])).rows.tolist() == [200]
    assert len(copies(np.vstack([panel, 2 * panel[[3]]])).rows) == 0
    sparse = np.zeros((20, 50), np.float32)
    sparse[:, :3] = 1
    assert len(copies(sparse).rows) == 0


def test_profiles_do_not_depend_on_the_order_of_genes():
    counts, order = rich_counts(), np.random.default_rng(1).permutation(400)
    genes = np.asarray(made_genes(400))
    one, other = profiles(counts, genes), profiles(counts[:, order], genes[order])
    np.testing.assert_array_equal(one.groups, other.groups)
    np.testing.assert_allclose(one.projection, other.projection, rtol=1e-6)


def test_a_query_finds_the_cells_of_a_reference():
    counts = rich_counts()
    known = KnownCells(Profiles.from_array(profiles(logs_of(counts)).some(np.arange(40)).to_array()))
    again = counts.copy()
    again[:, 7] = 0
    assert known.has(profiles(logs_of(again))).tolist() == [True] * 40 + [False] * 20
    assert not known.has(profiles(logs_of(rich_counts(seed=3)))).any()
    panel = np.random.default_rng(0).poisson(2, (200, 20)).astype(np.float32)
    few = KnownCells(Profiles.from_array(profiles(logs_of(panel + 0.0)).some(np.arange(100)).to_array()))
    assert few.has(profiles(logs_of(panel))).sum() == 100


def test_a_large_reference_keeps_a_part():
    found = profiles(rich_counts())
    assert len(found.some(np.arange(60), limit=10)) == 10
    assert found.to_array().shape == (60, 10)


def test_copies_are_in_one_part_of_a_split_only(tmp_path):
    cells = made_counts(120, 90)
    other = made_counts(120, 90, prefix="again")
    other.obs.loc["again0", "cell_type"] = "NK"
    files = [written(cells, tmp_path / "a.h5ad"), written(other, tmp_path / "b.h5ad")]
    prepared = prepare_reference(open_cells(files), "cell_type")
    assert prepared.cells_by_role() == [{"train": 78, "validation": 18, "test": 24}]
    assert (prepared.final.role[120:] == "excluded").all()
    note = next(note for note in prepared.notes if "copies" in note)
    assert "120 of 240 cells are copies of others (again0 of cell0, ...)" in note
    assert "120 of them are in another file" in note
    assert "1 of them have another label" in note
    folds = prepare_reference(open_cells(files), "cell_type", folds=3)
    assert sum(len(split.rows("test")) for split in folds.splits) == 120


def test_the_copy_that_has_a_label_is_the_one_that_is_used(tmp_path):
    cells, other = made_counts(60, 90), made_counts(60, 90, prefix="again")
    cells.obs["cell_type"] = cells.obs["cell_type"].where(np.arange(60) >= 30, None)
    files = [written(cells, tmp_path / "a.h5ad"), written(other, tmp_path / "b.h5ad")]
    prepared = prepare_reference(open_cells(files), "cell_type", drop_unlabelled=True)
    used = prepared.final.role != "excluded"
    assert used[:60].tolist() == [False] * 30 + [True] * 30
    assert used[60:].tolist() == [True] * 30 + [False] * 30


def test_other_kinds_of_values_are_found_in_any_block(tmp_path):
    cells = made_counts(6000, 60)
    values = cells.X.toarray()
    values[5000] = logs_of(values[[5000]])[0]
    cells.X = sp.csr_matrix(values)
    opened = open_cells(written(cells, tmp_path / "a.h5ad"))
    seen = recognise(opened)
    with pytest.raises(CellsRefused, match=r"a\.h5ad: .*cell5000"):
        looked_at(opened, seen, normalisation(seen))


@pytest.mark.parametrize("batch", [None, "donor"])
def test_files_and_batches_that_tell_the_class(tmp_path, batch):
    one, other = made_counts(40, classes=("Pvalb",)), made_counts(40, classes=("Sst",), prefix="other")
    one.obs["donor"], other.obs["donor"] = "first", "second"
    files = [written(one, tmp_path / "Pvalb_run1.h5ad"), written(other, tmp_path / "rest.h5ad")]
    cells = open_cells(files)
    notes = confounded(cells, read_labels(cells, "cell_type"), batch)
    assert len(notes) == (1 if batch is None else 2)
    assert "Each of 2 files holds cells of one class only, and its name says which (Pvalb)" in notes[0]
    mixed = open_cells(written(made_counts(40), tmp_path / "mixed.h5ad"))
    assert confounded(mixed, read_labels(mixed, "cell_type"), "donor") == []
