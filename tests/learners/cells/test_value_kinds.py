"""What values are is told cell by cell: kinds, mixtures of kinds, and what holds something better."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from neurofleet.errors import CellsRefused, UsageError
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.normalisation import check_query, check_values, normalisation, recognise
from neurofleet.learners.cells.value_kinds import recognised
from tests.learners.cells.made_cells import made_counts, written

GENERATOR = np.random.default_rng(0)
RATES = GENERATOR.gamma(0.4, 4, 150)
COUNTS = GENERATOR.poisson(RATES * GENERATOR.uniform(0.4, 2, (200, 1))).astype(np.float64)
TOTALS = COUNTS.sum(1, keepdims=True)
CP10K = COUNTS / TOTALS * 1e4
LOGS = np.log1p(CP10K)
TPM = COUNTS / GENERATOR.lognormal(0, 0.8, 150)
TPM = TPM / TPM.sum(1, keepdims=True) * 1e6
AMBIENT = np.clip(COUNTS - GENERATOR.uniform(0.02, 0.3, 150) * RATES / RATES.mean(), 0, None)
SHARED_READS = np.where(
    GENERATOR.random(COUNTS.shape) < 0.1, COUNTS * GENERATOR.choice([0.5, 0.25, 0.7], COUNTS.shape), COUNTS
)
EXPECTED = TOTALS * COUNTS.sum(0) / COUNTS.sum()
RESIDUALS = (COUNTS - EXPECTED) / np.sqrt(EXPECTED + EXPECTED**2 / 100 + 1e-9)
SOME = np.argsort(-LOGS.var(0))[:50]
HALF = (np.arange(200) >= 100)[:, None]


def seen(values):
    cells = sp.csr_matrix(values.astype(np.float32))
    return recognised("a.h5ad", cells, pd.DataFrame(index=[f"c{i}" for i in range(len(values))]))


@pytest.mark.parametrize(
    ("values", "kind", "target_sum"),
    [
        (COUNTS, "counts", None),
        (CP10K, "normalised", 1e4),
        (COUNTS / TOTALS, "normalised", 1.0),
        (CP10K[:, SOME], "normalised", None),
        (COUNTS / np.linalg.norm(COUNTS, axis=1, keepdims=True), "normalised", None),
        (LOGS, "log1p", 1e4),
        (np.log1p(TPM), "log1p", 1e6),
        (np.log1p(TPM)[:, SOME], "log1p", None),
        (np.log2(CP10K + 1), "log2", 1e4),
        (np.log2(CP10K + 1)[:, SOME], "log2", None),
        (np.log10(100 * CP10K + 1), "log10", 1e6),
        (np.log1p(COUNTS), "log1p counts", None),
        (np.log2(COUNTS + 1), "log2 counts", None),
        (np.sqrt(COUNTS), "sqrt", None),
        (np.sqrt(CP10K), "sqrt", 1e4),
        (np.arcsinh(COUNTS), "asinh", None),
        (LOGS - LOGS.mean(0), "scaled", None),
        (RESIDUALS, "scaled", None),
    ],
)
def test_kinds(values, kind, target_sum):
    found = seen(values)
    assert (found.kind, found.target_sum) == (kind, target_sum), found


@pytest.mark.parametrize("values", [AMBIENT, AMBIENT / 10, SHARED_READS, np.where(HALF, AMBIENT, COUNTS)])
def test_counts_with_fractions(values):
    found = seen(values)
    assert (found.kind, found.is_whole) == ("counts", False), found
    assert found.median_total == pytest.approx(np.median(values.sum(1)), rel=1e-5)


def test_scaled_values_are_told_from_residuals():
    assert "scaled by gene" in seen((LOGS - LOGS.mean(0)) / (LOGS.std(0) + 1e-3)).evidence
    assert "Pearson residuals" in seen(RESIDUALS).evidence


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (COUNTS, LOGS, "from c0 to c99, have whole numbers; the file has log1p otherwise"),
        (LOGS, COUNTS, "from c100 to c199, have whole numbers"),
        (LOGS, np.log1p(100 * CP10K), "sum to 1e.06 after expm1; others sum to 1e.04"),
        (LOGS, np.log2(CP10K + 1), r"look like log2\(x . 1\) values"),
        (CP10K, LOGS, "from c100 to c199, look like log values"),
        (AMBIENT, LOGS, "from c100 to c199, look like log values"),
        (TPM, np.log1p(TPM), "look like log values"),
        (LOGS[:, SOME], COUNTS[:, SOME], "have whole numbers"),
        (LOGS - LOGS.mean(0), COUNTS, "have no value below 0"),
        (COUNTS, np.sqrt(COUNTS), "have whole numbers"),
    ],
)
def test_cells_of_two_kinds_are_refused_by_name(first, second, words):
    with pytest.raises(CellsRefused, match=rf"a\.h5ad: values are not of one kind: .*{words}"):
        seen(np.where(HALF, second, first))


def test_lengths_of_one_are_refused():
    with pytest.raises(CellsRefused, match="divided by their length"):
        seen(LOGS / np.linalg.norm(LOGS, axis=1, keepdims=True))


@pytest.mark.parametrize(
    "values", [np.log2(CP10K + 1), np.log10(CP10K + 1), np.log1p(COUNTS), np.sqrt(COUNTS), np.arcsinh(COUNTS)]
)
def test_kinds_that_can_be_undone_come_to_what_counts_come_to(values):
    target = normalisation(seen(COUNTS), 1e4)
    found = check_query(target, seen(values)).apply(sp.csr_matrix(values.astype(np.float32)))
    np.testing.assert_allclose(found.toarray(), LOGS, atol=2e-3)


def test_a_reference_of_other_logarithms_is_that_of_natural_ones():
    natural, binary = normalisation(seen(LOGS)), normalisation(seen(np.log2(CP10K + 1)))
    assert (binary.kind, binary.target_sum) == ("log2", 1e4)
    values = sp.csr_matrix(np.log2(CP10K + 1).astype(np.float32))
    np.testing.assert_allclose(binary.apply(values).toarray(), LOGS, atol=1e-5)
    assert check_query(binary, seen(LOGS)).apply(sp.csr_matrix(LOGS)).toarray() == pytest.approx(LOGS)
    assert str(natural) == "log1p of 10000 per cell, taken as they are"
    assert str(binary) == "log2 of 10000 per cell, made natural"


def test_later_cells_of_another_kind_are_refused_by_name():
    ids = np.array([f"c{i}" for i in range(200)])
    whole, logs = seen(COUNTS), seen(LOGS)
    check_values(sp.csr_matrix(COUNTS), whole, ids)
    check_values(sp.csr_matrix(LOGS), logs, ids)
    mixed = COUNTS.copy()
    mixed[7] = LOGS[7]
    with pytest.raises(CellsRefused, match=r"1 of the 200 cells from c0 to c199 have fractions .*\(c7, ...\).*counts"):
        check_values(sp.csr_matrix(mixed), whole, ids)
    mixed = LOGS.copy()
    mixed[[3, 9]] = COUNTS[[3, 9]]
    with pytest.raises(CellsRefused, match=r"2 of the 200 cells .* have whole numbers \(c3, c9, ...\)"):
        check_values(sp.csr_matrix(mixed), logs, ids)
    with pytest.raises(CellsRefused, match="1 NaN"):
        check_values(sp.csr_matrix(np.where(np.arange(200)[:, None] == 5, np.nan, COUNTS)[:, :1]), whole, ids)


def test_what_a_user_states_decides_where_it_can_be(tmp_path):
    unsure = made_counts(30)
    unsure.X = sp.csr_matrix(np.random.default_rng(0).uniform(0.2, 3, unsure.shape).astype(np.float32))
    unsure.X[:, :20] = 0
    file = written(unsure, tmp_path / "a.h5ad")
    assert recognise(open_cells(file), stated="counts").kind == "counts"
    assert recognise(open_cells(file), stated="log2").kind == "log2"
    with pytest.raises(UsageError, match="did you mean 'log2'"):
        recognise(open_cells(file), stated="lg2")
    large = written(made_counts(30, seed=1).copy(), tmp_path / "b.h5ad")
    cells = made_counts(30)
    cells.X = cells.X * 40
    with pytest.raises(CellsRefused, match="no log1p values"):
        recognise(open_cells(written(cells, tmp_path / "c.h5ad")), stated="log1p")
    assert recognise(open_cells(large)).kind == "counts"


def test_a_stated_sum_that_is_not_the_values_is_refused(tmp_path):
    cells = made_counts()
    cells.X = sp.csr_matrix(np.log1p(cells.X.toarray() / cells.X.sum(1) * 1e6).astype(np.float32))
    with pytest.raises(CellsRefused, match="log1p of 1e.06 counts a cell .* a target sum of 10000 is stated"):
        recognise(open_cells(written(cells, tmp_path / "a.h5ad")), target_sum=1e4)


@pytest.mark.parametrize("in_memory", [False, True])
def test_layers_that_fit_better_are_named(tmp_path, in_memory):
    cells = made_counts()
    counts = cells.X.copy()
    logs = np.log1p(counts.toarray() / counts.sum(1) * 1e4)
    cells.X = sp.csr_matrix(logs.astype(np.float32))
    cells.raw = cells
    cells.layers["whole"] = counts
    cells.X = ((logs - logs.mean(0)) / (logs.std(0) + 1e-3)).astype(np.float32)
    found = recognise(open_cells(cells if in_memory else written(cells, tmp_path / "a.h5ad")))
    assert found.kind == "scaled"
    assert "whole (counts) and raw (log1p of 10000 a cell). Give --layer whole" in found.advice
    with pytest.raises(CellsRefused, match="trained on counts .* scaled .*Give --layer whole"):
        check_query(normalisation(seen(COUNTS)), found)
    cells.X[0, 0] = np.nan
    with pytest.raises(CellsRefused, match="1 NaN"):
        recognise(open_cells(cells))
