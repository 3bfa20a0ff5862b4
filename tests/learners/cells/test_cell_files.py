"""Files of cells × genes: what is read is what was written, and what cannot be read is said."""

import pickle
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from neurofleet.errors import CellsRefused, UsageError
from neurofleet.learners.cells.cell_files import open_cells
from tests.learners.cells.made_cells import made_counts, made_genes, written


@pytest.fixture(params=["csr.h5ad", "dense.h5ad", "csc.h5ad", "csr.zarr", "dense.zarr", "t.csv", "t.tsv.gz"])
def file(request, tmp_path):
    cells = made_counts()
    if request.param.startswith("dense"):
        cells.X = cells.X.toarray()
    if request.param.startswith("csc"):
        cells.X = cells.X.tocsc()
    return written(cells, tmp_path / request.param)


def refused(paths, *words, **options):
    with pytest.raises(CellsRefused) as error:
        open_cells(paths, **options)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_any_rows_in_any_order_and_twice(file):
    truth = made_counts().X.toarray()
    cells = open_cells(file)
    assert cells.shape == truth.shape
    assert cells.cell_ids[3] == "cell3"
    assert list(cells.genes) == made_genes(60)
    for rows in ([], [5], [119, 0, 7, 7, 8, 9, 40, 0], np.arange(120), np.arange(0, 120, 7)):
        found = cells.read(rows)
        assert found.format == "csr"
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.toarray(), truth[rows])


def test_memory_and_pickles_agree_with_the_file(file):
    truth = made_counts().X.toarray()
    cells = open_cells(file)
    for other in (cells.in_memory(), pickle.loads(pickle.dumps(cells))):
        np.testing.assert_array_equal(other.read([8, 2]).toarray(), truth[[8, 2]])


def test_a_file_is_pickled_by_its_place(tmp_path):
    small = open_cells(written(made_counts(300, 60), tmp_path / "a.h5ad"))
    large = open_cells(written(made_counts(300, 1200), tmp_path / "b.h5ad"))
    values = large.in_memory()
    assert len(pickle.dumps(large.parts)) < len(pickle.dumps(small.parts)) + 200
    assert len(pickle.dumps(values.parts)) > 10 * len(pickle.dumps(large.parts))


def test_memory_is_dense_unless_values_are_sparse(tmp_path):
    full = made_counts()
    full.X = full.X.toarray() + 1
    dense = open_cells(written(full, tmp_path / "full.h5ad"))
    assert dense.nbytes_estimate()[0] == 4 * 120 * 60
    np.testing.assert_array_equal(dense.in_memory().dense, full.X)
    thin = made_counts(120, 600)
    thin.X = sp.random(120, 600, 0.02, format="csr", dtype=np.float32, random_state=0)
    sparse = open_cells(written(thin, tmp_path / "thin.h5ad"))
    assert sparse.nbytes_estimate()[1] == 8 * thin.X.nnz + 4 * 121
    assert sparse.in_memory().dense is None
    assert sparse.in_memory().is_in_memory


def test_layers_and_raw(tmp_path):
    cells = made_counts()
    cells.raw = cells.copy()
    cells.layers["doubled"] = cells.X * 2
    cells = cells[:, :20].copy()
    truth = cells.X.toarray()
    file = written(cells, tmp_path / "a.h5ad")
    np.testing.assert_array_equal(open_cells(file, layer="doubled").read([3]).toarray(), 2 * truth[[3]])
    raw = open_cells(file, layer="raw")
    assert raw.shape == (120, 60)
    np.testing.assert_array_equal(raw.read([3]).toarray()[:, :20], truth[[3]])
    refused(file, "no layer 'counts'", "X, raw, doubled", layer="counts")


def test_several_files_share_genes_in_the_first_ones_order(tmp_path):
    one, other = made_counts(30, 40), made_counts(50, 60, seed=1, prefix="other")
    other = other[:, ::-1].copy()
    files = [written(one[:, 5:].copy(), tmp_path / "a.h5ad"), written(other, tmp_path / "b.zarr")]
    cells = open_cells(files)
    assert cells.shape == (80, 35)
    assert list(cells.genes) == made_genes(40)[5:]
    assert "35 genes are in all of 2 files; left out: b.zarr has 25 more." in cells.notes[0]
    truth = np.vstack([one[:, cells.genes].X.toarray(), other[:, cells.genes].X.toarray()])
    rows = [79, 29, 30, 0, 31, 30]
    np.testing.assert_array_equal(cells.read(rows).toarray(), truth[rows])
    np.testing.assert_array_equal(cells.in_memory().read(rows).toarray(), truth[rows])
    assert cells.obs["source_file"].iloc[30] == str(files[1])
    assert cells.obs["cell_type"].iloc[30] == "B"


