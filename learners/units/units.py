"""Spike-sorted units in one form, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.learners.array_files import as_text

MODALITIES = ("waveform", "isi", "acg")
FILE_COLUMN = "file"
"""Column of `obs` that says which file a unit came from, unless the files have such a column."""

POINTS = {"waveform": 50, "isi": 100, "acg": 100}


class UnitsRefused(LearnerError):
    """Units, a layout or labels that cannot be used."""

    exit_code = 2


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
    notes : list of str
        What was found out while it was read.
    """

    path: Path
    matrices: dict[str, np.ndarray]
    columns: pd.DataFrame
    single: dict[str, Any] = field(default_factory=dict)
    spike_times: list[np.ndarray] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Units:
    """Spike-sorted units: what is known of each, and what not.

    Attributes
    ----------
    unit_ids : (n,) str array
        Distinct names.
    waveform : (n, 50) float32 array
        Mean spike from 1.0 ms before to 1.45 ms after its main deflection, at 20 kHz, in the file's unit of
        amplitude; zeros where missing.
    isi : (n, 100) float32 array
        Share of the intervals between spikes in bins of 1 ms, 0 to 100 ms; zeros where missing.
    acg : (n, 100) float32 array
        Autocorrelogram from -100 to 100 ms in bins of 2 ms, relative to its own mean, since files hold
        counts, rates or shares of the peak; zeros where missing.
    present : (n, 3) bool array
        Whether a unit has each of the `MODALITIES`.
    hand : (n, 43) float32 array
        The `HAND_FEATURES` of `hand_features`; NaN where their modality is missing.
    obs : DataFrame
        Every other column of the files (labels, animal, session ...), by unit id.
    notes : tuple of str
        What a reader should know: conversions, assumptions, units left out.
    """

    unit_ids: np.ndarray
    waveform: np.ndarray
    isi: np.ndarray
    acg: np.ndarray
    present: np.ndarray
    hand: np.ndarray
    obs: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.unit_ids)

    def take(self, rows: np.ndarray | Sequence[int]) -> Units:
        """Return some units, by row number or as a mask, with the same notes."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        arrays = {name: getattr(self, name)[rows] for name in ("unit_ids", *MODALITIES, "present", "hand")}
        return replace(self, obs=self.obs.iloc[rows], **arrays)

    def column(self, name: str) -> np.ndarray:
        """Return a column of `obs` as text, "" where a unit has no value.

        Raises
        ------
        UnitsRefused
            If there is no such column; with the nearest name.
        """
        if name not in self.obs:
            raise UnitsRefused(
                f"No column of the units is called {name!r}{did_you_mean(name, self.obs.columns)}. There are:"
                f" {', '.join(map(str, self.obs.columns)) or 'none'}."
            )
        return as_text(self.obs[name])


def joined(units: Sequence[Units]) -> Units:
    """Return the units of several sets as one, columns united, each note once.

    Raises
    ------
    UnitsRefused
        If there is no set, or a unit id is in two of them.
    """
    if not units:
        raise UnitsRefused("Expected at least one set of units to join, found none.")
    if len(units) == 1:
        return units[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in units])
        for name in ("unit_ids", *MODALITIES, "present", "hand")
    }
    doubled = pd.Index(arrays["unit_ids"]).duplicated()
    if doubled.any():
        raise UnitsRefused(
            f"{int(doubled.sum())} unit ids are in more than one set, such as"
            f" {', '.join(arrays['unit_ids'][doubled][:5])}. Open the files in one call, which puts the"
            " file's name in front, or rename the units."
        )
    return Units(
        **arrays,
        obs=pd.concat([part.obs for part in units]),
        notes=tuple(dict.fromkeys(note for part in units for note in part.notes)),
    )
