"""What values are is seen from them, and a query's are made like a model's or refused."""

import numpy as np
import pytest
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.gene_alignment import align
from neurofleet.learners.cells.normalisation import Normalisation, check_query, normalisation, recognise
from tests.learners.cells.made_cells import made_counts, written


def log_of(counts, target_sum):
    counts = counts.toarray().astype(np.float64)
    return np.log1p(target_sum * counts / counts.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def seen(tmp_path):
    """Return what is recognised in values put into a file."""

    def look(values, genes=slice(None), **options):
        cells = made_counts()
        cells.obs["total_counts"] = np.asarray(cells.X.sum(1)).ravel()
        cells.X = sp.csr_matrix(values)
        if not options.pop("with_totals", True):
            del cells.obs["total_counts"]
        file = written(cells[:, genes].copy(), tmp_path / "a.h5ad")
        return recognise(open_cells(file), **options)

    return look


COUNTS = made_counts().X


def test_counts(seen):
    found = seen(COUNTS)
    assert (found.kind, found.target_sum) == ("counts", None)
    assert "whole numbers" in found.evidence


@pytest.mark.parametrize("target_sum", [1e4, 1e6, 523.0])
def test_logs_and_their_target_sum(seen, target_sum):
    found = seen(log_of(COUNTS, target_sum))
    assert (found.kind, found.target_sum, found.has_all_genes) == ("log1p", target_sum, True)


def test_logs_of_some_genes_have_their_target_sum_from_the_totals(seen):
    found = seen(log_of(COUNTS, 1e4), slice(0, 20))
    assert (found.kind, found.target_sum, found.has_all_genes) == ("log1p", 1e4, False)
    assert normalisation(found).totals == "all genes"
    unknown = seen(log_of(COUNTS, 1e4), slice(0, 20), with_totals=False)
    assert (unknown.kind, unknown.target_sum) == ("log1p", None)
    assert "genes were left out" in unknown.evidence
    stated = seen(log_of(COUNTS, 1e4), slice(0, 20), with_totals=False, target_sum=1e4)
    assert stated.target_sum == 1e4


def test_normalised_and_scaled_values(seen):
    linear = np.expm1(log_of(COUNTS, 1e4).astype(np.float64))
    assert (seen(linear).kind, seen(linear).target_sum) == ("normalised", 1e4)
    assert seen(linear, slice(0, 20)).kind == "normalised"
    logs = log_of(COUNTS, 1e4)
    assert seen((logs - logs.mean(0)) / (logs.std(0) + 1e-3)).kind == "scaled"


def test_negative_counts(seen):
    values = COUNTS.toarray()
    values[7, 7] = -1
    with pytest.raises(CellsRefused, match="never negative, found whole numbers with 1 of them below 0"):
        seen(values)


@pytest.mark.parametrize(("wrong", "words"), [(np.nan, "1 NaN"), (np.inf, "1 infinite"), (None, "are zero")])
def test_values_that_are_no_numbers(seen, wrong, words):
    values = COUNTS.toarray()
    if wrong is None:
        values[:] = 0
    else:
        values[7, 7] = wrong
    with pytest.raises(CellsRefused, match=words):
        seen(values)


def test_files_of_different_values_are_not_mixed(tmp_path):
    counts, logs = made_counts(), made_counts(prefix="other")
    logs.X = log_of(logs.X, 1e4)
    files = [written(counts, tmp_path / "a.h5ad"), written(logs, tmp_path / "b.h5ad")]
    with pytest.raises(CellsRefused, match="values differ: .*a.h5ad has counts .*b.h5ad has log1p"):
        recognise(open_cells(files))


def test_logs_of_files_with_other_genes_keep_their_target_sum(tmp_path):
    one, other = made_counts(), made_counts(n_genes=50, prefix="other")
    one.X, other.X = log_of(one.X, 1e4), log_of(other.X, 1e4)
    cells = open_cells([written(one, tmp_path / "a.h5ad"), written(other, tmp_path / "b.h5ad")])
    found = recognise(cells)
    assert (found.kind, found.target_sum, found.has_all_genes) == ("log1p", 1e4, False)


def test_normalising_equals_scanpys_formula_and_keeps_empty_cells():
    counts = COUNTS.toarray()
    counts[4] = 0
    found = Normalisation("counts", 1e4).apply(sp.csr_matrix(counts)).toarray()
    kept = np.delete(np.arange(120), 4)
    np.testing.assert_allclose(found[kept], log_of(sp.csr_matrix(counts[kept]), 1e4), rtol=1e-6)
    assert (found[4] == 0).all()
    for wrong, words in ((-1, "1 value\n? *below 0"), (np.nan, "1 NaN")):
        counts[3, 3] = wrong
        with pytest.raises(CellsRefused, match=words):
            Normalisation("counts").apply(sp.csr_matrix(counts))


FROM_COUNTS = Normalisation("counts", 1e4)


def test_a_query_of_another_kind_is_brought_to_the_models(seen):
    expected = log_of(COUNTS, 1e4)
    linear = np.expm1(log_of(COUNTS, 500.0).astype(np.float64))
    for values in (COUNTS, linear, log_of(COUNTS, 1e4), log_of(COUNTS, 523.0)):
        plan = check_query(FROM_COUNTS, seen(values))
        np.testing.assert_allclose(plan.apply(sp.csr_matrix(values)).toarray(), expected, rtol=1e-3)
    assert "brought to 10000" in str(check_query(FROM_COUNTS, seen(log_of(COUNTS, 523.0))))


def test_a_query_that_cannot_be_brought_there_is_refused(seen):
    logs = log_of(COUNTS, 1e4)
    scaled = seen(logs - logs.mean(0))
    unknown = seen(logs, slice(0, 20), with_totals=False)
    for model, query, words in (
        (FROM_COUNTS, scaled, "trained on counts or logs of counts, the query has scaled"),
        (normalisation(scaled), seen(COUNTS), "trained on scaled values, the query has counts"),
        (FROM_COUNTS, unknown, "do not show to how many counts"),
        (normalisation(unknown), seen(COUNTS), "unknown target sum"),
    ):
        with pytest.raises(CellsRefused, match=words):
            check_query(model, query)
    assert check_query(normalisation(scaled), scaled).kind == "scaled"
    assert check_query(normalisation(unknown), unknown).target_sum is None


def test_a_querys_totals_are_taken_as_the_references_were(seen):
    few = [f"Gene{i}" for i in range(20)]
    alignment = align(few, [f"Gene{i}" for i in range(60)])
    of_counts = check_query(FROM_COUNTS, seen(COUNTS)).apply_to_query(COUNTS, alignment)
    np.testing.assert_allclose(of_counts.toarray(), log_of(COUNTS[:, :20], 1e4), rtol=1e-5)
    subset_of_logs = normalisation(seen(log_of(COUNTS, 1e4), slice(0, 20)))
    of_logs = check_query(subset_of_logs, seen(COUNTS)).apply_to_query(COUNTS, alignment)
    np.testing.assert_allclose(of_logs.toarray(), log_of(COUNTS, 1e4)[:, :20], rtol=1e-5)


def test_real_values(shared_data):
    found = {file.stem: recognise(open_cells(file)) for file in (shared_data / "sims").glob("*.h5ad")}
    logs = found.pop("pbmc_3tech_symphony")
    assert (logs.kind, logs.target_sum, logs.has_all_genes) == ("log1p", 1e4, False)
    assert len(found) == 5
    assert {values.kind for values in found.values()} == {"counts"}
