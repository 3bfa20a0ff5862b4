"""Cells × genes in memory, or in one or several h5ad or zarr files that are read by runs of rows."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr

from neurofleet.errors import CellsRefused
from neurofleet.learners.array_files import DAMAGED, h5_values

CONVERTED_IN_MEMORY_BYTES = 2**30
"""A matrix stored by columns is read whole when it takes no more than this."""

CHUNK_CACHE_BYTES = 32 * 2**20

GAP_ROWS = 32
"""Rows no further apart are read at once, with those between them: faster than one by one, up to ten
times when every third row is read (h5ad plain and gzipped, zarr; 20,000 genes)."""

RUN_ROWS = 1024
"""Rows read at once at most, so that dense files too are read in little memory."""


class Source(Protocol):
    """Where rows come from."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return some rows, float32. They must ascend, each once."""

    def n_stored(self) -> int | None:
        """Return the number of stored values of a sparse matrix; None if it is stored densely."""


class MemorySource:
    """A matrix in memory, float32: a dense array or CSR."""

    def __init__(self, matrix: sp.csr_matrix | np.ndarray) -> None:
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        return sp.csr_matrix(self.matrix[rows])

    def n_stored(self) -> int | None:
        return None if isinstance(self.matrix, np.ndarray) else self.matrix.nnz


