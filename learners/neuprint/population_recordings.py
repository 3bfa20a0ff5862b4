"""Recordings of populations: activity, behaviour and positions per session, and the neurons behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from neurofleet.errors import LearnerError, did_you_mean

ANIMAL = "animal"


class RecordingsRefused(LearnerError):
    """Recordings, behaviour, labels or layouts that cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class Recording:
    """One session of one animal.

    Attributes
    ----------
    animal, session : str
    activity : (frames, neurons) float32
        z-scored per neuron over its valid frames; 0 where it was not measured.
    valid : (frames, neurons) bool
        False where activity was not measured.
    behaviour : (frames, n_behaviour) float32
        z-scored, on the frame clock, gaps interpolated.
    behaviour_names : tuple of str
    rate_hz : float
        Frames per second.
    neuron_ids : (neurons,) str
        Distinct; the same id in two recordings is the same neuron.
    positions_um : (neurons, 2 or 3) float64, or None
    """

    animal: str
    session: str
    activity: np.ndarray
    valid: np.ndarray
    behaviour: np.ndarray
    behaviour_names: tuple[str, ...]
    rate_hz: float
    neuron_ids: np.ndarray
    positions_um: np.ndarray | None = None

    def __post_init__(self) -> None:
        frames, neurons = self.activity.shape
        if self.valid.shape != (frames, neurons):
            raise RecordingsRefused(
                f"{self.session}: expected a valid mask of {frames} x {neurons}, found {self.valid.shape}."
            )
        if len(self.neuron_ids) != neurons or len(np.unique(self.neuron_ids)) != neurons:
            raise RecordingsRefused(
                f"{self.session}: expected {neurons} distinct neuron ids, one for each column of activity,"
                f" found {len(self.neuron_ids)} of which {len(np.unique(self.neuron_ids))} are distinct."
            )
        if self.behaviour.shape != (frames, len(self.behaviour_names)):
            raise RecordingsRefused(
                f"{self.session}: expected behaviour of {frames} x {len(self.behaviour_names)},"
                f" found {self.behaviour.shape}."
            )
        if self.positions_um is not None and (
            self.positions_um.ndim != 2 or len(self.positions_um) != neurons or self.positions_um.shape[1] not in (2, 3)
        ):
            raise RecordingsRefused(
                f"{self.session}: expected positions of {neurons} neurons x 2 or 3 coordinates, found"
                f" {self.positions_um.shape}."
            )
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise RecordingsRefused(f"{self.session}: expected a frame rate above 0 Hz, found {self.rate_hz}.")

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.activity.shape[0]

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return self.activity.shape[1]


@dataclass(frozen=True)
class Recordings:
    """Sessions, and one row for each distinct neuron.

    Attributes
    ----------
    recordings : tuple of Recording
    neurons : data frame
        Index: distinct neuron ids. Columns: `animal`, and labels such as `class`, "" where missing.
    notes : tuple of str
        What a reader should know: neurons dropped, labels ignored, sessions left out.
    """

    recordings: tuple[Recording, ...]
    neurons: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def rates_hz(self) -> list[float]:
        """The lowest and the highest frame rate."""
        rates = [float(recording.rate_hz) for recording in self.recordings]
        return [min(rates), max(rates)]

    def number(self, recording: Recording) -> np.ndarray:
        """Return, for each column of `recording`, its row in `neurons`; (neurons,) int.

        Raises
        ------
        RecordingsRefused
            If a neuron of the recording has no row.
        """
        rows = self.neurons.index.get_indexer(pd.Index(recording.neuron_ids))
        if (rows < 0).any():
            unknown = recording.neuron_ids[rows < 0]
            raise RecordingsRefused(
                f"{recording.session}: {len(unknown)} neurons are not in the table of neurons, the first"
                f" {unknown[0]!r}. Take a recording of this set."
            )
        return rows

    def labels(self, name: str) -> np.ndarray:
        """Return the label `name` of each distinct neuron, (n,) str, "" where missing.

        Raises
        ------
        RecordingsRefused
            If there is no such label; the nearest name is suggested.
        """
        if name not in self.neurons:
            unused = next((f" {note}" for note in self.notes if ": not used: " in note), "")
            raise RecordingsRefused(
                f"Neurons have no label {name!r}{did_you_mean(name, self.neurons.columns)}. There are:"
                f" {', '.join(self.neurons.columns)}. Name the array or column that holds it in the layout, as in"
                f" `layout: {{labels: {{{name}: ARRAY}}}}`.{unused}"
            )
        return self.neurons[name].to_numpy().astype(str)

    @property
    def animals(self) -> tuple[str, ...]:
        """The animals, in the order in which they come."""
        return tuple(dict.fromkeys(recording.animal for recording in self.recordings))