def test_cell_ids_become_unique_and_it_is_said(tmp_path):
    one, other = made_counts(4), made_counts(3, seed=1)
    files = [written(one, tmp_path / "a.h5ad"), written(other, tmp_path / "b.h5ad")]
    cells = open_cells(files)
    assert list(cells.cell_ids) == [f"a:cell{i}" for i in range(4)] + [f"b:cell{i}" for i in range(3)]
    assert "name in front" in cells.notes[-1]
    one.obs_names = ["x", "y", "x", "z"]
    again = open_cells(written(one, tmp_path / "c.h5ad"))
    assert list(again.cell_ids) == ["x", "y", "x-1", "z"]
    assert "1 cells have the id of an earlier one" in again.notes[0]


def test_a_labels_file_is_joined_by_cell_id(tmp_path):
    cells = made_counts(6)
    file = written(cells, tmp_path / "a.csv.gz")
    labels = tmp_path / "labels.csv"
    labels.write_text("id,kind\n" + "".join(f"cell{i},k{i}\n" for i in (5, 3, 1, 0, 99)))
    found = open_cells(file, labels_path=labels)
    assert found.obs["kind"].tolist()[:2] == ["k0", "k1"]
    assert found.obs["kind"].isna().tolist() == [False, False, True, False, True, False]
    assert "names 4 of 6 cells, and 1 others" in found.notes[0]
    labels.write_text("id,kind\nnobody,k\n")
    refused(file, "none of its 1 cell ids", "nobody", "cell0", labels_path=labels)
    labels.write_text("id,kind\nGene3,k\nGene4,k\n")
    refused(file, "genes in rows", "Transpose", labels_path=labels)
    labels.write_text("id,kind\ncell1,k\ncell1,j\n")
    refused(file, "more than one line", "cell1", labels_path=labels)
    labels.write_text("id\ncell1\n")
    refused(file, "at least one column of labels", labels_path=labels)
    refused(file, "no such file", labels_path=tmp_path / "nothing.csv")


def test_not_a_matrix(tmp_path):
    refused([], "No file")
    refused(tmp_path / "nothing.h5ad", "no such file")
    refused(tmp_path / "nothing.csv", "no such file")
    words = tmp_path / "words.h5ad"
    words.write_text("hello")
    refused(words, "words.h5ad", "expected an h5ad or zarr file")
    refused(tmp_path, "found a folder of", "words.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as other:
        other["x"] = 1
    refused(tmp_path / "other.h5ad", "no 'obs'", "holds x")
    nothing = anndata.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["b"]))
    refused(written(nothing, tmp_path / "n.h5ad"), "no values at all")
    empty = made_counts()[:0].copy()
    refused(written(empty, tmp_path / "e.h5ad"), "0 cells and 60 genes")


def test_a_damaged_file(tmp_path):
    cells = made_counts()
    file = written(cells, tmp_path / "a.h5ad")
    with h5py.File(file, "r+") as opened:
        opened["X/indices"][50] = 60
    with pytest.raises(CellsRefused, match="damaged"):
        open_cells(file).read(range(120))
    with h5py.File(file, "r+") as opened:
        opened["X/indptr"][-1] -= 1
    refused(file, "damaged")
    stored = written(cells, tmp_path / "a.zarr")
    opened = open_cells(stored)
    for chunk in (stored / "X" / "data").rglob("*"):
        if chunk.is_file() and not chunk.name.startswith(".z") and chunk.name != "zarr.json":
            chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(CellsRefused, match=r"a.zarr: cells 0 to 120 of X cannot be read .* damaged"):
        opened.read(range(120))
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(file.read_bytes()[:5000])
    refused(cut, "expected an h5ad or zarr file", "truncated")
    torn = written(cells, tmp_path / "torn.h5ad")
    with h5py.File(torn, "r+") as opened:
        del opened["obs/cell_type/codes"]
    refused(torn, "'obs' cannot be read")


def test_gene_names_twice_and_genes_in_rows(tmp_path):
    cells = made_counts()
    cells.var_names = ["A", "A", "B", "B", *made_genes(56)]
    refused(written(cells, tmp_path / "a.h5ad"), "2 gene names", "A, B")
    turned = made_counts(6)
    turned.obs_names = [f"ACGTACGTACGT{base}-1" for base in "ACGTAC"[:4]] + [
        "TTTTTTTTTTTTT-1",
        "CCCCCCCCCCCCC-1",
    ]
    refused(written(turned.T.copy(), tmp_path / "t.h5ad"), "Transpose")
    assert open_cells(written(turned, tmp_path / "r.h5ad")).shape == (6, 60)


def test_files_without_a_common_gene(tmp_path):
    one, other = made_counts(5), made_counts(5)
    other.var_names = [f"ENSG{i}" for i in range(60)]
    files = [written(one, tmp_path / "a.h5ad"), written(other, tmp_path / "b.h5ad")]
    refused(files, "no gene in common", "Gene0", "ENSG0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,A,label\nc1,1,T\nc2,2,B\n", ["words in 1 column", "'label'"]),
        ("id,A,\nc1,1,2\nc2,2,2\n", ["1 column has no name"]),
        ("id,A,n\nc1,1,0\nc2,2,1\nc3,0,2\n", ["'n'", "counts the lines"]),
        ("id,A,B,A\nc1,1,2,3\n", ["1 gene name occurs more than once, the first A"]),
        ("id,A,B\nc1,x,2\nc2,1,2\n", ["words in 1 column, among them 'A', such as 'x'"]),
        ("id,A,B\n", ["0 lines"]),
        ("", ["cannot be read as a table", "empty"]),
    ],
)
def test_text_that_is_no_matrix(tmp_path, text, words):
    file = tmp_path / "a.csv"
    file.write_text(text)
    refused(file, "a.csv", *words)


