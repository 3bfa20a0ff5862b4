"""Open one or several files of spike-sorted units in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from learners.splits import nearest
from learners.units.conversion import convert
from learners.units.layout import Layout, read_layout
from learners.units.nwb import read_nwb
from learners.units.quality import good_units
from learners.units.reading import UnitsFile, read_npz
from learners.units.scaling import row_hashes
from learners.units.tables import read_csv, read_parquet
from learners.units.units import Units, UnitsRefused, as_text, joined

ENDINGS = (".npz", ".parquet", ".csv", ".nwb")
FILE_COLUMN = "file"
"""Column of `obs` that says which file a unit came from, unless the files have such a column."""


def open_units(paths: str | Path | Sequence[str | Path], layout: Mapping[str, Any] | None = None) -> Units:
    """Open one or several files as one set of units.

    Parameters
    ----------
    paths
        npz, Parquet, CSV or NWB files. Ids that several files share get the file's name in front; columns
        that only some files have are empty for the others.
    layout
        Names and properties of the arrays, as plain JSON; see `Layout`. It holds for all of the files.

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
    wanted = read_layout(layout)
    places = [Path(path) for path in paths]
    if len(set(places)) < len(places):
        raise UnitsRefused("A file of units was given twice. Give each file once.")
    files = [_read(path, wanted) for path in places]
    ids, notes = _distinct([_unit_ids(file, wanted) for file in files], [file.path for file in files])
    for file in files:
        if FILE_COLUMN not in file.columns:
            file.columns[FILE_COLUMN] = file.path.name
        if wanted.technology is not None:
            known = wanted.technology in file.columns
            file.columns["technology"] = file.columns[wanted.technology] if known else wanted.technology
    kept, told = _wanted_units(files, wanted)
    notes += told
    parts = [
        convert(_only(file, rows), own[rows], wanted)
        for file, own, rows in zip(files, ids, kept, strict=True)
        if rows.any()
    ]
    units = joined(parts)
    return replace(units, notes=(*notes, *units.notes, *_copies(units)))


def _read(path: Path, layout: Layout) -> UnitsFile:
    if not path.is_file():
        raise UnitsRefused(f"{path}: no such file. Give an npz, Parquet, CSV or NWB file of units.")
    if path.stat().st_size == 0:
        raise UnitsRefused(f"{path}: the file is empty. It may be only partly copied.")
    times = layout.spike_times or "spike_times"
    vectors = tuple(getattr(layout, name) or name for name in ("waveform", "isi", "acg"))
    if path.suffix == ".npz":
        file = read_npz(path, times)
    elif path.suffix == ".csv":
        file = read_csv(path, vectors, layout.unit_id or "unit_id")
    elif path.suffix == ".parquet":
        file = read_parquet(path, vectors, times)
    elif path.suffix == ".nwb":
        file = read_nwb(path, layout.waveform or "waveform_mean", times)
        if layout.waveform is None and "waveform_mean" in file.matrices:
            file.matrices["waveform"] = file.matrices.pop("waveform_mean")
    else:
        raise UnitsRefused(
            f"{path}: expected a file that ends in {', '.join(ENDINGS)}, found"
            f" {path.suffix or 'no ending'!r}."
        )
    if len(file.columns) == 0:
        raise UnitsRefused(f"{path}: found no unit in it; there is nothing to learn.")
    return file


def _unit_ids(file: UnitsFile, layout: Layout) -> np.ndarray:
    """Return the file's ids, or numbers where it has none; the column of ids leaves the other columns."""
    name = layout.unit_id or "unit_id"
    if name not in file.columns:
        if layout.unit_id is not None:
            raise UnitsRefused(
                f"{file.path}: no column is called {name!r}{nearest(name, file.columns.columns)}. There are:"
                f" {', '.join(map(str, file.columns.columns)) or 'none'}."
            )
        return np.asarray([f"{file.path.stem}:{number}" for number in range(len(file.columns))])
    ids = as_text(file.columns.pop(name))
    if (ids == "").any():
        raise UnitsRefused(
            f"{file.path}: {int((ids == '').sum())} units have no id in {name}. Name them all."
        )
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
    return [np.asarray([f"{name}:{one}" for one in own]) for name, own in zip(names, ids, strict=True)], [
        note
    ]


def _only(file: UnitsFile, kept: np.ndarray) -> UnitsFile:
    times = file.spike_times
    return replace(
        file,
        matrices={name: values[kept] for name, values in file.matrices.items()},
        columns=file.columns[kept],
        spike_times=None if times is None else [times[row] for row in np.flatnonzero(kept)],
    )


def _wanted_units(files: list[UnitsFile], layout: Layout) -> tuple[list[np.ndarray], list[str]]:
    """Return which units of each file stay after the rules of quality and of `keep` and `drop`, with"
    " notes."""
    kept, notes = [], []
    for file in files:
        rows = np.ones(len(file.columns), dtype=bool)
        if layout.quality is not None:
            if file.spike_times is not None and "n_spikes" not in file.columns:
                file.columns["n_spikes"] = [len(times) for times in file.spike_times]
            rows, told = good_units(file.columns, layout.quality, file.path.name)
            notes += told
        kept.append(rows)
    obs = pd.concat([file.columns for file in files])
    chosen = np.concatenate(kept)
    for rule, columns in (("keep", layout.keep), ("drop", layout.drop)):
        for name, wanted in columns.items():
            chosen &= _having(obs, name, wanted, rule) == (rule == "keep")
            told_values = ", ".join(map(str, wanted))
            if not chosen.any():
                raise UnitsRefused(f"{rule}: no unit is left after {name} {told_values}. Loosen the rules.")
            notes.append(f"{rule} {name} {told_values}: {int(chosen.sum())} of {len(chosen)} units stay.")
    return np.split(chosen, np.cumsum([len(rows) for rows in kept])[:-1]), notes


def _having(obs: pd.DataFrame, name: str, wanted: Sequence[Any], rule: str) -> np.ndarray:
    """Return which units have one of the wanted values, each of which must occur."""
    if name not in obs:
        raise UnitsRefused(
            f"{rule}: no column is called {name!r}{nearest(name, obs.columns)}. There are:"
            f" {', '.join(map(str, obs.columns))}."
        )
    values = as_text(obs[name])
    texts = as_text(pd.Series(list(wanted), dtype=object))
    for text in texts:
        if text not in values:
            known = [value for value in np.unique(values) if value]
            raise UnitsRefused(
                f"{rule}: no unit has {name} {text!r}{nearest(text, known)}. There are:"
                f" {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}."
            )
    return np.isin(values, texts)


def _copies(units: Units) -> list[str]:
    hashes = pd.Series(["".join(row) for row in row_hashes(units)], index=units.unit_ids)
    copies = hashes[hashes.duplicated() & (hashes != "")]
    if not len(copies):
        return []
    return [
        f"{len(copies)} units are copies of others in all that was measured, such as {copies.index[0]}; a"
        " random split may train on one and test on the other."
    ]
