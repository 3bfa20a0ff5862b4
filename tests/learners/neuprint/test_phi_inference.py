"""Phi of new neurons does not depend on the company they are inferred in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from neurofleet.learners.neuprint.dynamics import DynamicsModel, dynamics_for
from neurofleet.learners.neuprint.phi_inference import infer_phi
from neurofleet.learners.neuprint.population_recordings import Recordings, gathered
from neurofleet.learners.neuprint.session_tensors import sessions_of
from tests.learners.neuprint.small_recordings import DYNAMICS, small_recordings, small_settings, with_gaps


def model_of(dynamics: str) -> DynamicsModel:
    torch.manual_seed(0)
    model = dynamics_for(small_settings(dynamics=dynamics, dropout=0.5), 4)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    return model


def permuted(recordings: Recordings, order: np.ndarray) -> Recordings:
    """Return one recording with its neurons in another order."""
    (one,) = recordings.recordings
    moved = replace(
        one,
        activity=one.activity[:, order],
        valid=one.valid[:, order],
        neuron_ids=one.neuron_ids[order],
    )
    return gathered([moved], [pd.DataFrame({"type": recordings.labels("type")[order]})])


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_order_company_and_labels_do_not_change_phi(dynamics: str) -> None:
    settings = small_settings(dynamics=dynamics, dropout=0.5, inference_neurons=5)
    one, two = with_gaps(small_recordings(1)), with_gaps(small_recordings(2))
    order = np.random.default_rng(0).permutation(12)
    model = model_of(dynamics)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    phi = infer_phi(model, sessions_of(one, settings), np.arange(12), settings).phi
    assert np.abs(phi).max() > 0.01
    moved = infer_phi(model, sessions_of(permuted(one, order), settings), np.arange(12), settings).phi
    np.testing.assert_allclose(moved, phi[order], atol=1e-4)
    beside = infer_phi(model, sessions_of(two, settings), np.arange(24), settings).phi
    np.testing.assert_allclose(beside[:12], phi, atol=1e-4)
    alone = infer_phi(model, sessions_of(one, settings), np.array([5]), settings).phi
    np.testing.assert_allclose(alone[0], phi[5], atol=1e-4)
    assert model.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


@pytest.mark.parametrize("dynamics", ["bilinear", "gru"])
def test_a_neuron_in_two_sessions_has_one_phi_from_both(dynamics: str) -> None:
    settings = small_settings(dynamics=dynamics)
    first, second = small_recordings(2).recordings
    twin = replace(second, neuron_ids=np.concatenate([first.neuron_ids[:6], second.neuron_ids[6:]]))
    both = gathered([first, twin], [pd.DataFrame(index=range(12))] * 2)
    model = model_of(dynamics)
    phi = infer_phi(model, sessions_of(both, settings), np.arange(18), settings).phi
    alone = gathered([first], [pd.DataFrame(index=range(12))])
    single = infer_phi(model, sessions_of(alone, settings), np.arange(12), settings).phi
    np.testing.assert_allclose(phi[6:12], single[6:], atol=1e-4)
    assert np.abs(phi[:6] - single[:6]).max() > 1e-3
    assert phi.shape == (18, 3)


def test_descent_lowers_each_neurons_loss() -> None:
    settings = small_settings(dynamics="gru", inference_steps=60)
    sessions = sessions_of(small_recordings(1), settings)
    model = model_of("gru")
    found = infer_phi(model, sessions, np.arange(12), settings)
    window = sessions[0].window(np.arange(12), np.array([0]), 160, 8)
    with torch.no_grad():
        errors = [
            (model.eval()(window, torch.as_tensor(phi)).mean - window.activity).square()[:, 8:].mean(1)
            for phi in (found.phi, np.zeros_like(found.phi))
        ]
    assert float((errors[0] < errors[1]).float().mean()) > 0.9


def test_a_neuron_that_was_never_measured_stays_at_zero() -> None:
    recordings = small_recordings(1)
    (one,) = recordings.recordings
    valid = one.valid.copy()
    valid[:, 3] = False
    gone = replace(recordings, recordings=(replace(one, valid=valid, activity=one.activity * valid),))
    for dynamics in ("bilinear", "gru"):
        settings = small_settings(dynamics=dynamics)
        found = infer_phi(model_of(dynamics), sessions_of(gone, settings), np.arange(12), settings)
        assert not found.phi[3].any()
        assert np.isnan(found.loss[3])
        assert np.isfinite(np.delete(found.loss, 3)).all()
