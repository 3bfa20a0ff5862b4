"""Recordings in NWB files with optical physiology."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from learners.neuprint.behaviour import Channel
from learners.neuprint.layout import Layout
from learners.neuprint.raw_session import RawSession
from learners.neuprint.recordings import RecordingsRefused
from learners.splits import nearest

CONTAINERS = ("DfOverF", "Fluorescence", "")
NOT_ACTIVITY = ("neuropil", "deconv")
USUAL_BEHAVIOUR = ("running", "speed", "velocity", "pupil")
UM = {"meters": 1e6, "metres": 1e6, "m": 1e6, "millimeters": 1e3, "mm": 1e3, "micrometers": 1.0, "um": 1.0}


def read_nwb(path: Path, layout: Layout) -> RawSession:
    """Read the responses of one plane segmentation, and the behaviour beside them.

    The activity is the series that the layout names, else the only one of a DfOverF, else of a Fluorescence,
    else of any container. Without names in the layout, behaviour is every one-dimensional TimeSeries called
    after running, speed, velocity or pupil; positions are the centres of the masks where the imaging plane
    has a grid spacing. The animal is the subject's id, the session the file's name.

    Raises
    ------
    RecordingsRefused
        If the file cannot be read, has no or several activities, or lacks what the layout names.
    """
    from pynwb import NWBHDF5IO

    with ExitStack() as stack:
        try:
            file = stack.enter_context(NWBHDF5IO(str(path), "r", load_namespaces=True)).read()
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise RecordingsRefused(f"{path}: cannot be read as NWB 2: {error}.") from error
        return _session(path, file, layout)


def _session(path: Path, file: Any, layout: Layout) -> RawSession:
    series = _activity(path, file, layout)
    data = np.asarray(series.data[:])
    data = data[:, None] if data.ndim == 1 else data
    table = series.rois.table
    rows = np.asarray(series.rois.data[:], dtype=int)
    labels = {label: _column(path, table, name, rows) for label, name in layout.labels.items()}
    notes: list[str] = []
    positions = (
        _mask_centres(path, table, rows, notes)
        if layout.positions is None
        else _column(path, table, layout.positions, rows)
    )
    subject = file.subject
    animal = path.stem if subject is None or not subject.subject_id else str(subject.subject_id)
    ids = None if layout.neuron_ids is None else _column(path, table, layout.neuron_ids, rows)
    return RawSession(
        where=str(path),
        animal=animal,
        session=path.stem,
        activity=data,
        frame_times_s=_times(series, len(data)),
        rate_hz=series.rate,
        neuron_ids=None if ids is None else _id_text(ids),
        own_ids=animal if animal == path.stem else f"{animal}/{path.stem}",
        labels=labels,
        confidence=None if layout.confidence is None else _column(path, table, layout.confidence, rows),
        positions_um=positions,
        behaviour=_behaviour(path, file, layout),
        notes=(f"{path.name}: activity is {_place(series)}.", *notes),
    )


def _activity(path: Path, file: Any, layout: Layout) -> Any:
    from pynwb.ophys import RoiResponseSeries

    found = [item for item in file.objects.values() if isinstance(item, RoiResponseSeries)]
    if not found:
        raise RecordingsRefused(
            f"{path}: found no RoiResponseSeries, so there is no optical physiology in it."
        )
    places = {_place(item): item for item in found}
    if layout.activity is not None:
        named = [item for place, item in places.items() if layout.activity in (place, item.name)]
        if len(named) == 1:
            return named[0]
        raise RecordingsRefused(
            f"{path}: found {len(named)} series called {layout.activity!r}"
            f"{nearest(layout.activity, [*places, *(item.name for item in found)])}."
            f" There are: {', '.join(places)}."
        )
    for kind in CONTAINERS:
        fitting = {
            place: item
            for place, item in places.items()
            if kind in ("", type(item.parent).__name__)
            and not any(word in place.lower() for word in NOT_ACTIVITY)
        }
        if len(fitting) == 1:
            return next(iter(fitting.values()))
        if fitting:
            break
    raise RecordingsRefused(
        f"{path}: expected one series of activity, found {', '.join(places)}. Name one in the layout"
        " ('activity')."
    )


def _place(item: Any) -> str:
    return f"{item.parent.name}/{item.name}"


def _times(series: Any, samples: int) -> np.ndarray | None:
    if series.timestamps is not None:
        return np.asarray(series.timestamps[:], dtype=float)
    if series.rate is None:
        return None
    return float(series.starting_time or 0.0) + np.arange(samples) / float(series.rate)


def _behaviour(path: Path, file: Any, layout: Layout) -> dict[str, Channel]:
    from pynwb import TimeSeries
    from pynwb.image import ImageSeries
    from pynwb.ophys import RoiResponseSeries

    series = {
        item.name: item
        for item in file.objects.values()
        if isinstance(item, TimeSeries) and not isinstance(item, ImageSeries | RoiResponseSeries)
    }
    wanted = layout.behaviour
    if wanted is None:
        wanted = {
            name: name
            for name, item in series.items()
            if any(word in name.lower() for word in USUAL_BEHAVIOUR) and np.ndim(item.data) == 1
        }
    channels = {}
    for channel, name in wanted.items():
        if name not in series:
            raise RecordingsRefused(
                f"{path}: found no time series {name!r} for behaviour {channel!r}{nearest(name, series)}."
                f" There are: {', '.join(sorted(series)) or 'none'}."
            )
        values = np.asarray(series[name].data[:])
        times = _times(series[name], len(values))
        if times is None:
            raise RecordingsRefused(f"{path}: {name} has neither times nor a rate; behaviour needs one.")
        channels[channel] = Channel(values, times)
    return channels


def _column(path: Path, table: Any, name: str, rows: np.ndarray) -> np.ndarray:
    known = [*table.colnames, "id"]
    if name not in known:
        raise RecordingsRefused(
            f"{path}: the plane segmentation has no column {name!r}{nearest(name, known)}."
            f" There are: {', '.join(known)}."
        )
    return np.asarray((table.id if name == "id" else table[name])[:])[rows]


def _id_text(ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind == "f":
        return np.array(["" if np.isnan(number) else f"{number:.15g}" for number in ids])
    return ids.astype(str)


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
