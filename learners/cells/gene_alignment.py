"""Bring the genes of a query into the order a model was trained with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused, UsageError


@dataclass(frozen=True)
class Alignment:
    """Which column of a query holds each gene of a model.

    Attributes
    ----------
    columns : (n_model_genes,) array of int
        -1 where the query lacks the gene.
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
    def missing_share(self) -> float:
        """Of the model's genes, the share that the query lacks."""
        return len(self.missing) / len(self.columns)


def align(
    model_genes: Sequence[str] | np.ndarray,
    query_genes: Sequence[str] | np.ndarray,
    query_var: pd.DataFrame | None = None,
    query_cell_ids: Sequence[str] | np.ndarray | None = None,
    naming: GeneNaming | None = None,
    owner: str = "model",
) -> Alignment:
    """Find each gene of a model among a query's.

    Parameters
    ----------
    query_var
        The query's table of genes; its columns are searched for a better naming where few genes are shared.
    query_cell_ids
        Looked at when no gene is shared: they may be the genes.
    naming
        What need not be equal in names.
    owner
        Whose genes the first are, for messages.

    Raises
    ------
    CellsRefused
        If gene names occur twice, or none is shared, or less than half of those that another naming would share; then
        it says which.
    """
    model, query = pd.Index(model_genes).astype(str), pd.Index(query_genes).astype(str)
    own_names = query
    if naming is not None:
        query = naming.matched(query, model)
    for whose, genes in ((owner, model), ("query", query)):
        if genes.has_duplicates:
            twice = genes[genes.duplicated()].unique()
            raise CellsRefused(
                f"{len(twice)} gene names occur more than once in the {whose}, the first"
                f" {', '.join(twice[:10])}. Sum or rename these columns first."
            )
    columns = query.get_indexer(model)
    if (columns < 0).all() and query_cell_ids is not None and model.isin(pd.Index(query_cell_ids)).any():
        raise CellsRefused(
            f"Expected cells in rows and genes in columns, found rows named like the {owner}'s genes"
            f" ({', '.join(map(str, query_cell_ids[:3]))}). Transpose the query."
        )
    n_shared = int((columns >= 0).sum())
    if n_shared < 0.5 * len(model):
        found = better_namings(model, own_names, query_var, n_shared)
        if found or n_shared == 0:
            shares, which = (
                ("none", f"the {owner} has") if n_shared == 0 else (f"{n_shared}", f"others are, in the {owner}:")
            )
            absent, others = model[columns < 0], own_names[~query.isin(model)]
            kinds = "" if found else kinds_of_names(absent, others, owner)
            raise CellsRefused(
                f"The query shares {shares} of the {owner}'s {len(model)} genes ({which} {', '.join(absent[:3])}, ...;"
                f" the query: {', '.join(others[:3])}, ...). {kinds or advice(found)}"
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


@dataclass(frozen=True)
class GeneNaming:
    """Which names of genes are compared, and how.

    Attributes
    ----------
    column : str or None
        The column of var that holds them; None for the index, as in files that lack the column.
    ignored : tuple of str
        What need not be equal: ``case``, ``version`` (of an Ensembl id: .12) or ``prefix`` (of a genome: GRCh38_).
    """

    column: str | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def parsed(cls, text: str | None) -> GeneNaming:
        """Read what a user gives: ``feature_name``, ``ignore-case``, ``gene_ids+ignore-version`` …

        Raises
        ------
        UsageError
            If there is no such way to compare.
        """
        words = [word.strip() for word in (text or "").split("+") if word.strip()]
        ignored = [word.removeprefix("ignore-") for word in words if word.startswith("ignore-")]
        columns = [word for word in words if not word.startswith("ignore-") and word != "index"]
        unknown = [word for word in ignored if word not in PLAIN]
        if unknown or len(columns) > 1:
            known = ", ".join(f"ignore-{name}" for name in PLAIN)
            raise UsageError(
                f"gene_names: expected a column of var, one or more of {known}, or both, such as"
                f" gene_ids+ignore-version; found {text!r}."
            )
        return cls(columns[0] if columns else None, tuple(ignored))

    def __str__(self) -> str:
        column = [self.column] if self.column else []
        return "+".join([*column, *(f"ignore-{name}" for name in self.ignored)]) or "index"

    def names(self, index: pd.Index, var: pd.DataFrame) -> tuple[pd.Index, str]:
        """Return the names of a file's genes, and what is to be said of them.

        Genes whose name is missing in the column, or stands there twice, keep the one that they have in the index.
        """
        if self.column is None or self.column not in var:
            return index, ""
        column = var[self.column]
        given = pd.Index(column.astype(str))
        usable = column.notna().to_numpy(bool) & (given != "") & ~given.duplicated(keep=False)
        names = pd.Index(np.where(usable, given, index))
        if not usable.any() or names.has_duplicates:
            return index, f"The var column {self.column!r} names no genes; the index is used."
        kept = int((~usable).sum())
        said = f"; {kept} that it does not name, or names twice, keep those of the index" if kept else ""
        return names, f"Genes have their names of the var column {self.column!r}{said}."

    def matched(self, names: pd.Index, target: pd.Index) -> pd.Index:
        """Return names in the spelling of `target` where they differ in nothing but what is ignored."""
        if not self.ignored:
            return names
        plain, plain_target = self.plain(names), self.plain(target)
        once = ~plain_target.duplicated(keep=False)
        place = pd.Index(plain_target[once]).get_indexer(plain)
        first = ~pd.Series(place).duplicated().to_numpy() & (place >= 0) & ~names.isin(target)
        first &= ~np.isin(np.where(place >= 0, target[once][place], ""), names)
        return pd.Index(np.where(first, target[once][place], names))

    def plain(self, names: pd.Index) -> pd.Index:
        """Return names without what is ignored."""
        for name in self.ignored:
            names = PLAIN[name](names)
        return names


PLAIN: dict[str, Callable[[pd.Index], pd.Index]] = {
    "prefix": lambda names: names.str.replace(
        r"^(?:GRC[a-z]\d+|hg\d+|mm\d+|rn\d+|m?Rat\w*|Rnor)[._-]+", "", regex=True, flags=re.IGNORECASE
    ),
    "version": lambda names: names.str.replace(r"^((?:ENS|NM_|NR_|XM_|XR_)\w*\d)\.\d+$", r"\1", regex=True),
    "case": lambda names: names.str.upper(),
}
IN_WORDS = {
    "case": " in upper case",
    "version": " with Ensembl versions (.12) removed",
    "prefix": " without the genome in front (GRCh38_)",
}
TRIED = ((), ("version",), ("prefix",), ("case",), ("prefix", "version"), ("prefix", "case"))


def better_namings(
    model: pd.Index, query: pd.Index, var: pd.DataFrame | None, n_shared: int
) -> list[tuple[int, str, GeneNaming]]:
    """Return the namings of a query by which it would share more than twice as many genes, best first.

    Returns
    -------
    list of (genes shared, the naming in words, the naming)
    """
    candidates: dict[str | None, pd.Index] = {None: query}
    if var is not None:
        for name in var.columns:
            if not pd.api.types.is_numeric_dtype(var[name]) and not pd.api.types.is_bool_dtype(var[name]):
                candidates[str(name)] = pd.Index(var[name].astype(str))
    found = []
    for column, names in candidates.items():
        best = 0
        for ignored in TRIED:
            naming = GeneNaming(column, ignored)
            n_now = int(naming.plain(model).unique().isin(naming.plain(names)).sum())
            if n_now <= max(best, 2 * n_shared):
                continue
            best = n_now
            what = "its names as they are" if column is None else f"its var column {column!r}"
            found.append((n_now, what + "".join(IN_WORDS[name] for name in ignored), naming))
    return sorted(found, key=lambda one: (-one[0], len(one[2].ignored)))


def names_differ(reference: np.ndarray, query: np.ndarray) -> str:
    """Say what to do where a reference and a query share few genes, and no other naming would share more."""
    names = [pd.Index(genes).astype(str) for genes in (reference, query)]
    return kinds_of_names(*names, "reference") or advice([])


def kinds_of_names(model: pd.Index, query: pd.Index, owner: str = "model") -> str:
    """Say what to do where one of the two names genes by Ensembl id and the other does not; else nothing."""
    ids = [bool(names.str.match(r"ENS[A-Z]*G\d{6,}").mean() > 0.5) for names in (model, query)]
    if ids[0] == ids[1]:
        return ""
    here, there = ("Ensembl ids", "symbols") if ids[1] else ("symbols", "Ensembl ids")
    return (
        f"The query names genes by {here}, the {owner} by {there}. Put {there} into a column of the query's var, and"
        " name it: --gene-names COLUMN, `gene_names: COLUMN` in a job, or gene_names='COLUMN' in Python."
    )


def advice(found: list[tuple[int, str, GeneNaming]]) -> str:
    """Say which naming of a query would share how many genes, and how to ask for it."""
    if not found:
        return (
            "Nor do they fit in upper case, without Ensembl versions, or by a column of the query's var: is"
            " it another species, or another kind of id?"
        )
    options = "; ".join(f"{naming} would share {n_shared}" for n_shared, naming, _ in found[:3])
    best = found[0][2]
    species = " If the species differ, genes of one name are not always the same." if "case" in best.ignored else ""
    return (
        f"Rename the query's genes: {options}. Or give --gene-names {best}, `gene_names: {best}` in a job, or"
        f" gene_names={str(best)!r} in Python.{species}"
    )
