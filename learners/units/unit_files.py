"""Open files of spike-sorted units (npz, CSV, Parquet, NWB), each converted to the common form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from neurofleet.errors import did_you_mean
from neurofleet.input_paths import local_files
from neurofleet.learners.array_files import UnreadableArray, as_text, column_values, npz_arrays, refuse_other_data
from neurofleet.learners.text_dialect import TEXT_ENDINGS, text_dialect
from neurofleet.learners.units.hand_features import HAND_FEATURES, hand_features
from neurofleet.learners.units.signal_scaling import row_hashes
from neurofleet.learners.units.sorter_folders import CELLEXPLORER, FOLDERS, read_cellinfo, read_sorter_folder
from neurofleet.learners.units.spike_timing import (
    autocorrelogram_counts,
    check_spike_times,
    common_acg,
    common_isi,
    interval_shares,
    without_self_pairs,
)
from neurofleet.learners.units.unit_checks import good_units, refuse_row_numbers
from neurofleet.learners.units.unit_layout import UnitLayout, read_unit_layout
from neurofleet.learners.units.units import FILE_COLUMN, MODALITIES, POINTS, Units, UnitsFile, UnitsRefused, joined
from neurofleet.learners.units.waveforms import (
    Waveforms,
    check_half_widths,
    common_form,
    largest_channels,
    read_waveforms,
    refuse_turned,
)
from neurofleet.wording import told_once


def read_npz(path: Path, spike_times: str, waveform: str = "waveform", axes: str | None = None) -> UnitsFile:
    """Read an npz file: arrays of equal first length are units, single values are for all of them.

    Of waveforms on several channels the one with the largest amplitude (peak to peak) is taken. Spike times lie one
    unit after the other in one array, with the place after the last spike of each unit in `<spike_times>_index`, as in
    NWB.
    """
    try:
        arrays = npz_arrays(path)
    except (OSError, UnreadableArray) as error:
        raise UnitsRefused(f"{path}: expected an npz file, found one that cannot be read: {error}.") from None
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
            f"{path}: expected one row per unit in each array, found different numbers of rows:"
            f" {', '.join(f'{name} {length}' for name, length in lengths.items())}.{_other_rows(per_unit, lengths)}"
        )
    notes: list[str] = []
    if waveform in per_unit and per_unit[waveform].ndim == 3 and per_unit[waveform].dtype.kind in "fiu":
        usual = "samples, channels"
        per_unit[waveform], notes = largest_channels(per_unit[waveform], axes, None, usual, f"{path.name}, {waveform}")
    deep = [name for name, array in per_unit.items() if array.ndim > 2]
    if deep:
        raise UnitsRefused(
            f"{path}: expected units in rows and one value or one row of values each; {', '.join(deep)} has"
            f" {per_unit[deep[0]].ndim} dimensions. Leave it out, or keep one row of values for each unit."
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
        notes,
    )


def _other_rows(arrays: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> str:
    """Return what can be done about the arrays whose rows are not as many as those of most others."""
    n_units = Counter(lengths.values()).most_common(1)[0][0]
    for name, array in arrays.items():
        if array.ndim > 1 and len(array) != n_units and array.shape[-1] == n_units:
            shape = " x ".join(map(str, array.shape))
            return f" {name} is {shape}, units last: give it with the units first, np.moveaxis({name}, -1, 0)."
        if array.ndim == 1 and len(array) > n_units and array.dtype.kind in "fiu":
            return (
                f" If {name} holds the spike times of all units, one unit after the other, call it spike_times, and"
                " give the place after each unit's last spike as spike_times_index."
            )
    return ""


def cut(path: Path, times: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """Cut the spike times of all units at the end of each."""
    times, ends = np.asarray(times), checked_ends(path, "spike times", ends, len(times))
    return np.split(times, ends[:-1]) if len(ends) else []


def checked_ends(path: Path, name: str, ends: np.ndarray, length: int) -> np.ndarray:
    """Return the places after the last value of each row of a ragged array, as (n,) int.

    Raises
    ------
    UnitsRefused
        If they do not ascend, or do not end where the values do.
    """
    ends = np.asarray(ends)
    whole = ends.ndim == 1 and ends.dtype.kind in "fiu" and bool((ends == np.rint(ends)).all())
    if not whole or (len(ends) and ((np.diff(ends.astype(float)) < 0).any() or ends[0] < 0 or ends[-1] != length)):
        raise UnitsRefused(
            f"{path}: the index of the {name} must ascend and end at {length}, the number of values;"
            f" it ends at {ends.ravel()[-1] if ends.size else 'nothing'}. The file is damaged or the index is of"
            " another array."
        )
    return ends.astype(int)


def _constants(single: dict[str, Any]) -> dict[str, Any]:
    """Return what is true of all units and no property of the arrays, such as the species."""
    return {name: value for name, value in single.items() if not name.endswith(("_hz", "_index", "_ms"))}


def read_csv(path: Path, vectors: tuple[str, ...], unit_id: str) -> UnitsFile:
    """Read a table of text whose vectors are numbered columns (`waveform_0`, `waveform_1`, ...); ids stay text."""
    try:
        dialect = text_dialect(path)
    except (OSError, EOFError, ValueError) as error:
        raise UnitsRefused(f"{path}: expected a CSV table, found one that cannot be read: {error}.") from None
    _check_names(path, list(dialect.header))
    try:
        table = pd.read_csv(path, **dialect.pandas, names=list(dialect.header), dtype={unit_id: str})
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except (OSError, EOFError, ValueError) as error:
        raise UnitsRefused(f"{path}: expected a CSV table, found one that cannot be read: {error}.") from None
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
        if name == spike_times:
            times = _lists_of_numbers(path, name, stored[name])
        elif name in vectors:
            rows = [None if row is None else np.asarray(row, dtype=object) for row in stored[name].to_pylist()]
            matrices[name] = _matrix(path, name, rows)
    index = [name for name in stored.column_names if name.startswith("__index_level_")]
    try:
        table = stored.drop_columns([*lists, *index]).to_pandas(ignore_metadata=True)
    except UnicodeDecodeError as error:
        raise UnitsRefused(
            f"{path}: expected text in UTF-8, found other bytes ({error}). The file is damaged."
        ) from error
    if len(index) == 1 and "unit_id" not in table:
        table["unit_id"] = stored[index[0]].to_pandas().to_numpy()
    file = _numbered(path, table, matrices, vectors)
    file.spike_times = times
    return file


def _lists_of_numbers(path: Path, name: str, column: pa.ChunkedArray) -> list[np.ndarray]:
    """Return one array per row, of the type in which it was stored; missing numbers are NaN."""
    kind = column.type.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UnitsRefused(f"{path}: expected numbers in {name}, found {kind}.")
    return [np.zeros(0) if row is None else row for row in column.to_numpy(zero_copy_only=False)]


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
            f" {lengths[-1]}. Cut them alike around the main deflection, or give files of different length or"
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
        places = {int(match[1]): column for column in table if (match := pattern.fullmatch(str(column)))}
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


def read_nwb(path: Path, waveform: str, spike_times: str, axes: str | None) -> UnitsFile:
    """Read the units table: spike times, mean waveforms, and each column of one value per unit.

    Of waveforms on several channels the one with the largest amplitude (peak to peak) is taken; waveforms of single
    spikes are averaged first. The session and the subject become columns `session_id` and `subject`. The rate is the
    one that the file states.

    Raises
    ------
    UnitsRefused
        If the file is no NWB file or has no units table.
    """
    from pynwb import NWBHDF5IO

    with ExitStack() as stack:
        try:
            nwb = stack.enter_context(NWBHDF5IO(str(path), "r")).read()
            return _read_units_table(path, nwb, waveform, spike_times, axes)
        except UnitsRefused:
            raise
        except Exception as error:  # noqa: BLE001 - pynwb raises whatever it stumbles over in a damaged file
            raise UnitsRefused(
                f"{path}: expected an NWB file with a units table, found one that pynwb cannot read ({error})."
            ) from None


def _read_units_table(path: Path, nwb: Any, waveform: str, spike_times: str, axes: str | None) -> UnitsFile:
    units = nwb.units
    if units is None:
        raise UnitsRefused(
            f"{path}: expected a units table (spike-sorted units), found none. Sort the spikes first, or give"
            " the file that holds the sorting."
        )
    n_units = len(units.id)
    columns: dict[str, Any] = {"unit_id": np.asarray(units.id[:])}
    unlike = {name: len(units[name]) for name in units.colnames if len(units[name]) != n_units}
    if unlike:
        raise UnitsRefused(
            f"{path}: the units table has {n_units} ids, but {', '.join(f'{n} {name}' for name, n in unlike.items())}."
            " It is damaged, or was put together of several tables. Write it again with one row per unit."
        )
    file = UnitsFile(path, {}, pd.DataFrame())
    if units.waveform_rate is not None:
        file.single["waveform_rate_hz"] = float(units.waveform_rate)
    for name in units.colnames:
        column = units[name]
        ragged = hasattr(column, "target")
        if name == spike_times and ragged and not hasattr(column.target, "target"):
            file.spike_times = cut(path, column_values(column.target.data), column_values(column.data))
        elif name == waveform:
            file.matrices[name], notes = _mean_waveforms(path, units, name, axes)
            file.notes += notes
        elif not ragged and name not in ("electrode_group", "electrodes", "waveform_sd"):
            data = column_values(column.data)
            if data.ndim == 1:
                columns[name] = [value.decode() if isinstance(value, bytes) else value for value in data]
            elif data.ndim == 2:
                file.matrices[name] = data
    if waveform not in file.matrices and "waveforms" in units.colnames:
        file.notes.append(
            f"{path.name}: waveforms of single spikes are not used; to take their mean, say waveform: waveforms in the"
            " layout."
        )
    file.columns = pd.DataFrame(columns, index=range(n_units))
    file.columns["session_id"] = nwb.session_id or nwb.identifier
    if nwb.subject is not None and nwb.subject.subject_id:
        file.columns["subject"] = nwb.subject.subject_id
    return file


def _mean_waveforms(path: Path, units: Any, name: str, axes: str | None) -> tuple[np.ndarray, list[str]]:
    """Return the mean waveform (units, samples) of each unit on its largest channel, NaN where it has none, and notes.

    What lies below the units is told by the number of indices and the name: rows of `waveforms`, which NWB keeps for
    single spikes, are spikes, and with two indices channels of spikes; rows of any other column are channels.
    """
    column, ends = units[name], []
    while hasattr(column, "target"):
        column, rows = column.target, column_values(column.data)
        ends.append(checked_ends(path, f"column {name}", rows, len(column)))
    values = column.data
    of_spikes = len(ends) == 2 or (name == "waveforms" and len(ends) == 1)
    if len(ends) > 2 or not (2 if of_spikes or not ends else 1) <= values.ndim <= 3:
        raise UnitsRefused(
            f"{path}: expected {name} of one waveform per unit, channel or spike, found {len(ends)} indices to values"
            f" of {values.ndim} dimensions. Give the mean waveform of each unit."
        )
    notes, usual = [], "samples, channels"
    if not ends:
        per_unit = list(column_values(values).astype(float))
    elif not of_spikes:
        per_unit = [np.asarray(rows, dtype=float) for rows in np.split(column_values(values), ends[0][:-1])]
        usual = "channels, samples"
    else:
        per_unit = _means_over_spikes(path, name, values, ends)
        usual = "channels, samples" if len(ends) == 2 else usual
        notes.append(f"{path.name}, {name}: waveforms of single spikes were averaged.")
    shapes = {unit.shape for unit in per_unit if unit.size}
    if len(shapes) == 1 and len(shape := next(iter(shapes))) == 2:
        filled = np.array([unit if unit.size else np.full(shape, np.nan) for unit in per_unit])
        electrodes = units["electrodes"] if "electrodes" in units.colnames else None
        counts = None if electrodes is None or not hasattr(electrodes, "target") else column_values(electrodes.data)
        n_electrodes = None if counts is None else np.diff(counts.astype(int), prepend=0)
        largest, more = largest_channels(filled, axes, n_electrodes, usual, f"{path.name}, {name}")
        return largest, notes + more
    turned = (axes or usual) == "samples, channels"
    one = [_largest(unit.T if turned and unit.ndim == 2 else np.atleast_2d(unit)) for unit in per_unit]
    return _matrix(path, name, one), notes


def _largest(channels: np.ndarray) -> np.ndarray | None:
    """Return the channel of largest amplitude of one unit's (channels, samples); None without channels."""
    if not channels.size:
        return None
    size = np.where(np.isfinite(channels).all(axis=1), np.ptp(np.nan_to_num(channels), axis=1), -1)
    return channels[int(size.argmax())]


