"""One session as a file holds it, checked and brought to the form of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from neurofleet.learners.neuprint.population_recordings import Recording, RecordingsRefused
from neurofleet.learners.neuprint.recording_layout import RecordingLayout

LEAST_VARIATION = 1e-9


@dataclass(frozen=True)
class Channel:
    """One behaviour as it was measured; `times_s` is None where it is on the frame clock."""

    values: np.ndarray
    times_s: np.ndarray | None = None


def on_frame_clock(
    channels: Mapping[str, Channel], frame_times_s: np.ndarray, where: str
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Bring channels to the frames by linear interpolation, also over gaps, and z-score them.

    The released code takes the mean of the two samples beside a frame; linear interpolation weighs them by
    their distance, and is the same where the frame is in the middle. Outside of a channel's times its
    nearest value holds. A channel that does not vary, or was never measured, is dropped with a note.

    Parameters
    ----------
    channels : mapping of name to Channel
    frame_times_s : (frames,) float
        Ascending.
    where : str
        The recording, for messages.

    Returns
    -------
    behaviour : (frames, n) float32
    names : tuple of str
    notes : list of str

    Raises
    ------
    RecordingsRefused
        If values and times (or frames) differ in number, times are not ascending, or no sample is within
        the recording.
    """
    columns, names, notes = [], [], []
    for name, channel in channels.items():
        values = np.asarray(channel.values, dtype=np.float64)
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        own_clock = channel.times_s is not None
        times = np.asarray(channel.times_s, dtype=np.float64).ravel() if own_clock else frame_times_s
        if values.shape != times.shape:
            raise RecordingsRefused(
                f"{where}: behaviour {name!r} has values of shape {values.shape}, but there are {len(times)}"
                f" {'times for it' if own_clock else 'frames'}."
                + ("" if own_clock else " Name its times in the layout ('behaviour_times').")
            )
        measured = np.isfinite(values) & np.isfinite(times)
        values, times = values[measured], times[measured]
        if len(times) == 0:
            notes.append(f"{where}: behaviour {name!r} was never measured and is dropped.")
            continue
        if (np.diff(times) < 0).any():
            raise RecordingsRefused(
                f"{where}: the times of behaviour {name!r} go back at sample"
                f" {int(np.argmax(np.diff(times) < 0)) + 1}. Sort them, in s on the clock of the frames."
            )
        outside = float(np.mean((frame_times_s < times[0]) | (frame_times_s > times[-1])))
        if outside == 1.0:
            raise RecordingsRefused(
                f"{where}: behaviour {name!r} was measured from {times[0]:g} to {times[-1]:g} s, the frames"
                f" from {frame_times_s[0]:g} to {frame_times_s[-1]:g} s. Bring both to one clock in s."
            )
        if outside > 0.05:
            notes.append(
                f"{where}: behaviour {name!r} was not measured in {outside:.0%} of the frames, at the start"
                " or end; its nearest value holds there."
            )
        column = np.interp(frame_times_s, times, values)
        spread = column.std()
        if spread <= LEAST_VARIATION * max(1.0, float(np.abs(column).max())):
            notes.append(f"{where}: behaviour {name!r} is constant and is dropped.")
            continue
        columns.append((column - column.mean()) / spread)
        names.append(name)
    table = np.column_stack(columns) if columns else np.zeros((len(frame_times_s), 0))
    return table.astype(np.float32), tuple(names), notes


CONSTANT = 1e-6  # s.d. over the largest absolute value: about the resolution of float32


