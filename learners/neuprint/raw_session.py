"""One session as a file holds it, checked and brought to the form of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from neurofleet.learners.array_files import as_text, smoothness
from neurofleet.learners.neuprint.population_recordings import Recording, RecordingsRefused
from neurofleet.learners.neuprint.recording_layout import RecordingLayout

LEAST_VARIATION = 1e-9
LEAST_COVERED = 0.5
LEAST_OF_CHANNEL = 0.1
"""A channel of which less is within the frames was not measured for them, or its times are in another unit."""

SLOWEST_HZ, SLOW_HZ, FASTEST_HZ = 0.1, 0.5, 2_000.0
LONGEST_S = 24 * 3600.0
SPANS_UM = (1.0, 1e5)


@dataclass(frozen=True)
class Channel:
    """One behaviour as it was measured; `times_s` is None where it is on the frame clock."""

    values: np.ndarray
    times_s: np.ndarray | None = None


def on_frame_clock(
    channels: Mapping[str, Channel], frame_times_s: np.ndarray, where: str, times_per_s: float | None = None
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
    times_per_s : float, optional
        How many steps of the channels' own times make a second.

    Returns
    -------
    behaviour : (frames, n) float32
    names : tuple of str
    notes : list of str

    Raises
    ------
    RecordingsRefused
        If values and times (or frames) differ in number, times are not ascending, or the clocks have less than half
        of the frames, or a tenth of the channel, in common.
    """
    columns, names, notes = [], [], []
    for name, channel in channels.items():
        values = np.asarray(channel.values, dtype=np.float64)
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        own_clock = channel.times_s is not None
        times = np.asarray(channel.times_s, dtype=np.float64).ravel() if own_clock else frame_times_s
        if own_clock and times_per_s is not None:
            times = times / times_per_s
        if values.shape != times.shape:
            raise RecordingsRefused(
                f"{where}: behaviour {name!r} has values of shape {values.shape}, but there are {len(times)}"
                f" {'times for it' if own_clock else 'frames'}."
                + ("" if own_clock else " Name its times in the layout ('behaviour_times').")
            )
        measured = np.isfinite(values) & np.isfinite(times)
        if 0.2 < 1 - measured.mean() < 1:
            notes.append(
                f"{where}: behaviour {name!r} was not measured (NaN) in {1 - measured.mean():.0%} of its samples;"
                " values between the others are interpolated."
            )
        values, times = values[measured], times[measured]
        if len(times) == 0:
            notes.append(f"{where}: behaviour {name!r} was never measured and is dropped.")
            continue
        if (np.diff(times) < 0).any():
            raise RecordingsRefused(
                f"{where}: the times of behaviour {name!r} go back at sample"
                f" {int(np.argmax(np.diff(times) < 0)) + 1}. Sort them, in s on the clock of the frames."
            )
        notes += _check_overlap(name, times, frame_times_s, own_clock, where)
        column = np.interp(frame_times_s, times, values)
        spread = column.std()
        if spread <= LEAST_VARIATION * max(1.0, float(np.abs(column).max())):
            notes.append(f"{where}: behaviour {name!r} is constant and is dropped.")
            continue
        columns.append((column - column.mean()) / spread)
        names.append(name)
    table = np.column_stack(columns) if columns else np.zeros((len(frame_times_s), 0))
    return table.astype(np.float32), tuple(names), notes