SPIKES_AT_ONCE = 2_000


def _means_over_spikes(path: Path, name: str, values: Any, ends: list[np.ndarray]) -> list[np.ndarray]:
    """Return the mean of each unit's spikes: of rows of `values`, or with two indices of as many rows per spike."""
    last_row = ends[1] if len(ends) == 2 else np.arange(1, len(values) + 1)
    first_row = np.concatenate([[0], last_row[:-1]])
    means, first = [], 0
    for last in ends[0]:
        rows_per_spike = np.unique(last_row[first:last] - first_row[first:last])
        if len(rows_per_spike) > 1:
            raise UnitsRefused(
                f"{path}: expected {name} on the same channels for all spikes of a unit, found {rows_per_spike[0]} to"
                f" {rows_per_spike[-1]} channels. Give the mean waveform of each unit."
            )
        total: Any = 0.0
        for start in range(first, last, SPIKES_AT_ONCE):
            stop = min(start + SPIKES_AT_ONCE, last)
            rows = np.asarray(values[first_row[start] : last_row[stop - 1]], dtype=float)
            total = total + rows.reshape(stop - start, int(rows_per_spike[0]), *rows.shape[1:]).sum(axis=0)
        mean = total / (last - first) if last > first and rows_per_spike[0] else np.zeros(0)
        means.append(mean[0] if len(ends) == 1 and len(mean) else mean)
        first = last
    return means


