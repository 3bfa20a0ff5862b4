"""What counts in the loss, how batches are shared between workers, and what is clipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from neurofleet.learners.neuprint.dynamics_training import (
    MomentBatches,
    NeuprintModule,
    TrainingWindows,
    ValidationWindows,
    WorkerRank,
)
from neurofleet.learners.neuprint.filter_moments import moments_of
from neurofleet.learners.neuprint.session_tensors import sessions_of
from tests.learners.neuprint.small_recordings import (
    DYNAMICS,
    random_window,
    small_recordings,
    small_settings,
    with_gaps,
)

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


def module_of(**changes: object) -> NeuprintModule:
    torch.manual_seed(0)
    return NeuprintModule(small_settings(phi_penalty=1e-12, filter_penalty=0.0, **changes), 12, 2)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_the_loss_is_the_mean_over_the_entries_that_count(dynamics: str) -> None:
    module, window = module_of(dynamics=dynamics), random_window()
    predicted = module.dynamics(window, module.phi[window.neurons]).mean
    expected = (predicted - window.activity)[window.targets].square().mean()
    torch.testing.assert_close(module.training_step(window, 0), expected)
    elsewhere = torch.where(window.targets, window.activity, window.activity + 100.0)
    unseen = replace(window, targets=torch.zeros_like(window.targets), activity=elsewhere)
    assert float(module.training_step(unseen, 0).detach()) == pytest.approx(0.0, abs=1e-9)


def test_a_quarter_of_the_entries_hidden_at_random_does_not_quarter_the_loss() -> None:
    window = random_window(rows=400, steps=200)
    window = replace(window, neurons=window.neurons % 12)
    module = module_of(dynamics="transformer", hiding="random")
    module.dynamics.heads.weight.data.zero_()  # type: ignore[union-attr]
    assert float(module.training_step(window, 0).detach()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("dynamics", ["bilinear", "gru"])
def test_shares_of_two_workers_average_to_the_whole_batch(dynamics: str) -> None:
    settings = small_settings(dynamics=dynamics, batch_neurons=7)
    session = sessions_of(with_gaps(small_recordings(1)), settings)[0]
    rows = np.arange(7)
    module = NeuprintModule(settings, 12, len(session.names))

    def gradients(place: WorkerRank) -> list[torch.Tensor]:
        batches = TrainingWindows([session], [rows], settings, place, 1)
        moments = MomentBatches(moments_of(session, rows, (0, 120), 4, 8), place, 1)
        batch = next(iter(moments if settings.is_quadratic else batches))
        loss = module.training_step(batch, 0)
        return list(torch.autograd.grad(loss, list(module.parameters())))

    whole = gradients(WorkerRank(0, 1))
    halves = zip(gradients(WorkerRank(0, 2)), gradients(WorkerRank(1, 2)), strict=True)
    for expected, (one, other) in zip(whole, halves, strict=True):
        torch.testing.assert_close((one + other) / 2, expected, rtol=1e-3, atol=1e-5)


def test_every_neuron_meets_every_window_once_an_epoch_in_another_order() -> None:
    settings = small_settings(dynamics="gru", batch_neurons=5)
    session = sessions_of(small_recordings(1), settings)[0]
    batches = TrainingWindows([session], [np.arange(12)], settings, WorkerRank(), 1)
    seen: list[list[int]] = []
    for epoch in (0, 1, 0):
        batches.epoch = epoch
        seen.append(torch.cat([window.neurons for window in batches]).tolist())
        assert np.bincount(seen[-1]).tolist() == [3] * 12
    assert seen[0] == seen[2] != seen[1]


def test_validation_is_on_the_same_entries_for_every_dynamics() -> None:
    settings = small_settings()
    session = sessions_of(with_gaps(small_recordings(1)), settings)[0]
    windows = ValidationWindows([session], [np.arange(12)], settings, WorkerRank())
    counted = sum(window.targets.sum(1)[:12].float() for window in windows)
    assert isinstance(counted, torch.Tensor)
    assert counted.sum() == session.valid[:, 120:].sum()
    torch.testing.assert_close(moments_of(session, np.arange(12), (120, 160), 4, 8).count.sum(), counted.sum())


def test_only_the_dynamics_is_clipped() -> None:
    module = module_of(dynamics="gru", clip_norm=1e-3)
    module.training_step(random_window(), 0).backward()
    assert module.phi.grad is not None
    before = module.phi.grad.clone()
    module.configure_gradient_clipping(None)
    norms = torch.stack([p.grad.norm() for p in module.dynamics.parameters() if p.grad is not None])
    assert float(norms.norm()) <= 1.001e-3
    torch.testing.assert_close(module.phi.grad, before)


def test_r2_is_that_of_the_pooled_entries() -> None:
    module, window = module_of(dynamics="nonlinear"), random_window()
    parts = [
        replace(window, **{n: getattr(window, n)[i] for n in ("activity", "covariates", "targets", "neurons")})
        for i in (slice(0, 1), slice(1, 5))
    ]
    found: dict[str, torch.Tensor] = {}
    module.log_dict = lambda values, **_: found.update(values)  # type: ignore[method-assign,assignment]
    with torch.no_grad():
        for part in parts:
            module.validation_step(part, 0)
        module.on_validation_epoch_end()
        predicted = module.dynamics(window, module.phi[window.neurons]).mean
    x, mu = window.activity[window.targets], predicted[window.targets]
    r2 = float(1 - (x - mu).square().sum() / x.square().sum())
    assert float(found["val_r2"]) == pytest.approx(r2, abs=1e-5)
    assert float(found["val_loss"]) == pytest.approx(float((x - mu).square().mean()))
