"""Open recordings of populations from files of any kind; read NWB files and the Bugeon et al. release."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.errors import did_you_mean
from neurofleet.input_paths import local_files
from neurofleet.learners.array_files import as_text, column_values, refuse_other_data
from neurofleet.learners.neuprint.array_sessions import (
    npy,
    read_caiman,
    read_npy,
    read_npz,
    read_suite2p,
    suite2p_planes,
)
from neurofleet.learners.neuprint.population_recordings import (
    ANIMAL,
    Recording,
    Recordings,
    RecordingsRefused,
    gathered,
)
from neurofleet.learners.neuprint.raw_session import Channel, RawSession, checked
from neurofleet.learners.neuprint.recording_layout import KEYS, RecordingLayout, read_recording_layout
from neurofleet.wording import told_once


def open_recordings(
    paths: str | Path | Sequence[str | Path],
    layout: Mapping[str, Any] | None = None,
    usual: Mapping[str, Any] | None = None,
) -> Recordings:
    """Open files and folders as one set of recordings.

    Parameters
    ----------
    paths
        npz and npy files (one session each), NWB files with optical physiology, folders of suite2p, results of
        CaImAn, or folders of the Bugeon et al. (2022) release: its root, a mouse, or a session.
    layout
        Plain names, see `neurofleet.learners.neuprint.recording_layout.RecordingLayout`.
    usual
        Keys of a layout that hold where `layout` does not say otherwise, for the kinds of files that know them.

    Raises
    ------
    RecordingsRefused
        If a path is missing or cannot be read, if the layout does not fit, or if what was read cannot be
        used; the message names the file.
    """
    places = local_files([paths] if isinstance(paths, str | Path) else paths)
    if not places:
        raise RecordingsRefused("No recording was given. Give at least one npz or NWB file, or a folder.")
    recordings, labels, notes = [], [], []
    for path in places:
        kind = _kind(path)
        names = read_recording_layout(
            {k: v for k, v in (usual or {}).items() if k in KEYS[kind]} | dict(layout or {}), kind
        )
        for session in _sessions(path, kind, names):
            recording, table, more = checked(session, names)
            recordings.append(recording)
            labels.append(table)
            notes += [note.replace(f"{path}: ", f"{path.name}: ", 1) for note in more]
    notes += _copies(recordings)
    return gathered(recordings, labels, told_once(notes))


def as_recordings(
    recordings: Recordings | str | Path | Sequence[Recordings | str | Path],
    layout: Mapping[str, Any] | None = None,
    usual: Mapping[str, Any] | None = None,
) -> Recordings:
    """Return recordings in memory as they are, and open files; of a list of both, one set.

    Raises
    ------
    RecordingsRefused
        See `open_recordings`; also if two of them are of the same animal and session.
    """
    if isinstance(recordings, Recordings):
        return recordings
    if isinstance(recordings, str | Path):
        return open_recordings(recordings, layout, usual)
    refuse_other_data(recordings, Recordings, "recordings")
    sets = [item for item in recordings if isinstance(item, Recordings)]
    files = [item for item in recordings if not isinstance(item, Recordings)]
    if files or not sets:
        sets.append(open_recordings(files, layout, usual))
    if len(sets) == 1:
        return sets[0]
    parts = [(part, item) for part in sets for item in part.recordings]
    copies = _copies([item for _, item in parts])
    tables = [part.neurons.loc[item.neuron_ids].drop(columns=ANIMAL) for part, item in parts]
    return gathered([item for _, item in parts], tables, [*(note for part in sets for note in part.notes), *copies])


READERS: dict[str, Callable[[Path, RecordingLayout], RawSession]] = {
    "npz": read_npz,
    "npy": read_npy,
    "suite2p": read_suite2p,
    "caiman": read_caiman,
}
ENDINGS = {".npz": "npz", ".npy": "npy", ".nwb": "nwb", ".hdf5": "caiman", ".h5": "caiman"}
KINDS = "an .npz, .npy or .nwb file, .hdf5 of CaImAn, a suite2p folder (planeN/F.npy) or a folder of the Bugeon release"


def _kind(path: Path) -> str:
    if not path.exists():
        raise RecordingsRefused(f"{path}: there is no such file or folder. Give {KINDS}.")
    if path.is_dir():
        if suite2p_planes(path):
            return "suite2p"
        if _bugeon_sessions(path):
            return "bugeon"
        raise RecordingsRefused(
            f"{path}: found neither a plane of suite2p (planeN/F.npy) nor a session of the Bugeon release (a folder"
            f" with {IDS}). Of the release, give its root, a mouse (SB025) or a session (SB025/2019-10-07); of npz and"
            " NWB files, give the files themselves."
        )
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        pickled = path.suffix.lower() in (".pkl", ".pickle", ".p")
        advice = " A pickle can run any code and is never loaded; save the arrays with numpy.savez." if pickled else ""
        raise RecordingsRefused(f"{path}: expected {KINDS}, found {path.suffix or 'no ending'}.{advice}")
    if kind == "npy" and path.name in ("F.npy", "spks.npy") and (path.parent / "iscell.npy").exists():
        raise RecordingsRefused(
            f"{path}: belongs to a suite2p folder. Give the folder, {path.parent}: it says which are cells."
        )
    return kind


def _sessions(path: Path, kind: str, layout: RecordingLayout) -> Iterator[RawSession]:
    if kind == "bugeon":
        yield from read_bugeon(path, layout)
    elif kind == "nwb":
        yield read_nwb(path, layout)
    else:
        yield READERS[kind](path, layout)


COMPARED_FRAMES = 5_000


def _copies(recordings: Sequence[Recording]) -> list[str]:
    """Refuse recordings that are given twice, under one name or two, and note neurons that are copies of others.

    Raises
    ------
    RecordingsRefused
        If two recordings have the same animal and session, or half of the neurons of one are in another too.
    """
    twice = _first_repeated([f"{recording.animal} {recording.session}" for recording in recordings])
    if twice is not None:
        raise RecordingsRefused(
            f"Two recordings are both of animal and session {twice}. Give each path once, and files of"
            " different sessions different names."
        )
    seen: dict[bytes, Recording] = {}
    notes = []
    for recording in recordings:
        part = np.ascontiguousarray(recording.activity[:COMPARED_FRAMES].T)
        traces = [hashlib.blake2b(trace.tobytes(), digest_size=16).digest() for trace in part]
        other = [seen[trace] for trace in traces if trace in seen]
        if 2 * len(other) >= len(traces):
            raise RecordingsRefused(
                f"{len(other)} of the {len(traces)} traces of {recording.animal} {recording.session} are those of"
                f" {other[0].animal} {other[0].session}: it is one recording, given twice. Give it once."
            )
        copies = len(other) + len(traces) - len(set(traces))
        if copies:
            notes.append(
                f"{recording.animal} {recording.session}: {copies} neurons have exactly the trace of another, which may"
                " be trained on while they are tested. Remove the copies."
            )
        seen |= dict.fromkeys(traces, recording)
    return notes


def _first_repeated(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


CONTAINERS = ("DfOverF", "Fluorescence", "")
NOT_ACTIVITY = ("neuropil", "deconv")
USUAL_BEHAVIOUR = ("running", "speed", "velocity", "pupil")
UM = {"meters": 1e6, "metres": 1e6, "m": 1e6, "millimeters": 1e3, "mm": 1e3, "micrometers": 1.0, "um": 1.0}


def read_nwb(path: Path, layout: RecordingLayout) -> RawSession:
    """Read the responses of one plane segmentation, and the behaviour beside them.

    The activity is the series that the layout names, else the only one of a DfOverF, else of a Fluorescence,
    else of any container; of a file with several planes, it is of the plane that the layout names. Without names in the
    layout, behaviour is every one-dimensional TimeSeries called after running, speed, velocity or pupil; positions are
    the centres of the masks where the imaging plane has a grid spacing. The animal is the subject's id, the session the
    file's name.

    Raises
    ------
    RecordingsRefused
        If the file cannot be read, has no or several activities, or lacks what the layout names.
    """
    from pynwb import NWBHDF5IO

    with ExitStack() as stack:
        try:
            file = stack.enter_context(NWBHDF5IO(str(path), "r", load_namespaces=True)).read()
            return _nwb_session(path, file, layout)
        except RecordingsRefused:
            raise
        except Exception as error:  # pynwb raises whatever it stumbles over in a damaged file
            raise RecordingsRefused(f"{path}: cannot be read as NWB 2: {error!r}.") from error


def _nwb_session(path: Path, file: Any, layout: RecordingLayout) -> RawSession:
    place, series = _activity(path, file, layout)
    data = column_values(series.data)
    data = data[:, None] if data.ndim == 1 else data
    table = series.rois.table
    rows = column_values(series.rois.data).astype(int)
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
        raise RecordingsRefused(
            f"{path}: {place} names regions of interest {rows.min()} to {rows.max()}, but {table.name} has"
            f" {len(table)}, counted from 0. They are of different segmentations; write them again together."
        )
    labels = {label: _column(path, table, name, rows) for label, name in layout.labels.items()}
    notes: list[str] = []
    positions = (
        _mask_centres(path, table, rows, notes)
        if layout.positions is None
        else _column(path, table, layout.positions, rows)
    )
    plane = table.imaging_plane
    stated = None if plane is None else plane.imaging_rate
    if series.rate and stated and abs(series.rate / stated - 1) > 0.05:
        notes.append(
            f"{path.name}: the series has {series.rate:g} frames per second, which is used; the imaging plane states"
            f" {stated:g}."
        )
    subject = file.subject
    animal = path.stem if subject is None or not subject.subject_id else str(subject.subject_id)
    ids = None if layout.neuron_ids is None else _column(path, table, layout.neuron_ids, rows)
    return RawSession(
        where=str(path),
        animal=animal,
        session=path.stem,
        activity=data,
        frame_times_s=None if series.timestamps is None else _times(series, len(data)),
        first_frame_s=float(series.starting_time or 0.0),
        rate_hz=series.rate or None,
        neuron_ids=None if ids is None else as_text(ids),
        own_ids=animal if animal == path.stem else f"{animal}/{path.stem}",
        labels=labels,
        confidence=None if layout.confidence is None else _column(path, table, layout.confidence, rows),
        positions_um=positions,
        behaviour=_behaviour(path, file, layout),
        n_regions=len(rows),
        notes=(f"{path.name}: activity is {place}.", *notes),
    )


def _activity(path: Path, file: Any, layout: RecordingLayout) -> tuple[str, Any]:
    """Return the series of activity, and where it is in the file."""
    from pynwb.ophys import RoiResponseSeries

    series = [item for item in file.objects.values() if isinstance(item, RoiResponseSeries)]
    places = _by_place([item for item in series if item.rois is not None and item.rois.table is not None])
    if not places:
        raise RecordingsRefused(f"{path}: found no RoiResponseSeries, so there is no optical physiology in it.")
    planes = {place: _planes(item) for place, item in places.items()}
    if layout.plane is not None:
        on_plane = {place: item for place, item in places.items() if layout.plane in planes[place]}
        if not on_plane:
            known = list(dict.fromkeys(name for names in planes.values() for name in names))
            raise RecordingsRefused(
                f"{path}: no activity is of a plane called {layout.plane!r}{did_you_mean(layout.plane, known)}."
                f" There are: {', '.join(known)}."
            )
        places = on_plane
    if layout.activity is not None:
        named = {place: item for place, item in places.items() if layout.activity in (place, item.name)}
        if len(named) == 1:
            return next(iter(named.items()))
        raise RecordingsRefused(
            f"{path}: found {len(named)} series called {layout.activity!r}"
            f"{did_you_mean(layout.activity, [*places, *(item.name for item in places.values())])}."
            f" There are: {', '.join(places)}."
        )
    fitting: dict[str, Any] = {}
    for kind in CONTAINERS:
        fitting = {
            place: item
            for place, item in places.items()
            if kind in ("", type(item.parent).__name__) and not any(word in place.lower() for word in NOT_ACTIVITY)
        }
        if len(fitting) == 1:
            return next(iter(fitting.items()))
        if fitting:
            break
    several = sorted({planes[place][0] for place in fitting if planes[place]})
    by_plane = f", or its plane ('plane'): {', '.join(several)}" if len(several) > 1 else ""
    raise RecordingsRefused(
        f"{path}: expected one series of activity, found {', '.join(sorted(places))}. Name one in the layout"
        f" ('activity'){by_plane}."
    )


def _by_place(items: Sequence[Any]) -> dict[str, Any]:
    """Return items by container and name, with the processing module in front where these are not enough."""
    short = [f"{item.parent.name}/{item.name}" for item in items]
    places = {}
    for name, item in zip(short, items, strict=True):
        module = getattr(item.parent, "parent", None)
        places[f"{module.name}/{name}" if short.count(name) > 1 and module is not None else name] = item
    return places


def _planes(series: Any) -> tuple[str, ...]:
    """Return what a series' plane may be called: the imaging plane, its segmentation, the processing module."""
    table = series.rois.table
    holders = (table.imaging_plane, table, getattr(series.parent, "parent", None))
    return tuple(holder.name for holder in holders if holder is not None)


