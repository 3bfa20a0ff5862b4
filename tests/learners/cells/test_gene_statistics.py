"""Streamed statistics against scikit-learn's."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells import cell_matrix
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.normalisation import Normalisation, gene_statistics
from tests.learners.cells.made_cells import made_counts, written


@pytest.mark.parametrize("in_memory", [False, True])
def test_statistics_of_some_cells(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(cell_matrix.CellMatrix.blocks, "__defaults__", (None, 17))
    made = made_counts()
    made.X = made.X.multiply(np.arange(60) != 9).tocsr()
    cells = open_cells(written(made, tmp_path / "a.h5ad"))
    cells = cells.in_memory() if in_memory else cells
    rows = np.random.default_rng(0).permutation(120)[:70]
    counts = made.X.toarray()[rows].astype(np.float64)
    logs = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    truth = StandardScaler().fit(logs)
    found = gene_statistics(cells, rows, Normalisation("counts"))
    np.testing.assert_allclose(found.mean, truth.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.sd, np.sqrt(truth.var_), rtol=1e-5)
    np.testing.assert_array_equal(found.n_expressing, (counts > 0).sum(0))
    assert found.n_cells == 70
    assert found.sd[9] == 0


def test_a_value_that_is_no_number_is_found_anywhere(tmp_path):
    made = made_counts()
    made.X.data[-100] = np.nan
    cells = open_cells(written(made, tmp_path / "a.h5ad"))
    with pytest.raises(CellsRefused, match="1 NaN"):
        gene_statistics(cells, np.arange(120), Normalisation("counts"))
    with pytest.raises(CellsRefused, match="found none"):
        gene_statistics(cells, np.array([]), Normalisation("counts"))