Converted = tuple[np.ndarray, np.ndarray, list[str]]


def convert(file: UnitsFile, unit_ids: np.ndarray, layout: UnitLayout) -> Units:
    """Bring the units of a file to the common form.

    Interval histograms and autocorrelograms are taken as they are where the file has them, and made from
    spike times where it has not.

    Raises
    ------
    UnitsRefused
        If there is no modality, a named one is absent, or one cannot be converted.
    """
    n = len(unit_ids)
    values = {name: np.zeros((n, POINTS[name]), dtype=np.float32) for name in MODALITIES}
    present = np.zeros((n, len(MODALITIES)), dtype=bool)
    tables, notes = _tables(file, layout), list(file.notes)
    times = file.spike_times or []
    made = [name for name in ("isi", "acg") if times and name not in tables and name not in layout.without]
    if made:
        notes += check_spike_times(times, list(unit_ids), file.path.name)
    if not tables and not made:
        raise UnitsRefused(
            f"{file.path}: found no modality of a unit. Expected at least one of waveform, isi, acg (several"
            f" values per unit) or spike_times; there are {_all_names(file)}. Say in the layout what they are"
            " called, such as {waveform: mean_waveform}."
        )
    waveforms: Waveforms | None = None
    converted: dict[str, Converted] = {}
    names = {name: f"{file.path.name}, {getattr(layout, name) or name}" for name in MODALITIES}
    if "waveform" in tables:
        refuse_turned(tables["waveform"], names["waveform"])
    for modality, table in tables.items():
        tested = without_self_pairs(table, layout.acg_one_sided) if modality == "acg" else table
        refuse_row_numbers(tested, names[modality])
    if "waveform" in tables:
        rate_hz, peak = _rate_and_peak(file, layout, notes)
        waveforms = read_waveforms(tables["waveform"], rate_hz, peak, names["waveform"])
        converted["waveform"] = common_form(waveforms), waveforms.present, list(waveforms.notes)
    if "isi" in tables:
        _refuse_disguised_log_bins(file, tables["isi"], layout, names["isi"])
        bin_ms = _bin_ms(file, layout, "isi_bin_ms") if layout.isi_scale == "linear" else None
        converted["isi"] = common_isi(tables["isi"], layout, bin_ms, names["isi"], unit_ids)
    elif "isi" in made:
        converted["isi"] = common_isi(interval_shares(times), UnitLayout(isi_values="shares"), 1.0, names["isi"])
    if "acg" in tables:
        bin_ms = _bin_ms(file, layout, "acg_bin_ms")
        converted["acg"] = common_acg(tables["acg"], bin_ms, names["acg"], one_sided=layout.acg_one_sided)
    elif "acg" in made:
        converted["acg"] = common_acg(autocorrelogram_counts(times), 1.0, names["acg"])
    for modality, (rows, has, more) in converted.items():
        values[modality] = rows
        present[:, MODALITIES.index(modality)] = has
        notes += more
        if not has.all():
            notes.append(
                f"{names[modality]}: missing in {int((~has).sum())} of {n} units (not finite, constant or empty)."
            )
    nothing = ~present.any(axis=1)
    if nothing.all():
        raise UnitsRefused(
            f"{file.path}: nothing of the {n} units can be used: {' '.join(notes)} Give their waveforms or spike times."
        )
    if nothing.any():
        notes.append(
            f"{file.path.name}: nothing was measured of {int(nothing.sum())} of {n} units, such as"
            f" {unit_ids[nothing][0]}, so they get no class."
        )
    hand = hand_features(waveforms, values["isi"], values["acg"], present)
    if waveforms is not None:
        half_widths_ms = hand[:, HAND_FEATURES.index("half_width_ms")]
        notes += check_half_widths(half_widths_ms, waveforms.rate_hz, names["waveform"])
    return Units(
        unit_ids=unit_ids,
        waveform=values["waveform"],
        isi=values["isi"],
        acg=values["acg"],
        present=present,
        hand=hand,
        obs=file.columns.set_index(pd.Index(unit_ids)),
        notes=tuple(notes),
    )


