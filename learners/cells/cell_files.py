"""Open one or several files of cells × genes, or AnnData in memory, as one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused, did_you_mean
from neurofleet.input_paths import local_files
from neurofleet.learners.cells.cell_formats import EXPECTED, OpenedFile, Read, open_file
from neurofleet.learners.cells.cell_matrix import SOURCE_COLUMN, CellMatrix, MatrixPart, MemorySource
from neurofleet.learners.cells.expression_tables import read_labels_table
from neurofleet.learners.cells.gene_alignment import TRIED, GeneNaming, align, names_differ
from neurofleet.learners.cells.gene_columns import named_metadata
from neurofleet.wording import listed

if TYPE_CHECKING:
    from typing import TypeAlias

    import anndata

    Sources: TypeAlias = str | Path | anndata.AnnData | Sequence[str | Path | anndata.AnnData]

FEWEST_SHARED = 0.1
"""Of the genes of a query, or of the reference's if these are fewer: the share that both have, at least."""

BARCODE = r".*[ACGT]{10,}(-\d+)?$"

IN_MEMORY_NAME = "AnnData"
"""What an AnnData without a file is called in messages and in `obs`, in place of its file."""


def open_cells(
    paths: Sources,
    *,
    labels_path: str | Path | None = None,
    layer: str = "X",
    gene_names: str | None = None,
    query: Sources | None = None,
    query_layer: str | None = None,
) -> CellMatrix:
    """Open one or several files, or AnnData in memory, as one matrix with the genes that all of them have.

    Parameters
    ----------
    paths : path, AnnData, or a sequence of either
        Files and folders of the formats of `neurofleet.learners.cells.cell_formats`; tables have cells in rows, cell
        ids first, gene names on top. Where the format allows it they are read when cells are needed. The values of an
        AnnData are held as float32, and copied only if they are not already.
    labels_path
        A csv or tsv file: cell ids first, then columns which are added to `obs`.
    layer
        "X", "raw" (AnnData's `raw.X`), or the name of a layer.
    gene_names
        The column of var that names genes, and what need not be equal in names of several files; see
        `neurofleet.learners.cells.gene_alignment.GeneNaming.parsed`.
    query
        Other files: of all genes, those remain that each of these has as well. Their cells are in `CellMatrix.queries`.
    query_layer
        The same as `layer` by default.

    Raises
    ------
    CellsRefused
        If a file cannot be read, is empty, is given twice, has genes twice or genes in rows, or if the files share no
        gene, or less than half of those that they would share under other names; or if a query shares few of the genes.
    """
    sources, queries = _places(paths), [] if query is None else _places(query)
    if not sources:
        raise CellsRefused(f"No file of cells was given. Give at least one: {EXPECTED}.")
    _refuse_same([*sources, *queries])
    naming = GeneNaming.parsed(gene_names)
    files, others = _opened(sources, layer), _opened(queries, query_layer or layer)
    _refuse_missing_column([*files, *others], naming)
    cells = _joined(files, naming)
    if labels_path is not None:
        cells = _with_labels(cells, local_files([labels_path])[0])
    if queries:
        cells = _with_genes_of(cells, [_joined([file], naming) for file in others], naming)
    return cells


def _places(sources: Sources) -> list[Any]:
    """Return AnnData as they are, and the files that paths name."""
    return [
        place
        for source in (sources if isinstance(sources, list | tuple) else [sources])
        for place in (local_files([source]) if isinstance(source, str | Path) else [source])
    ]


def _opened(sources: list[Any], layer: str) -> list[OpenedFile]:
    return [
        open_file(Path(source), layer) if isinstance(source, str | Path) else _from_anndata(source, layer)
        for source in sources
    ]