@dataclass(frozen=True)
class RawSession:
    """What was read, before any check.

    Attributes
    ----------
    where : str
        The file or folder, for messages.
    animal, session : str
    activity : (frames, neurons) float
        NaN where it was not measured.
    frame_times_s : (frames,) float, or None
        Either these or `rate_hz` must be there.
    rate_hz : float or None
    neuron_ids : (neurons,) str, or None
        Within the animal; "" for a neuron that was not matched to other sessions.
    own_ids : str
        What stands before the number of a neuron without id; the same in all parts of one session.
    labels : mapping of name to (neurons,) str
    confidence : (neurons,) number, or None
        How sure the labels are.
    positions_um : (neurons, 2 or 3) float, or None
    behaviour : mapping of name to Channel
    notes : tuple of str
    """

    where: str
    animal: str
    session: str
    activity: np.ndarray
    frame_times_s: np.ndarray | None
    rate_hz: float | None
    neuron_ids: np.ndarray | None
    own_ids: str
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    confidence: np.ndarray | None = None
    positions_um: np.ndarray | None = None
    behaviour: Mapping[str, Channel] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def checked(raw: RawSession, layout: RecordingLayout) -> tuple[Recording, pd.DataFrame, list[str]]:
    """Return the recording, the labels of its neurons, and notes.

    Raises
    ------
    RecordingsRefused
        For numbers that differ, frame times that do not ascend, no frame rate, or no trace that varies.
    """
    where, notes = raw.where, list(raw.notes)
    activity = np.asarray(raw.activity)
    if activity.ndim != 2 or activity.dtype.kind not in "fiu" or 0 in activity.shape:
        raise RecordingsRefused(
            f"{where}: expected activity as numbers of frames x neurons, found {activity.dtype} of shape"
            f" {activity.shape}."
        )
    frames, neurons = activity.shape
    _same_number(raw, frames, neurons)
    times, rate_hz = _clock(raw, frames, notes)
    activity = activity.astype(np.float64)
    valid = np.isfinite(activity)
    behaviour, names, more = on_frame_clock(raw.behaviour, times, where)
    notes += more
    kept, activity = _standardised(activity, valid, where, notes)
    gaps = 1 - valid[:, kept].mean()
    if gaps > 0:
        notes.append(f"{where}: {gaps:.2%} of the activity was not measured (NaN) and does not count.")
    recording = Recording(
        animal=raw.animal,
        session=raw.session,
        activity=activity,
        valid=valid[:, kept],
        behaviour=behaviour,
        behaviour_names=names,
        rate_hz=rate_hz,
        neuron_ids=_ids(raw, neurons, notes)[kept],
        positions_um=_positions(raw, kept, notes),
    )
    return recording, _labels(raw, layout).iloc[kept].reset_index(drop=True), notes


def _labels(raw: RawSession, layout: RecordingLayout) -> pd.DataFrame:
    """Return the labels of all neurons, "" where they are missing or not sure enough."""
    missing = {value.lower() for value in layout.missing_labels} | {""}
    unsure = np.zeros(raw.activity.shape[1], dtype=bool)
    if raw.confidence is not None:
        confidence = np.asarray(raw.confidence)
        if confidence.dtype.kind not in "fiu":
            raise RecordingsRefused(f"{raw.where}: {layout.confidence} is no number; confidence must be one.")
        unsure = ~(confidence >= layout.least_confidence)
    labels = {}
    for name, values in raw.labels.items():
        text = pd.Series(np.asarray(values).astype(str)).str.strip()
        labels[name] = text.mask(text.str.lower().isin(missing) | unsure, "")
    return pd.DataFrame(labels, index=range(len(unsure)))


def _same_number(raw: RawSession, frames: int, neurons: int) -> None:
    columns = {"ids": raw.neuron_ids, "positions": raw.positions_um, "confidences": raw.confidence}
    columns |= {f"labels {name!r}": values for name, values in raw.labels.items()}
    for name, values in columns.items():
        if values is None or len(values) == neurons:
            continue
        turned = " If activity is neurons x frames, transpose it." if len(values) == frames else ""
        raise RecordingsRefused(
            f"{raw.where}: activity has {frames} frames x {neurons} neurons, but there are {len(values)}"
            f" {name}.{turned}"
        )