def gathered(
    recordings: Sequence[Recording],
    labels: Sequence[pd.DataFrame],
    notes: Iterable[str] = (),
) -> Recordings:
    """Join recordings into one set; a neuron that occurs in several has one row.

    Parameters
    ----------
    recordings : sequence of Recording
    labels : sequence of data frames
        For each recording, text columns with one row per neuron, in the order of its columns.
    notes : iterable of str

    Raises
    ------
    RecordingsRefused
        If there is no recording.
    """
    if not recordings:
        raise RecordingsRefused("No recording was found. Give at least one file or folder of recordings.")
    notes = list(dict.fromkeys(notes))
    tables = [
        table.set_axis(pd.Index(recording.neuron_ids), axis=0).astype(object).assign(animal=recording.animal)
        for recording, table in zip(recordings, labels, strict=True)
    ]
    stacked = pd.concat(tables).fillna("")
    for name in stacked.columns.drop(ANIMAL):
        without = [
            recording.session
            for recording, table in zip(recordings, tables, strict=True)
            if name not in table or not (table[name].fillna("") != "").any()
        ]
        if 0 < len(without) < len(recordings):
            notes.append(f"No neuron of {', '.join(without)} has a label {name!r}; those of other sessions have.")
    ids = pd.Index(stacked.index.unique(), name="neuron_id")
    columns = {}
    for name in [ANIMAL, *(column for column in stacked.columns if column != ANIMAL)]:
        given = stacked[name][stacked[name] != ""]
        kinds = given.groupby(level=0).nunique()
        unlike = kinds.index[kinds > 1]
        first = given[~given.index.duplicated()].reindex(ids).fillna("")
        if len(unlike):
            notes.append(
                f"{len(unlike)} neurons have different labels {name!r} in different recordings and count as"
                f" unlabelled, such as {unlike[0]}."
            )
            first[unlike] = ""
        columns[name] = first.astype(str)
    return Recordings(tuple(recordings), pd.DataFrame(columns, index=ids), tuple(notes))


def long_enough(recordings: Recordings, frames: int) -> Recordings:
    """Leave out sessions that are shorter than `frames`, with a note; neurons seen only there go as well.

    Raises
    ------
    RecordingsRefused
        If no session is long enough.
    """
    kept = [recording for recording in recordings.recordings if recording.n_frames >= frames]
    short = [recording for recording in recordings.recordings if recording.n_frames < frames]
    if not kept:
        longest = max(recordings.recordings, key=lambda recording: recording.n_frames)
        raise RecordingsRefused(
            f"Expected sessions of at least {frames} frames, as the window is, but the longest"
            f" ({longest.session}) has {longest.n_frames}. Choose a shorter window."
        )
    if not short:
        return recordings
    notes = [
        f"{recording.session} was left out: {recording.n_frames} frames, fewer than the window of {frames}."
        for recording in short
    ]
    seen = np.unique(np.concatenate([recordings.number(recording) for recording in kept]))
    return replace(
        recordings,
        recordings=tuple(kept),
        neurons=recordings.neurons.iloc[seen],
        notes=(*recordings.notes, *notes),
    )
