"""Recordings in npz files, one session per file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from learners.neuprint.behaviour import Channel
from learners.neuprint.layout import Layout
from learners.neuprint.raw_session import RawSession
from learners.neuprint.recordings import RecordingsRefused
from learners.splits import nearest

USUAL = {
    "activity": "activity",
    "rate_hz": "rate_hz",
    "frame_times": "frame_times",
    "animal": "animal",
    "session": "session",
    "neuron_ids": "neuron_ids",
    "positions": "positions_um",
}


def read_npz(path: Path, layout: Layout) -> RawSession:
    """Read one session; nothing that needs pickle is loaded.

    Raises
    ------
    RecordingsRefused
        If the file cannot be read, or lacks an array that the layout names.
    """
    arrays = _Arrays(path)
    activity = arrays.wanted(layout.activity or USUAL["activity"], "activity")
    rate = layout.rate_hz
    if not isinstance(rate, float):
        found = arrays.optional(rate, "rate_hz")
        rate = None if found is None else _number(path, found)
    animal, session = (
        _name(arrays.optional(getattr(layout, key), key), path.stem) for key in ("animal", "session")
    )
    labels = {label: arrays.wanted(name, f"label {label!r}") for label, name in layout.labels.items()}
    behaviour = {}
    for channel, name in (layout.behaviour or {}).items():
        times = layout.behaviour_times.get(channel)
        behaviour[channel] = Channel(
            arrays.wanted(name, f"behaviour {channel!r}"),
            None if times is None else arrays.wanted(times, f"times of {channel!r}"),
        )
    strange = sorted(set(layout.behaviour_times) - set(behaviour))
    if strange:
        raise RecordingsRefused(
            f"Layout: 'behaviour_times' names {strange[0]!r}, which is no channel of 'behaviour'"
            f"{nearest(strange[0], behaviour)}."
        )
    ids = arrays.optional(layout.neuron_ids, "neuron_ids")
    frame_times = arrays.optional(layout.frame_times, "frame_times")
    positions = arrays.optional(layout.positions, "positions")
    return RawSession(
        where=str(path),
        animal=animal,
        session=session,
        activity=activity,
        frame_times_s=frame_times,
        rate_hz=rate,
        neuron_ids=None if ids is None else ids.astype(str),
        own_ids=animal if animal == session else f"{animal}/{session}",
        labels=labels,
        confidence=None if layout.confidence is None else arrays.wanted(layout.confidence, "confidence"),
        positions_um=positions,
        behaviour=behaviour,
        notes=arrays.unused(),
    )


class _Arrays:
    """The arrays of one file, and which of them were asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                self.arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise RecordingsRefused(
                f"{path}: cannot be read as npz without pickle: {error}. Save plain arrays with numpy.savez."
            ) from error
        self.used: set[str] = set()

    def wanted(self, name: str, what: str) -> np.ndarray:
        if name not in self.arrays:
            raise RecordingsRefused(
                f"{self.path}: found no array {name!r} for {what}{nearest(name, self.arrays)}. It has:"
                f" {', '.join(self.arrays) or 'nothing'}. Name the right one in the layout."
            )
        self.used.add(name)
        return self.arrays[name]

    def optional(self, name: str | None, key: str) -> np.ndarray | None:
        """Return the array of that name; where None is given, the usual one if the file has it."""
        if name is None:
            return self.wanted(USUAL[key], key) if USUAL[key] in self.arrays else None
        return self.wanted(name, key)

    def unused(self) -> tuple[str, ...]:
        rest = sorted(set(self.arrays) - self.used)
        return (f"{self.path.name}: not used: {', '.join(rest)}.",) if rest else ()


def _number(path: Path, value: np.ndarray) -> float:
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise RecordingsRefused(
            f"{path}: expected the frame rate as one number, found {value.dtype} of shape {value.shape}."
        )
    return float(value.item())


def _name(value: np.ndarray | None, otherwise: str) -> str:
    return otherwise if value is None or value.size != 1 else str(value.item())
