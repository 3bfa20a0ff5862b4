"""Objects of R in .rds files."""

import bz2
import lzma

import numpy as np
import pytest

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells import seurat_files
from neurofleet.learners.cells.cell_files import open_cells
from tests.learners.cells.made_cells import made_counts, made_genes
from tests.learners.cells.made_rds import S4, Vector, closure, compact, data_frame, dgc, factor, named, written_rds

CELLS = made_counts(12, 9)
COUNTS = CELLS.X.toarray()
IDS, GENES = list(CELLS.obs_names), made_genes(9)
TABLE = data_frame(IDS, cell_type=factor(CELLS.obs["cell_type"]), nCount_RNA=COUNTS.sum(1).astype(np.float64))


def seurat(assay):
    steps = [closure(), compact("compact_intseq", np.array([3.0, 1.0, 1.0])), np.array([1, 2], dtype=np.int32)]
    return S4("Seurat", commands=steps, assays=named(RNA=assay), **{"meta.data": TABLE, "active.assay": ["RNA"]})


def seurat_4():
    counts, logs = dgc(COUNTS.T, GENES, IDS), dgc(np.log1p(COUNTS).T, GENES, IDS)
    return seurat(S4("Assay", counts=counts, data=logs, key=["rna_"]))


def seurat_5(*, split=False):
    counts, logs = dgc(COUNTS.T, None, None), dgc(np.log1p(COUNTS).T, None, None)
    layers = named(**({"counts.1": counts, "counts.2": counts} if split else {"counts": counts, "data": logs}))
    features = Vector(
        np.ones(18, dtype=bool), dim=np.array([9, 2], dtype=np.int32), dimnames=[GENES, ["counts", "data"]]
    )
    return seurat(S4("Assay5", layers=layers, features=features))


def experiment():
    numbers = compact("wrap_real", COUNTS.astype(np.float64).ravel(), dim=np.array([9, 12], dtype=np.int32))
    assays = S4("SimpleAssays", data=S4("SimpleList", listData=named(counts=numbers)))
    table = S4("DFrame", rownames=IDS, listData=named(cell_type=list(CELLS.obs["cell_type"])))
    return S4("SingleCellExperiment", assays=assays, colData=table, NAMES=GENES)


@pytest.mark.parametrize("made", [seurat_4, seurat_5, experiment])
def test_cells_genes_and_labels(tmp_path, made):
    cells = open_cells(written_rds(made(), tmp_path / "a.rds"))
    assert list(cells.cell_ids) == IDS
    assert list(cells.genes) == GENES
    np.testing.assert_array_equal(cells.read(np.arange(12)).toarray(), COUNTS)
    assert cells.obs["cell_type"].tolist() == CELLS.obs["cell_type"].tolist()


@pytest.mark.parametrize("made", [seurat_4, seurat_5])
def test_another_layer(tmp_path, made):
    file = written_rds(made(), tmp_path / "a.rds")
    np.testing.assert_allclose(open_cells(file, layer="data").read([3]).toarray(), np.log1p(COUNTS[[3]]), rtol=1e-6)
    with pytest.raises(CellsRefused, match="no layer 'scale.data'. It has counts, data"):
        open_cells(file, layer="scale.data")


@pytest.mark.parametrize("compress", [bytes, bz2.compress, lzma.compress])
def test_a_bare_matrix(tmp_path, compress):
    cells = open_cells(written_rds(dgc(COUNTS.T, GENES, IDS), tmp_path / "a.rds", compress))
    np.testing.assert_array_equal(cells.read([3]).toarray(), COUNTS[[3]])
    with pytest.raises(CellsRefused, match="no names of genes or cells"):
        open_cells(written_rds(dgc(COUNTS.T, None, None), tmp_path / "b.rds"))


def test_what_cannot_be_read_is_told_how_to_convert(tmp_path, monkeypatch):
    for value, words in (
        (seurat_5(split=True), "split in 2 layers.*JoinLayers"),
        (["a", "b"], "expected a Seurat object.*writeMM"),
    ):
        with pytest.raises(CellsRefused, match=words):
            open_cells(written_rds(value, tmp_path / "a.rds"))
    (tmp_path / "b.rds").write_bytes(b"X\n\0\0\0\2")
    with pytest.raises(CellsRefused, match="cannot be read as an .rds file of R: it is cut off.*writeMM"):
        open_cells(tmp_path / "b.rds")
    monkeypatch.setattr(seurat_files, "LARGEST_RDS_BYTES", 100)
    with pytest.raises(CellsRefused, match="too much for memory"):
        open_cells(written_rds(seurat_4(), tmp_path / "c.rds"))
