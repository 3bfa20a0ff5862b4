"""Files of units as they are: arrays per unit, single values, spike times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from learners.units.units import UnitsRefused


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
        raise UnitsRefused(
            f"{path}: expected an npz file, found one that cannot be read ({error})."
        ) from None
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