def _joined(files: list[OpenedFile], naming: GeneNaming) -> CellMatrix:
    """Return the cells of opened files as one matrix with the genes that all of them have."""
    indices = [file.var.index for file in files]
    for file in files:
        _name_genes(file, naming)
        _check(file)
    for file in files[1:]:
        file.var.index = naming.matched(file.var.index, files[0].var.index)
    genes, columns, notes = _shared_genes(files, indices)
    cell_ids, id_notes = _cell_ids(files)
    obs = pd.concat([file.obs.assign(**{SOURCE_COLUMN: str(file.path)}) for file in files])
    obs.index = pd.Index(cell_ids).rename(None)
    return CellMatrix(
        parts=tuple(
            MatrixPart(
                file.source,
                place,
                file.var.index[~file.left_out].to_numpy(),
                np.flatnonzero(file.left_out),
                file.others,
            )
            for file, place in zip(files, columns, strict=True)
        ),
        cell_ids=np.asarray(cell_ids, dtype=object),
        genes=np.asarray(genes, dtype=object),
        obs=obs,
        var=files[0].var.loc[genes].rename_axis(None),
        notes=(*(note for file in files for note in file.notes), *notes, *id_notes),
    )


def _with_genes_of(cells: CellMatrix, queries: Sequence[CellMatrix], naming: GeneNaming) -> CellMatrix:
    """Return cells with the genes that each query has as well, and the queries with the same genes.

    Raises
    ------
    CellsRefused
        If they share too few genes.
    """
    found, shared = [], np.ones(len(cells.genes), dtype=bool)
    for query in queries:
        name = query_name(query)
        try:
            alignment = align(cells.genes, query.genes, query.var, query.cell_ids, naming, owner="reference")
        except CellsRefused as error:
            raise CellsRefused(f"{name}: {error}") from None
        most = min(len(cells.genes), len(query.genes))
        if alignment.n_shared < max(FEWEST_SHARED * most, 2):
            raise CellsRefused(
                f"{name}: the query shares {alignment.n_shared} of the reference's {len(cells.genes)} genes, and has"
                f" {len(query.genes)}: too few to train on. {names_differ(cells.genes, query.genes)}"
            )
        found.append(alignment.columns)
        shared &= alignment.columns >= 0
    kept = np.flatnonzero(shared)
    if len(kept) < 2:
        raise CellsRefused(
            f"No gene of the reference is in all {len(queries)} files of the query. Train for each alone."
        )
    n_all, names = len(cells.genes), ", ".join(Path(query_name(query)).name for query in queries)
    note = (
        f"Trained on {len(kept):,} of the reference's {n_all:,} genes ({100 * len(kept) / n_all:.1f} %): those that"
        f" {names} {'has' if len(queries) == 1 else 'have'} as well. No cell of the query is trained on or scored."
    )
    aligned = tuple(query.with_genes(columns[kept]) for query, columns in zip(queries, found, strict=True))
    return replace(cells.with_genes(kept), queries=aligned, notes=(*cells.notes, note))


def query_name(query: CellMatrix) -> str:
    """Return the file of a query's cells."""
    return str(query.obs[SOURCE_COLUMN].iloc[0])


def _refuse_same(sources: list[Any]) -> None:
    """Refuse the same file, or the same AnnData, twice."""
    seen: dict[Any, Any] = {}
    for source in sources:
        key = Path(source).resolve() if isinstance(source, str | Path) else id(source)
        if key in seen:
            name = str(source) if isinstance(source, str | Path) else IN_MEMORY_NAME
            raise CellsRefused(
                f"{name} is given twice. Its cells would be trained on and tested as well. Give each file once."
            )
        seen[key] = source


def _from_anndata(data: anndata.AnnData, layer: str) -> OpenedFile:
    if not all(hasattr(data, name) for name in ("obs", "var", "layers", "X")):
        raise CellsRefused(
            f"Expected an AnnData or the path of a file of cells ({EXPECTED}), found {type(data).__name__}."
        )
    if data.isbacked:
        data = data.to_memory()
    matrices = {"X": data.X} if data.X is not None else {}
    matrices |= {"raw": data.raw.X} if data.raw is not None else {}
    matrices |= dict(data.layers)
    if layer not in matrices:
        known = ", ".join(matrices) or "no values at all"
        raise CellsRefused(f"{IN_MEMORY_NAME}: found no layer {layer!r}. It has {known}.")
    matrix = matrices.pop(layer)
    obs, var = data.obs.copy(), (data.raw.var if layer == "raw" else data.var).copy()
    obs.index, var.index = obs.index.astype(str), var.index.astype(str)
    others: dict[str, Read] = {name: partial(_rows_in_memory, other) for name, other in matrices.items()}
    return OpenedFile(Path(IN_MEMORY_NAME), MemorySource(_as_float32(matrix)), obs, var, [], others)