def _check_overlap(name: str, times: np.ndarray, frame_times_s: np.ndarray, own_clock: bool, where: str) -> list[str]:
    """Refuse a channel whose clock is another one than the frames', and return notes."""
    first, last = frame_times_s[0], frame_times_s[-1]
    covered = float(np.mean((frame_times_s >= times[0]) & (frame_times_s <= times[-1])))
    used = float(np.mean((times >= first) & (times <= last)))
    found = (
        f"{where}: behaviour {name!r} was measured from {times[0]:g} to {times[-1]:g} s, the frames from {first:g} to"
        f" {last:g} s"
    )
    numbers = used < LEAST_COVERED and bool((times == np.rint(times)).all())
    if own_clock and (covered < LEAST_COVERED or used < LEAST_OF_CHANNEL or numbers):
        raise RecordingsRefused(
            f"{found}: {covered:.0%} of the frames have it, and {used:.2%} of its samples are during them; expected at"
            f" least {LEAST_COVERED:.0%} and {LEAST_OF_CHANNEL:.0%}"
            + (", and times in s, found whole numbers" if numbers else "")
            + ". Bring both to one clock in s (behaviour_times_per_s or frame_times_per_s in the layout, 1000 for ms),"
            " cut it to the recording, or leave it out of 'behaviour'."
        )
    notes = []
    if covered < 0.95:
        notes.append(
            f"{where}: behaviour {name!r} was not measured in {1 - covered:.0%} of the frames, at the start"
            " or end; its nearest value holds there."
        )
    if used < LEAST_COVERED:
        notes.append(f"{found}: only {used:.0%} of its samples are during the frames. Check that both are in s.")
    return notes


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
    first_frame_s : float or None
        When a recording without frame times begins, on the clock of the behaviour.
    n_regions : int or None
        How many regions of interest the file says that the activity is of.
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
    first_frame_s: float | None = None
    n_regions: int | None = None
    notes: tuple[str, ...] = ()


def checked(raw: RawSession, layout: RecordingLayout) -> tuple[Recording, pd.DataFrame, list[str]]:
    """Return the recording, the labels of its neurons, and notes.

    Raises
    ------
    RecordingsRefused
        For numbers that differ, activity that is turned, frame times that do not ascend, no frame rate or one that
        cannot be, or no trace that varies.
    """
    where, notes = raw.where, list(raw.notes)
    activity = np.asarray(raw.activity)
    if activity.ndim != 2 or activity.dtype.kind not in "fiu" or 0 in activity.shape:
        raise RecordingsRefused(
            f"{where}: expected activity as numbers of frames x neurons, found {activity.dtype} of shape"
            f" {activity.shape}."
        )
    raw = _with_one_row_per_neuron(raw)
    if _neurons_first(raw, activity, layout, notes):
        activity = activity.T
    frames, neurons = activity.shape
    _same_number(raw, frames, neurons)
    times, rate_hz = _clock(raw, frames, layout.frame_times_per_s, notes)
    activity = activity.astype(np.float64)
    valid = np.isfinite(activity)
    behaviour, names, more = on_frame_clock(raw.behaviour, times, where, layout.behaviour_times_per_s)
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
    return recording, _labels(raw, layout, neurons).iloc[kept].reset_index(drop=True), notes


def _with_one_row_per_neuron(raw: RawSession) -> RawSession:
    """Return the session with ids, labels and confidences of one dimension."""
    given = {"ids": raw.neuron_ids, "confidences": raw.confidence, **raw.labels}
    flat = {}
    for name, values in given.items():
        array = None if values is None else np.asarray(values)
        if array is not None and array.ndim != 1:
            if array.size != max(array.shape, default=0):
                raise RecordingsRefused(
                    f"{raw.where}: expected one value of {name!r} per neuron, found an array of shape {array.shape}."
                )
            array = array.ravel()
        flat[name] = array
    ids, confidence = flat.pop("ids"), flat.pop("confidences")
    return replace(raw, neuron_ids=ids, confidence=confidence, labels=flat)


FRAMES_LOOKED_AT, TRACES_LOOKED_AT = 5_000, 200


