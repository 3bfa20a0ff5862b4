"""Tables of cells × genes, one cell a line, from text and Parquet files; tables of labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_matrix import MemorySource
from neurofleet.learners.cells.gene_columns import named_metadata
from neurofleet.learners.text_dialect import TextDialect, text_dialect

CHUNK_ROWS = 1000


def read_text_matrix(path: Path) -> tuple[MemorySource, pd.Index, pd.Index]:
    """Read a text file with one cell a line; returns its values, cell ids and columns.

    Raises
    ------
    CellsRefused
        If the file is no such table, a name occurs twice, or a column is not numeric, unnamed, or counts the lines.
    """
    dialect = _dialect(path)
    columns = _checked_columns(path, list(dialect.header[1:]), f"separated by {dialect.separator!r}")
    return _matrix(path, _read_csv(path, dialect, chunksize=CHUNK_ROWS), columns)


def read_parquet_matrix(path: Path) -> tuple[MemorySource, pd.Index, pd.Index]:
    """Read a Parquet file with one cell a row; its ids are the index that pandas wrote, or a column of words.

    Raises
    ------
    CellsRefused
        See `read_text_matrix`.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            ids = _id_column(file)
            place = names.index(ids) if ids in names else None
            columns = [name for number, name in enumerate(names) if number != place]
            checked = _checked_columns(path, columns, "in the schema of the Parquet file")
            return _matrix(path, _parquet_chunks(file, place), checked)
    except (OSError, pa.ArrowException) as error:
        raise CellsRefused(f"{path}: cannot be read as a Parquet file ({error}).") from None


def read_labels_table(path: Path) -> pd.DataFrame:
    """Read a labels file: cell ids first, then one or more named columns; all as words.

    Raises
    ------
    CellsRefused
        If it is no such table, or names a cell or a column twice.
    """
    dialect = _dialect(path)
    names = list(dialect.header[1:])
    if not names:
        raise CellsRefused(
            f"{path}: expected cell ids and at least one column of labels, found no column beside the first, separated"
            f" by {dialect.separator!r}."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CellsRefused(f"{path}: {len(twice)} columns have one name, among them {', '.join(map(repr, twice[:5]))}.")
    (table,) = _read_csv(path, dialect, dtype=str, chunksize=None)
    table.columns = pd.Index(names)
    table.index = pd.Index(table.index.astype(str), name=dialect.header[0] or None)
    if table.empty:
        raise CellsRefused(f"{path}: expected cell ids and labels, found no line below the first.")
    doubled = table.index[table.index.duplicated()].unique()
    if len(doubled):
        named = ", ".join(doubled[:10])
        raise CellsRefused(f"{path}: {len(doubled)} cells have more than one line, among them {named}.")
    return table


def _dialect(path: Path) -> TextDialect:
    try:
        return text_dialect(path)
    except FileNotFoundError:
        raise CellsRefused(f"{path}: no such file.") from None
    except (OSError, EOFError, ValueError) as error:
        raise CellsRefused(f"{path}: cannot be read as a table of text: {error}.") from None


def _read_csv(path: Path, dialect: TextDialect, **options: Any) -> Iterator[pd.DataFrame]:
    engine: Any = {"names": range(len(dialect.header)), "index_col": 0, "dtype": {0: str}} | dialect.pandas
    try:
        read = pd.read_csv(path, **(engine | options))
        yield from [read] if isinstance(read, pd.DataFrame) else read
    except pd.errors.EmptyDataError:
        return
    except (ValueError, OSError, EOFError) as error:
        raise CellsRefused(f"{path}: cannot be read as a table of text: {error}.") from None


def _parquet_chunks(file: pq.ParquetFile, place: int | None) -> Iterator[pd.DataFrame]:
    start = 0
    for batch in file.iter_batches(CHUNK_ROWS):
        ids = range(start, start + len(batch)) if place is None else batch.columns[place].to_pylist()
        start += len(batch)
        table = pa.Table.from_batches([batch])
        chunk = (table if place is None else table.remove_column(place)).to_pandas(ignore_metadata=True)
        yield chunk.set_axis(pd.Index(ids, dtype=object), axis=0)


def _id_column(file: pq.ParquetFile) -> str | None:
    """Return the column that holds cell ids: the index that pandas wrote, else the first one if it holds words."""
    schema = file.schema_arrow
    stored = (schema.pandas_metadata or {}).get("index_columns", [])
    if stored and isinstance(stored[0], str):
        return stored[0]
    first = schema.field(0) if len(schema) else None
    return first.name if first is not None and (pa.types.is_string(first.type) or _is_words(first.type)) else None


def _is_words(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _checked_columns(path: Path, names: list[str], where: str) -> pd.Index:
    """Refuse columns of one name and without a name.

    Raises
    ------
    CellsRefused
    """
    columns = pd.Index(names, dtype=object).astype(str)
    if not len(columns):
        raise CellsRefused(f"{path}: expected a table of cells × genes, found no column beside the first, {where}.")
    unnamed = [name for name in columns if not name.strip() or re.fullmatch(r"Unnamed: \d+", name)]
    if unnamed:
        raise CellsRefused(
            f"{path}: {len(unnamed)} columns have no name ({', '.join(map(repr, unnamed[:3]))}). A learner would take"
            " them for genes. Remove them; cell ids stand in the first column."
        )
    twice = columns[columns.duplicated()].unique()
    if len(twice):
        raise CellsRefused(
            f"{path}: {len(twice)} gene names occur more than once, the first {', '.join(twice[:10])}. Sum or rename"
            " these columns; it cannot be guessed which one counts."
        )
    return columns


def _matrix(path: Path, chunks: Iterator[pd.DataFrame], columns: pd.Index) -> tuple[MemorySource, pd.Index, pd.Index]:
    blocks, cell_ids = [], []
    n_seen, counts_lines = 0, np.zeros(len(columns), dtype=bool)
    for chunk in chunks:
        words = [number for number, kind in enumerate(chunk.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
        if words and len(chunk):
            example = chunk.iloc[0, words[0]]
            raise CellsRefused(
                f"{path}: expected numbers below the gene names, found words in {len(words)} columns, among"
                f" them {', '.join(map(repr, columns[words[:10]]))}, such as {str(example)[:40]!r}. Put labels and"
                " other words into a labels file of their own (cell ids first); the first column here holds cell ids,"
                " the first line gene names."
            )
        values = chunk.to_numpy(dtype=np.float32)
        line = n_seen + np.arange(len(values))[:, None]
        counts = (values == line).all(axis=0) | (values == line + 1).all(axis=0)
        counts_lines = counts if n_seen == 0 else counts_lines & counts
        blocks.append(sp.csr_matrix(values))
        cell_ids.append(chunk.index.astype(str))
        n_seen += len(values)
    if not n_seen:
        raise CellsRefused(f"{path}: expected a table of cells × genes, found 0 lines below the first.")
    refused = columns[counts_lines & ~named_metadata(columns)] if n_seen > 2 else []
    if len(refused):
        raise CellsRefused(
            f"{path}: column {', '.join(map(repr, refused[:10]))} has no name or only counts the lines. A"
            " learner would take it for a gene. Remove it; cell ids stand in the first column."
        )
    matrix = MemorySource(sp.vstack(blocks, format="csr", dtype=np.float32))
    return matrix, cell_ids[0].append(cell_ids[1:]), columns
