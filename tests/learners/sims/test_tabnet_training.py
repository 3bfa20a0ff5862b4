"""The rules of training."""

import pytest
import torch

from neurofleet.learners.sims.tabnet_training import one_cycle


@pytest.mark.parametrize("n_steps", [8, 100, 1500])
def test_the_learning_rate_is_that_of_one_cycle(n_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=n_steps, pct_start=0.25, cycle_momentum=False
    )
    for step in range(n_steps):
        assert one_cycle(step, n_steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        if step < n_steps - 1:
            theirs.step()


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 5])
def test_a_training_of_a_few_steps_has_a_rate(n_steps):
    rates = [one_cycle(step, n_steps) for step in range(n_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) > 0.03