def _tables(file: UnitsFile, layout: UnitLayout) -> dict[str, np.ndarray]:
    """Return the table of each modality that the file has and the layout does not leave out."""
    tables = {}
    for modality in MODALITIES:
        name = getattr(layout, modality)
        if modality in layout.without:
            continue
        if name is not None and name not in file.matrices:
            raise UnitsRefused(
                f"{file.path}: expected an array of several values per unit called {name!r} for the"
                f" {modality}, found none{did_you_mean(name, file.matrices)}. There are {_all_names(file)}."
            )
        if (name or modality) in file.matrices:
            table = file.matrices[name or modality]
            if table.dtype.kind not in "fiub":
                raise UnitsRefused(f"{file.path}: expected numbers in {name or modality}, found {table.dtype}.")
            tables[modality] = table.astype(float)
    return tables


def _all_names(file: UnitsFile) -> str:
    several = ", ".join(file.matrices) or "nothing"
    single = ", ".join(map(str, file.columns)) or "nothing"
    return f"{several} (several values per unit) and {single} (one value)"


def property_of(file: UnitsFile, layout: UnitLayout, name: str) -> float | None:
    """Return a property of the arrays: of the layout, else a single value or a column of the file.

    Raises
    ------
    UnitsRefused
        If the units of the file differ in it, or it is no number above 0.
    """
    stated = getattr(layout, name)
    if stated is not None:
        return stated
    value = file.single.get(name)
    if value is None and name in file.columns:
        different = file.columns[name].dropna().unique()
        if len(different) > 1:
            raise UnitsRefused(
                f"{file.path}: expected one {name} for all units, found {len(different)} (such as"
                f" {different[0]} and {different[1]}). Give the units of each as a file of its own."
            )
        value = different[0] if len(different) else None
    if value is None:
        return None
    if not isinstance(value, int | float | np.number) or not value > 0:
        raise UnitsRefused(f"{file.path}: expected a number above 0 as {name}, found {value!r}.")
    return float(value)


