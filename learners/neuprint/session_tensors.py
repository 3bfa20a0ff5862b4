"""Recordings as tensors: sessions with their covariates, and windows cut from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from neurofleet.errors import did_you_mean
from neurofleet.learners.neuprint.covariates import covariates
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.population_recordings import Recording, Recordings, RecordingsRefused


@dataclass(frozen=True)
class Window:
    """Stretches of activity, one row for each neuron and stretch.

    Attributes
    ----------
    activity : Tensor, shape (rows, steps)
    covariates : Tensor, shape (rows, steps, n_covariates)
    targets : Tensor of bool, shape (rows, steps)
        Entries that are predicted and counted.
    neurons : Tensor of int, shape (rows,)
        Whose rows they are: numbers in the table of Phi.
    n_targets, n_rows : float
        What sums over targets, and over rows, are divided by.
    """

    activity: Tensor
    covariates: Tensor
    targets: Tensor
    neurons: Tensor
    n_targets: float
    n_rows: float

    def to(self, device: torch.device) -> Window:
        """Return the same on a device."""
        names = ("activity", "covariates", "targets", "neurons")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class SessionTensors:
    """One recording.

    Attributes
    ----------
    name : str
    activity : Tensor, shape (neurons, frames)
        0 where not valid.
    valid : Tensor of bool, shape (neurons, frames)
    shared : Tensor, shape (frames, n_shared)
    own : Tensor, shape (neurons, frames, n_own)
    numbers : array of int, shape (neurons,)
        Rows of the table of neurons.
    names : tuple of str
        Of the covariates, shared ones first.
    """

    name: str
    activity: Tensor
    valid: Tensor
    shared: Tensor
    own: Tensor
    numbers: np.ndarray
    names: tuple[str, ...]

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.activity.shape[1]

    def window(self, rows: np.ndarray, starts: np.ndarray, steps: int, warm_up: int) -> Window:
        """Return stretches of so many frames that begin at `starts`, of the neurons in `rows`.

        Rows of the result are ordered by neuron, then by start. The first `warm_up` frames are no targets.
        """
        frames = torch.from_numpy(starts[:, None] + np.arange(steps))
        index = torch.from_numpy(rows)
        activity = self.activity[index][:, frames].flatten(0, 1)
        targets = self.valid[index][:, frames].flatten(0, 1)
        targets[:, :warm_up] = False
        shared = self.shared[frames].repeat(len(rows), 1, 1)
        own = self.own[index][:, frames].flatten(0, 1)
        neurons = torch.from_numpy(np.repeat(self.numbers[rows], len(starts)))
        covariates = torch.cat([shared, own], 2)
        return Window(activity, covariates, targets, neurons, float(targets.sum()), len(neurons))


def session_of(recording: Recording, numbers: np.ndarray, settings: NeuprintSettings) -> SessionTensors:
    """Return a recording with the covariates that the settings ask for.

    Parameters
    ----------
    numbers : array of int, shape (neurons,)
        The neurons' rows in the table of neurons.

    Raises
    ------
    RecordingsRefused
        If the recording lacks a covariate, or is shorter than the window.
    """
    if recording.n_frames < settings.window:
        raise RecordingsRefused(
            f"{recording.session} has {recording.n_frames} frames, fewer than the window of"
            f" {settings.window}. Choose a shorter window, or leave the session out."
        )
    found = covariates(recording, settings.parts, settings.delta_um)
    shared, names = found.shared, found.names
    if settings.behaviour is not None:
        channels = names[: shared.shape[1]]
        for name in settings.behaviour:
            if name not in channels:
                raise RecordingsRefused(
                    f"{recording.session} has no behaviour {name!r}{did_you_mean(name, channels)}. There are:"
                    f" {', '.join(channels) or 'none'}."
                )
        kept = [channels.index(name) for name in settings.behaviour]
        names = (*settings.behaviour, *names[shared.shape[1] :])
        shared = shared[:, kept]
    return SessionTensors(
        recording.session,
        torch.from_numpy(np.ascontiguousarray(recording.activity.T, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(recording.valid.T)),
        torch.from_numpy(np.ascontiguousarray(shared, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(found.own.transpose(1, 0, 2), dtype=np.float32)),
        np.asarray(numbers, dtype=np.int64),
        tuple(names),
    )


def sessions_of(recordings: Recordings, settings: NeuprintSettings) -> list[SessionTensors]:
    """Return all recordings of a set with their covariates.

    Raises
    ------
    RecordingsRefused
        As `session_of`; also if recordings have unlike covariates.
    """
    found = [session_of(one, recordings.number(one), settings) for one in recordings.recordings]
    for session in found[1:]:
        if session.names != found[0].names:
            raise RecordingsRefused(
                f"{session.name} has the covariates {', '.join(session.names) or 'none'}; expected those of"
                f" {found[0].name}: {', '.join(found[0].names) or 'none'}. Name the channels that all"
                " sessions have in the setting behaviour."
            )
    return found


def frames_of(session: SessionTensors, settings: NeuprintSettings) -> Mapping[str, tuple[int, int]]:
    """Return first and last-but-one frame of the training part and of the validation part.

    Raises
    ------
    RecordingsRefused
        If a part that is asked for is too short for a window.
    """
    end = int(round(session.n_frames * settings.train_share))
    if end < settings.window:
        raise RecordingsRefused(
            f"{session.name}: {end} of {session.n_frames} frames are trained on, fewer than the window of"
            f" {settings.window}. Choose a shorter window."
        )
    return {"train": (0, end), "validation": (end, session.n_frames)}


def window_starts(frames: tuple[int, int], window: int, warm_up: int) -> np.ndarray:
    """Return where whole windows begin so that the targets of one follow on those of another."""
    return np.arange(frames[0], frames[1] - window + 1, window - warm_up)