def _rows_in_memory(matrix: Any, rows: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix(_as_float32(matrix[rows]))


def _as_float32(matrix: Any) -> sp.csr_matrix | np.ndarray:
    """Return a matrix as CSR or as a dense array; the same memory where it is float32 already."""
    if hasattr(matrix, "compute"):  # dask
        matrix = matrix.compute()
    if sp.issparse(matrix):
        return sp.csr_matrix(matrix).astype(np.float32, copy=False)
    return np.asarray(matrix, dtype=np.float32)


def _refuse_missing_column(files: list[OpenedFile], naming: GeneNaming) -> None:
    """Refuse a column for the names of genes that no file has."""
    if naming.column is not None and not any(naming.column in file.var for file in files):
        known = sorted({str(column) for file in files for column in file.var.columns})
        raise CellsRefused(
            f"gene_names: no file has a column {naming.column!r} in var{did_you_mean(naming.column, known)}. There are:"
            f" {', '.join(known) or 'none'}."
        )


def _name_genes(file: OpenedFile, naming: GeneNaming) -> None:
    """Name genes as it is asked for, and leave out columns that are none."""
    file.var.index, said = naming.names(file.var.index, file.var)
    if said:
        file.notes.append(f"{file.path.name}: {said}")
    named = named_metadata(file.var.index) & ~file.left_out
    if named.any() and not named.all():
        file.no_genes = file.left_out | named
        words = ", ".join(map(repr, file.var.index[named][:10]))
        file.notes.append(f"{file.path.name}: {words} {'are' if named.sum() > 1 else 'is'} no gene, and left out.")


def _check(file: OpenedFile) -> None:
    genes = file.var.index[~file.left_out]
    n_cells, n_genes = file.source.shape[0], len(genes)
    if n_cells == 0 or n_genes == 0:
        raise CellsRefused(f"{file.path}: found {n_cells} cells and {n_genes} genes; expected some of both.")
    if genes.has_duplicates:
        twice = genes[genes.duplicated()].unique()
        raise CellsRefused(
            f"{file.path}: {len(twice)} gene names occur more than once, the first {', '.join(twice[:10])}."
            " Sum or rename these columns (AnnData has var_names_make_unique); it cannot be guessed which"
            " one counts."
        )
    barcodes = genes.str.match(BARCODE).mean()
    if barcodes > 0.5 and file.obs.index.str.match(BARCODE).mean() < 0.5:
        raise CellsRefused(
            f"{file.path}: expected cells in rows and genes in columns, found columns named like cell"
            f" barcodes ({', '.join(genes[:3])}) and rows named like genes"
            f" ({', '.join(file.obs.index[:3])}). Transpose it."
        )


def _shared_genes(
    files: list[OpenedFile], indices: list[pd.Index]
) -> tuple[pd.Index, list[np.ndarray | None], list[str]]:
    """Intersect the genes, in the first file's order; with each file's columns and what is to be said.

    Parameters
    ----------
    indices : list of Index
        The names of all files' genes before another column was chosen.
    """
    of_file = [file.var.index[~file.left_out] for file in files]
    genes = _common(of_file)
    notes = []
    if len(files) > 1:
        more = [
            f"{file.path.name} has {len(names) - len(genes)} more"
            for file, names in zip(files, of_file, strict=True)
            if len(names) > len(genes)
        ]
        if more:
            notes.append(f"{len(genes)} genes are in all of {len(files)} files; left out: {listed(more)}.")
        if len(genes) < 0.5 * min(map(len, of_file)):
            _refuse_other_naming(files, indices, len(genes))
    if len(genes) == 0:
        firsts = "; ".join(f"{file.path.name}: {', '.join(file.var.index[:3])}" for file in files)
        raise CellsRefused(
            f"The {len(files)} files have no gene in common ({firsts}). Name genes alike in all of them,"
            " all by symbol or all by Ensembl id."
        )
    columns = [None if file.var.index.equals(genes) else file.var.index.get_indexer(genes) for file in files]
    return genes, columns, notes


def _common(names: list[pd.Index]) -> pd.Index:
    genes = names[0]
    for others in names[1:]:
        genes = genes[genes.isin(others)]
    return genes


def _refuse_other_naming(files: list[OpenedFile], indices: list[pd.Index], n_shared: int) -> None:
    """Refuse files that would share more than twice as many genes under other names, and say which."""
    columns = {
        str(column): None
        for file in files
        for column in file.var.columns
        if not pd.api.types.is_numeric_dtype(file.var[column]) and not pd.api.types.is_bool_dtype(file.var[column])
    }
    found = []
    for column in (None, *columns):
        for ignored in TRIED:
            naming = GeneNaming(column, ignored)
            named = [naming.names(index, file.var)[0] for index, file in zip(indices, files, strict=True)]
            named = [named[0], *(naming.matched(names, named[0]) for names in named[1:])]
            n_now = len(_common(named))
            if n_now > 2 * n_shared:
                found.append((n_now, naming))
    if not found:
        return
    n_best, best = max(found, key=lambda one: (one[0], -len(one[1].ignored)))
    shared = _common(indices)
    own = [index[~index.isin(shared)][:3] for index in indices]
    others = "; ".join(f"{file.path.name} has {', '.join(names)}" for file, names in zip(files, own, strict=True))
    species = " If the species differ, genes of one name are not always the same." if "case" in best.ignored else ""
    raise CellsRefused(
        f"The {len(files)} files share {n_shared} genes by their names (else {others}, ...), and {n_best} by {best}."
        f" Give `gene_names: {best}` in the job, or gene_names={str(best)!r} in Python.{species}"
    )


def _cell_ids(files: list[OpenedFile]) -> tuple[pd.Index, list[str]]:
    """Return unique ids: with the file's name in front when files share ids, numbered within a file."""
    from anndata.utils import make_index_unique

    notes, indices = [], []
    for file in files:
        ids = file.obs.index
        if ids.has_duplicates:
            n_twice = int(ids.duplicated().sum())
            notes.append(f"{file.path.name}: {n_twice} cells have the id of an earlier one, and are numbered.")
            ids = make_index_unique(ids)
        indices.append(ids)
    joined = indices[0].append(indices[1:])
    if joined.has_duplicates:
        names = [file.path.name.split(".")[0] for file in files]
        if len(set(names)) < len(names):
            names = [f"{number}-{name}" for number, name in enumerate(names, 1)]
        notes.append(f"Files share cell ids, so all ids have the file's name in front ({names[0]}:...).")
        indices = [name + ":" + ids for name, ids in zip(names, indices, strict=True)]
        joined = indices[0].append(indices[1:])
    return joined, notes


def _with_labels(cells: CellMatrix, path: Path) -> CellMatrix:
    """Add the columns of a labels file to `obs`; cells that it does not name get none."""
    table = read_labels_table(path)
    ids = pd.Index(cells.cell_ids)
    n_named = int(ids.isin(table.index).sum())
    if n_named == 0:
        if table.index.isin(cells.genes).any():
            raise CellsRefused(
                f"{path} names cells which are columns of the matrix: it has genes in rows. Transpose it."
            )
        raise CellsRefused(
            f"{path}: none of its {len(table)} cell ids ({', '.join(table.index[:3])}, ...) is a cell of the"
            f" matrix ({', '.join(ids[:3])}, ...). The first column must hold the ids as the matrix has them."
        )
    obs = cells.obs.drop(columns=table.columns, errors="ignore").join(table)
    notes = cells.notes
    if n_named < len(ids) or n_named < len(table):
        notes += (f"{path.name} names {n_named} of {len(ids)} cells, and {len(table) - n_named} others.",)
    return replace(cells, obs=obs, notes=notes)
