"""Recordings of Bugeon et al. (2022) as they were released: folders of mice, sessions and stimuli."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from learners.neuprint.behaviour import Channel
from learners.neuprint.layout import Layout
from learners.neuprint.raw_session import RawSession
from learners.neuprint.recordings import RecordingsRefused
from learners.splits import nearest

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


def read_bugeon(path: Path, layout: Layout) -> Iterator[RawSession]:
    """Yield one session for each stimulus run below `path`: the release's root, a mouse, or a session.

    Runs of one session keep apart, since time passes between them, and share their neurons: ids are those
    of ``neuron.UniqueID.npy``, and a neuron without one is known within its session only. The transcriptomic
    type gives the labels ``class`` (EC or IN) and ``subclass`` (of "Pvalb-Reln-…": Pvalb).

    Raises
    ------
    RecordingsRefused
        If there are no sessions, a file is missing or unreadable, or a stimulus or behaviour is unknown.
    """
    path = Path(os.path.abspath(path))  # the names of mouse and session, also of "." and ".."
    folders = [path] if (path / IDS).exists() else _folders_with(IDS, path)
    if not folders:
        raise RecordingsRefused(
            f"{path}: found no session, which is a folder with {IDS}. Give the root of the release, a mouse"
            " (SB025) or a session (SB025/2019-10-07); of npz and NWB files, give the files themselves."
        )
    chosen = _channels(layout)
    found: set[str] = set()
    for folder in folders:
        for run in _folders_with(ACTIVITY, folder):
            stimulus = run.relative_to(folder).parts[0]
            found.add(stimulus)
            if layout.stimuli is None or stimulus in layout.stimuli:
                yield _session(folder, run, chosen, layout.behaviour is not None)
    if not found:
        raise RecordingsRefused(f"{path}: found sessions, but no stimulus folder with {ACTIVITY}.")
    for stimulus in layout.stimuli or ():
        if stimulus not in found:
            raise RecordingsRefused(
                f"{path}: no session has the stimulus {stimulus!r}{nearest(stimulus, found)}."
                f" There are: {', '.join(sorted(found))}."
            )


def _folders_with(name: str, folder: Path) -> list[Path]:
    return sorted({file.parent for depth in (f"*/{name}", f"*/*/{name}") for file in folder.glob(depth)})


def _channels(layout: Layout) -> dict[str, str]:
    """Return, for each channel to be read, its usual name."""
    channels = layout.behaviour or {name: name for name in BEHAVIOUR}
    for name in channels.values():
        if name not in BEHAVIOUR:
            raise RecordingsRefused(
                f"Layout: the Bugeon release has no behaviour {name!r}{nearest(name, BEHAVIOUR)}."
                f" There are: {', '.join(BEHAVIOUR)}."
            )
    return channels


def _session(folder: Path, run: Path, channels: dict[str, str], asked_for: bool) -> RawSession:
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
        behaviour[channel] = Channel(
            _array(run / values).squeeze(), None if times is None else _array(run / times).ravel()
        )
    activity = _array(run / ACTIVITY)
    labels = _labels(folder / TYPES)
    if labels is None:
        notes.append(f"{folder}: found no {TYPES}, so its neurons have no labels.")
    return RawSession(
        where=str(run),
        animal=animal,
        session=name,
        activity=activity,
        frame_times_s=_array(run / "frame.times.npy").ravel(),
        rate_hz=None,
        neuron_ids=_ids(folder / IDS),
        own_ids=f"{animal}/{folder.name}",
        labels=labels or {},
        positions_um=_array(folder / POSITIONS) if (folder / POSITIONS).exists() else None,
        behaviour=behaviour,
        notes=tuple(notes),
    )


def _array(path: Path) -> np.ndarray:
    if not path.exists():
        raise RecordingsRefused(f"{path}: there is no such file. Fetch the session again, as a whole.")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordingsRefused(f"{path}: cannot be read as an array without pickle: {error}.") from error


def _ids(path: Path) -> np.ndarray:
    numbers = _array(path).astype(np.float64).ravel()
    return np.array(["" if np.isnan(number) else f"{number:.15g}" for number in numbers])


def _labels(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        types = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingsRefused(f"{path}: cannot be read as text: {error}.") from error
    subclass = [kind.split("-")[0] if "-" in kind else "" for kind in types]
    known = [
        kind if kind in CLASSES else "IN" if part else "" for kind, part in zip(types, subclass, strict=True)
    ]
    return {"class": np.array(known), "subclass": np.array(subclass)}
