"""A query brought to what a model was trained on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from neurofleet.errors import CellsRefused
from neurofleet.learners.local_training import train_here
from neurofleet.learners.sims.cell_prediction import IMPORTANCE, open_query, predict
from neurofleet.learners.sims.reference_fit import fit
from tests.learners.cells.made_cells import made_counts, written
from tests.learners.sims.small_reference import QUICK, small_reference, small_split


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    reference = small_reference(tmp_path_factory.mktemp("reference"))
    return fit(reference, small_split(reference), QUICK, train_here).model


@pytest.fixture
def cells():
    return made_counts(100, seed=5, prefix="query")


def probabilities(model, query):
    return np.concatenate([model.probabilities(values, query.closed) for _, values in query.blocks()])


def test_blocks_are_the_whole_in_order(model, cells, tmp_path):
    query = open_query(model, written(cells, tmp_path / "query.h5ad"))
    ids, values = zip(*query.blocks(size=7), strict=True)
    ((all_ids, all_values),) = query.blocks(size=1000)
    assert list(np.concatenate(ids)) == list(all_ids) == list(cells.obs_names)
    np.testing.assert_array_equal(sp.vstack(values).toarray(), all_values.toarray())


def test_predicting_in_pieces_is_predicting_at_once(model, cells, tmp_path):
    query = open_query(model, written(cells, tmp_path / "query.h5ad"))
    whole = probabilities(model, query)
    pieces = [predict(model, query, np.arange(start, start + 20), 3) for start in range(0, 100, 20)]
    np.testing.assert_allclose(np.concatenate([p.probabilities for p in pieces]), whole, atol=1e-6)
    assert [p.cell_ids[0] for p in pieces] == [f"query{start}" for start in range(0, 100, 20)]
    best = np.concatenate([p.best for p in pieces])
    np.testing.assert_array_equal(best, np.argsort(-whole.astype(np.float32), axis=1, kind="stable"))


def test_order_of_genes_further_genes_and_logs_change_nothing(model, cells, tmp_path):
    counts = probabilities(model, open_query(model, written(cells, tmp_path / "counts.h5ad")))
    order = np.random.default_rng(0).permutation(cells.n_vars)
    shuffled = cells[:, order].copy()
    shuffled.var_names = [name if i % 10 else f"x{name}" for i, name in enumerate(shuffled.var_names)]
    known = [name for name in shuffled.var_names if not name.startswith("x")]
    query = open_query(model, written(shuffled, tmp_path / "shuffled.h5ad"))
    assert (query.alignment.n_shared, query.alignment.n_unknown) == (54, 6)
    without = open_query(model, written(cells[:, known].copy(), tmp_path / "without.h5ad"))
    np.testing.assert_array_equal(probabilities(model, query), probabilities(model, without))
    logged = cells.copy()
    totals = np.asarray(logged.X.sum(1))
    logged.X = sp.csr_matrix(np.log1p(logged.X.toarray() / totals * 1e4))
    logs = probabilities(model, open_query(model, written(logged, tmp_path / "logs.h5ad")))
    np.testing.assert_allclose(logs, counts, atol=1e-4)


def test_missing_genes_are_warned_of_and_refused(model, cells, tmp_path):
    path = written(cells[:, :40].copy(), tmp_path / "query.h5ad")
    query = open_query(model, path)
    assert query.missing_share == pytest.approx(20 / 60)
    assert "lacks 20 of the model's 60 genes (33.3 %)" in query.warning
    with pytest.raises(CellsRefused, match=r"query\.h5ad: .*33\.3 %.*at most 30 %.*--most-missing"):
        open_query(model, path, most_missing=0.3)
    assert not open_query(model, written(cells[:, :50].copy(), tmp_path / "more.h5ad")).warning
    unseen = np.repeat([1.0, 0.0], [25, 35]).tolist()  # no network looks at the genes that are missing
    many = open_query(replace(model, facts={IMPORTANCE: unseen}), written(cells[:, :25].copy(), tmp_path / "few.h5ad"))
    assert "35 of the model's 60 genes (58.3 %; 0.0 % of its networks' attention)" in many.warning


def test_missing_genes_count_by_the_attention_they_have(model, cells, tmp_path):
    importance = np.zeros(60)
    importance[[0, 59]] = [0.1, 0.9]
    knowing = replace(model, facts={IMPORTANCE: importance.tolist()})
    path = written(cells[:, :59].copy(), tmp_path / "query.h5ad")
    query = open_query(knowing, path, most_missing=0.95)
    assert query.missing_share == pytest.approx(0.9)
    assert "(1.7 %; 90.0 % of its networks' attention)" in query.warning
    with pytest.raises(CellsRefused, match="attention"):
        open_query(knowing, path)


def test_masks_cannot_choose_closed_genes(model, cells, tmp_path):
    path = written(cells[:, ::2].copy(), tmp_path / "query.h5ad")
    query = open_query(model, path, close_missing=True)
    assert query.closed.sum() == 30
    ((_, values),) = query.blocks()
    for closed, is_empty in ((query.closed, True), (None, False)):
        shut = None if closed is None else torch.from_numpy(closed[model.inputs.columns])
        with torch.inference_mode():
            _, steps = model.networks(model.network_input(values), shut)
        masks = np.stack([step.mask.numpy() for member in steps for step in member])
        chosen = masks[:, :, query.closed[model.inputs.columns]].sum()
        assert bool(chosen == 0.0) is is_empty
    assert open_query(model, path).closed is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: np.where(x == x.max(), np.nan, x), "1 NaN"),
        (lambda x: (x - x.mean(0)) / x.std(0), "scaled values"),
        (lambda x: -x, "below 0"),
        (lambda x: 0 * x, "all values .* are zero"),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_file(model, cells, tmp_path, change, told):
    counts = cells.X.toarray()
    counts[2, 3] = 99
    cells.X = change(counts)
    with pytest.raises(CellsRefused, match=rf"query\.h5ad: .*{told}"):
        open_query(model, written(cells, tmp_path / "query.h5ad"))


def test_values_are_checked_beyond_the_cells_looked_at_first(model, tmp_path):
    cells = made_counts(3000, seed=6)
    x = cells.X.toarray()
    x[100, 3] = np.nan
    cells.X = sp.csr_matrix(x)
    query = open_query(model, written(cells, tmp_path / "query.h5ad"))
    with pytest.raises(CellsRefused, match=r"query\.h5ad, cells cell64 to cell127: .*1 NaN"):
        list(query.blocks(size=64))


def test_genes_in_rows_are_told(model, cells, tmp_path):
    with pytest.raises(CellsRefused, match="Transpose"):
        open_query(model, written(cells.T.copy(), tmp_path / "query.h5ad"))


def test_other_genes_are_told(model, cells, tmp_path):
    cells.var_names = pd.Index([f"Other{i}" for i in range(60)])
    with pytest.raises(CellsRefused, match=r"query\.h5ad: .*shares none of the model's 60 genes"):
        open_query(model, written(cells, tmp_path / "query.h5ad"))