BIN_WIDTHS_MS = (0.01, 50.0)


def _bin_ms(file: UnitsFile, layout: UnitLayout, name: str) -> float | None:
    width_ms = property_of(file, layout, name)
    if width_ms is not None and not BIN_WIDTHS_MS[0] <= width_ms <= BIN_WIDTHS_MS[1]:
        in_s = f" If it is in s, give {1000 * width_ms:g}." if width_ms < BIN_WIDTHS_MS[0] else ""
        raise UnitsRefused(
            f"{file.path}: expected the width of bins in ms as {name} ({BIN_WIDTHS_MS[0]:g} to {BIN_WIDTHS_MS[1]:g}),"
            f" found {width_ms:g}.{in_s}"
        )
    return width_ms


def _rate_and_peak(file: UnitsFile, layout: UnitLayout, notes: list[str]) -> tuple[float, int | None]:
    rate_hz, peak = (property_of(file, layout, f"waveform_{name}") for name in ("rate_hz", "peak_index"))
    if rate_hz is None:
        raise UnitsRefused(
            f"{file.path}: the sampling rate of the waveforms is unknown; expected it in the layout, such as"
            " {waveform_rate_hz: 30000}, or as a single value waveform_rate_hz in the file. A wrong rate"
            " stretches all spikes, so none is guessed. To go without, give {without: [waveform]}."
        )
    own = property_of(file, layout.model_copy(update={"waveform_rate_hz": None}), "waveform_rate_hz")
    if own is not None and abs(own / rate_hz - 1) > 0.01:
        notes.append(
            f"{file.path.name}: the file states waveforms at {own:g} Hz, the layout {rate_hz:g} Hz, which is used. If"
            " the file is right, take waveform_rate_hz out of the layout."
        )
    return float(rate_hz), None if peak is None else int(peak)


