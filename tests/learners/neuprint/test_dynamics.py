"""What each dynamics sees, and what its losses are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from neurofleet.learners.neuprint.dynamics import (
    BandedTransformer,
    Filter,
    Prediction,
    dynamics_for,
    entry_losses,
    filter_inputs,
)
from tests.learners.neuprint.small_recordings import DYNAMICS, random_window, small_settings

STEP = 20


def seen_by(dynamics: str, field: str, step: int, loss: str = "mse") -> bool:
    """Whether the prediction of frame 20 depends on what `field` holds at another frame."""
    torch.manual_seed(1)
    window = random_window()
    model = dynamics_for(small_settings(dynamics=dynamics, loss=loss), 2).eval()
    for weights in model.parameters():
        nn.init.normal_(weights, std=0.3)
    phi = torch.randn(5, 3)
    changed = getattr(window, field).clone()
    changed[:, step] += 3.0
    one, other = (model(w, phi).mean[:, STEP] for w in (window, replace(window, **{field: changed})))
    return not torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_a_step_is_predicted_from_the_past_and_present_covariates_only(dynamics: str) -> None:
    assert not seen_by(dynamics, "activity", STEP)
    assert not seen_by(dynamics, "activity", STEP + 1)
    assert not seen_by(dynamics, "covariates", STEP + 1)
    assert seen_by(dynamics, "activity", STEP - 1)
    assert seen_by(dynamics, "covariates", STEP)


@pytest.mark.parametrize(("dynamics", "reach"), [("linear", 4), ("bilinear", 4), ("nonlinear", 4), ("transformer", 3)])
def test_filters_see_their_lags_and_the_transformer_its_band(dynamics: str, reach: int) -> None:
    assert seen_by(dynamics, "activity", STEP - reach)
    assert not seen_by(dynamics, "activity", STEP - reach - 1)


def test_filter_inputs_are_past_values_then_covariates_then_one() -> None:
    activity, covariates = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[[10.0], [20.0], [30.0]]])
    expected = [[0, 0, 10, 0, 0, 1], [1, 0, 20, 10, 0, 1], [2, 1, 30, 20, 10, 1]]
    torch.testing.assert_close(filter_inputs(activity, covariates, 2), torch.tensor([expected]).float())


def test_phi_scales_the_bilinear_filter_and_only_shifts_the_linear_one() -> None:
    phi = torch.randn(2, 3)
    for dynamics, n_changed in (("bilinear", 15), ("linear", 1)):
        model = dynamics_for(small_settings(dynamics=dynamics), 2)
        assert isinstance(model, Filter)
        one, other = model.weights(phi)[0]
        assert int((one != other).sum()) == n_changed
        base, by_phi = model.design()
        torch.testing.assert_close(base + by_phi @ phi[1], other)


def test_the_mean_form_of_the_linear_dynamics_is_a_mean() -> None:
    model = dynamics_for(small_settings(dynamics="linear", mean_form=True), 2)
    assert isinstance(model, Filter)
    window, phi = random_window(), torch.randn(5, 3)
    inputs = filter_inputs(window.activity, window.covariates, 4)
    everything = torch.cat([inputs, phi[:, None].expand(-1, 30, -1)], 2)
    factors = torch.cat([model.base[0], model.by_phi[0, 0]])
    torch.testing.assert_close(model(window, phi).mean, (everything * factors).mean(2))


def test_attention_is_that_of_a_banded_causal_mask() -> None:
    torch.manual_seed(0)
    model = dynamics_for(small_settings(dynamics="transformer", context=3), 2).eval()
    assert isinstance(model, BandedTransformer)
    nn.init.zeros_(model.by_lag)
    activity, others = torch.randn(2, 12), torch.randn(2, 12, 8)
    tokens = others + model.of_activity(activity[..., None])
    found = model._attention(tokens, activity, others)
    normed = model.before_attention(tokens)
    query, (key, value) = model.query(normed), model.key_value(normed).chunk(2, 2)
    lag = torch.arange(12)[:, None] - torch.arange(12)
    split = [x.unflatten(2, (2, 4)).transpose(1, 2) for x in (query, key, value)]
    band = (lag >= 0) & (lag < 3)
    expected = nn.functional.scaled_dot_product_attention(*split, attn_mask=band).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gaussian_loss_is_the_negative_log_density() -> None:
    activity, mean, log_variance = torch.randn(3, 4, 50).unbind(0)
    expected = -torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(activity)
    found = entry_losses(Prediction(mean, log_variance), activity)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)
