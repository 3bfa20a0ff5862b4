"""Hiding entries for the transformer's training."""

from __future__ import annotations

import torch

from neurofleet.learners.neuprint.dynamics_training import hide


def test_a_quarter_is_chosen_and_most_of_it_becomes_zero() -> None:
    torch.manual_seed(0)
    activity = 5.0 + torch.rand(400, 400)
    shown, chosen = hide(activity, 0.25)
    inner, own = chosen[:, :-1], (shown == activity)[:, :-1]
    assert 0.245 < float(inner.float().mean()) < 0.255
    assert bool(own[~inner].all())
    assert 0.79 < float((shown[:, :-1][inner] == 0.0).float().mean()) < 0.81
    assert 0.09 < float(own[inner].float().mean()) < 0.11


def test_the_last_step_is_always_chosen_and_the_last_row_is_not() -> None:
    _, chosen = hide(torch.ones(200, 50), 0.25)
    assert bool(chosen[:, -1].all())
    assert not bool(chosen[-1].all())