def test_real_files_are_read_as_anndata_reads_them(shared_data):
    files = sorted(Path(shared_data, "sims").glob("*.h5ad"))
    assert files
    for file in files:
        truth = anndata.read_h5ad(file).X
        rows = np.random.default_rng(0).integers(0, truth.shape[0], 300)
        assert (open_cells(file).read(rows) != truth[rows]).nnz == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id;A;B\n007;1,5;2\nc2;3;0,25\n", "a.csv"),
        ("A\tB\n007\t1.5\t2\nc2\t3\t0.25\n", "a.tsv"),
        ("\ufeffid,A,B\n007,1.5,2\nc2,3,0.25\n", "a.csv"),
        ("# by hand\nid|A|B\n007|1.5|2\nc2|3|0.25\n", "a.txt"),
    ],
)
def test_text_of_other_separators_and_decimal_signs(tmp_path, text, name):
    file = tmp_path / name
    file.write_text(text)
    cells = open_cells(file)
    assert (list(cells.cell_ids), list(cells.genes)) == (["007", "c2"], ["A", "B"])
    np.testing.assert_array_equal(cells.read([0, 1]).toarray(), [[1.5, 2], [3, 0.25]])


def test_labels_of_other_separators_and_names_twice(tmp_path):
    file = written(made_counts(6), tmp_path / "a.h5ad")
    labels = tmp_path / "labels.csv"
    labels.write_text("id;kind\n" + "".join(f"cell{i};L2/3, k{i}\n" for i in range(6)))
    assert open_cells(file, labels_path=labels).obs["kind"].tolist() == [f"L2/3, k{i}" for i in range(6)]
    labels.write_text("id,kind,kind\ncell1,a,b\n")
    refused(file, "1 column has one name, among them 'kind'", labels_path=labels)


def test_the_same_file_or_cells_twice_are_refused(tmp_path):
    cells = made_counts(6)
    file = written(cells, tmp_path / "a.h5ad")
    (tmp_path / "link.h5ad").symlink_to(file)
    refused([file, str(file)], "a.h5ad is given twice")
    refused([file, tmp_path / "link.h5ad"], "link.h5ad is given twice")
    refused([cells, cells], "AnnData is given twice")


def named_otherwise():
    cells, other = made_counts(6), made_counts(6, prefix="other")
    other.var["symbol"] = other.var_names
    cells.var["ids"] = [f"ENSG{i}" for i in range(60)]
    other.var["ids"] = [f"ENSG{i}.7" for i in range(60)]
    other.var_names = [*made_genes(60)[:10], *other.var["ids"][10:]]
    return cells, other


def test_files_that_would_share_more_genes_by_other_names(tmp_path):
    cells, other = named_otherwise()
    files = [written(cells, tmp_path / "a.h5ad"), written(other, tmp_path / "b.h5ad")]
    for sources in (files, [cells, other]):
        refused(sources, "share 10 genes by their names", "and 60 by symbol", "`gene_names: symbol`")
    found = open_cells(files, gene_names="symbol")
    assert list(found.genes) == made_genes(60)
    assert any("b.h5ad: Genes have their names of the var column 'symbol'" in note for note in found.notes)
    by_id = open_cells([cells, other], gene_names="ids+ignore-version")
    assert list(by_id.genes) == [f"ENSG{i}" for i in range(60)]
    np.testing.assert_array_equal(by_id.read([7]).toarray(), other.X[[1]].toarray())
    refused(files, "no file has a column 'simbol'", "ids, symbol", gene_names="simbol")


def test_genomes_in_front_and_case(tmp_path):
    cells, other = made_counts(6), made_counts(6, prefix="other")
    other.var_names = [f"GRCh38_{name.upper()}" for name in made_genes(60)]
    refused([cells, other], "share 0 genes", "ignore-prefix+ignore-case", "species differ")
    assert list(open_cells([cells, other], gene_names="ignore-prefix+ignore-case").genes) == made_genes(60)
    with pytest.raises(UsageError, match="ignore-cases"):
        open_cells([cells, other], gene_names="ignore-cases")


def test_names_that_a_column_lacks_or_has_twice_stay():
    cells = made_counts(6, 5)
    cells.var["symbol"] = pd.Categorical(["A", "B", "B", None, "C"])
    found = open_cells(cells, gene_names="symbol")
    assert list(found.genes) == ["A", "Gene1", "Gene2", "Gene3", "C"]
    assert "3 that it does not name, or names twice" in found.notes[0]
