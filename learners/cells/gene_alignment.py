"""Bring the genes of a query into the order a model was trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused

WARNED_MISSING = 0.2


@dataclass(frozen=True)
class Alignment:
    """Which column of a query holds each gene of a model.

    Attributes
    ----------
    columns : (n_model_genes,) array of int
        -1 where the query lacks the gene; it is then zero in every cell.
    missing : tuple of str
        Genes of the model that the query lacks.
    n_unknown : int
        Genes of the query that the model does not know; they are left out.
    """

    columns: np.ndarray
    missing: tuple[str, ...]
    n_unknown: int

    @property
    def n_shared(self) -> int:
        return len(self.columns) - len(self.missing)

    @property
    def n_missing(self) -> int:
        return len(self.missing)

    @property
    def warning(self) -> str:
        """What the user must know, empty if less than a fifth of the model's genes is missing."""
        if self.n_missing <= WARNED_MISSING * len(self.columns):
            return ""
        return (
            f"The query lacks {self.n_missing} of the model's {len(self.columns)} genes"
            f" ({', '.join(self.missing[:5])}, ...); they are taken as zero, so predictions may be worse"
            " than the model's scores say."
        )


def align(
    model_genes: Sequence[str] | np.ndarray,
    query_genes: Sequence[str] | np.ndarray,
    query_var: pd.DataFrame | None = None,
    query_cell_ids: Sequence[str] | np.ndarray | None = None,
) -> Alignment:
    """Find each gene of a model among a query's.

    Parameters
    ----------
    query_var
        The query's table of genes; its columns are searched for a better naming when no gene is shared.
    query_cell_ids
        Looked at when no gene is shared: they may be the genes.

    Raises
    ------
    CellsRefused
        If gene names occur twice, or none is shared; then it says which other naming would fit.
    """
    model, query = pd.Index(model_genes).astype(str), pd.Index(query_genes).astype(str)
    for owner, genes in (("model", model), ("query", query)):
        if genes.has_duplicates:
            twice = genes[genes.duplicated()].unique()
            raise CellsRefused(
                f"{len(twice)} gene names occur more than once in the {owner}, the first"
                f" {', '.join(twice[:10])}. Sum or rename these columns first."
            )
    columns = query.get_indexer(model)
    if (columns < 0).all() and query_cell_ids is not None and model.isin(pd.Index(query_cell_ids)).any():
        raise CellsRefused(
            "Expected cells in rows and genes in columns, found rows named like the model's genes"
            f" ({', '.join(map(str, query_cell_ids[:3]))}). Transpose the query."
        )
    if (columns < 0).all():
        raise CellsRefused(
            f"The query shares none of the model's {len(model)} genes (model: {', '.join(model[:3])}, ...;"
            f" query: {', '.join(query[:3])}, ...). {_advice(model, query, query_var)}"
        )
    return Alignment(columns, tuple(model[columns < 0]), len(query) - int((columns >= 0).sum()))


def apply(alignment: Alignment, values: sp.csr_matrix) -> sp.csr_matrix:
    """Return cells × model genes from cells × query genes; absent genes are zero."""
    columns = alignment.columns
    place = np.full(values.shape[1], -1, dtype=np.int64)
    shared = columns >= 0
    place[columns[shared]] = np.flatnonzero(shared)
    target = place[values.indices]
    kept = target >= 0
    rows = np.concatenate([[0], np.cumsum(kept)])[values.indptr]
    aligned = sp.csr_matrix((values.data[kept], target[kept], rows), shape=(values.shape[0], len(columns)), copy=False)
    aligned.sort_indices()
    return aligned


def _advice(model: pd.Index, query: pd.Index, query_var: pd.DataFrame | None) -> str:
    """Say which naming of the query would share how many genes."""
    namings = {"its names as they are": query}
    if query_var is not None:
        for column in query_var.columns:
            if not pd.api.types.is_numeric_dtype(query_var[column]):
                namings[f"its var column {column!r}"] = pd.Index(query_var[column].astype(str))
    changes: dict[str, Callable[[pd.Index], pd.Index]] = {
        "": lambda names: names,
        " with Ensembl versions (.12) removed": lambda names: names.str.replace(r"\.\d+$", "", regex=True),
        " in upper case": lambda names: names.str.upper(),
    }
    sentences = []
    for naming, names in namings.items():
        for change, changed in changes.items():
            n_shared = changed(model).unique().isin(changed(names)).sum()
            if n_shared:
                sentences.append((int(n_shared), naming + change))
                break
    if not sentences:
        return (
            "Nor do they fit in upper case, without Ensembl versions, or by a column of the query's var: is"
            " it another species, or another kind of id?"
        )
    sentences.sort(reverse=True)
    options = "; ".join(f"{naming} would share {n_shared}" for n_shared, naming in sentences[:3])
    return f"Rename the query's genes: {options}."
