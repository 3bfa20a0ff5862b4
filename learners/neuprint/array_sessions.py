"""Read sessions whose arrays have names: npz and npy files, folders of suite2p, results of CaImAn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.sparse import csc_array

from neurofleet.errors import did_you_mean
from neurofleet.learners.array_files import UnreadableArray, as_text, h5_values, npy_array, npz_arrays
from neurofleet.learners.neuprint.population_recordings import RecordingsRefused
from neurofleet.learners.neuprint.raw_session import Channel, RawSession
from neurofleet.learners.neuprint.recording_layout import RecordingLayout

USUAL = {
    "activity": "activity",
    "rate_hz": "rate_hz",
    "frame_times": "frame_times",
    "animal": "animal",
    "session": "session",
    "neuron_ids": "neuron_ids",
    "positions": "positions_um",
}
NEUROPIL_SHARE = 0.7
"""What suite2p subtracts unless told otherwise."""

CAIMAN_RATE_HZ = 30.0
"""The rate that CaImAn assumes where nobody told it one."""


def read_npz(path: Path, layout: RecordingLayout) -> RawSession:
    """Read one session; nothing that needs pickle is loaded.

    Raises
    ------
    RecordingsRefused
        If the file cannot be read, or lacks an array that the layout names.
    """
    try:
        arrays = _Arrays(path, npz_arrays(path))
    except (OSError, UnreadableArray) as error:
        raise RecordingsRefused(
            f"{path}: cannot be read as npz without pickle: {error}. Save plain arrays with numpy.savez."
        ) from error
    activity = arrays.required(layout.activity or USUAL["activity"], "activity")
    session = _session(arrays, layout, activity, path.stem)
    rest = sorted(set(arrays.arrays) - arrays.used)
    notes = (f"{path.name}: not used: {', '.join(rest)}.",) if rest else ()
    return replace(session, notes=notes)


def read_npy(path: Path, layout: RecordingLayout) -> RawSession:
    """Read one session whose activity is one npy file; whatever else the layout names lies beside it, one file each.

    Raises
    ------
    RecordingsRefused
        If a file cannot be read, or is not there.
    """
    return _session(_Arrays(path.parent, _NpyFolder(path.parent)), layout, npy(path), path.stem)


def suite2p_planes(path: Path) -> dict[str, Path]:
    """Return the planes of a folder of suite2p, of the folder around it, or of one plane, by name."""
    if (path / "F.npy").is_file():
        return {path.name: path}
    folders = [*path.glob("plane*/F.npy"), *path.glob("combined/F.npy"), *path.glob("suite2p/*/F.npy")]
    return {file.parent.name: file.parent for file in sorted(folders)}


def read_suite2p(path: Path, layout: RecordingLayout) -> RawSession:
    """Read one plane of a folder of suite2p: fluorescence minus neuropil of the regions that are cells.

    What suite2p keeps as pickles (ops.npy, stat.npy) is never loaded, so that the frame rate comes from the layout.
    Whatever else the layout names is a file NAME.npy in the plane's folder, one value per region or per cell.

    Raises
    ------
    RecordingsRefused
        If a file cannot be read, there are several planes and none is named, or numbers do not agree.
    """
    path = Path(os.path.abspath(path))
    planes, notes = suite2p_planes(path), []
    if layout.plane is not None and layout.plane not in planes:
        raise RecordingsRefused(
            f"{path}: found no plane {layout.plane!r}{did_you_mean(layout.plane, planes)}. There are:"
            f" {', '.join(planes)}."
        )
    name = layout.plane or ("combined" if "combined" in planes else next(iter(planes)))
    if layout.plane is None and len(planes) > 1:
        if name != "combined":
            raise RecordingsRefused(
                f"{path}: expected one plane, found {', '.join(planes)}. Name one in the layout ('plane'), or let"
                " suite2p combine them."
            )
        notes.append(f"{path.name}: of the planes {', '.join(planes)}, combined is used.")
    folder = planes[name]
    arrays = _Arrays(folder, _NpyFolder(folder))
    activity, what = _suite2p_activity(arrays, layout.activity)
    is_cell = np.ones(len(activity), dtype=bool)
    if "iscell" in arrays.arrays:
        is_cell = arrays.required("iscell", "cells") > 0.5
    if activity.ndim != 2 or is_cell.shape != (len(activity),):
        raise RecordingsRefused(
            f"{folder}: expected {what} as regions x frames with a row for each of the {len(is_cell)} regions of"
            f" iscell.npy, found {activity.shape}. Copy the folder again, as suite2p wrote it."
        )
    notes.append(f"{folder.name}: activity is {what} of {int(is_cell.sum())} cells among {len(is_cell)} regions.")
    if layout.rate_hz is None and layout.frame_times is None and not {"rate_hz", "frame_times"} & set(arrays.arrays):
        raise RecordingsRefused(
            f"{folder}: the frame rate is not known: suite2p keeps it in ops.npy, a pickle, which can run any code and"
            " is not loaded. Give it in the layout, such as {rate_hz: 30} (fs of suite2p, for one plane), or times as"
            " frame_times."
        )
    holder = folder.parent if name == "combined" or name.startswith("plane") else folder
    holder = holder.parent if holder.name.startswith("suite2p") else holder
    session = f"{holder.parent.name}/{holder.name}"
    if len(planes) > 1:
        session = f"{session}/{name}"
    if layout.animal is None and "animal" not in arrays.arrays:
        notes.append(
            f"{folder.name}: no animal.npy, so the animal is called {session}, as its folders are. Of an animal with"
            " several folders, save its name in each: np.save('animal.npy', 'mouse1')."
        )
    read = _session(arrays, layout, activity[is_cell].T, session, is_cell)
    return replace(read, n_regions=int(is_cell.sum()), notes=tuple(notes))


def _suite2p_activity(arrays: _Arrays, name: str | None) -> tuple[np.ndarray, str]:
    if name is not None:
        return arrays.required(name, "activity"), f"{name}.npy"
    fluorescence = arrays.required("F", "activity")
    if "Fneu" not in arrays.arrays:
        return fluorescence, "F.npy"
    neuropil = arrays.required("Fneu", "the neuropil")
    if neuropil.shape != fluorescence.shape:
        raise RecordingsRefused(
            f"{arrays.path}: expected F.npy and Fneu.npy of one shape, found {fluorescence.shape} and {neuropil.shape}."
            " Copy the folder again, or say activity: F in the layout."
        )
    return fluorescence - NEUROPIL_SHARE * neuropil, f"F - {NEUROPIL_SHARE:g} Fneu"


def read_caiman(path: Path, layout: RecordingLayout) -> RawSession:
    """Read the results that CaImAn saved as HDF5: F_dff, else C, of the components that were accepted.

    Raises
    ------
    RecordingsRefused
        If the file holds no results of CaImAn, or is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays = _Arrays(path, _H5Estimates(file))
            if "C" not in arrays.arrays and "F_dff" not in arrays.arrays:
                raise RecordingsRefused(
                    f"{path}: expected the results of CaImAn (estimates/C or estimates/F_dff), found neither. Give the"
                    " file that cnm.save(...) wrote, or save the traces as npz."
                )
            return _caiman_session(path, arrays, layout)
    except (OSError, UnreadableArray, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise RecordingsRefused(f"{path}: cannot be read as HDF5 of CaImAn: {error}.") from error


def _caiman_session(path: Path, arrays: _Arrays, layout: RecordingLayout) -> RawSession:
    name = layout.activity or ("F_dff" if "F_dff" in arrays.arrays else "C")
    activity, notes = arrays.required(name, "activity"), []
    accepted = np.ones(len(activity), dtype=bool)
    if "idx_components" in arrays.arrays:
        chosen = arrays.required("idx_components", "components").astype(int).ravel()
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(activity):
            raise RecordingsRefused(
                f"{path}: idx_components names component {chosen.max()}, but {name} has {len(activity)}. The file is"
                " damaged."
            )
        accepted = np.isin(np.arange(len(activity)), chosen)
    notes.append(f"{path.name}: activity is {name} of {int(accepted.sum())} accepted among {len(activity)} components.")
    rate_hz = None
    if layout.rate_hz is None and layout.frame_times is None and "params/data/fr" in arrays.arrays:
        rate_hz = _number(path, arrays.required("params/data/fr", "rate_hz"))
        if rate_hz == CAIMAN_RATE_HZ:
            notes.append(f"{path.name}: 30 Hz is what CaImAn assumes when it is told no rate; if wrong, give rate_hz.")
    positions = None if layout.positions else _centres_um(arrays, accepted)
    session = _session(arrays, layout, activity[accepted].T, path.stem, accepted)
    return replace(
        session,
        rate_hz=session.rate_hz if rate_hz is None else rate_hz,
        positions_um=session.positions_um if positions is None else positions,
        n_regions=int(accepted.sum()),
        notes=tuple(notes),
    )


def _centres_um(arrays: _Arrays, accepted: np.ndarray) -> np.ndarray | None:
    """Return the centre of each accepted component, (n, 2), where the size of a pixel was given to CaImAn (dxy)."""
    needed = ("A/data", "A/indices", "A/indptr", "A/shape", "dims", "params/data/dxy")
    if any(name not in arrays.arrays for name in needed):
        return None
    data, indices, indptr, shape, dims, dxy = (arrays.required(name, "positions").ravel() for name in needed)
    if len(dims) != 2 or np.prod(dims) != shape[0] or shape[1] != len(accepted) or (np.resize(dxy, 2) == 1).all():
        return None  # a pixel of 1 um is what CaImAn assumes when it is told nothing
    weights = csc_array((data, indices, indptr), shape=tuple(int(length) for length in shape))
    pixels = np.arange(shape[0])
    rows_and_columns = np.column_stack([pixels % dims[0], pixels // dims[0]])
    total = np.asarray(weights.sum(axis=0)).ravel()
    sums = weights.T @ rows_and_columns
    centres = np.divide(sums, total[:, None], out=np.full(sums.shape, np.nan), where=total[:, None] > 0)
    return centres[accepted] * np.resize(dxy, 2)


def _session(
    arrays: _Arrays, layout: RecordingLayout, activity: np.ndarray, name: str, kept: np.ndarray | None = None
) -> RawSession:
    """Gather what the layout names; of arrays with a row for each region, the rows of the `kept` ones."""

    def per_neuron(values: np.ndarray | None) -> np.ndarray | None:
        return values[kept] if kept is not None and values is not None and len(values) == len(kept) else values

    rate = layout.rate_hz
    if not isinstance(rate, float):
        found = arrays.optional(rate, "rate_hz")
        rate = None if found is None else _number(arrays.path, found)
    animal, session = (_name(arrays.optional(getattr(layout, key), key), name) for key in ("animal", "session"))
    labels = {label: arrays.required(array, f"label {label!r}") for label, array in layout.labels.items()}
    behaviour = {}
    for channel, array in (layout.behaviour or {}).items():
        times = layout.behaviour_times.get(channel)
        behaviour[channel] = Channel(
            arrays.required(array, f"behaviour {channel!r}"),
            None if times is None else arrays.required(times, f"times of {channel!r}"),
        )
    strange = sorted(set(layout.behaviour_times) - set(behaviour))
    if strange:
        raise RecordingsRefused(
            f"Layout: 'behaviour_times' names {strange[0]!r}, which is not a channel of 'behaviour'"
            f"{did_you_mean(strange[0], behaviour)}."
        )
    ids = per_neuron(arrays.optional(layout.neuron_ids, "neuron_ids"))
    confidence = None if layout.confidence is None else arrays.required(layout.confidence, "confidence")
    return RawSession(
        where=str(arrays.path),
        animal=animal,
        session=session,
        activity=activity,
        frame_times_s=arrays.optional(layout.frame_times, "frame_times"),
        rate_hz=rate,
        neuron_ids=None if ids is None else as_text(ids.ravel()),
        own_ids=animal if animal == session else f"{animal}/{session}",
        labels={label: values for label, array in labels.items() if (values := per_neuron(array)) is not None},
        confidence=per_neuron(confidence),
        positions_um=per_neuron(arrays.optional(layout.positions, "positions")),
        behaviour=behaviour,
    )


class _Arrays:
    """The arrays of one session by name, and which of them were asked for."""

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        self.path, self.arrays, self.used = path, arrays, set[str]()

    def required(self, name: str, what: str) -> np.ndarray:
        if name not in self.arrays:
            raise RecordingsRefused(
                f"{self.path}: found no array {name!r} for {what}{did_you_mean(name, self.arrays)}. It has:"
                f" {', '.join(self.arrays) or 'nothing'}. Name the right one in the layout."
            )
        self.used.add(name)
        return self.arrays[name]

    def optional(self, name: str | None, key: str) -> np.ndarray | None:
        """Return the array of that name; where None is given, the usual one if the file has it."""
        if name is None:
            return self.required(USUAL[key], key) if USUAL[key] in self.arrays else None
        return self.required(name, key)


def npy(path: Path) -> np.ndarray:
    """Return the array of an npy file; nothing that needs pickle is loaded.

    Raises
    ------
    RecordingsRefused
        If there is none, or it cannot be read.
    """
    if not path.exists():
        raise RecordingsRefused(f"{path}: there is no such file. Fetch the session again, as a whole.")
    try:
        return npy_array(path)
    except (OSError, UnreadableArray) as error:
        raise RecordingsRefused(f"{path}: cannot be read as an array without pickle: {error}.") from error


class _NpyFolder(Mapping[str, np.ndarray]):
    """The npy files of a folder by name, read when they are asked for; those that suite2p pickles are left out."""

    def __init__(self, folder: Path) -> None:
        names = sorted(file.stem for file in folder.glob("*.npy"))
        self._folder, self._names = folder, [name for name in names if name not in ("ops", "stat")]

    def __getitem__(self, name: str) -> np.ndarray:
        values = npy(self._folder / f"{name}.npy")
        certain = name in ("redcell", "iscell") and values.ndim == 2 and values.shape[1] == 2
        return values[:, 0] if certain else values  # the second column is how probable the first is

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _H5Estimates(Mapping[str, np.ndarray]):
    """The datasets of a file of CaImAn: by name those of its estimates, any by its path."""

    def __init__(self, file: h5py.File) -> None:
        self._datasets: dict[str, h5py.Dataset] = {}
        file.visititems(self._add)  # follows no links to other files

    def _add(self, path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiubSOU" and item.shape is not None:
            text = item.shape == () and item.dtype.kind in "SO"  # CaImAn writes None as a word
            if not text:
                self._datasets[path.removeprefix("estimates/")] = item

    def __getitem__(self, name: str) -> np.ndarray:
        values = h5_values(self._datasets[name])
        return as_text(values.ravel()) if values.dtype.kind in "SO" else values

    def __contains__(self, name: object) -> bool:
        return name in self._datasets

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)


def _number(path: Path, value: np.ndarray) -> float:
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise RecordingsRefused(
            f"{path}: expected the frame rate as one number, found {value.dtype} of shape {value.shape}."
        )
    return float(value.item())


def _name(value: np.ndarray | None, otherwise: str) -> str:
    return otherwise if value is None or value.size != 1 else str(as_text(value.ravel())[0])
