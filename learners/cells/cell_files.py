"""Open one or several files of cells × genes (h5ad, zarr, or separated text) as one matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.input_paths import local_files
from neurofleet.learners.cells.cell_matrix import (
    SOURCE_COLUMN,
    CellMatrix,
    FileSource,
    MatrixPart,
    MemorySource,
    Source,
    frame,
    open_group,
)

if TYPE_CHECKING:
    import anndata

CHUNK_ROWS = 1000


def separator(path: Path) -> str:
    """Return what a file's name says: commas for .csv, tabs for .tsv and .txt."""
    return "," if ".csv" in path.suffixes else "\t"


def read_text_matrix(path: Path) -> tuple[MemorySource, pd.Index, pd.Index]:
    """Read a text file with one cell a line; returns its values, cell ids and genes.

    Raises
    ------
    CellsRefused
        If the file is no such table, or a column is not numeric, unnamed, or counts the lines.
    """
    blocks, cell_ids, genes = [], [], pd.Index([])
    n_seen, counts_lines = 0, np.zeros(0, dtype=bool)
    for chunk in _chunks(path, chunksize=CHUNK_ROWS):
        genes = chunk.columns
        if chunk.empty:
            break
        words = chunk.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in chunk.dtypes]]
        if len(words):
            raise CellsRefused(
                f"{path}: expected numbers below the gene names, found words in {len(words)} columns, among"
                f" them {', '.join(map(repr, words[:10]))}. Put labels and other words into a labels file"
                " of their own (cell ids first); the first column here holds cell ids, the first line gene"
                " names."
            )
        values = chunk.to_numpy(dtype=np.float32)
        line = n_seen + np.arange(len(chunk))[:, None]
        counts = (values == line).all(axis=0) | (values == line + 1).all(axis=0)
        counts_lines = counts if n_seen == 0 else counts_lines & counts
        blocks.append(sp.csr_matrix(values))
        cell_ids.append(chunk.index.astype(str))
        n_seen += len(chunk)
    if not blocks or not len(genes):
        raise CellsRefused(
            f"{path}: expected a table of cells × genes, found {n_seen} lines of {len(genes)} columns below"
            f" the first line, separated by {separator(path)!r} as the file's name says."
        )
    unnamed = [gene for gene in map(str, genes) if re.fullmatch(r"Unnamed: \d+", gene)]
    refused = unnamed + (list(genes[counts_lines]) if n_seen > 2 else [])
    if refused:
        raise CellsRefused(
            f"{path}: column {', '.join(map(repr, refused[:10]))} has no name or only counts the lines. A"
            " learner would take it for a gene. Remove it; cell ids stand in the first column."
        )
    return (
        MemorySource(sp.vstack(blocks, format="csr", dtype=np.float32)),
        cell_ids[0].append(cell_ids[1:]),
        genes,
    )


def read_labels_table(path: Path) -> pd.DataFrame:
    """Read a labels file: cell ids first, then one or more named columns; all as words.

    Raises
    ------
    CellsRefused
        If it is no such table or names a cell twice.
    """
    table = next(iter(_chunks(path, dtype=str, chunksize=None)))
    table.index = table.index.astype(str)
    if table.empty:
        raise CellsRefused(
            f"{path}: expected cell ids and at least one column of labels, found {len(table)} lines and"
            f" columns {', '.join(map(repr, table.columns)) or 'none'} beside the first, separated by"
            f" {separator(path)!r}."
        )
    twice = table.index[table.index.duplicated()].unique()
    if len(twice):
        raise CellsRefused(f"{path}: {len(twice)} cells have more than one line, among them {', '.join(twice[:10])}.")
    return table


def _chunks(path: Path, **options: Any) -> Any:
    try:
        read = pd.read_csv(path, sep=separator(path), index_col=0, **options)
        yield from [read] if isinstance(read, pd.DataFrame) else read
    except FileNotFoundError:
        raise CellsRefused(f"{path}: no such file.") from None
    except (ValueError, OSError, EOFError) as error:
        raise CellsRefused(f"{path}: cannot be read as a table of text: {error}") from None


BARCODE = r".*[ACGT]{10,}(-\d+)?$"
TEXT_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


IN_MEMORY_NAME = "AnnData"
"""What an AnnData without a file is called in messages and in `obs`, in place of its file."""


@dataclass
class OpenedFile:
    """One file, or one AnnData in memory, before it is joined with others."""

    path: Path
    source: Source
    obs: pd.DataFrame
    var: pd.DataFrame
    notes: list[str]


def open_cells(
    paths: str | Path | anndata.AnnData | Sequence[str | Path | anndata.AnnData],
    *,
    labels_path: str | Path | None = None,
    layer: str = "X",
) -> CellMatrix:
    """Open one or several files, or AnnData in memory, as one matrix with the genes that all of them have.

    Parameters
    ----------
    paths : path, AnnData, or a sequence of either
        Files: h5ad, zarr (AnnData), csv or tsv (also .gz; cells in rows, cell ids first, gene names on top). They
        are read when cells are needed. The values of an AnnData are held as float32, and copied only if they are
        not already.
    labels_path
        A csv or tsv file: cell ids first, then columns which are added to `obs`.
    layer
        "X", "raw" (AnnData's `raw.X`), or the name of a layer.

    Raises
    ------
    CellsRefused
        If a file cannot be read, is empty, has genes twice or genes in rows, or if the files share no gene.
    """
    sources = [
        place
        for source in (paths if isinstance(paths, list | tuple) else [paths])
        for place in (local_files([source]) if isinstance(source, str | Path) else [source])
    ]
    if not sources:
        raise CellsRefused("No file of cells was given. Give at least one h5ad, zarr, csv or tsv file.")
    files = [_open(source, layer) if isinstance(source, Path) else _from_anndata(source, layer) for source in sources]
    for file in files:
        _check(file)
    genes, columns, notes = _shared_genes(files)
    cell_ids, id_notes = _cell_ids(files)
    obs = pd.concat([file.obs.assign(**{SOURCE_COLUMN: str(file.path)}) for file in files])
    obs.index = pd.Index(cell_ids)
    cells = CellMatrix(
        parts=tuple(MatrixPart(file.source, place) for file, place in zip(files, columns, strict=True)),
        cell_ids=np.asarray(cell_ids, dtype=object),
        genes=np.asarray(genes, dtype=object),
        obs=obs,
        var=files[0].var.loc[genes],
        notes=(*(note for file in files for note in file.notes), *notes, *id_notes),
    )
    return cells if labels_path is None else _with_labels(cells, local_files([labels_path])[0])


