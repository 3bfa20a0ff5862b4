"""Seurat, SingleCellExperiment and bare matrices in .rds files of R."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.r_objects import NA_INTEGER, UnreadableR, read_r_object

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
        If the file is too large, is damaged, or holds no such object.
    """
    try:
        root = read_r_object(path, LARGEST_RDS_BYTES)
    except (OSError, UnreadableR) as error:
        raise CellsRefused(f"{path}: cannot be read as an .rds file of R: {error}. {CONVERT}.") from None
    kind = root.get("class_name", "")
    if kind == "Seurat":
        layers, obs, genes = _seurat(path, root)
    elif "assays" in _slots(root) and "colData" in _slots(root):
        layers, obs, genes = _experiment(root)
    elif kind in _SPARSE or "dim" in _slots(root):
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
    if obs is None:
        table = pd.DataFrame(index=names)
    elif isinstance(obs.index, pd.RangeIndex) and len(obs) == len(names):
        table = obs.set_axis(names, axis=0)
    else:
        table = obs.reindex(names)
    return matrix, table, genes


_SPARSE = ("dgCMatrix", "dgRMatrix", "dgTMatrix")


def _slots(node: Node) -> dict[str, Node]:
    return dict(node.get("attributes") or {})


def _elements(node: Node) -> dict[str, Node]:
    """Return the elements of a named list."""
    names = _slots(node).get("names", {}).get("data", [])
    return dict(zip(names, node.get("data") or [], strict=False))


def _strings(node: Node | None) -> pd.Index | None:
    if node is None or node["type"] != "character" or not node["data"]:  # row numbers are no names
        return None
    return pd.Index([str(word) for word in node["data"]])


def _dimension_names(node: Node, key: str = "Dimnames") -> tuple[pd.Index | None, pd.Index | None]:
    both = _slots(node).get(key, {}).get("data") or [None, None]
    return _strings(both[0]), _strings(both[1])


def _matrix(path: Path, node: Node) -> tuple[sp.csr_matrix, pd.Index | None, pd.Index | None]:
    """Return a matrix of R, genes × cells, as cells × genes, with its names."""
    slots, kind = _slots(node), node.get("class_name", "")
    if node.get("type") in ("integer", "double") and len(slots.get("dim", {}).get("data", ())) == 2:
        rows, columns = (int(length) for length in slots["dim"]["data"])
        dense = np.asarray(node["data"], dtype=np.float32)
        if len(dense) != rows * columns:
            raise CellsRefused(f"{path}: a matrix of {rows} x {columns} has {len(dense)} values; the file is damaged.")
        return sp.csr_matrix(dense.reshape(columns, rows)), *_dimension_names(node, "dimnames")
    if kind not in _SPARSE:
        raise CellsRefused(
            f"{path}: expected a matrix (dgCMatrix, or dense), found {kind or node.get('type')}. {CONVERT}."
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
        if node.get("type") not in ("integer", "logical"):
            return data.astype(data.dtype.newbyteorder("="))
        missing = data == NA_INTEGER
        return (
            np.where(missing, np.nan, data)
            if missing.any()
            else data.astype(bool if node["type"] == "logical" else int)
        )
    codes = np.nan_to_num(np.asarray(data, dtype=np.float64)).astype(np.int64) - 1
    words = np.asarray([str(word) for word in levels["data"]], dtype=object)
    return pd.Series(words[np.maximum(codes, 0)]).where(codes >= 0).to_numpy()
