"""Seurat, SingleCellExperiment and bare matrices in .rds files of R, by rds2py."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused

LARGEST_RDS_BYTES = 2**31
"""An .rds file cannot be read in parts; larger ones are refused, unpacked."""

CONVERT = (
    "In R: m <- SeuratObject::GetAssayData(x, layer = 'counts'); Matrix::writeMM(m, 'matrix.mtx');"
    " write(colnames(m), 'barcodes.tsv'); write(rownames(m), 'features.tsv'); write.csv(x[[]], 'labels.csv')."
    " Then give that folder, and labels.csv as the labels"
)

Node = Mapping[str, Any]


def read_rds(path: Path, layer: str) -> tuple[sp.csr_matrix, pd.DataFrame, pd.Index]:
    """Read the cells of an .rds file into memory: cells × genes, their table, and the genes.

    Parameters
    ----------
    layer : str
        "X" for counts where they are there, else "data"; or the name of a layer.

    Raises
    ------
    CellsRefused
        If the file is too large, cannot be read by rds2py, or holds no such object.
    """
    from rds2py import parse_rds

    _refuse_large(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parts of an object that are not needed
            root = parse_rds(str(path))
    except Exception as error:  # noqa: BLE001: of a library that reads any file of R
        reason = " ".join(str(error).split())
        raise CellsRefused(f"{path}: rds2py cannot read this file of R ({reason}). {CONVERT}.") from error
    kind = root.get("class_name", "")
    if kind == "Seurat":
        layers, obs, genes = _seurat(path, root)
    elif "assays" in _slots(root) and "colData" in _slots(root):
        layers, obs, genes = _experiment(root)
    elif kind in _SPARSE:
        layers, obs, genes = {"counts": root}, None, None
    else:
        raise CellsRefused(
            f"{path}: expected a Seurat object, a SingleCellExperiment or a dgCMatrix, found"
            f" {kind or root.get('type')}. {CONVERT}."
        )
    first = next((name for name in ("counts", "data", "logcounts") if name in layers), "")
    chosen = first if layer == "X" else layer
    if chosen not in layers:
        raise CellsRefused(f"{path}: found no layer {layer!r}. It has {', '.join(layers) or 'no values at all'}.")
    matrix, rows, columns = _matrix(path, layers[chosen])
    genes = rows if rows is not None else genes
    names = columns if columns is not None else (None if obs is None else obs.index)
    if genes is None or names is None:
        raise CellsRefused(f"{path}: the matrix {chosen} has no names of genes or cells. {CONVERT}.")
    table = pd.DataFrame(index=names) if obs is None else obs.reindex(names)
    return matrix, table, genes


_SPARSE = ("dgCMatrix", "dgRMatrix", "dgTMatrix")


def _refuse_large(path: Path) -> None:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    size = path.stat().st_size
    if packed:
        size = 0
        with gzip.open(path) as content:
            while block := len(content.read(1 << 24)):
                size += block
                if size > LARGEST_RDS_BYTES:
                    break
    if size > LARGEST_RDS_BYTES:
        raise CellsRefused(f"{path}: more than {LARGEST_RDS_BYTES / 2**30:.0f} GB, too much for memory. {CONVERT}.")


def _slots(node: Node) -> dict[str, Node]:
    return dict(node.get("attributes") or {})


def _elements(node: Node) -> dict[str, Node]:
    """Return the elements of a named list."""
    names = _slots(node).get("names", {}).get("data", [])
    return dict(zip(names, node.get("data") or [], strict=False))


def _strings(node: Node | None) -> pd.Index | None:
    data = None if node is None else node.get("data")
    return None if data is None or not len(data) else pd.Index([str(word) for word in data])


def _dimension_names(node: Node, key: str = "Dimnames") -> tuple[pd.Index | None, pd.Index | None]:
    both = _slots(node).get(key, {}).get("data") or [None, None]
    return _strings(both[0]), _strings(both[1])


def _matrix(path: Path, node: Node) -> tuple[sp.csr_matrix, pd.Index | None, pd.Index | None]:
    """Return a matrix of R, genes × cells, as cells × genes, with its names."""
    slots, kind = _slots(node), node.get("class_name", "")
    if kind not in _SPARSE:
        raise CellsRefused(
            f"{path}: expected a sparse matrix (dgCMatrix), found {kind or node.get('type')}. {CONVERT}."
        )
    shape = tuple(int(length) for length in slots["Dim"]["data"])
    values = np.asarray(slots["x"]["data"], dtype=np.float32)
    parts = {name: np.asarray(slots[name]["data"]) for name in ("i", "j", "p") if name in slots}
    for name, length in (("i", shape[0]), ("j", shape[1])):
        if name in parts and len(parts[name]) and (parts[name].min() < 0 or parts[name].max() >= length):
            raise CellsRefused(f"{path}: a matrix has values beyond its size; the file is damaged.")
    if kind == "dgCMatrix":
        matrix = sp.csc_matrix((values, parts["i"], parts["p"]), shape=shape)
    elif kind == "dgRMatrix":
        matrix = sp.csr_matrix((values, parts["j"], parts["p"]), shape=shape)
    else:
        matrix = sp.coo_matrix((values, (parts["i"], parts["j"])), shape=shape)
    return sp.csr_matrix(matrix.T), *_dimension_names(node)


def _seurat(path: Path, root: Node) -> tuple[dict[str, Node], pd.DataFrame, pd.Index | None]:
    """Return the layers, cells and genes of the active assay, of Seurat 3 to 5."""
    slots = _slots(root)
    assays = _elements(slots["assays"])
    active = _strings(slots.get("active.assay"))
    name = active[0] if active is not None and active[0] in assays else next(iter(assays), "")
    assay = _slots(assays[name]) if name else {}
    obs = _frame(slots["meta.data"])
    if "layers" not in assay:
        layers = {part: assay[part] for part in ("counts", "data") if _slots(assay.get(part, {})).get("x")}
        return layers, obs, None
    layers = _elements(assay["layers"])
    split = [one for one in layers if one.startswith("counts.")]
    if split and "counts" not in layers:
        raise CellsRefused(
            f"{path}: counts are split in {len(split)} layers. In R: x <- JoinLayers(x); saveRDS(x, ...)."
        )
    genes, _ = _dimension_names(assay["features"], "dimnames")
    return layers, obs, genes


def _experiment(root: Node) -> tuple[dict[str, Node], pd.DataFrame, pd.Index | None]:
    """Return the layers, cells and genes of a SingleCellExperiment."""
    slots = _slots(root)
    data = _slots(slots["assays"]).get("data", slots["assays"])
    layers = _elements(_slots(data).get("listData", data))
    columns = _slots(slots["colData"])
    table = {name: _column(node) for name, node in _elements(columns["listData"]).items()}
    obs = pd.DataFrame(table, index=_strings(columns.get("rownames")))
    return layers, obs, _strings(slots.get("NAMES"))


def _frame(node: Node) -> pd.DataFrame:
    """Return a data.frame of R."""
    table = {name: _column(column) for name, column in _elements(node).items()}
    return pd.DataFrame(table, index=_strings(_slots(node).get("row.names")))


def _column(node: Node) -> np.ndarray:
    """Return a column of R; of a factor its words."""
    data = np.asarray(node.get("data"))
    levels = _slots(node).get("levels")
    if levels is None:
        return data
    codes = np.nan_to_num(np.asarray(data, dtype=np.float64)).astype(np.int64) - 1
    words = np.asarray([str(word) for word in levels["data"]], dtype=object)
    return pd.Series(words[np.maximum(codes, 0)]).where(codes >= 0).to_numpy()
