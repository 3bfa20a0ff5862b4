"""Second moments of what a filter sees: all that a quadratic loss needs to know of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from neurofleet.learners.neuprint.dynamics import Filter, filter_inputs
from neurofleet.learners.neuprint.session_tensors import SessionTensors

_VALUES_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Moments:
    """Sums over a neuron's target entries, with inputs z and activity x. float32.

    Attributes
    ----------
    gram : Tensor, shape (neurons, inputs, inputs)
        Of z zᵀ.
    cross : Tensor, shape (neurons, inputs)
        Of z x.
    square, count : Tensor, shape (neurons,)
        Of x², and of 1.
    neurons : Tensor of int, shape (neurons,)
        Numbers in the table of neurons.
    n_targets, n_rows : float
        What sums over targets, and over neurons, are divided by.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    count: Tensor
    neurons: Tensor
    n_targets: float
    n_rows: float

    def take(self, rows: Tensor) -> Moments:
        """Return the moments of some of the neurons."""
        parts = {name: getattr(self, name)[rows] for name in _SUMS}
        n_targets = float(parts["count"].sum())
        return replace(self, **parts, neurons=self.neurons[rows], n_targets=n_targets, n_rows=len(rows))

    def to(self, device: torch.device) -> Moments:
        """Return the same on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in (*_SUMS, "neurons")})

    def errors(self, filters: Tensor) -> Tensor:
        """Return the summed squared error of each neuron under its filter, (neurons,).

        Always in float32, whatever the precision around it: it is a small difference of large sums.

        Parameters
        ----------
        filters : Tensor, shape (neurons, inputs)
        """
        with torch.autocast(self.gram.device.type, enabled=False):
            filters = filters.float()
            fixed = filters.detach()
            explained = torch.einsum("nde,ne->nd", self.gram, fixed)
            errors = self.square + (fixed * (explained - 2 * self.cross)).sum(1)
            slope = 2 * (explained - self.cross)
            return errors + ((filters - fixed) * slope).sum(1)  # the last term is 0, but has the gradient


_SUMS = ("gram", "cross", "square", "count")


def moments_of(session: SessionTensors, rows: np.ndarray, frames: tuple[int, int], lags: int, warm_up: int) -> Moments:
    """Return the moments of some neurons over a part of a session.

    The past of the first frames reaches back before the part; the session's first `warm_up` frames are no
    targets.
    """
    start, end = max(frames[0], warm_up), frames[1]
    index = np.asarray(rows, dtype=np.int64)
    n_inputs = lags + len(session.names) * (lags + 1) + 1
    step = max(_VALUES_AT_ONCE // (n_inputs * max(end - start, 1)), 1)
    parts = [_block(session, index[at : at + step], start, end, lags) for at in range(0, len(index), step)]
    return joined(parts)


def _block(session: SessionTensors, rows: np.ndarray, start: int, end: int, lags: int) -> Moments:
    steps = end - start + lags
    window = session.window(rows, np.array([start - lags]), steps, lags)
    inputs = filter_inputs(window.activity, window.covariates, lags)[:, lags:]
    counted = window.targets[:, lags:].float()
    inputs = inputs * counted[..., None]
    activity = window.activity[:, lags:] * counted
    return Moments(
        inputs.transpose(1, 2) @ inputs,
        torch.einsum("rsd,rs->rd", inputs, activity),
        activity.square().sum(1),
        counted.sum(1),
        window.neurons,
        window.n_targets,
        window.n_rows,
    )


def joined(parts: Sequence[Moments]) -> Moments:
    """Put moments of different neurons, or of different sessions, behind each other."""
    sums = {name: torch.cat([getattr(part, name) for part in parts]) for name in (*_SUMS, "neurons")}
    return Moments(**sums, n_targets=float(sums["count"].sum()), n_rows=len(sums["count"]))


def summed(moments: Moments, numbers: np.ndarray) -> Moments:
    """Add up what belongs to the same neuron; the result is in the order of `numbers`."""
    place = {int(number): row for row, number in enumerate(numbers)}
    rows = torch.tensor([place[int(number)] for number in moments.neurons], dtype=torch.int64)
    sums = {}
    for name in _SUMS:
        values = getattr(moments, name)
        total = values.new_zeros(len(numbers), *values.shape[1:])
        sums[name] = total.index_add_(0, rows, values)
    sums["neurons"] = torch.from_numpy(np.asarray(numbers, dtype=np.int64))
    return Moments(**sums, n_targets=float(sums["count"].sum()), n_rows=len(numbers))


def best_phi(filters: Filter, moments: Moments, penalty: float) -> Tensor:
    """Return the Phi of each neuron with the least mean squared error plus penalty, (neurons, phi).

    A ridge regression for each neuron: the optimum of the loss that training minimises. A neuron without
    targets gets 0.
    """
    base, by_phi = (part.detach().double() for part in filters.design())
    size = moments.count.double().clamp_min(1.0)
    gram = moments.gram.double() / size[:, None, None]
    rest = moments.cross.double() / size[:, None] - gram @ base
    inner = by_phi.T @ gram @ by_phi + penalty * torch.eye(by_phi.shape[1], dtype=torch.float64)
    return torch.linalg.solve(inner, (rest @ by_phi)[..., None])[..., 0].float()