def _clock(raw: RawSession, frames: int, notes: list[str]) -> tuple[np.ndarray, float]:
    """Return the time of each frame in s, and frames per second."""
    where, rate_hz = raw.where, raw.rate_hz
    if rate_hz is not None and not (np.isfinite(rate_hz) and rate_hz > 0):
        raise RecordingsRefused(f"{where}: expected a frame rate above 0 Hz, found {rate_hz}.")
    if raw.frame_times_s is None:
        if rate_hz is None:
            raise RecordingsRefused(
                f"{where}: neither frame times nor a frame rate was found. Name one of them in the layout"
                " ('frame_times', 'rate_hz')."
            )
        return np.arange(frames) / rate_hz, float(rate_hz)
    times = np.asarray(raw.frame_times_s, dtype=np.float64).ravel()
    if len(times) != frames:
        raise RecordingsRefused(f"{where}: activity has {frames} frames, but there are {len(times)} times.")
    if frames < 2 or not np.isfinite(times).all():
        raise RecordingsRefused(f"{where}: expected at least two frames, each with a finite time.")
    steps = np.diff(times)
    if (steps <= 0).any():
        raise RecordingsRefused(
            f"{where}: frame times must ascend, but frame {int(np.argmax(steps <= 0)) + 1} is not later than"
            " the one before. Sort the frames by time."
        )
    step = float(np.median(steps))
    if rate_hz is not None and abs(rate_hz * step - 1) > 0.05:
        raise RecordingsRefused(
            f"{where}: the frame rate is given as {rate_hz:g} Hz, but frames are {step:g} s apart"
            f" ({1 / step:g} Hz). Give times in s, or leave out one of the two."
        )
    breaks = int((steps > 2.5 * step).sum())
    if breaks:
        notes.append(f"{where}: frames pause {breaks} times for more than 2.5 frame intervals.")
    return times, 1 / step


def _standardised(
    activity: np.ndarray, valid: np.ndarray, where: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which columns vary, and these z-scored over their valid frames, 0 elsewhere."""
    measured = np.maximum(valid.sum(axis=0), 1)
    values = np.where(valid, activity, 0.0)
    largest = np.abs(values).max(axis=0)
    values = np.where(valid, values - values.sum(axis=0) / measured, 0.0)
    spread = np.sqrt((values * values).sum(axis=0) / measured)
    kept = np.flatnonzero(spread > CONSTANT * largest)
    dropped = activity.shape[1] - len(kept)
    if not len(kept):
        raise RecordingsRefused(
            f"{where}: all {dropped} traces are constant or were never measured; there is nothing to learn."
        )
    if dropped:
        notes.append(f"{where}: {dropped} neurons with a constant or unmeasured trace are dropped.")
    return kept, (values[:, kept] / spread[kept]).astype(np.float32)


def _ids(raw: RawSession, neurons: int, notes: list[str]) -> np.ndarray:
    """Return ids over all animals; a neuron without id, or with that of another, has one of its own."""
    own_ids = np.array([f"{raw.own_ids}/#{number}" for number in range(neurons)])
    if raw.neuron_ids is None:
        return own_ids
    given = pd.Series(np.asarray(raw.neuron_ids).astype(str)).str.strip()
    unmatched, twice = given == "", (given != "") & given.duplicated()
    if twice.any():
        notes.append(
            f"{raw.where}: {int(twice.sum())} neuron ids occurred before in the session, such as"
            f" {given[twice].iloc[0]}; these neurons count as not matched to other sessions."
        )
    return np.where(unmatched | twice, own_ids, raw.animal + "/" + given.to_numpy().astype(str))


def _positions(raw: RawSession, kept: np.ndarray, notes: list[str]) -> np.ndarray | None:
    if raw.positions_um is None:
        return None
    positions = np.asarray(raw.positions_um)
    if positions.dtype.kind not in "fiu" or positions.ndim != 2 or positions.shape[1] not in (2, 3):
        raise RecordingsRefused(
            f"{raw.where}: expected positions as 2 or 3 coordinates per neuron, found {positions.dtype} of"
            f" shape {positions.shape}."
        )
    positions = positions[kept].astype(np.float64)
    unknown = int((~np.isfinite(positions).all(axis=1)).sum())
    if unknown:
        notes.append(f"{raw.where}: {unknown} neurons have no position, so no positions are used.")
        return None
    return positions
