"""Second moments stand for all windows of a quadratic loss."""

from __future__ import annotations

import numpy as np
import torch

from neurofleet.learners.neuprint.dynamics import Filter, dynamics_for, entry_losses
from neurofleet.learners.neuprint.filter_moments import best_phi, joined, moments_of, summed
from neurofleet.learners.neuprint.session_tensors import sessions_of
from tests.learners.neuprint.small_recordings import small_recordings, small_settings, with_gaps


def test_errors_are_those_of_the_windows_with_gaps_left_out() -> None:
    settings = small_settings()
    session = sessions_of(with_gaps(small_recordings(1)), settings)[0]
    rows = np.array([0, 3, 7])
    model = dynamics_for(settings, len(session.names))
    assert isinstance(model, Filter)
    phi = torch.randn(3, 3)
    moments = moments_of(session, rows, (0, 100), 4, 8)
    window = session.window(rows, np.array([0]), 100, 8)
    losses = entry_losses(model(window, phi), window.activity).masked_fill(~window.targets, 0.0)
    filters = model.weights(phi)[0]
    errors = moments.errors(filters)
    torch.testing.assert_close(errors, losses.sum(1), rtol=1e-4, atol=1e-3)
    gradients = [torch.autograd.grad(total.sum(), [*model.parameters()]) for total in (errors, losses)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(moments.errors(filters), errors)
    assert moments.count.tolist() == window.targets.sum(1).tolist()
    assert moments.count[0] < 60


def test_the_closed_form_is_the_optimum_that_descent_converges_to() -> None:
    settings = small_settings()
    session = sessions_of(small_recordings(1), settings)[0]
    model = dynamics_for(settings, len(session.names))
    assert isinstance(model, Filter)
    moments = moments_of(session, np.arange(12), (0, 160), 4, 8)
    phi = torch.zeros(12, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([phi], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        errors = moments.errors(model.weights(phi)[0]) / moments.count
        total = (errors + 0.01 * phi.square().sum(1)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    torch.testing.assert_close(best_phi(model, moments, 0.01), phi.detach(), atol=2e-3, rtol=2e-3)


def test_moments_of_a_neuron_in_two_sessions_add_up() -> None:
    session = sessions_of(small_recordings(1), small_settings())[0]
    halves = [moments_of(session, np.arange(4), part, 4, 8) for part in ((0, 90), (90, 160))]
    whole = moments_of(session, np.arange(4), (0, 160), 4, 8)
    added = summed(joined(halves), np.arange(4))
    torch.testing.assert_close(added.gram, whole.gram, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(added.count, whole.count)