class FileSource:
    """A matrix inside an h5ad or zarr file. Only its place is pickled; each process opens the file itself.

    Attributes
    ----------
    path : Path
        The file.
    element : str
        Where the matrix is in it: "X", "raw/X" or "layers/NAME".
    turned : bool
        Whether genes × cells are stored: an array, or a sparse matrix by columns.
    """

    def __init__(self, path: Path, element: str, turned: bool = False) -> None:
        self.path = path
        self.element = element
        self.turned = turned
        self._opened: tuple[int, Any] = (0, None)
        stored = self._stored()
        encoding, shape = _encoding(stored)
        if encoding not in ("array", "csr_matrix", "csc_matrix"):
            raise CellsRefused(f"{path}: expected a matrix in {element}, found {encoding!r}.")
        self.is_sparse = encoding != "array"
        self.by_columns = (encoding == "csr_matrix") if turned else (encoding == "csc_matrix")
        if len(shape) != 2:
            raise CellsRefused(f"{path}: expected cells × genes in {element}, found {len(shape)} dimensions.")
        self._shape = (int(shape[1]), int(shape[0])) if turned else (int(shape[0]), int(shape[1]))
        self._offsets = whole_array(stored["indptr"]).astype(np.int64) if self.is_sparse else None
        if self._offsets is not None:
            n_lines = self._shape[1] if self.by_columns else self._shape[0]
            n_values = {int(stored[name].shape[0]) for name in ("data", "indices")} | {int(self._offsets[-1])}
            if len(self._offsets) != n_lines + 1 or len(n_values) != 1 or (np.diff(self._offsets) < 0).any():
                raise CellsRefused(f"{path}: the parts of {element} do not fit together: it is damaged.")

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        pieces = []
        cuts = np.flatnonzero((np.diff(rows) > GAP_ROWS) | (np.diff(rows // RUN_ROWS) > 0)) + 1
        for run in np.split(rows, cuts):
            piece = self._read_run(int(run[0]), int(run[-1]) + 1)
            pieces.append(piece if piece.shape[0] == len(run) else piece[run - run[0]])
        return pieces[0] if len(pieces) == 1 else sp.vstack(pieces, format="csr", dtype=np.float32)

    def n_stored(self) -> int | None:
        return None if self._offsets is None else int(self._offsets[-1])

    def read_whole(self) -> MemorySource:
        """Read a matrix stored by columns, and turn it.

        Raises
        ------
        CellsRefused
            If it is large: it would have to be held twice.
        """
        n_bytes = 8 * (self.n_stored() or 0)
        if n_bytes > CONVERTED_IN_MEMORY_BYTES:
            raise CellsRefused(
                f"{self.path}: {self.element} is stored by columns (CSC), so cells can only be read by"
                f" reading all of it, about {n_bytes / 1e9:.1f} GB. Convert it once: adata ="
                " anndata.read_h5ad(...); adata.X = adata.X.tocsr(); adata.write_h5ad(...)."
            )
        stored = self._stored()
        parts = tuple(whole_array(stored[name]) for name in ("data", "indices", "indptr"))
        if len(parts[1]) and (parts[1].min() < 0 or parts[1].max() >= self.shape[0]):
            raise CellsRefused(f"{self.path}: {self.element} has values for cells that are not there: it is damaged.")
        return MemorySource(sp.csc_matrix(parts, shape=self.shape).tocsr().astype(np.float32))

    def _read_run(self, start: int, stop: int) -> sp.csr_matrix:
        try:
            return self._run(start, stop)
        except DAMAGED as error:
            if isinstance(error, CellsRefused):
                raise
            raise CellsRefused(
                f"{self.path}: cells {start} to {stop} of {self.element} cannot be read ({error}). The file is "
                "damaged: copy it again from its source."
            ) from error

    def _run(self, start: int, stop: int) -> sp.csr_matrix:
        stored = self._stored()
        if self._offsets is None and self.turned:
            return sp.csr_matrix(np.asarray(stored[:, start:stop], dtype=np.float32).T)
        if self._offsets is None:
            return sp.csr_matrix(np.asarray(stored[start:stop], dtype=np.float32))
        # anndata's sparse_dataset builds a matrix of the whole file for each slice: 40 times slower
        offsets = self._offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        columns = stored["indices"][first:last]
        if len(columns) and (columns.min() < 0 or columns.max() >= self._shape[1]):
            raise CellsRefused(
                f"{self.path}: cells {start} to {stop} have values for genes that {self.element} does not"
                " have. The file is damaged; write it again."
            )
        return sp.csr_matrix(
            (
                stored["data"][first:last].astype(np.float32, copy=False),
                columns.astype(np.int32, copy=False),
                (offsets - first).astype(np.int32),
            ),
            shape=(stop - start, self._shape[1]),
            copy=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": (0, None)}

    def _stored(self) -> Any:
        """Open the matrix, once a process: a handle does not survive a fork."""
        process, stored = self._opened
        if process != os.getpid():
            stored = open_group(self.path)[self.element]
            self._opened = (os.getpid(), stored)
        return stored


def _root_in_zip(path: Path) -> str:
    """Return the folder of the zarr in a zip archive; empty where its content was packed without the folder."""
    with zipfile.ZipFile(path) as archive:
        heads = [name for name in archive.namelist() if name.rpartition("/")[2] in (".zgroup", "zarr.json")]
    return min(heads, key=len).rpartition("/")[0] if heads else ""


def _encoding(stored: Any) -> tuple[str, Any]:
    """Return how a matrix is stored, and its shape: as anndata has written it, 10x Genomics, or SeuratDisk."""
    attributes = dict(stored.attrs)
    if "h5sparse_format" in attributes:  # anndata before 0.7
        return f"{_text(attributes['h5sparse_format'])}_matrix", attributes["h5sparse_shape"]
    encoding = attributes.get("encoding-type")
    if encoding in ("csr_matrix", "csc_matrix"):
        return encoding, attributes["shape"]
    if hasattr(stored, "keys"):
        if not {"data", "indices", "indptr"} <= set(stored.keys()):
            return _text(encoding) if encoding else "a group", (0, 0)
        shape = stored["shape"][:] if "shape" in stored else attributes.get("dims", ())
        return "csc_matrix", shape
    return _text(encoding) if encoding else "array", stored.shape


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def whole_array(stored: Any) -> np.ndarray:
    """Return all values of an array of an HDF5 or zarr file, unless it claims far more than the file can hold."""
    import h5py

    return h5_values(stored) if isinstance(stored, h5py.Dataset) else np.asarray(stored[:])


def open_group(path: Path) -> Any:
    """Open an h5ad or zarr file for reading, also a zipped zarr; as an h5py or zarr group.

    Raises
    ------
    CellsRefused
        If it is not there or neither of the two.
    """
    if not path.exists():
        raise CellsRefused(f"{path}: no such file. Give an h5ad, zarr, csv or tsv file of cells × genes.")
    try:
        if path.is_dir():
            return zarr.open_group(str(path), mode="r")
        if path.suffix.lower() == ".zip":
            return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", path=_root_in_zip(path))
        import h5py

        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CellsRefused(
            f"{path}: expected an h5ad or zarr file, found something that cannot be opened as one ({error})."
            " It may be damaged or only partly copied; look whether anndata.read_h5ad opens it."
        ) from None


SOURCE_COLUMN = "source_file"

BLOCK_ROWS = 4096

DENSE_FACTOR, DENSE_BYTES = 8, 2**30
"""Values are held densely in memory if that takes at most DENSE_FACTOR times what CSR takes, and at most DENSE_BYTES:
batches are then cut 5 to 25 times faster (measured at 33 to 1,767 genes)."""


@dataclass(frozen=True)
class MatrixPart:
    """The rows of one source.

    Attributes
    ----------
    source : Source
    columns : array of int or None
        Which of its columns are the genes of the whole; None for all, in order.
    genes : array of str
        The names of all genes of the source, without those of `no_genes`; empty where nobody needs them.
    no_genes : array of int
        Columns of the source that hold something else.
    others : mapping
        Name -> what reads some rows of another layer of the same file, all genes. Neither this nor `genes` is pickled.
    """

    source: Source
    columns: np.ndarray | None
    genes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object))
    no_genes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    others: Mapping[str, Callable[[np.ndarray], sp.csr_matrix]] = field(default_factory=dict)

    @property
    def has_all_genes(self) -> bool:
        """Whether no gene of the source is left out."""
        return self.columns is None or len(self.columns) == self.source.shape[1] - len(self.no_genes)

    def read_genes(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return some rows with all genes of the source. They must ascend, each once."""
        block = self.source.read(rows)
        if not len(self.no_genes):
            return block
        return block[:, np.setdiff1d(np.arange(block.shape[1]), self.no_genes)]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"others": {}, "genes": np.zeros(0, dtype=object)}

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return some rows, float32. They must ascend, each once."""
        block = self.source.read(rows)
        return block if self.columns is None else block[:, self.columns]


@dataclass(frozen=True)
class CellMatrix:
    """Cells × genes, from files or from memory. Pickles as the files' places where it is not in memory.

    Attributes
    ----------
    parts : tuple of MatrixPart
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
    queries : tuple of CellMatrix
        Cells of other files, with the same genes, that these are a reference for; not pickled.
    """

    parts: tuple[MatrixPart, ...]
    cell_ids: np.ndarray
    genes: np.ndarray
    obs: pd.DataFrame
    var: pd.DataFrame
    notes: tuple[str, ...] = ()
    queries: tuple[CellMatrix, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"queries": ()}

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
        distinct, place = np.unique(rows, return_inverse=True)
        cuts = np.searchsorted(distinct, self.starts)
        pieces = [
            part.read(distinct[first:last] - start)
            for part, start, first, last in zip(self.parts, self.starts[:-1], cuts[:-1], cuts[1:], strict=True)
            if last > first
        ]
        block = pieces[0] if len(pieces) == 1 else sp.vstack(pieces, format="csr", dtype=np.float32)
        return block if np.array_equal(place, np.arange(len(distinct))) else block[place]

    def blocks(self, rows: np.ndarray | None = None, size: int = BLOCK_ROWS) -> Iterator[sp.csr_matrix]:
        """Yield some cells (or all), in order, `size` at a time."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        for start in range(0, len(rows), size):
            yield self.read(rows[start : start + size])

    def with_genes(self, columns: np.ndarray) -> CellMatrix:
        """Return the same cells with some of the genes, by their number, in this order."""
        parts = tuple(
            replace(part, columns=columns if part.columns is None else part.columns[columns]) for part in self.parts
        )
        return replace(self, parts=parts, genes=self.genes[columns], var=self.var.iloc[columns])

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
        return replace(self, parts=(MatrixPart(MemorySource(matrix), None),))


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
    """Return the index type that scipy needs for `n_stored` stored values."""
    return np.int32 if n_stored < 2**31 else np.int64


def stretches(n_cells: int, n_stretches: int, length: int) -> np.ndarray:
    """Return rows in stretches spread evenly over `n_cells` cells; all rows if they are few."""
    if n_cells <= n_stretches * length:
        return np.arange(n_cells)
    firsts = np.linspace(0, n_cells - length, n_stretches).astype(np.int64)
    return np.unique(firsts[:, None] + np.arange(length))
