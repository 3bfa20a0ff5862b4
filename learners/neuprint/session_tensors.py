"""Recordings as tensors: sessions with their covariates (behaviour, population, surround), and their windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from torch import Tensor

from neurofleet.errors import did_you_mean
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.population_recordings import Recording, Recordings, RecordingsRefused

PARTS = ("behaviour", "population", "centre", "surround")
STATISTICS = ("mean", "sd")
"""What is computed of the neurons of each part but behaviour: columns such as ``population_mean``."""
VALUES_AT_ONCE = 500_000


@dataclass(frozen=True)
class Covariates:
    """Inputs of the dynamics beside the neuron's own past.

    Attributes
    ----------
    shared : (frames, n_shared) float32
        The same for all neurons: behaviour.
    per_neuron : (frames, neurons, n_per_neuron) float32
        Of each neuron: mean and s.d. over other neurons.
    names : tuple of str
        Of the shared ones, then of those per neuron.
    """

    shared: np.ndarray
    per_neuron: np.ndarray
    names: tuple[str, ...]


def covariates(recording: Recording, parts: Sequence[str], delta_um: float | None = None) -> Covariates:
    """Return behaviour and the statistics of the other neurons, at each frame.

    Mean and s.d. are over all other neurons (``population``), those nearer than `delta_um` (``centre``) or
    the rest (``surround``). A neuron is never in its own statistics, and entries that were not measured do
    not count; where nobody is left both are 0 (NeuPRINT, appendix E.1). The s.d. divides by the number of
    neurons.

    Parameters
    ----------
    recording : Recording
    parts : sequence of str
        Of ``behaviour``, ``population``, ``centre``, ``surround``.
    delta_um : float or None
        Radius of the centre; needed for centre and surround.

    Raises
    ------
    RecordingsRefused
        For an unknown part, behaviour or positions that the recording lacks, or a radius not above 0.
    """
    for part in parts:
        if part not in PARTS:
            raise RecordingsRefused(f"Covariates are of {', '.join(PARTS)}; found {part!r}{did_you_mean(part, PARTS)}.")
    frames, neurons = recording.activity.shape
    shared = np.zeros((frames, 0), dtype=np.float32)
    names: list[str] = []
    if "behaviour" in parts:
        if not recording.behaviour_names:
            raise RecordingsRefused(
                f"{recording.session} has no behaviour. Name its channels in the layout (behaviour: [running]); a"
                " model that needs none is trained with the setting `parts: [population]`."
            )
        shared = recording.behaviour.astype(np.float32, copy=False)
        names += recording.behaviour_names
    groups = [part for part in PARTS if part in parts and part != "behaviour"]
    adjacency = None
    if "centre" in groups or "surround" in groups:
        adjacency = _adjacency(recording, delta_um)
    per_neuron = np.zeros((frames, neurons, 2 * len(groups)), dtype=np.float32)
    for block in _blocks(frames, neurons):
        measured = recording.valid[block].astype(np.float64)
        values = recording.activity[block] * measured
        sums = (measured, values, values * values)
        everyone = [total.sum(axis=1, keepdims=True) - total for total in sums]
        near = None if adjacency is None else [total @ adjacency for total in sums]
        for place, group in enumerate(groups):
            if group == "population":
                count, first, second = everyone
            elif group == "centre":
                assert near is not None
                count, first, second = near
            else:
                assert near is not None
                count, first, second = (whole - part for whole, part in zip(everyone, near, strict=True))
            anybody = count > 0.5
            mean = np.divide(first, count, out=np.zeros_like(first), where=anybody)
            square = np.divide(second, count, out=np.zeros_like(second), where=anybody)
            per_neuron[block, :, 2 * place] = mean
            per_neuron[block, :, 2 * place + 1] = np.sqrt(np.maximum(square - mean * mean, 0.0))
    names += [f"{group}_{statistic}" for group in groups for statistic in STATISTICS]
    return Covariates(shared, per_neuron, tuple(names))


def _adjacency(recording: Recording, delta_um: float | None) -> csr_array:
    """Return who is nearer than `delta_um` to whom, (neurons, neurons), nobody to itself."""
    if recording.positions_um is None:
        raise RecordingsRefused(
            f"{recording.session} has no positions, which centre and surround need. Name them in the layout,"
            " or leave out these parts."
        )
    if delta_um is None or not delta_um > 0:
        raise RecordingsRefused(f"Centre and surround need a radius delta_um above 0 µm, found {delta_um!r}.")
    positions = np.asarray(recording.positions_um, dtype=np.float64)
    pairs = cKDTree(positions).query_pairs(delta_um, output_type="ndarray")
    distance = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    first, second = pairs[distance < delta_um].T
    shape = (recording.n_neurons, recording.n_neurons)
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _blocks(frames: int, neurons: int) -> Iterator[slice]:
    step = max(VALUES_AT_ONCE // max(neurons, 1), 1)
    return (slice(start, start + step) for start in range(0, frames, step))


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
    per_neuron : Tensor, shape (neurons, frames, n_per_neuron)
    numbers : array of int, shape (neurons,)
        Rows of the table of neurons.
    names : tuple of str
        Of the covariates, shared ones first.
    """

    name: str
    activity: Tensor
    valid: Tensor
    shared: Tensor
    per_neuron: Tensor
    numbers: np.ndarray
    names: tuple[str, ...]

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.activity.shape[1]

    def window(self, rows: np.ndarray, starts: np.ndarray, steps: int, warm_up: int) -> Window:
        """Return stretches of `steps` frames that begin at `starts`, of the neurons in `rows`.

        Rows of the result are ordered by neuron, then by start. The first `warm_up` frames are no targets.
        """
        frames = torch.from_numpy(starts[:, None] + np.arange(steps))
        index = torch.from_numpy(rows)
        activity = self.activity[index][:, frames].flatten(0, 1)
        targets = self.valid[index][:, frames].flatten(0, 1)
        targets[:, :warm_up] = False
        shared = self.shared[frames].repeat(len(rows), 1, 1)
        per_neuron = self.per_neuron[index][:, frames].flatten(0, 1)
        neurons = torch.from_numpy(np.repeat(self.numbers[rows], len(starts)))
        covariates = torch.cat([shared, per_neuron], 2)
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
    inputs = covariates(recording, settings.parts, settings.delta_um)
    shared, names = inputs.shared, inputs.names
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
        torch.from_numpy(np.ascontiguousarray(inputs.per_neuron.transpose(1, 0, 2), dtype=np.float32)),
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
    sessions = [session_of(recording, recordings.number(recording), settings) for recording in recordings.recordings]
    for session in sessions[1:]:
        if session.names != sessions[0].names:
            raise RecordingsRefused(
                f"{session.name} has the covariates {', '.join(session.names) or 'none'}; expected those of"
                f" {sessions[0].name}: {', '.join(sessions[0].names) or 'none'}. Name the channels that all"
                " sessions have in the setting behaviour."
            )
    return sessions


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