def _times(series: Any, samples: int) -> np.ndarray | None:
    if series.timestamps is not None:
        return column_values(series.timestamps).astype(float)
    if not series.rate:
        return None
    return float(series.starting_time or 0.0) + np.arange(samples) / float(series.rate)


def _behaviour(path: Path, file: Any, layout: RecordingLayout) -> dict[str, Channel]:
    from pynwb import TimeSeries
    from pynwb.image import ImageSeries
    from pynwb.ophys import RoiResponseSeries

    items = [
        item
        for item in file.objects.values()
        if isinstance(item, TimeSeries) and not isinstance(item, ImageSeries | RoiResponseSeries)
    ]
    names = [item.name for item in items]
    places = _by_place(items)
    series = {item.name if names.count(item.name) == 1 else place: item for place, item in places.items()}
    requested = layout.behaviour
    if requested is None:
        requested = {
            name: name
            for name, item in series.items()
            if any(word in name.lower() for word in USUAL_BEHAVIOUR) and np.ndim(item.data) == 1
        }
    channels = {}
    for channel, name in requested.items():
        item = series.get(name, places.get(name))
        if item is None:
            raise RecordingsRefused(
                f"{path}: found no time series {name!r} for behaviour {channel!r}{did_you_mean(name, series)}."
                f" There are: {', '.join(sorted(series)) or 'none'}."
            )
        values = column_values(item.data)
        times = _times(item, len(values))
        if times is None:
            raise RecordingsRefused(f"{path}: {name} has neither times nor a rate; behaviour needs one.")
        channels[channel] = Channel(values, times)
    return channels


