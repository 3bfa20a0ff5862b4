"""One matrix of cells × genes: in memory, or in an h5ad or zarr file that is read by runs of rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from learners.errors import CellsRefused

CONVERTED_IN_MEMORY_BYTES = 2**30
"""A matrix stored by columns is read whole when it takes no more than this."""

CHUNK_CACHE_BYTES = 32 * 2**20

GAP_ROWS = 32
"""Wanted rows no further apart are read at once, with those between them: faster than one by one, up to ten
times when every third row is wanted (h5ad plain and gzipped, zarr; 20,000 genes)."""

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
    """

    def __init__(self, path: Path, element: str) -> None:
        self.path = path
        self.element = element
        self._opened: tuple[int, Any] = (0, None)
        stored = self._stored()
        encoding = dict(stored.attrs).get("encoding-type", "array")
        if encoding not in ("array", "csr_matrix", "csc_matrix"):
            raise CellsRefused(f"{path}: expected a matrix in {element}, found {encoding!r}.")
        self.is_sparse = encoding != "array"
        self.by_columns = encoding == "csc_matrix"
        shape = stored.attrs["shape"] if self.is_sparse else stored.shape
        if len(shape) != 2:
            raise CellsRefused(f"{path}: expected cells × genes in {element}, found {len(shape)} dimensions.")
        self._shape = int(shape[0]), int(shape[1])
        self._offsets = stored["indptr"][:].astype(np.int64) if self.is_sparse else None
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
        from anndata.io import sparse_dataset

        n_bytes = 8 * (self.n_stored() or 0)
        if n_bytes > CONVERTED_IN_MEMORY_BYTES:
            raise CellsRefused(
                f"{self.path}: {self.element} is stored by columns (CSC), so cells can only be read by"
                f" reading all of it, about {n_bytes / 1e9:.1f} GB. Convert it once: adata ="
                " anndata.read_h5ad(...); adata.X = adata.X.tocsr(); adata.write_h5ad(...)."
            )
        return MemorySource(sparse_dataset(self._stored()).to_memory().tocsr().astype(np.float32))

    def _read_run(self, start: int, stop: int) -> sp.csr_matrix:
        stored = self._stored()
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


def open_group(path: Path) -> Any:
    """Open an h5ad or zarr file for reading; as an h5py or zarr group.

    Raises
    ------
    CellsRefused
        If it is not there or neither of the two.
    """
    if not path.exists():
        raise CellsRefused(f"{path}: no such file. Give an h5ad, zarr, csv or tsv file of cells × genes.")
    try:
        if path.is_dir():
            import zarr

            return zarr.open_group(str(path), mode="r")
        import h5py

        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    except (OSError, ValueError) as error:
        raise CellsRefused(
            f"{path}: expected an h5ad or zarr file, found something that cannot be opened as one ({error})."
            " It may be damaged or only partly copied; look whether anndata.read_h5ad opens it."
        ) from None


def frame(path: Path, group: Any, name: str) -> pd.DataFrame:
    """Read obs or var.

    Raises
    ------
    CellsRefused
        If there is none, or it is not a table as anndata has written them since version 0.7.
    """
    from anndata.io import read_elem

    if name not in group:
        raise CellsRefused(
            f"{path}: expected an AnnData file, found no {name!r} in it (it holds"
            f" {', '.join(sorted(group.keys())) or 'nothing'}). Write it with anndata's write_h5ad or"
            " write_zarr."
        )
    try:
        table = read_elem(group[name])
    except (KeyError, OSError, ValueError) as error:
        raise CellsRefused(f"{path}: {name!r} cannot be read, the file is damaged ({error}).") from error
    if not isinstance(table, pd.DataFrame):
        raise CellsRefused(
            f"{path}: {name!r} is not a table of the present AnnData format. Read the file with anndata and"
            " write it again."
        )
    return table
