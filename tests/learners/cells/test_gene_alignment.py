"""A query's genes in the order of a model's."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.gene_alignment import GeneNaming, align, apply


def test_columns_come_in_the_models_order_and_absent_genes_are_zero():
    query = sp.random(30, 7, 0.5, format="csr", dtype=np.float32, random_state=1)
    alignment = align(["c", "x", "a", "g"], list("abcdefg"))
    assert (alignment.n_shared, alignment.n_missing, alignment.n_unknown) == (3, 1, 4)
    assert alignment.missing == ("x",)
    expected = np.zeros((30, 4), np.float32)
    expected[:, [0, 2, 3]] = query.toarray()[:, [2, 0, 6]]
    found = apply(alignment, query)
    np.testing.assert_array_equal(found.toarray(), expected)
    assert found.has_sorted_indices
    assert apply(alignment, query[:0]).shape == (0, 4)


def test_names_that_occur_twice():
    names = [f"g{i}" for i in range(12)]
    with pytest.raises(CellsRefused, match="12 gene names .* the query, the first g0, .*g9.") as error:
        align(["g0"], names * 2)
    assert "g10" not in str(error.value)
    with pytest.raises(CellsRefused, match="in the model, the first a"):
        align(["a", "a"], ["a"])


@pytest.mark.parametrize(
    ("model", "query", "var", "words"),
    [
        (["GAD1", "GAD2", "X"], ["Gad1", "Gad2"], None, "its names as they are in upper case would share 2"),
        (["ENSG01.4", "ENSG02.1"], ["ENSG01.7", "q"], None, "Ensembl versions (.12) removed would share 1"),
        (["GAD1", "GAD2"], ["ENSG01", "ENSG02"], ["GAD1", "GAD2"], "var column 'symbol' would share 2"),
        (["GAD1", "GAD2"], ["ENSG01", "ENSG02"], ["Gad1", "q"], "'symbol' in upper case would share 1"),
        (["GAD1"], ["unc-1"], None, "another species"),
        (["GAD1"], ["ENSG00000128683.14"], None, "by Ensembl ids, the model by symbols. Put symbols into a column"),
        (["ENSMUSG00000070880"], ["Gad1"], None, "by symbols, the model by Ensembl ids"),
    ],
)
def test_when_no_gene_is_shared_another_naming_is_looked_for(model, query, var, words):
    table = None if var is None else pd.DataFrame({"symbol": var, "mean": 1.0}, index=query)
    with pytest.raises(CellsRefused, match=r"shares none of the model's") as error:
        align(model, query, table)
    assert words in str(error.value)


def test_genes_in_rows_are_told_from_the_cell_ids():
    with pytest.raises(CellsRefused, match="rows named like the model's genes .a, b.. Transpose"):
        align(["a", "b"], ["c1", "c2", "c3"], query_cell_ids=["a", "b"])


def test_few_shared_genes_are_refused_where_another_naming_shares_far_more():
    model = [f"GENE{i}" for i in range(40)]
    ids = [f"ENSG{i}" for i in range(40)]
    mixed = model[:5] + ids[5:]
    table = pd.DataFrame({"feature_name": model, "mean": 1.0}, index=mixed)
    with pytest.raises(CellsRefused, match="shares 5 of the model's 40 genes") as error:
        align(model, mixed, table)
    assert "its var column 'feature_name' would share 40" in str(error.value)
    assert "--gene-names feature_name" in str(error.value)
    assert align(model, mixed).n_shared == 5
    table["feature_name"] = model[:9] + ids[9:]
    assert align(model, mixed, table).n_shared == 5


@pytest.mark.parametrize(
    ("query", "naming"),
    [
        (["gene0", "Gene1", "x"], "ignore-case"),
        (["GRCh38_GENE0", "hg19___GENE1", "x"], "ignore-prefix"),
        (["grch38_gene0", "mm10-Gene1", "x"], "ignore-prefix+ignore-case"),
        (["GENE0", "GENE1", "gene1"], "ignore-case"),
    ],
)
def test_names_are_compared_as_it_is_asked_for(query, naming):
    found = align(["GENE0", "GENE1", "GENE2"], query, naming=GeneNaming.parsed(naming))
    assert found.columns.tolist() == [0, 1, -1]


def test_versions_are_those_of_ensembl_only():
    naming = GeneNaming.parsed("ignore-version")
    assert naming.plain(pd.Index(["ENSG00000141510.17", "RP11-34P13.7"])).tolist() == [
        "ENSG00000141510",
        "RP11-34P13.7",
    ]
    assert str(GeneNaming.parsed("gene_ids+ignore-version")) == "gene_ids+ignore-version"
    assert str(GeneNaming.parsed(None)) == "index"
