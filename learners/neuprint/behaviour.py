"""Behaviour on the frame clock of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from learners.neuprint.recordings import RecordingsRefused

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
