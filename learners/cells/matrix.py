"""Cells × genes from one or several files, read by rows and never whole unless asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from learners.cells.sources import MemorySource, Source
from learners.errors import CellsRefused

SOURCE_COLUMN = "source_file"

BLOCK_ROWS = 4096

DENSE_FACTOR, DENSE_BYTES = 8, 2**30
"""Values are held densely in memory if that takes no more than so many times what CSR takes, and no more than
this altogether: batches are then cut 5 to 25 times faster (measured at 33 to 1,767 genes)."""


@dataclass(frozen=True)
class Part:
    """The rows of one source, and which of its columns are the genes of the whole (None: all, in order)."""

    source: Source
    columns: np.ndarray | None

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return some rows, float32. They must ascend, each once."""
        found = self.source.read(rows)
        return found if self.columns is None else found[:, self.columns]


@dataclass(frozen=True)
class CellMatrix:
    """Cells × genes, from files or from memory. Pickles as the files' places where it is not in memory.

    Attributes
    ----------
    parts : tuple of Part
        One a file, in order.
    cell_ids : (n_cells,) array of str
        Unique.
    genes : (n_genes,) array of str
        Unique.
    obs : DataFrame
        One row a cell, indexed by `cell_ids`; the column `source_file` tells where a cell comes from.
    var : DataFrame
        One row a gene, indexed by `genes`; the first file's.
    notes : tuple of str
        What was done to open the files that the user should know, a sentence each.
    """

    parts: tuple[Part, ...]
    cell_ids: np.ndarray
    genes: np.ndarray
    obs: pd.DataFrame
    var: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.cell_ids), len(self.genes)

    def __len__(self) -> int:
        return len(self.cell_ids)

    @property
    def starts(self) -> np.ndarray:
        """The first row of each part, and after the last one the number of cells."""
        return np.cumsum([0, *(part.source.shape[0] for part in self.parts)])

    @property
    def dense(self) -> np.ndarray | None:
        """The values as one dense float32 array, if they lie in memory so."""
        if len(self.parts) == 1 and self.parts[0].columns is None:
            source = self.parts[0].source
            if isinstance(source, MemorySource) and isinstance(source.matrix, np.ndarray):
                return source.matrix
        return None

    @property
    def is_in_memory(self) -> bool:
        return all(isinstance(part.source, MemorySource) for part in self.parts)

    def read(self, rows: Sequence[int] | np.ndarray) -> sp.csr_matrix:
        """Return some cells, float32, in the order of `rows`; any order, and more than once if asked.

        Rows that lie near each other are read together, so blocks of neighbours cost little.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 0:
            return sp.csr_matrix((0, len(self.genes)), dtype=np.float32)
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows must lie in 0 to {len(self) - 1}, found {rows.min()} to {rows.max()}")
        wanted, place = np.unique(rows, return_inverse=True)
        cuts = np.searchsorted(wanted, self.starts)
        pieces = [
            part.read(wanted[first:last] - start)
            for part, start, first, last in zip(
                self.parts, self.starts[:-1], cuts[:-1], cuts[1:], strict=True
            )
            if last > first
        ]
        found = pieces[0] if len(pieces) == 1 else sp.vstack(pieces, format="csr", dtype=np.float32)
        return found if np.array_equal(place, np.arange(len(wanted))) else found[place]

    def blocks(self, rows: np.ndarray | None = None, size: int = BLOCK_ROWS) -> Iterator[sp.csr_matrix]:
        """Yield some cells (or all), in order, `size` at a time."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        for start in range(0, len(rows), size):
            yield self.read(rows[start : start + size])

    def nbytes_estimate(self) -> tuple[int, int]:
        """Return what the matrix would take in memory, in bytes: dense and sparse (CSR)."""
        stored = 0
        for part in self.parts:
            n_stored = part.source.n_stored()
            if n_stored is None or part.columns is not None:
                n_cells = part.source.shape[0]
                seen = part.read(stretches(n_cells, 8, 64))
                n_stored = round(seen.nnz * n_cells / max(seen.shape[0], 1))
            stored += n_stored
        index_bytes = np.dtype(_index_type(int(stored))).itemsize
        sparse_bytes = (4 + index_bytes) * int(stored) + index_bytes * (self.shape[0] + 1)
        return 4 * self.shape[0] * self.shape[1], sparse_bytes

    def in_memory(self, transform: Callable[[sp.csr_matrix], sp.csr_matrix] | None = None) -> CellMatrix:
        """Return the same cells with all values in memory: dense if they are few or hardly sparse, else CSR.

        Parameters
        ----------
        transform
            What is done to the values on the way, such as normalising; it must keep the genes.
        """
        if self.is_in_memory and transform is None and len(self.parts) == 1 and self.parts[0].columns is None:
            return self
        blocks = self.blocks() if transform is None else map(transform, self.blocks())
        dense_bytes, sparse_bytes = self.nbytes_estimate()
        matrix: np.ndarray | sp.csr_matrix
        if dense_bytes <= max(sparse_bytes, min(DENSE_FACTOR * sparse_bytes, DENSE_BYTES)):
            matrix = np.empty(self.shape, dtype=np.float32)
            start = 0
            for block in blocks:
                block.toarray(out=matrix[start : start + block.shape[0]])
                start += block.shape[0]
        else:
            matrix = _stacked(list(blocks), len(self.genes))
        return replace(self, parts=(Part(MemorySource(matrix), None),))

    def select_genes(self, names: Sequence[str] | np.ndarray) -> CellMatrix:
        """Return the same cells with some genes only, in the order of `names`.

        Raises
        ------
        CellsRefused
            If one of them is not there.
        """
        place = pd.Index(self.genes).get_indexer(pd.Index(names))
        if (place < 0).any():
            absent = np.asarray(names)[place < 0]
            raise CellsRefused(
                f"{len(absent)} of {len(place)} genes are not in the matrix, among them"
                f" {', '.join(map(str, absent[:10]))}."
            )
        parts = tuple(
            replace(part, columns=place if part.columns is None else part.columns[place])
            for part in self.parts
        )
        return replace(self, parts=parts, genes=self.genes[place], var=self.var.iloc[place])


def _stacked(blocks: list[sp.csr_matrix], n_genes: int) -> sp.csr_matrix:
    """Stack blocks, letting go of each when it has been copied: nothing is held twice."""
    lengths = np.concatenate([[0], *(np.diff(block.indptr) for block in blocks)])
    index_type = _index_type(int(lengths.sum()))
    indptr: np.ndarray = np.cumsum(lengths, dtype=index_type)
    indices = np.empty(indptr[-1], dtype=index_type)
    data = np.empty(indptr[-1], dtype=np.float32)
    start = 0
    blocks.reverse()
    while blocks:
        block = blocks.pop()
        data[start : start + block.nnz] = block.data
        indices[start : start + block.nnz] = block.indices
        start += block.nnz
    return sp.csr_matrix((data, indices, indptr), shape=(len(lengths) - 1, n_genes), copy=False)


def _index_type(n_stored: int) -> type:
    """Return what scipy needs to count so many stored values."""
    return np.int32 if n_stored < 2**31 else np.int64


def stretches(n_cells: int, n_stretches: int, length: int) -> np.ndarray:
    """Return rows in stretches spread evenly over so many cells; all rows if they are few."""
    if n_cells <= n_stretches * length:
        return np.arange(n_cells)
    firsts = np.linspace(0, n_cells - length, n_stretches).astype(np.int64)
    return np.unique(firsts[:, None] + np.arange(length))
