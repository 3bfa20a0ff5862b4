"""What other programs write is read as what it holds, and other files are named with what to do about them."""

import gzip
import pickle
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells import cell_formats
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_matrix import FileSource
from tests.learners.cells.made_cells import made_counts, made_genes, written

CELLS = made_counts(30, 25)
COUNTS = CELLS.X.toarray()
IDS = [f"ENSG{number:011d}" for number in range(25)]


def put_sparse(group, matrix):
    """Write a matrix of genes × cells by columns, as 10x Genomics and SeuratDisk do."""
    columns = sp.csc_matrix(matrix)
    for name in ("data", "indices", "indptr"):
        group[name] = getattr(columns, name)


def tenx(path, *, kinds=None, symbols=None):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        put_sparse(group, COUNTS.T.astype(np.int32))
        group["shape"] = np.array([25, 30])
        group["barcodes"] = np.array(CELLS.obs_names, dtype="S")
        group["features/id"] = np.array(IDS, dtype="S")
        group["features/name"] = np.array(made_genes(25) if symbols is None else symbols, dtype="S")
        group["features/feature_type"] = np.array(["Gene Expression"] * 25 if kinds is None else kinds, dtype="S")
    return path


def tenx_version_2(path, genomes=("GRCh38",)):
    with h5py.File(path, "w") as file:
        for genome in genomes:
            group = file.create_group(genome)
            put_sparse(group, COUNTS.T.astype(np.int32))
            group["shape"] = np.array([25, 30])
            group["barcodes"] = np.array(CELLS.obs_names, dtype="S")
            group["genes"] = np.array(IDS, dtype="S")
            group["gene_names"] = np.array(made_genes(25), dtype="S")
    return path