def _neurons_first(raw: RawSession, activity: np.ndarray, layout: RecordingLayout, notes: list[str]) -> bool:
    """Return whether the activity is neurons x frames: as the layout says, else by what the file has of either number.

    Raises
    ------
    RecordingsRefused
        If the values look turned and nothing else tells.
    """
    if layout.neurons_first is not None:
        return layout.neurons_first
    of_frames = [] if raw.frame_times_s is None else [np.size(raw.frame_times_s)]
    of_frames += [len(channel.values) for channel in raw.behaviour.values() if channel.times_s is None]
    of_neurons = [] if raw.n_regions is None else [raw.n_regions]
    tables = (raw.neuron_ids, raw.positions_um, raw.confidence, *raw.labels.values())
    of_neurons += [len(table) for table in tables if table is not None]
    first, second = activity.shape
    fits = all(n == first for n in of_frames) and all(n == second for n in of_neurons)
    turned = all(n == second for n in of_frames) and all(n == first for n in of_neurons)
    along_frames, along_neurons = _smoothness_along_axes(activity)
    looks_turned = along_neurons > 0.5 and along_neurons > along_frames + 0.3
    if turned and not fits and (raw.n_regions is not None or (of_frames and of_neurons) or looks_turned):
        counted = f"{first} neurons" if of_neurons else f"{second} frames"
        notes.append(
            f"{raw.where}: expected activity as frames x neurons, found {first} x {second} where there are {counted};"
            " it was transposed."
        )
        return True
    certain = fits and first != second and (raw.n_regions is not None or (of_frames and of_neurons))
    if looks_turned and not certain:
        raise RecordingsRefused(
            f"{raw.where}: expected activity as frames x neurons, found {first} x {second} values that are smooth along"
            f" the second axis (correlation of neighbours {along_neurons:.2f}) and not along the first"
            f" ({along_frames:.2f}): most likely it is neurons x frames. Say neurons_first: true in the layout, or"
            " false if it is right as it is."
        )
    if not of_frames and not of_neurons and first < second:
        notes.append(
            f"{raw.where}: activity is {first} frames x {second} neurons. If it is neurons x frames, say neurons_first:"
            " true in the layout."
        )
    return False


