"""Files of units as they are (npz, CSV, Parquet, NWB): arrays per unit, single values, spike times."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from neurofleet.learners.units.units import UnitsRefused


@dataclass
class UnitsFile:
    """One file before anything is converted.

    Attributes
    ----------
    path : Path
    matrices : dict of (n, values) array
        What has several numbers per unit.
    columns : DataFrame
        What has one value per unit.
    single : dict
        What the file says once, for all units; in `columns` too unless it is a property of the arrays.
    spike_times : list of (spikes,) array
        In seconds, per unit; None where the file has none.
    """

    path: Path
    matrices: dict[str, np.ndarray]
    columns: pd.DataFrame
    single: dict[str, Any] = field(default_factory=dict)
    spike_times: list[np.ndarray] | None = None


def read_npz(path: Path, spike_times: str) -> UnitsFile:
    """Read an npz file: arrays of equal first length are units, single values are for all of them.

    Spike times lie one unit after the other in one array, with the place after the last spike of each unit in
    `<spike_times>_index`, as in NWB.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: _unpickled(path, stored, name) for name in stored.files}
    except (OSError, EOFError, ValueError) as error:
        raise UnitsRefused(f"{path}: expected an npz file, found one that cannot be read ({error}).") from None
    single = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
    times = arrays.pop(spike_times, None)
    ends = arrays.pop(f"{spike_times}_index", None)
    if (times is None) != (ends is None):
        raise UnitsRefused(
            f"{path}: spike times in an npz file need two arrays, {spike_times} with the times of all units,"
            f" one unit after the other, and {spike_times}_index with the place after each unit's last spike;"
            " found only one of them."
        )
    per_unit = {name: array for name, array in arrays.items() if array.ndim > 0}
    lengths = {name: len(array) for name, array in per_unit.items()}
    if ends is not None:
        lengths[f"{spike_times}_index"] = len(ends)
    if len(set(lengths.values())) > 1:
        raise UnitsRefused(
            f"{path}: expected one row per unit in each array, found unlike numbers of rows:"
            f" {', '.join(f'{name} {length}' for name, length in lengths.items())}."
        )
    deep = [name for name, array in per_unit.items() if array.ndim > 2]
    if deep:
        raise UnitsRefused(
            f"{path}: expected units in rows and one value or one row of values each; {', '.join(deep)} has"
            f" {per_unit[deep[0]].ndim} dimensions. Keep the channel of largest amplitude."
        )
    spikes = None if times is None or ends is None else cut(path, times, ends)
    n_units = next(iter(lengths.values()), 0)
    columns = {name: array for name, array in per_unit.items() if array.ndim == 1}
    return UnitsFile(
        path,
        {name: array for name, array in per_unit.items() if array.ndim == 2},
        pd.DataFrame(columns | _constants(single), index=range(n_units)),
        single,
        spikes,
    )