def loom(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("matrix", data=COUNTS.T, chunks=(8, 8), compression="gzip")
        file["layers/spliced"] = COUNTS.T / 2
        file["row_attrs/Gene"] = made_genes(25)
        file["col_attrs/CellID"] = list(CELLS.obs_names)
        file["col_attrs/cell_type"] = list(CELLS.obs["cell_type"])
        file["col_attrs/places"] = np.zeros((30, 2))
    return path


def h5mu(path, modalities=("rna",)):
    with h5py.File(path, "w") as file:
        for name in modalities:
            anndata.io.write_elem(file, f"mod/{name}", CELLS)
        obs = pd.DataFrame({f"{modalities[0]}:kind": CELLS.obs["cell_type"], "sex": "f"}, index=CELLS.obs_names)
        anndata.io.write_elem(file, "obs", obs)
    return path


def old_h5ad(path):
    """Write what anndata 0.6 wrote: tables as records, categories in uns, other attributes of sparse matrices."""
    codes, categories = pd.factorize(CELLS.obs["cell_type"], sort=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(CELLS.X, name)
        group.attrs["h5sparse_format"] = b"csr"
        group.attrs["h5sparse_shape"] = np.array([30, 25])
        kinds = [("index", "S20"), ("cell_type", "i1"), ("n", "f4")]
        rows = [(name.encode(), code, 1.5) for name, code in zip(CELLS.obs_names, codes, strict=True)]
        file["obs"] = np.array(rows, dtype=kinds)
        file["var"] = np.array([(name.encode(),) for name in made_genes(25)], dtype=[("index", "S20")])
        file["uns/cell_type_categories"] = np.array(categories, dtype="S")
    return path


def h5seurat(path):
    codes, levels = pd.factorize(CELLS.obs["cell_type"], sort=True)
    with h5py.File(path, "w") as file:
        file.attrs["active.assay"] = np.array(["RNA"], dtype="S")
        for name, matrix in (("counts", COUNTS), ("data", np.log1p(COUNTS))):
            group = file.create_group(f"assays/RNA/{name}")
            put_sparse(group, matrix.T)
            group.attrs["dims"] = np.array([25, 30])
        file["assays/RNA/features"] = made_genes(25)
        file["cell.names"] = list(CELLS.obs_names)
        file["meta.data/cell_type/levels"] = list(levels)
        file["meta.data/cell_type/values"] = codes + 1
        file["meta.data/nCount_RNA"] = COUNTS.sum(1)
    return path


def zipped_zarr(path):
    written(CELLS, path.with_name("plain.zarr"))
    shutil.make_archive(path.with_suffix(""), "zip", path.parent, "plain.zarr")
    return path


def gzipped(path):
    written(CELLS, path.with_suffix(""))
    with open(path.with_suffix(""), "rb") as plain, gzip.open(path, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    return path


def mtx(folder, *, genes="features.tsv.gz", prefix="", kinds=True, turned=True, names=None):
    folder.mkdir(exist_ok=True)
    cells, matrix = names or ("barcodes.tsv.gz", "matrix.mtx.gz")
    lines = [f"{a}\t{b}" + ("\tGene Expression" if kinds else "") for a, b in zip(IDS, made_genes(25), strict=True)]
    if names:
        lines = made_genes(25)
    for name, content in ((cells, list(CELLS.obs_names)), (genes, lines)):
        text = ("\n".join(content) + "\n").encode()
        (folder / (prefix + name)).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    place = folder / (prefix + matrix)
    with gzip.open(place, "wb") if matrix.endswith(".gz") else open(place, "wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(COUNTS.T if turned else COUNTS))
    return folder


def parquet(path):
    CELLS.to_df().to_parquet(path)
    return path


WRITERS = {
    "filtered.h5": tenx,
    "version2.h5": tenx_version_2,
    "cells.loom": loom,
    "cells.h5mu": h5mu,
    "old.h5ad": old_h5ad,
    "cells.h5seurat": h5seurat,
    "cells.zarr.zip": zipped_zarr,
    "cells.h5ad.gz": gzipped,
    "cells.parquet": parquet,
    "mtx": mtx,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_read_is_what_was_written(tmp_path, name):
    cells = open_cells(WRITERS[name](tmp_path / name))
    assert cells.shape == (30, 25)
    assert list(cells.cell_ids) == list(CELLS.obs_names)
    assert list(cells.genes) == made_genes(25)
    again = pickle.loads(pickle.dumps(cells))
    anndata.AnnData(cells.read(np.arange(30)), cells.obs, cells.var).write_h5ad(tmp_path / "again.h5ad")
    for rows in ([], [5], [29, 0, 7, 7, 8], np.arange(30)):
        np.testing.assert_array_equal(cells.read(rows).toarray(), COUNTS[rows])
        np.testing.assert_array_equal(again.read(rows).toarray(), COUNTS[rows])


@pytest.mark.parametrize(
    "name", ["filtered.h5", "version2.h5", "cells.loom", "cells.h5mu", "old.h5ad", "cells.h5seurat"]
)
def test_large_formats_are_not_read_into_memory(tmp_path, name):
    (part,) = open_cells(WRITERS[name](tmp_path / name)).parts
    assert isinstance(part.source, FileSource)


@pytest.mark.parametrize(
    "name", ["cells.loom", "cells.h5mu", "old.h5ad", "cells.h5seurat", "cells.zarr.zip", "cells.h5ad.gz"]
)
def test_labels_come_with_the_cells(tmp_path, name):
    obs = open_cells(WRITERS[name](tmp_path / name)).obs
    assert obs["cell_type"].astype(str).tolist() == CELLS.obs["cell_type"].tolist()
    assert not {"places"} & set(obs)


def test_layers_of_looms_and_seurat(tmp_path):
    half = open_cells(loom(tmp_path / "a.loom"), layer="spliced")
    np.testing.assert_array_equal(half.read([4]).toarray(), COUNTS[[4]] / 2)
    logs = open_cells(h5seurat(tmp_path / "a.h5seurat"), layer="data")
    np.testing.assert_allclose(logs.read([4]).toarray(), np.log1p(COUNTS[[4]]), rtol=1e-6)
    with pytest.raises(CellsRefused, match="no layer 'raw'. It has X, spliced"):
        open_cells(tmp_path / "a.loom", layer="raw")


def test_features_of_10x_that_are_no_genes_are_left_out(tmp_path):
    kinds = ["Gene Expression"] * 22 + ["Antibody Capture"] * 3
    cells = open_cells(tenx(tmp_path / "a.h5", kinds=kinds))
    assert list(cells.genes) == made_genes(22)
    assert cells.notes == ("a.h5: 3 features are no genes (Antibody Capture); left out.",)
    np.testing.assert_array_equal(cells.read([3]).toarray(), COUNTS[[3], :22])
    np.testing.assert_array_equal(cells.parts[0].read_genes(np.array([3])).toarray(), COUNTS[[3], :22])


def test_symbols_of_two_genes_are_numbered_and_ids_can_be_chosen(tmp_path):
    file = tenx(tmp_path / "a.h5", symbols=["A", "A", *made_genes(25)[2:]])
    cells = open_cells(file)
    assert list(cells.genes[:2]) == ["A", "A-1"]
    assert "1 gene names occurred before" in cells.notes[0]
    assert list(open_cells(file, gene_names="gene_ids").genes) == IDS


def test_matrices_of_two_genomes_ask_for_one(tmp_path):
    file = tenx_version_2(tmp_path / "a.h5", ("GRCh38", "mm10"))
    with pytest.raises(CellsRefused, match=r"it has GRCh38, mm10; choose one as layer"):
        open_cells(file)
    np.testing.assert_array_equal(open_cells(file, layer="mm10").read([3]).toarray(), COUNTS[[3]])


@pytest.mark.parametrize(
    "options",
    [
        {"genes": "genes.tsv", "kinds": False},
        {"genes": "features.tsv", "names": ("barcodes.tsv", "matrix.mtx")},
        {"prefix": "GSM1_sample_"},
        {"turned": False},
        {
            "names": ("cells_x_genes.barcodes.txt", "cells_x_genes.mtx"),
            "genes": "cells_x_genes.genes.txt",
            "turned": False,
        },
        {"names": ("quants_mat_rows.txt", "quants_mat.mtx"), "genes": "quants_mat_cols.txt", "turned": False},
    ],
)
def test_folders_of_mtx(tmp_path, options):
    folder = mtx(tmp_path / "mtx", **options)
    cells = open_cells(folder)
    assert list(cells.genes) == made_genes(25)
    np.testing.assert_array_equal(cells.read(np.arange(30)).toarray(), COUNTS)
    matrix = next(path for path in folder.iterdir() if ".mtx" in path.name)
    np.testing.assert_array_equal(open_cells(matrix).read([3]).toarray(), COUNTS[[3]])


def test_folders_that_hold_no_or_two_matrices(tmp_path):
    folder = mtx(tmp_path / "mtx")
    shutil.copy(folder / "matrix.mtx.gz", folder / "other.mtx.gz")
    with pytest.raises(CellsRefused, match="expected one matrix, found 2"):
        open_cells(folder)
    (folder / "other.mtx.gz").unlink()
    (folder / "barcodes.tsv.gz").unlink()
    with pytest.raises(CellsRefused, match="expected barcodes.tsv and features.tsv"):
        open_cells(folder)
    (folder / "matrix.mtx.gz").unlink()
    with pytest.raises(CellsRefused, match="found a folder of features.tsv.gz"):
        open_cells(folder)


def test_several_modalities_and_their_other_columns(tmp_path):
    cells = open_cells(h5mu(tmp_path / "a.h5mu", ("rna", "prot")))
    assert cells.notes == ("a.h5mu: the modality 'rna' is used; prot left out.",)
    assert cells.obs["kind"].tolist() == CELLS.obs["cell_type"].tolist()
    assert set(cells.obs["sex"]) == {"f"}
    with pytest.raises(CellsRefused, match="expected one modality of gene expression, found a, b"):
        open_cells(h5mu(tmp_path / "b.h5mu", ("a", "b")))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"PK\x03\x04", "save the sheet as CSV"),
        ("a.pkl", b"\x80\x04", "pickles are never loaded"),
        ("a.RData", b"RDX3", r"saveRDS\(OBJECT"),
        ("a.npz", b"PK\x03\x04", "scipy.sparse.load_npz"),
        ("a.bin", b"\x00\x01\x02", "found something else"),
        ("a.h5ad", b"\x89HDF\r\n\x1a\n" + bytes(100), "expected an h5ad or zarr file"),
        ("a.parquet", b"PAR1" + bytes(50), "cannot be read as a Parquet file"),
        ("a.h5ad.gz", b"\x1f\x8b\x08\x00" + bytes(20), "damaged"),
        ("a.zarr.zip", b"PK\x03\x04" + bytes(20), "expected an h5ad or zarr file"),
        ("a.mtx", b"%%MatrixMarket matrix coordinate real general\n", "expected barcodes.tsv"),
    ],
)
def test_other_and_damaged_files_are_named_with_what_to_do(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CellsRefused, match=rf"{name}.*{words}|a.mtx"):
        open_cells(tmp_path / name)


def test_molecules_and_matrices_too_large_are_refused(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "molecule_info.h5", "w") as file:
        file["barcode_idx"], file["umi"] = np.zeros(3), np.zeros(3)
    with pytest.raises(CellsRefused, match="filtered_feature_bc_matrix.h5"):
        open_cells(tmp_path / "molecule_info.h5")
    monkeypatch.setattr(cell_formats, "IN_MEMORY_BYTES", 1000)
    with pytest.raises(CellsRefused, match=r"too much for memory.*scanpy.read_10x_mtx"):
        open_cells(mtx(tmp_path / "mtx"))
    with pytest.raises(CellsRefused, match="too much for memory: gunzip"):
        open_cells(gzipped(tmp_path / "a.h5ad.gz"))


def test_sizes_that_do_not_fit_and_claims_without_content(tmp_path):
    file = tenx(tmp_path / "a.h5")
    with h5py.File(file, "r+") as opened:
        del opened["matrix/barcodes"]
        opened["matrix/barcodes"] = np.array(CELLS.obs_names[:20], dtype="S")
    with pytest.raises(CellsRefused, match="names of 20 cells"):
        open_cells(file)
    with h5py.File(file, "r+") as opened:
        del opened["matrix/indptr"]
        opened.create_dataset("matrix/indptr", shape=(10**11,), chunks=True, dtype="i8")
    with pytest.raises(CellsRefused, match="damaged.*claims"):
        open_cells(file)
