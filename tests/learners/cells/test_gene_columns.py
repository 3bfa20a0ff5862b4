"""Columns that are no genes are left out where their name says so, else refused."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.gene_columns import named_metadata
from neurofleet.learners.cells.normalisation import recognise
from neurofleet.learners.sims.train_sims import prepare_reference
from tests.learners.cells.made_cells import made_counts, made_genes

GENES = [
    "GAD1",
    "Pca3",
    "PC",
    "unc-1",
    "nhr-80",
    "MT-CO1",
    "HLA-DRB1",
    "CLUS1",
    "AC012.3",
    "ENSG00000141510.17",
    "res-1",
]
NO_GENES = [
    "leiden",
    "louvain_r1",
    "seurat_clusters",
    "n_genes",
    "nCount_RNA",
    "nFeature_SCT",
    "total_counts",
    "percent.mt",
]
NO_GENES += [
    "pct_counts_mt",
    "doublet_score",
    "UMAP_1",
    "X_umap2",
    "PC_3",
    "x_centroid",
    "size.factor",
    "RNA_snn_res.0.8",
]


def test_names_that_no_gene_has():
    assert named_metadata(pd.Index(NO_GENES)).all()
    assert not named_metadata(pd.Index(GENES)).any()


def with_column(values, name):
    """Return 120 counted cells with a column more."""
    cells = made_counts()
    table = cells.to_df()
    table[name] = values
    return table, cells.obs["cell_type"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "h5ad"])
def test_named_metadata_is_left_out_and_told(tmp_path, ending):
    table, classes = with_column(np.arange(120) % 3, "leiden")
    file = tmp_path / f"a.{ending}"
    if ending == "h5ad":
        import anndata

        anndata.AnnData(table).write_h5ad(file)
    elif ending == "csv":
        table.to_csv(file)
    else:
        table.to_parquet(file)
    cells = open_cells(file)
    assert list(cells.genes) == made_genes(60)
    assert cells.notes == (f"a.{ending}: 'leiden' is no gene, and left out.",)
    np.testing.assert_array_equal(cells.read([7]).toarray(), made_counts().X[[7]].toarray())
    assert recognise(cells).median_total == np.median(np.asarray(made_counts().X.sum(1)))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (lambda table: table.sum(1), "'odd' is the sum or the number of all others"),
        (lambda table: (table > 0).sum(1), "'odd' is the sum or the number of all others"),
        (lambda table: np.random.default_rng(0).normal(size=120), "'odd' has fractions, and all others whole numbers"),
    ],
)
def test_unnamed_totals_and_coordinates_are_refused(tmp_path, column, words):
    table, _ = with_column(0, "odd")
    table["odd"] = column(table.drop(columns="odd"))
    table.to_csv(tmp_path / "a.csv")
    with pytest.raises(CellsRefused, match=rf"a\.csv: column {words}: no gene"):
        recognise(open_cells(tmp_path / "a.csv"))


def test_whole_numbers_among_logs_are_refused():
    cells = made_counts()
    cells.X = sp.csr_matrix(np.log1p(cells.X.toarray() / cells.X.sum(1) * 1e4).astype(np.float32))
    values = cells.X.toarray()
    values[:, 7] = 1 + np.arange(120) % 4
    cells.X = sp.csr_matrix(values)
    with pytest.raises(CellsRefused, match="column 'Gene7' has whole numbers only"):
        recognise(open_cells(cells))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_column_that_numbers_the_classes_is_refused(n_classes):
    names = ("B", "NK", "T")[:n_classes]
    cells = made_counts(classes=names)
    values = cells.X.toarray()
    values[:, 7] = np.arange(120) % n_classes
    cells.X = sp.csr_matrix(values)
    with pytest.raises(CellsRefused, match="Column 'Gene7' holds whole numbers of which each belongs to one class"):
        prepare_reference(open_cells(cells), "cell_type")
    values[:, 7] = np.random.default_rng(0).poisson(8 * (np.arange(120) % n_classes))
    cells.X = sp.csr_matrix(values)
    assert prepare_reference(open_cells(cells), "cell_type").labels.classes == names