def _refuse_disguised_log_bins(file: UnitsFile, isi: np.ndarray, layout: UnitLayout, name: str) -> None:
    """Refuse linear bins where another array of the file shows that they are the same, logarithmic ones."""
    if layout.isi_scale != "linear":
        return
    totals = isi.sum(axis=1, keepdims=True)
    for other, values in file.matrices.items():
        if "log" not in other.lower() or values.shape != isi.shape:
            continue
        total = values.sum(axis=1, keepdims=True)
        usable = (totals[:, 0] > 0) & (total[:, 0] > 0)
        if usable.any() and np.allclose((isi / totals)[usable], (values / total)[usable], atol=1e-5):
            raise UnitsRefused(
                f"{name}: expected linear bins, found the values of {other!r} divided by their sum, so the"
                " bins are logarithmic. Say so in the layout: isi_scale: log10 with isi_log10_range_s, and"
                " isi_values: density or shares."
            )


FILES = f".npz, .parquet, .nwb, {CELLEXPLORER}, or of text .csv, .tsv or .txt (also .gz)"


def open_units(paths: str | Path | Sequence[str | Path], layout: Mapping[str, Any] | None = None) -> Units:
    """Open one or several files as one set of units.

    Parameters
    ----------
    paths
        npz, Parquet, CSV, TSV or NWB files, files of CellExplorer, or folders of Kilosort, phy or SpikeInterface.
        Ids that several files share get the file's name in front; columns that only some files have are empty for
        the others.
    layout
        Names and properties of the arrays, as plain JSON; see `UnitLayout`. It holds for all of the files.

    Raises
    ------
    UnitsRefused
        If a file or the layout cannot be used; the message says what was expected, what was found and what
        to do.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    if not paths:
        raise UnitsRefused("No file of units was given. Give at least one npz, Parquet, CSV or NWB file.")
    parsed = read_unit_layout(layout)
    places = local_files(paths)
    if len(set(places)) < len(places):
        raise UnitsRefused("A file of units was given twice. Give each file once.")
    files = [_read_file(path, parsed) for path in places]
    ids, notes = _distinct([_unit_ids(file, parsed) for file in files], [file.path for file in files])
    for file in files:
        if FILE_COLUMN not in file.columns:
            file.columns[FILE_COLUMN] = file.path.name
        if parsed.technology is not None:
            known = parsed.technology in file.columns
            file.columns["technology"] = file.columns[parsed.technology] if known else parsed.technology
    kept, more = _kept_units(files, parsed)
    notes += more
    used = [(file, file_ids, rows) for file, file_ids, rows in zip(files, ids, kept, strict=True) if rows.any()]
    units = joined([convert(_only(file, rows), file_ids[rows], parsed) for file, file_ids, rows in used])
    copies = _copies(units, [int(rows.sum()) for _, _, rows in used], [file.path for file, _, _ in used])
    return replace(units, notes=tuple(told_once([*notes, *units.notes, *copies])))


def as_units(
    units: Units | str | Path | Sequence[Units | str | Path], layout: Mapping[str, Any] | None = None
) -> Units:
    """Return units in memory as they are, and open files; of a list of both, one set.

    Raises
    ------
    UnitsRefused
        See `open_units`, and `neurofleet.learners.units.units.joined` for several sets.
    """
    if isinstance(units, Units):
        return units
    if isinstance(units, str | Path):
        return open_units(units, layout)
    refuse_other_data(units, Units, "units")
    sets = [item for item in units if isinstance(item, Units)]
    files = [item for item in units if not isinstance(item, Units)]
    return joined([*sets, *([open_units(files, layout)] if files or not sets else [])])


def _read_file(path: Path, layout: UnitLayout) -> UnitsFile:
    if not path.exists():
        raise UnitsRefused(f"{path}: no such file or folder. Give an npz, Parquet, CSV or NWB file of units.")
    if path.is_file() and path.stat().st_size == 0:
        raise UnitsRefused(f"{path}: the file is empty. It may be only partly copied.")
    times = layout.spike_times or "spike_times"
    vectors = tuple(getattr(layout, name) or name for name in ("waveform", "isi", "acg"))
    if path.is_dir():
        file = read_sorter_folder(path, layout)
    elif path.name.endswith(CELLEXPLORER):
        file = read_cellinfo(path)
    elif path.suffix == ".npz":
        file = read_npz(path, times, layout.waveform or "waveform", layout.waveform_axes)
    elif path.name.lower().endswith(TEXT_ENDINGS):
        file = read_csv(path, vectors, layout.unit_id or "unit_id")
    elif path.suffix == ".parquet":
        file = read_parquet(path, vectors, times)
    elif path.suffix == ".nwb":
        file = read_nwb(path, layout.waveform or "waveform_mean", times, layout.waveform_axes)
        if layout.waveform is None and "waveform_mean" in file.matrices:
            file.matrices["waveform"] = file.matrices.pop("waveform_mean")
    else:
        raise UnitsRefused(
            f"{path}: expected a file that ends in {FILES}, or {FOLDERS}; found {path.suffix or 'no ending'!r}."
        )
    if len(file.columns) == 0:
        raise UnitsRefused(f"{path}: found no unit in it.")
    if layout.spike_times_per_s is not None and file.spike_times is not None and not path.is_dir():
        file.spike_times = [unit_times / layout.spike_times_per_s for unit_times in file.spike_times]
    return file


def _unit_ids(file: UnitsFile, layout: UnitLayout) -> np.ndarray:
    """Return the file's ids, or numbers where it has none; the column of ids leaves the other columns."""
    name = layout.unit_id or "unit_id"
    if name not in file.columns:
        if layout.unit_id is not None:
            raise UnitsRefused(
                f"{file.path}: no column is called {name!r}{did_you_mean(name, file.columns.columns)}. There are:"
                f" {', '.join(map(str, file.columns.columns)) or 'none'}."
            )
        return np.asarray([f"{file.path.stem}:{number}" for number in range(len(file.columns))])
    ids = as_text(file.columns.pop(name))
    if (ids == "").any():
        raise UnitsRefused(f"{file.path}: {int((ids == '').sum())} units have no id in {name}. Name them all.")
    doubled = pd.Index(ids).duplicated()
    if doubled.any():
        raise UnitsRefused(
            f"{file.path}: expected an id of its own for each unit, found {int(doubled.sum())} repeated in"
            f" {name}, such as {', '.join(dict.fromkeys(ids[doubled][:5]))}. Remove the copies, or give the"
            " recordings as files of their own."
        )
    return ids