def _smoothness_along_axes(activity: np.ndarray) -> tuple[float, float]:
    """Return the correlation of neighbours along the first and the second axis, of parts of both."""
    if min(activity.shape) < 3:
        return 0.0, 0.0
    found = []
    for rows in (activity.T, activity):
        part = rows[:: max(1, len(rows) // TRACES_LOOKED_AT), :FRAMES_LOOKED_AT].astype(np.float64)
        found.append(smoothness(np.where(np.isfinite(part), part, 0.0)))
    return found[0], found[1]


def _labels(raw: RawSession, layout: RecordingLayout, neurons: int) -> pd.DataFrame:
    """Return the labels of all neurons, "" where they are missing or not sure enough."""
    missing = {value.lower() for value in layout.missing_labels} | {""}
    unsure = np.zeros(neurons, dtype=bool)
    if raw.confidence is not None:
        confidence = np.asarray(raw.confidence)
        if confidence.dtype.kind not in "fiu":
            raise RecordingsRefused(f"{raw.where}: {layout.confidence} is not a number; confidence must be one.")
        unsure = ~(confidence >= layout.least_confidence)
    labels = {}
    for name, values in raw.labels.items():
        text = pd.Series(as_text(values)).str.strip()
        labels[name] = text.mask(text.str.lower().isin(missing) | unsure, "")
    return pd.DataFrame(labels, index=range(len(unsure)))


def _same_number(raw: RawSession, frames: int, neurons: int) -> None:
    if raw.n_regions is not None and raw.n_regions != neurons:
        raise RecordingsRefused(
            f"{raw.where}: activity has {frames} frames x {neurons} neurons, but the file names {raw.n_regions} regions"
            " of interest for it. The table and the activity are of different segmentations; write them again together."
        )
    columns = {"ids": raw.neuron_ids, "positions": raw.positions_um, "confidences": raw.confidence}
    columns |= {f"labels {name!r}": values for name, values in raw.labels.items()}
    for name, values in columns.items():
        if values is None or len(values) == neurons:
            continue
        turned = ""
        if len(values) == frames:
            turned = " If activity is neurons x frames, transpose it, or say neurons_first: true in the layout."
        elif np.ndim(values) == 2 and np.shape(values)[1] == neurons:
            turned = " Transpose them."
        raise RecordingsRefused(
            f"{raw.where}: activity has {frames} frames x {neurons} neurons, but there are {len(values)}"
            f" {name}.{turned}"
        )


def _clock(raw: RawSession, frames: int, times_per_s: float | None, notes: list[str]) -> tuple[np.ndarray, float]:
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
        if rate_hz < SLOWEST_HZ:
            raise RecordingsRefused(
                f"{where}: expected frames per second as the frame rate, found {rate_hz:g}, one frame in"
                f" {1 / rate_hz:.3g} s. If this is the time between frames, the rate is {1 / rate_hz:.4g} Hz."
            )
        if raw.first_frame_s is None:
            notes += _refuse_fast(rate_hz, where)
            return np.arange(frames) / rate_hz, float(rate_hz)
        stored, times_per_s = raw.first_frame_s + np.arange(frames) / float(rate_hz), None
    else:
        stored = np.asarray(raw.frame_times_s).ravel()
    times = stored.astype(np.float64) / (times_per_s or 1.0)
    if len(times) != frames:
        raise RecordingsRefused(f"{where}: activity has {frames} frames, but there are {len(times)} times.")
    if frames < 2 or not np.isfinite(times).all():
        raise RecordingsRefused(f"{where}: expected at least two frames, each with a finite time.")
    steps = np.diff(times)
    if (steps <= 0).any():
        coarse = f" They are stored as {stored.dtype}; float64 tells more apart." if stored.dtype.itemsize < 8 else ""
        raise RecordingsRefused(
            f"{where}: frame times must ascend, but frame {int(np.argmax(steps <= 0)) + 1} is not later than"
            f" the one before. Sort the frames by time.{coarse}"
        )
    step = float(np.median(steps))
    if rate_hz is not None and abs(rate_hz * step - 1) > 0.05:
        raise RecordingsRefused(
            f"{where}: the frame rate is given as {rate_hz:g} Hz, but frames are {step:g} s apart"
            f" ({1 / step:g} Hz). Give times in s, or leave out one of the two."
        )
    whole = rate_hz is None and times_per_s is None and bool((times == np.rint(times)).all())
    if 1 / step < SLOWEST_HZ or whole:
        raise RecordingsRefused(
            f"{where}: expected frame times in s, found{' whole numbers,' if whole else ''} frames {step:.4g} apart:"
            " these are frame numbers, or times in another unit. Give times in s, or say how many of their steps make a"
            " second as frame_times_per_s in the layout (1000 for ms, the frame rate for frame numbers)."
        )
    notes += _refuse_fast(1 / step, where)
    if times[-1] - times[0] > LONGEST_S:
        notes.append(f"{where}: frames span {(times[-1] - times[0]) / 3600:.3g} hours. Check that the times are in s.")
    breaks = int((steps > 2.5 * step).sum())
    if breaks:
        notes.append(f"{where}: frames pause {breaks} times for more than 2.5 frame intervals.")
    return times, 1 / step


def _refuse_fast(rate_hz: float, where: str) -> list[str]:
    """Refuse a rate at which no population is imaged, and note a slow one."""
    if rate_hz > FASTEST_HZ:
        raise RecordingsRefused(
            f"{where}: expected a frame rate of up to {FASTEST_HZ:g} Hz, found {rate_hz:g}: the rate or the times are"
            " in another unit. Give the rate in Hz, and times in s."
        )
    if rate_hz < SLOW_HZ:
        return [f"{where}: {rate_hz:.3g} frames per second are few. Check that the times are in s."]
    return []


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
        raise RecordingsRefused(f"{where}: all {dropped} traces are constant or were never measured.")
    if dropped:
        notes.append(f"{where}: {dropped} neurons are left out: constant, or never measured.")
    return kept, (values[:, kept] / spread[kept]).astype(np.float32)


def _ids(raw: RawSession, neurons: int, notes: list[str]) -> np.ndarray:
    """Return ids over all animals; a neuron without id, or with that of another, has one of its own."""
    own_ids = np.array([f"{raw.own_ids}/#{number}" for number in range(neurons)])
    if raw.neuron_ids is None:
        return own_ids
    given = pd.Series(as_text(raw.neuron_ids)).str.strip()
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
    span_um = float(np.ptp(positions, axis=0).max(initial=0))
    if len(positions) > 2 and not SPANS_UM[0] <= span_um <= SPANS_UM[1]:
        notes.append(
            f"{raw.where}: the {len(positions)} neurons lie within {span_um:.3g} µm, which cannot be, so no positions"
            " are used. Give them in µm."
        )
        return None
    return positions
