"""Phi of any neuron, under frozen dynamics (stage 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neurofleet.learners.neuprint.dynamics import DynamicsModel, Filter, entry_losses
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.filter_moments import best_phi, joined, moments_of, summed
from neurofleet.learners.neuprint.session_tensors import SessionTensors, Window, window_starts
from neurofleet.learners.progress import StepProgress

_WARM_UP = 0.1


@dataclass(frozen=True)
class Inferred:
    """Who neurons are.

    Attributes
    ----------
    phi : (n, phi) float32
    loss : (n,) float32
        Mean loss of each neuron's entries with its Phi, where the last windows were; NaN without entries.
    """

    phi: np.ndarray
    loss: np.ndarray


def infer_phi(
    dynamics: DynamicsModel,
    sessions: Sequence[SessionTensors],
    numbers: np.ndarray,
    settings: NeuprintSettings,
    seed: int = 0,
) -> Inferred:
    """Fit the Phi of neurons from zero, to all their frames, with dynamics that stay as they are.

    Each neuron has a loss of its own, the mean over its entries plus the penalty of Phi, and a clip and
    Adam's statistics of its own; all neurons see the same windows in the same order. A Phi therefore does not
    depend on which other neurons are fitted beside it. Dropout is off. Linear and bilinear dynamics under
    the squared error have their optimum in closed form.

    Parameters
    ----------
    dynamics : DynamicsModel
    sessions : sequence of SessionTensors
        With the covariates that the dynamics was trained with.
    numbers : array of int, shape (n,)
        Distinct neurons, by their number in the sessions.
    seed : int
        Decides the order of the windows.
    """
    frozen = deepcopy(dynamics).eval().requires_grad_(False)
    numbers = np.asarray(numbers, dtype=np.int64)
    if settings.is_quadratic:
        assert isinstance(frozen, Filter)
        return _in_closed_form(frozen, sessions, numbers, settings)
    phi = np.zeros((len(numbers), settings.phi), dtype=np.float32)
    loss = np.full(len(numbers), np.nan, dtype=np.float32)
    found_in = np.array([np.isin(numbers, session.numbers) for session in sessions])
    for pattern in np.unique(found_in, axis=1).T:
        members = np.flatnonzero((found_in == pattern[:, None]).all(axis=0))
        own_sessions = [session for session, is_in in zip(sessions, pattern, strict=True) if is_in]
        if not own_sessions:
            continue
        for at in range(0, len(members), settings.inference_neurons):
            part = members[at : at + settings.inference_neurons]
            phi[part], loss[part] = _by_descent(frozen, own_sessions, numbers[part], settings, seed)
    return Inferred(phi, loss)


def _in_closed_form(
    dynamics: Filter, sessions: Sequence[SessionTensors], numbers: np.ndarray, settings: NeuprintSettings
) -> Inferred:
    parts = []
    for session in sessions:
        rows = np.flatnonzero(np.isin(session.numbers, numbers))
        if len(rows):
            frames = (0, session.n_frames)
            parts.append(moments_of(session, rows, frames, settings.lags, settings.warm_up))
    moments = summed(joined(parts), numbers)
    phi = best_phi(dynamics, moments, settings.phi_penalty)
    loss = moments.errors(dynamics.weights(phi)[0]) / moments.count
    return Inferred(phi.numpy(), loss.numpy())


def _by_descent(
    dynamics: DynamicsModel,
    sessions: Sequence[SessionTensors],
    numbers: np.ndarray,
    settings: NeuprintSettings,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return Phi and loss of neurons that are all in all of the sessions."""
    rows = [_places(session.numbers, numbers) for session in sessions]
    windows = [
        (number, start)
        for number, session in enumerate(sessions)
        for start in window_starts((0, session.n_frames), settings.window, settings.warm_up)
    ]
    order = np.random.default_rng(seed).permutation(len(windows))
    phi = torch.zeros(len(numbers), settings.phi, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=settings.inference_rate)
    losses = torch.full((len(windows), len(numbers)), torch.nan)
    steps = StepProgress(settings.inference_steps)
    for step in range(settings.inference_steps):
        optimizer.param_groups[0]["lr"] = settings.inference_rate * one_cycle(step, settings.inference_steps)
        chosen = order[step % len(windows)]
        number, start = windows[chosen]
        window = sessions[number].window(rows[number], np.array([start]), settings.window, settings.warm_up)
        neuron_losses, measured = _own_losses(dynamics, window, phi)
        total = (neuron_losses + settings.phi_penalty * phi.square().sum(1)) * measured
        (gradient,) = torch.autograd.grad(total.sum(), phi)
        norm = gradient.norm(dim=1, keepdim=True)
        phi.grad = gradient * (settings.clip_norm / norm.clamp_min(settings.clip_norm))
        optimizer.step()
        losses[chosen] = torch.where(measured, neuron_losses.detach(), torch.nan)
        steps.done(f"Phi of {len(numbers):,} neurons: step {step + 1} of {settings.inference_steps}")
    return phi.detach().numpy(), losses.nanmean(0).numpy()


def _own_losses(dynamics: DynamicsModel, window: Window, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return each neuron's mean loss, and whether it has entries at all."""
    losses = entry_losses(dynamics(window, phi), window.activity)
    count = window.targets.sum(1)
    return losses.masked_fill(~window.targets, 0.0).sum(1) / count.clamp_min(1), count > 0


def _places(known: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    order = np.argsort(known)
    return order[np.searchsorted(known, numbers, sorter=order)]


def one_cycle(step: int, n_steps: int) -> float:
    """Return which part of its peak the learning rate has: up over a tenth of the steps, down by a cosine."""
    up = (step + 1) / max(_WARM_UP * n_steps, 1.0)
    return min(up, 1.0) * 0.5 * (1.0 + math.cos(math.pi * min(step / n_steps, 1.0)))
