"""Cells × genes and labels from comma- or tab-separated text, also gzipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from learners.cells.sources import MemorySource
from learners.errors import CellsRefused

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
        raise CellsRefused(
            f"{path}: {len(twice)} cells have more than one line, among them {', '.join(twice[:10])}."
        )
    return table


def _chunks(path: Path, **options: Any) -> Any:
    try:
        read = pd.read_csv(path, sep=separator(path), index_col=0, **options)
        yield from [read] if isinstance(read, pd.DataFrame) else read
    except FileNotFoundError:
        raise CellsRefused(f"{path}: no such file.") from None
    except (ValueError, OSError, EOFError) as error:
        raise CellsRefused(f"{path}: cannot be read as a table of text: {error}") from None
