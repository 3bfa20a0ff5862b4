"""Columns of a matrix that are no genes: clusters, totals, coordinates and other numbers that were exported with it."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused

_METADATA = re.compile(
    r"leiden(_.*)?|louvain(_.*)?|seurat_clusters?|clusters?|cluster_?(id|label|number)|.*_snn_res_.*|res_\d+_\d+"
    r"|kmeans(_.*)?|phenograph(_.*)?|n_?genes?(_by_counts)?|n_?counts?(_.+)?|n_?features?_.+|n_?umis?|total_(counts|umis?)(_.*)?"
    r"|log1p_(n_genes_by_counts|total_counts.*)|pct_counts_.*|(pct|percent|fraction|frac)_?(mt|mito|ribo|rb|hb).*"
    r"|(doublet|scrublet)_?scores?|predicted_doublets?|(s|g2m|m)_score|(x_)?umap_?\d+|(x_)?t_?sne_?\d+|(x_)?pca?_\d+"
    r"|(x|y|z)_?(centroid|coord|coordinate|position|pixel|location|global)(_.*)?|(center|centroid|coord)_(x|y|z)"
    r"|(cell|nucleus)_(area|size|volume)|size_factors?|(dpt_)?pseudotime|latent_time|cell_?types?(_.*)?|orig_ident"
    r"|(batch|sample|donor|cell|cluster|class)_?(id|code|index)|unnamed_*\d+|__index_level_\d+__"
)

ODD_SHARE = 0.05
_FEW_CELLS = 10


def named_metadata(names: pd.Index) -> np.ndarray:
    """Find columns whose names are no gene's in any species, such as ``leiden`` or ``total_counts``, (n,) bool."""
    plain = names.astype(str).str.lower().str.replace(r"[.\s:-]+", "_", regex=True)
    return np.array([_METADATA.fullmatch(name) is not None for name in plain], dtype=bool)


def refuse_odd_columns(values: sp.csr_matrix, names: np.ndarray | pd.Index, owner: str) -> None:
    """Refuse columns whose values are of another kind than all others', or sum up the others.

    Parameters
    ----------
    values : csr_matrix, shape (cells, genes)
        Some cells.
    names : (n_genes,) array of str
    owner : str
        Whose they are, for the message.

    Raises
    ------
    CellsRefused
        Naming the columns.
    """
    n_cells = values.shape[0]
    columns = values.tocsc()
    columns.eliminate_zeros()
    n_values = np.diff(columns.indptr)
    if n_cells < _FEW_CELLS or len(names) < 20 or not len(columns.data):
        return
    is_whole = columns.data == np.rint(columns.data)
    n_whole = _by_column(is_whole, columns)
    common = (n_values > 0.9 * n_cells) & (n_whole < 0.1 * n_values)
    if 0 < common.sum() <= ODD_SHARE * len(names) and n_whole[~common].sum() == n_values[~common].sum():
        _refuse(owner, np.asarray(names)[common], "has fractions, and all others whole numbers")
    whole = (n_whole == n_values) & (n_values > 0.5 * n_cells)  # SoupX leaves genes whole that hardly any cell has
    rest = ~whole & (n_values > 0)
    if 0 < whole.sum() <= ODD_SHARE * len(names) and n_whole[rest].sum() < 0.01 * n_values[rest].sum():
        _refuse(owner, np.asarray(names)[whole], "has whole numbers only, and all others fractions")
    if is_whole.all():
        total, n_genes = values.sum(1), np.diff(values.indptr)
        total = np.asarray(total, dtype=np.float64).ravel()
        for column in np.flatnonzero(n_values > 0.9 * n_cells):
            each = columns[:, [column]].toarray().ravel().astype(np.float64)
            if (
                each.max() > each.min()
                and each.max() > 10
                and ((2 * each == total).all() or (each == n_genes - 1).all())
            ):
                _refuse(owner, np.asarray(names)[[column]], "is the sum or the number of all others")


def refuse_telling_columns(
    values: sp.csr_matrix, codes: np.ndarray, classes: tuple[str, ...], names: np.ndarray | pd.Index
) -> None:
    """Refuse columns of few whole numbers of which each belongs to one class: cluster numbers, not counts of a gene.

    Parameters
    ----------
    values : csr_matrix, shape (cells, genes)
        Of some labelled cells.
    codes : (cells,) array of int
        Their classes.

    Raises
    ------
    CellsRefused
        Naming the columns.
    """
    n_cells, n_classes = values.shape[0], len(classes)
    if n_cells < 50 or np.bincount(codes).max() > 0.9 * n_cells:
        return
    columns = values.tocsc()
    columns.eliminate_zeros()
    if len(columns.data) == 0 or (columns.data == columns.data[0]).all():
        return
    found = []
    for column in range(values.shape[1]):
        start, stop = columns.indptr[column], columns.indptr[column + 1]
        each = columns.data[start:stop]
        if stop - start < n_cells * 0.05 or each.min() < 0 or each.max() > 1000 or (each != np.rint(each)).any():
            continue
        numbers = np.zeros(n_cells, dtype=np.int64)
        numbers[columns.indices[start:stop]] = each
        table = np.zeros((int(each.max()) + 1, n_classes))
        np.add.at(table, (numbers, codes), 1)
        table = table[table.sum(1) > 0]
        is_code = len(table) == 2 if n_classes == 2 else len(table) <= 3 * n_classes  # counts of a gene have more
        if is_code and table.max(1).sum() >= 0.99 * n_cells:
            found.append(str(names[column]))
    if found:
        raise CellsRefused(
            f"Column {', '.join(map(repr, found[:10]))} holds whole numbers of which each belongs to one class: numbers"
            " of clusters or classes, no counts of a gene. A model would read the label from it. Remove it."
        )


def _by_column(flags: np.ndarray, columns: sp.csc_matrix) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(flags)])
    return sums[columns.indptr[1:]] - sums[columns.indptr[:-1]]


def _refuse(owner: str, names: np.ndarray, what: str) -> None:
    raise CellsRefused(
        f"{owner}: column {', '.join(repr(str(name)) for name in names[:10])} {what}: no gene. A learner would take it"
        " for one. Remove it, or put it into a labels file."
    )
