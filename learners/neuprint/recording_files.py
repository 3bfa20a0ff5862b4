"""Open recordings of populations, whatever the layout of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurofleet.learners.neuprint.population_recordings import (
    ANIMAL,
    Recording,
    Recordings,
    RecordingsRefused,
    gathered,
)
from neurofleet.learners.neuprint.raw_session import RawSession, checked
from neurofleet.learners.neuprint.recording_formats import read_bugeon, read_npz, read_nwb
from neurofleet.learners.neuprint.recording_layout import RecordingLayout, read_recording_layout


def open_recordings(
    paths: str | Path | Sequence[str | Path],
    layout: Mapping[str, Any] | None = None,
) -> Recordings:
    """Open files and folders as one set of recordings.

    Parameters
    ----------
    paths
        npz files (one session each), NWB files with optical physiology, or folders of the Bugeon et al.
        (2022) release: its root, a mouse, or a session.
    layout
        Plain names, see `neurofleet.learners.neuprint.recording_layout.RecordingLayout`.

    Raises
    ------
    RecordingsRefused
        If a path is missing or cannot be read, if the layout does not fit, or if what was read cannot be
        used; the message names the file.
    """
    places = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not places:
        raise RecordingsRefused("No recording was given. Give at least one npz or NWB file, or a folder.")
    recordings, labels, notes = [], [], []
    for path in places:
        kind = _kind(path)
        names = read_recording_layout(layout, kind)
        for session in _sessions(path, kind, names):
            recording, table, more = checked(session, names)
            recordings.append(recording)
            labels.append(table)
            notes += more
    _refuse_repeated(recordings)
    return gathered(recordings, labels, notes)


def as_recordings(
    recordings: Recordings | str | Path | Sequence[Recordings | str | Path], layout: Mapping[str, Any] | None = None
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
        return open_recordings(recordings, layout)
    sets = [item for item in recordings if isinstance(item, Recordings)]
    files = [item for item in recordings if not isinstance(item, Recordings)]
    if files or not sets:
        sets.append(open_recordings(files, layout))
    if len(sets) == 1:
        return sets[0]
    parts = [(part, item) for part in sets for item in part.recordings]
    _refuse_repeated([item for _, item in parts])
    tables = [part.neurons.loc[item.neuron_ids].drop(columns=ANIMAL) for part, item in parts]
    return gathered([item for _, item in parts], tables, [note for part in sets for note in part.notes])


def _kind(path: Path) -> str:
    if not path.exists():
        raise RecordingsRefused(f"{path}: there is no such file or folder.")
    if path.is_dir():
        return "bugeon"
    kind = {".npz": "npz", ".nwb": "nwb"}.get(path.suffix.lower())
    if kind is None:
        raise RecordingsRefused(
            f"{path}: expected an .npz or .nwb file or a folder of the Bugeon release, found"
            f" {path.suffix or 'no ending'}."
        )
    return kind


def _sessions(path: Path, kind: str, layout: RecordingLayout) -> Iterator[RawSession]:
    if kind == "bugeon":
        yield from read_bugeon(path, layout)
    else:
        yield read_nwb(path, layout) if kind == "nwb" else read_npz(path, layout)


def _refuse_repeated(recordings: Sequence[Recording]) -> None:
    twice = _first_repeated([f"{recording.animal} {recording.session}" for recording in recordings])
    if twice is not None:
        raise RecordingsRefused(
            f"Two recordings are both of animal and session {twice}. Give each path once, and files of"
            " unlike sessions unlike names."
        )


def _first_repeated(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