def _distinct(ids: list[np.ndarray], paths: list[Path]) -> tuple[list[np.ndarray], list[str]]:
    if not pd.Index(np.concatenate(ids)).has_duplicates:
        return ids, []
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, 1)]
    note = f"Files share unit ids, so all ids have the file's name in front ({names[0]}:...)."
    return [
        np.asarray([f"{name}:{unit_id}" for unit_id in file_ids]) for name, file_ids in zip(names, ids, strict=True)
    ], [note]


def _only(file: UnitsFile, kept: np.ndarray) -> UnitsFile:
    times = file.spike_times
    return replace(
        file,
        matrices={name: values[kept] for name, values in file.matrices.items()},
        columns=file.columns[kept],
        spike_times=None if times is None else [times[row] for row in np.flatnonzero(kept)],
    )


def _kept_units(files: list[UnitsFile], layout: UnitLayout) -> tuple[list[np.ndarray], list[str]]:
    """Return which units of each file stay after the rules of quality and of `keep` and `drop`, with"
    " notes."""
    kept, notes = [], []
    for file in files:
        rows = np.ones(len(file.columns), dtype=bool)
        if layout.quality is not None:
            if file.spike_times is not None and "n_spikes" not in file.columns:
                file.columns["n_spikes"] = [len(times) for times in file.spike_times]
            rows, more = good_units(file.columns, layout.quality, file.path.name)
            notes += more
        kept.append(rows)
    obs = pd.concat([file.columns for file in files])
    chosen = np.concatenate(kept)
    for rule, columns in (("keep", layout.keep), ("drop", layout.drop)):
        for name, chosen_values in columns.items():
            chosen &= _having(obs, name, chosen_values, rule) == (rule == "keep")
            told_values = ", ".join(map(str, chosen_values))
            if not chosen.any():
                raise UnitsRefused(f"{rule}: no unit is left after {name} {told_values}. Loosen the rules.")
            notes.append(f"{rule} {name} {told_values}: {int(chosen.sum())} of {len(chosen)} units stay.")
    return np.split(chosen, np.cumsum([len(rows) for rows in kept])[:-1]), notes