def _open(path: Path, layer: str) -> OpenedFile:
    if path.name.endswith(TEXT_ENDINGS):
        if layer != "X":
            raise CellsRefused(f"{path}: a text file has no layer {layer!r}; only h5ad and zarr files have.")
        table, cell_ids, genes = read_text_matrix(path)
        return OpenedFile(path, table, pd.DataFrame(index=cell_ids), pd.DataFrame(index=genes), [])
    group = open_group(path)
    obs, var = frame(path, group, "obs"), frame(path, group, "var")
    element = {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
    if element not in group:
        layers = ["X"] if "X" in group else []
        layers += ["raw"] if "raw/X" in group else []
        layers += sorted(group["layers"].keys()) if "layers" in group else []
        raise CellsRefused(f"{path}: found no layer {layer!r}. It has {', '.join(layers) or 'no values at all'}.")
    if layer == "raw":
        var = frame(path, group["raw"], "var")
    obs.index, var.index = obs.index.astype(str), var.index.astype(str)
    source, notes = FileSource(path, element), []
    if source.shape != (len(obs), len(var)):
        raise CellsRefused(
            f"{path}: {element} has {source.shape[0]} × {source.shape[1]} values, but obs names {len(obs)}"
            f" cells and var {len(var)} genes. The file is damaged; write it again with anndata."
        )
    if source.by_columns:
        notes.append(f"{path.name}: stored by columns (CSC), so it was read into memory and turned.")
        return OpenedFile(path, source.read_whole(), obs, var, notes)
    return OpenedFile(path, source, obs, var, notes)


def _from_anndata(data: anndata.AnnData, layer: str) -> OpenedFile:
    if not all(hasattr(data, name) for name in ("obs", "var", "layers", "X")):
        raise CellsRefused(
            f"Expected an AnnData or the path of an h5ad, zarr, csv or tsv file, found {type(data).__name__}."
        )
    if data.isbacked:
        data = data.to_memory()
    var = data.var
    if layer == "X":
        matrix = data.X
    elif layer == "raw":
        matrix = None if data.raw is None else data.raw.X
        var = var if data.raw is None else data.raw.var
    else:
        matrix = data.layers.get(layer)
    if matrix is None:
        known = [*(["X"] if data.X is not None else []), *(["raw"] if data.raw is not None else []), *data.layers]
        raise CellsRefused(
            f"{IN_MEMORY_NAME}: found no layer {layer!r}. It has {', '.join(known) or 'no values at all'}."
        )
    obs, var = data.obs.copy(), var.copy()
    obs.index, var.index = obs.index.astype(str), var.index.astype(str)
    return OpenedFile(Path(IN_MEMORY_NAME), MemorySource(_as_float32(matrix)), obs, var, [])


def _as_float32(matrix: Any) -> sp.csr_matrix | np.ndarray:
    """Return a matrix as CSR or as a dense array; the same memory where it is float32 already."""
    if hasattr(matrix, "compute"):  # dask
        matrix = matrix.compute()
    if sp.issparse(matrix):
        return sp.csr_matrix(matrix).astype(np.float32, copy=False)
    return np.asarray(matrix, dtype=np.float32)


def _check(file: OpenedFile) -> None:
    n_cells, n_genes = file.source.shape
    if n_cells == 0 or n_genes == 0:
        raise CellsRefused(f"{file.path}: found {n_cells} cells and {n_genes} genes; there is nothing to learn.")
    genes = file.var.index
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


def _shared_genes(files: list[OpenedFile]) -> tuple[pd.Index, list[np.ndarray | None], list[str]]:
    """Intersect the genes, in the first file's order; with each file's columns and what is to be said."""
    genes = files[0].var.index
    for file in files[1:]:
        genes = genes[genes.isin(file.var.index)]
    notes = []
    if len(files) > 1:
        counts = "; ".join(f"{file.path.name} has {len(file.var) - len(genes)} more" for file in files)
        notes.append(f"{len(genes)} genes are in all of {len(files)} files ({counts}, left out).")
    if len(genes) == 0:
        firsts = "; ".join(f"{file.path.name}: {', '.join(file.var.index[:3])}" for file in files)
        raise CellsRefused(
            f"The {len(files)} files have no gene in common ({firsts}). Name genes alike in all of them,"
            " all by symbol or all by Ensembl id."
        )
    columns = [None if file.var.index.equals(genes) else file.var.index.get_indexer(genes) for file in files]
    return genes, columns, notes


def _cell_ids(files: list[OpenedFile]) -> tuple[pd.Index, list[str]]:
    """Return unique ids: with the file's name in front when files share ids, numbered within a file."""
    from anndata.utils import make_index_unique

    notes, indices = [], []
    for file in files:
        ids = file.obs.index
        if ids.has_duplicates:
            notes.append(f"{file.path.name}: {int(ids.duplicated().sum())} cell ids occurred before; numbered.")
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
