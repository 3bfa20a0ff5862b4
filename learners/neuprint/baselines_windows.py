"""Windows of the distinct neurons of a set: what networks on single neurons are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learners.neuprint.events import WINDOW_FRAMES, interval_histograms
from learners.neuprint.recordings import Recordings, RecordingsRefused

RAW_FRAMES, PATCH_FRAMES = 512, 16


@dataclass(frozen=True)
class Windows:
    """Windows of all neurons, one neuron after the other.

    Attributes
    ----------
    values : (windows, width) float32
    start, count : (neurons,) int
        The windows of neuron i are start[i] to start[i] + count[i].
    """

    values: Tensor
    start: Tensor
    count: Tensor

    def drawn(self, rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """Return `number` random windows of each neuron of `rows`, (rows, number, width)."""
        share = torch.rand(len(rows), number, generator=generator)
        return self._at(rows, share)

    def spread(self, rows: Tensor, number: int) -> Tensor:
        """Return `number` windows of each neuron, evenly spread over its recordings."""
        share = (torch.arange(number) + 0.5) / number
        return self._at(rows, share.expand(len(rows), number))

    def _at(self, rows: Tensor, share: Tensor) -> Tensor:
        count = self.count[rows, None]
        return self.values[self.start[rows, None] + (share * count).long().clamp(max=count - 1)]


def interval_windows(recordings: Recordings) -> Windows:
    """Return the interval histograms of 64-frame windows of every neuron."""
    _refuse_short(recordings, WINDOW_FRAMES)
    return _windows(recordings, [interval_histograms(recording) for recording in recordings.recordings])


def raw_windows(recordings: Recordings) -> Windows:
    """Return stretches of activity of every neuron, which do not overlap."""
    _refuse_short(recordings, PATCH_FRAMES)
    shortest = min(recording.n_frames for recording in recordings.recordings)
    frames = min(RAW_FRAMES, shortest) // PATCH_FRAMES * PATCH_FRAMES
    parts = []
    for recording in recordings.recordings:
        number = recording.n_frames // frames
        cut = recording.activity[: number * frames].T
        parts.append(cut.reshape(recording.n_neurons, number, frames))
    return _windows(recordings, parts)


def _refuse_short(recordings: Recordings, frames: int) -> None:
    for recording in recordings.recordings:
        if recording.n_frames < frames:
            raise RecordingsRefused(
                f"{recording.session} has {recording.n_frames} frames, fewer than the window of {frames}."
                " Leave such sessions out first (learners.neuprint.recordings.long_enough)."
            )


def _windows(recordings: Recordings, parts: Sequence[np.ndarray]) -> Windows:
    """Sort windows (neurons, windows, width) of each recording by the neuron they belong to."""
    owner = np.concatenate(
        [
            np.repeat(recordings.number(recording), part.shape[1])
            for recording, part in zip(recordings.recordings, parts, strict=True)
        ]
    )
    values = np.concatenate([part.reshape(-1, part.shape[2]) for part in parts])
    count = np.bincount(owner, minlength=len(recordings.neurons))
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    values = values[np.argsort(owner, kind="stable")]
    return Windows(torch.from_numpy(values), torch.from_numpy(start), torch.from_numpy(count))