def _column(path: Path, table: Any, name: str, rows: np.ndarray) -> np.ndarray:
    known = [*table.colnames, "id"]
    if name not in known:
        raise RecordingsRefused(
            f"{path}: the plane segmentation has no column {name!r}{did_you_mean(name, known)}."
            f" There are: {', '.join(known)}."
        )
    values = np.asarray((table.id if name == "id" else table[name])[:])
    if len(values) != len(table):
        raise RecordingsRefused(
            f"{path}: {table.name} has {len(table)} regions of interest, but {len(values)} values of {name!r}."
        )
    return values[rows]


def _mask_centres(path: Path, table: Any, rows: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Return the centre of each region's mask in um, (n, 2), where the plane has a grid spacing."""
    plane = table.imaging_plane
    spacing = None if plane is None else plane.grid_spacing
    kind = next((name for name in ("pixel_mask", "image_mask") if name in table.colnames), None)
    if spacing is None or kind is None:
        return None
    factor = UM.get(str(plane.grid_spacing_unit or "meters"))
    if factor is None:
        notes.append(f"{path.name}: the unit {plane.grid_spacing_unit!r} of the grid spacing is not known.")
        return None
    centres = []
    for row in rows:
        mask = table[kind][int(row)]
        if kind == "pixel_mask":
            points = np.array([[pixel[0], pixel[1]] for pixel in mask], dtype=float)
            weights = np.array([pixel[2] for pixel in mask], dtype=float)
        else:
            image = np.asarray(mask, dtype=float)
            points = np.argwhere(image > 0).astype(float)
            weights = image[image > 0]
        total = weights.sum()
        centres.append((weights[:, None] * points).sum(axis=0) / total if total else [np.nan, np.nan])
    return np.array(centres)[:, :2] * np.asarray(spacing, dtype=float)[:2] * factor


ACTIVITY = "frame.neuralActivity.npy"
IDS = "neuron.UniqueID.npy"
TYPES = "neuron.ttype.txt"
POSITIONS = "neuron.stackPosCorrected.npy"
BEHAVIOUR = {
    "running_speed": ("running.speed.npy", "running.times.npy"),
    "pupil_size": ("eye.size.npy", "eye.times.npy"),
    "frame_state": ("frame.states.npy", None),
}
CLASSES = ("EC", "IN")


def read_bugeon(path: Path, layout: RecordingLayout) -> Iterator[RawSession]:
    """Yield one session for each stimulus run below `path`: the release's root, a mouse, or a session.

    Runs of one session keep apart, since time passes between them, and share their neurons: ids are those
    of ``neuron.UniqueID.npy``, and a neuron without one is known within its session only. The transcriptomic
    type gives the labels ``class`` (EC or IN) and ``subclass`` (of "Pvalb-Reln-…": Pvalb).

    Raises
    ------
    RecordingsRefused
        If a file is missing or unreadable, or a stimulus or behaviour is unknown.
    """
    path = Path(os.path.abspath(path))  # the names of mouse and session, also of "." and ".."
    folders = _bugeon_sessions(path)
    chosen = _channels(layout)
    found: set[str] = set()
    for folder in folders:
        for run in _folders_with(ACTIVITY, folder):
            stimulus = run.relative_to(folder).parts[0]
            found.add(stimulus)
            if layout.stimuli is None or stimulus in layout.stimuli:
                yield _bugeon_session(folder, run, chosen, layout.behaviour is not None)
    if not found:
        raise RecordingsRefused(f"{path}: found sessions, but no stimulus folder with {ACTIVITY}.")
    for stimulus in layout.stimuli or ():
        if stimulus not in found:
            raise RecordingsRefused(
                f"{path}: no session has the stimulus {stimulus!r}{did_you_mean(stimulus, found)}."
                f" There are: {', '.join(sorted(found))}."
            )


def _bugeon_sessions(path: Path) -> list[Path]:
    return [path] if (path / IDS).exists() else _folders_with(IDS, path)


def _folders_with(name: str, folder: Path) -> list[Path]:
    return sorted({file.parent for depth in (f"*/{name}", f"*/*/{name}") for file in folder.glob(depth)})


def _channels(layout: RecordingLayout) -> dict[str, str]:
    """Return, for each channel to be read, its usual name."""
    channels = layout.behaviour or {name: name for name in BEHAVIOUR}
    for name in channels.values():
        if name not in BEHAVIOUR:
            raise RecordingsRefused(
                f"Layout: the Bugeon release has no behaviour {name!r}{did_you_mean(name, BEHAVIOUR)}."
                f" There are: {', '.join(BEHAVIOUR)}."
            )
    return channels


def _bugeon_session(folder: Path, run: Path, channels: dict[str, str], asked_for: bool) -> RawSession:
    animal, notes = folder.parent.name, []
    name = "/".join([folder.name, *run.relative_to(folder).parts])
    behaviour = {}
    for channel, usual in channels.items():
        values, times = BEHAVIOUR[usual]
        absent = [file for file in (values, times) if file is not None and not (run / file).exists()]
        if absent and asked_for:
            raise RecordingsRefused(f"{run}: found no {absent[0]}, which behaviour {channel!r} needs.")
        if absent:
            notes.append(f"{run}: found no {absent[0]}, so there is no behaviour {channel!r}.")
            continue
        behaviour[channel] = Channel(npy(run / values).squeeze(), None if times is None else npy(run / times).ravel())
    activity = npy(run / ACTIVITY)
    labels = _labels(folder / TYPES)
    if labels is None:
        notes.append(f"{folder}: found no {TYPES}, so its neurons have no labels.")
    return RawSession(
        where=str(run),
        animal=animal,
        session=name,
        activity=activity,
        frame_times_s=npy(run / "frame.times.npy").ravel(),
        rate_hz=None,
        neuron_ids=_ids(folder / IDS),
        own_ids=f"{animal}/{folder.name}",
        labels=labels or {},
        positions_um=npy(folder / POSITIONS) if (folder / POSITIONS).exists() else None,
        behaviour=behaviour,
        notes=tuple(notes),
    )


def _ids(path: Path) -> np.ndarray:
    return as_text(npy(path).ravel())


def _labels(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        types = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingsRefused(f"{path}: cannot be read as text: {error}.") from error
    subclass = [kind.split("-")[0] if "-" in kind else "" for kind in types]
    known = [kind if kind in CLASSES else "IN" if part else "" for kind, part in zip(types, subclass, strict=True)]
    return {"class": np.array(known), "subclass": np.array(subclass)}