def _having(obs: pd.DataFrame, name: str, chosen: Sequence[Any], rule: str) -> np.ndarray:
    """Return which units have one of the values, each of which must occur."""
    if name not in obs:
        raise UnitsRefused(
            f"{rule}: no column is called {name!r}{did_you_mean(name, obs.columns)}. There are:"
            f" {', '.join(map(str, obs.columns))}."
        )
    values = as_text(obs[name])
    texts = as_text(pd.Series(list(chosen), dtype=object))
    for text in texts:
        if text not in values:
            known = [value for value in np.unique(values) if value]
            raise UnitsRefused(
                f"{rule}: no unit has {name} {str(text)!r}{did_you_mean(text, known)}. There are:"
                f" {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}."
            )
    return np.isin(values, texts)


def _copies(units: Units, sizes: Sequence[int], paths: Sequence[Path]) -> list[str]:
    """Refuse a file whose units are those of another, and note units that are copies.

    Parameters
    ----------
    sizes : sequence of int
        How many of the units are from each file.

    Raises
    ------
    UnitsRefused
        If at least half of the units of a file, and three, are in an earlier file too.
    """
    hashes = pd.Series(["".join(row) for row in row_hashes(units)], index=units.unit_ids)
    copies = hashes[hashes.duplicated() & (hashes != "")]
    if not len(copies):
        return []
    parts = np.split(hashes.to_numpy().astype(str), np.cumsum(sizes)[:-1])
    for number, part in enumerate(parts):
        for earlier in range(number):
            shared = int((np.isin(part, parts[earlier]) & (part != "")).sum())
            if shared >= max(3, len(part) / 2):
                raise UnitsRefused(
                    f"{paths[number]}: {shared} of its {len(part)} units are those of {paths[earlier]}: it is one"
                    " recording, given twice. Give it once."
                )
    return [
        f"{len(copies)} units are the same as others in all that was measured, such as {copies.index[0]}. Remove them"
        " from units that are trained on: one may be tested by the other."
    ]
