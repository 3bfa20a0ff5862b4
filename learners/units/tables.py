"""Units in CSV and Parquet tables: one row per unit, vectors in lists or numbered columns."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd

from learners.units.reading import UnitsFile
from learners.units.units import UnitsRefused


def read_csv(path: Path, vectors: tuple[str, ...], unit_id: str) -> UnitsFile:
    """Read a CSV file whose vectors are numbered columns (`waveform_0`, `waveform_1`, ...); ids stay text."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        table = pd.read_csv(path, encoding="utf-8-sig", dtype={unit_id: str}) if header else pd.DataFrame()
    except (OSError, UnicodeDecodeError, csv.Error, pd.errors.ParserError) as error:
        raise UnitsRefused(
            f"{path}: expected a CSV table, found one that cannot be read ({error})."
        ) from None
    _check_names(path, header)
    return _numbered(path, table, {}, vectors)


def read_parquet(path: Path, vectors: tuple[str, ...], spike_times: str) -> UnitsFile:
    """Read a Parquet file whose vectors are list columns or numbered columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UnitsRefused(
            f"{path}: expected a Parquet table, found one that cannot be read ({error})."
        ) from None
    _check_names(path, [name for name in stored.column_names if not name.startswith("__index_level_")])
    lists = [
        field.name
        for field in stored.schema
        if pa.types.is_list(field.type)
        or pa.types.is_large_list(field.type)
        or pa.types.is_fixed_size_list(field.type)
    ]
    matrices, times = {}, None
    for name in lists:
        rows = [None if row is None else np.asarray(row, dtype=object) for row in stored[name].to_pylist()]
        if name == spike_times:
            times = [np.array([] if row is None else row, dtype=float) for row in rows]
        elif name in vectors:
            matrices[name] = _matrix(path, name, rows)
    index = [name for name in stored.column_names if name.startswith("__index_level_")]
    table = stored.drop_columns([*lists, *index]).to_pandas(ignore_metadata=True)
    if len(index) == 1 and "unit_id" not in table:
        table["unit_id"] = stored[index[0]].to_pandas().to_numpy()
    file = _numbered(path, table, matrices, vectors)
    file.spike_times = times
    return file


def _check_names(path: Path, names: list[str]) -> None:
    unnamed = [place for place, name in enumerate(names) if not name.strip() or name.startswith("Unnamed:")]
    if unnamed:
        raise UnitsRefused(
            f"{path}: expected a name for each column, found none for column {unnamed[0]} (counted from 0):"
            " most likely row numbers that were written with the table, which tell the class when rows are"
            " sorted by class. Remove the column, or name it unit_id if it holds the units' ids."
        )
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UnitsRefused(f"{path}: several columns are called {', '.join(doubled)}. Rename them.")


def _matrix(path: Path, name: str, rows: list[np.ndarray | None]) -> np.ndarray:
    lengths = sorted({len(row) for row in rows if row is not None})
    if len(lengths) > 1:
        raise UnitsRefused(
            f"{path}: expected {name} of one length for all units, found lengths from {lengths[0]} to"
            f" {lengths[-1]}. Cut them alike around the main deflection, or give files of unlike length or"
            " rate one by one."
        )
    width = lengths[0] if lengths else 0
    try:
        return np.array([np.full(width, np.nan) if row is None else row for row in rows], dtype=float)
    except (TypeError, ValueError):
        raise UnitsRefused(f"{path}: expected numbers in {name}, found something else.") from None


def _numbered(
    path: Path, table: pd.DataFrame, matrices: dict[str, np.ndarray], vectors: tuple[str, ...]
) -> UnitsFile:
    """Gather numbered columns of the vectors into matrices."""
    for name in vectors:
        pattern = re.compile(re.escape(name) + r"_(\d+)")
        places = {int(found[1]): column for column in table if (found := pattern.fullmatch(str(column)))}
        if not places:
            continue
        numbers = sorted(places)
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
            raise UnitsRefused(
                f"{path}: expected {name}_0, {name}_1, ... without a gap, found {len(numbers)} columns from"
                f" {name}_{numbers[0]} to {name}_{numbers[-1]}."
            )
        columns = [places[number] for number in numbers]
        try:
            matrices[name] = table[columns].to_numpy(dtype=float)
        except ValueError as error:
            raise UnitsRefused(f"{path}: expected numbers in {name}_..., found text ({error}).") from None
        table = table.drop(columns=columns)
    return UnitsFile(path, matrices, table)