def cut(path: Path, times: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """Cut the spike times of all units at the end of each."""
    ends = np.asarray(ends)
    if len(ends) and (np.diff(ends) < 0).any() or (len(ends) and (ends[0] < 0 or ends[-1] != len(times))):
        raise UnitsRefused(
            f"{path}: the index of the spike times must ascend and end at {len(times)}, the number of spikes;"
            f" it ends at {ends[-1]}. The file is damaged or the index is of another array."
        )
    return np.split(np.asarray(times, dtype=float), ends[:-1].astype(int)) if len(ends) else []


def _constants(single: dict[str, Any]) -> dict[str, Any]:
    """Return what is true of all units and no property of the arrays, such as the species."""
    return {name: value for name, value in single.items() if not name.endswith(("_hz", "_index", "_ms"))}


def _unpickled(path: Path, stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return stored[name]
    except ValueError as error:
        if "pickle" not in str(error).lower():
            raise
        raise UnitsRefused(
            f"{path}: array {name!r} holds Python objects (a pickle), which can run any code when it is"
            " loaded. Expected plain numbers or text. Write it again without object arrays: pad unequal rows,"
            " store text with .astype(str), and spike times with an index array."
        ) from None


def read_csv(path: Path, vectors: tuple[str, ...], unit_id: str) -> UnitsFile:
    """Read a CSV file whose vectors are numbered columns (`waveform_0`, `waveform_1`, ...); ids stay text."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        table = pd.read_csv(path, encoding="utf-8-sig", dtype={unit_id: str}) if header else pd.DataFrame()
    except (OSError, UnicodeDecodeError, csv.Error, pd.errors.ParserError) as error:
        raise UnitsRefused(f"{path}: expected a CSV table, found one that cannot be read ({error}).") from None
    _check_names(path, header)
    return _numbered(path, table, {}, vectors)


def read_parquet(path: Path, vectors: tuple[str, ...], spike_times: str) -> UnitsFile:
    """Read a Parquet file whose vectors are list columns or numbered columns."""
    try:
        stored = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UnitsRefused(f"{path}: expected a Parquet table, found one that cannot be read ({error}).") from None
    _check_names(path, [name for name in stored.column_names if not name.startswith("__index_level_")])
    lists = [
        field.name
        for field in stored.schema
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type)
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


def _numbered(path: Path, table: pd.DataFrame, matrices: dict[str, np.ndarray], vectors: tuple[str, ...]) -> UnitsFile:
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


def read_nwb(path: Path, waveform: str, spike_times: str) -> UnitsFile:
    """Read the units table: spike times, mean waveforms, and each column of one value per unit.

    Of waveforms on several channels the one with the largest amplitude (peak to peak) is taken. The session
    and the subject become columns `session_id` and `subject`. The rate is the one that the file states.

    Raises
    ------
    UnitsRefused
        If the file is no NWB file or has no units table.
    """
    from pynwb import NWBHDF5IO

    with ExitStack() as stack:
        try:
            nwb = stack.enter_context(NWBHDF5IO(str(path), "r")).read()
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UnitsRefused(
                f"{path}: expected an NWB file with a units table, found one that pynwb cannot read ({error})."
            ) from None
        return _read(path, nwb, waveform, spike_times)


def _read(path: Path, nwb: Any, waveform: str, spike_times: str) -> UnitsFile:
    units = nwb.units
    if units is None:
        raise UnitsRefused(
            f"{path}: expected a units table (spike-sorted units), found none. Sort the spikes first, or give"
            " the file that holds the sorting."
        )
    n_units = len(units.id)
    columns: dict[str, Any] = {"unit_id": np.asarray(units.id[:])}
    matrices, times, single = {}, None, {}
    if units.waveform_rate is not None:
        single["waveform_rate_hz"] = float(units.waveform_rate)
    for name in units.colnames:
        column = units[name]
        ragged = hasattr(column, "target")
        if name == spike_times and ragged:
            times = cut(path, column.target.data[:], column.data[:])
        elif name == waveform:
            matrices[name] = _largest_channel(path, name, column, ragged)
        elif not ragged and name not in ("electrode_group", "electrodes", "waveform_sd"):
            data = np.asarray(column.data[:])
            if data.ndim == 1:
                columns[name] = [value.decode() if isinstance(value, bytes) else value for value in data]
            elif data.ndim == 2:
                matrices[name] = data
    table = pd.DataFrame(columns, index=range(n_units))
    table["session_id"] = nwb.session_id or nwb.identifier
    if nwb.subject is not None and nwb.subject.subject_id:
        table["subject"] = nwb.subject.subject_id
    return UnitsFile(path, matrices, table, single, times)


def _largest_channel(path: Path, name: str, column: Any, ragged: bool) -> np.ndarray:
    """Return (units, samples) from (units, samples), (units, samples, channels) or lists of channels."""
    if not ragged:
        data = np.asarray(column.data[:], dtype=float)
        per_unit = [unit.T if unit.ndim == 2 else unit[None] for unit in data]
    else:
        per_unit = [np.atleast_2d(np.asarray(column[row], dtype=float)) for row in range(len(column))]
    best = []
    for channels in per_unit:
        size = np.where(np.isfinite(channels).all(axis=1), np.ptp(np.nan_to_num(channels), axis=1), -1)
        best.append(channels[int(size.argmax())] if len(channels) else None)
    lengths = sorted({len(one) for one in best if one is not None})
    if len(lengths) > 1:
        raise UnitsRefused(
            f"{path}: expected {name} of one length for all units, found {lengths[0]} to {lengths[-1]} samples."
        )
    width = lengths[0] if lengths else 0
    return np.array([np.full(width, np.nan) if one is None else one for one in best])
