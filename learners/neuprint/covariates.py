"""What else happens while a neuron is active: behaviour, the population, and its centre and surround."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from neurofleet.errors import did_you_mean
from neurofleet.learners.neuprint.population_recordings import Recording, RecordingsRefused

PARTS = ("behaviour", "population", "centre", "surround")
VALUES_AT_ONCE = 500_000


@dataclass(frozen=True)
class Covariates:
    """Inputs of the dynamics beside the neuron's own past.

    Attributes
    ----------
    shared : (frames, n_shared) float32
        The same for all neurons: behaviour.
    own : (frames, neurons, n_own) float32
        Of each neuron: mean and s.d. over other neurons.
    names : tuple of str
        Of the shared ones, then of the own ones.
    """

    shared: np.ndarray
    own: np.ndarray
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
                f"{recording.session} has no behaviour. Name its channels in the layout, or leave out the"
                " part 'behaviour'."
            )
        shared = recording.behaviour.astype(np.float32, copy=False)
        names += recording.behaviour_names
    groups = [part for part in PARTS if part in parts and part != "behaviour"]
    adjacency = None
    if "centre" in groups or "surround" in groups:
        adjacency = _adjacency(recording, delta_um)
    own = np.zeros((frames, neurons, 2 * len(groups)), dtype=np.float32)
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
            own[block, :, 2 * place] = mean
            own[block, :, 2 * place + 1] = np.sqrt(np.maximum(square - mean * mean, 0.0))
    names += [f"{group}_{statistic}" for group in groups for statistic in ("mean", "sd")]
    return Covariates(shared, own, tuple(names))


def _adjacency(recording: Recording, delta_um: float | None) -> csr_array:
    """Return who is nearer than `delta_um` to whom, (neurons, neurons), nobody to itself."""
    if recording.positions_um is None:
        raise RecordingsRefused(
            f"{recording.session} has no positions, which centre and surround need. Name them in the layout,"
            " or leave out these parts."
        )
    if delta_um is None or not delta_um > 0:
        raise RecordingsRefused(f"Centre and surround need a radius delta_um above 0 um, found {delta_um!r}.")
    positions = np.asarray(recording.positions_um, dtype=np.float64)
    pairs = cKDTree(positions).query_pairs(delta_um, output_type="ndarray")
    distance = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    one, other = pairs[distance < delta_um].T
    shape = (recording.n_neurons, recording.n_neurons)
    rows, columns = np.concatenate([one, other]), np.concatenate([other, one])
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _blocks(frames: int, neurons: int) -> Iterator[slice]:
    step = max(VALUES_AT_ONCE // max(neurons, 1), 1)
    return (slice(start, start + step) for start in range(0, frames, step))
