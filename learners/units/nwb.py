"""Units of an NWB file."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from learners.units.reading import UnitsFile, cut
from learners.units.units import UnitsRefused


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
                f"{path}: expected an NWB file with a units table, found one that pynwb cannot read"
                f" ({error})."
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
            f"{path}: expected {name} of one length for all units, found {lengths[0]} to {lengths[-1]}"
            " samples."
        )
    width = lengths[0] if lengths else 0
    return np.array([np.full(width, np.nan) if one is None else one for one in best])
