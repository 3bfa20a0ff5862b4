"""A NeuPRINT model from training to folder and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.local_training import train_here
from neurofleet.learners.model_folder import ModelRefused
from neurofleet.learners.neuprint.dynamics_training import NeuprintTask, WorkerRank
from neurofleet.learners.neuprint.neuprint_model import NeuprintModel
from neurofleet.learners.neuprint.population_recordings import RecordingsRefused
from neurofleet.learners.neuprint.train_neuprint import fit, fitted
from tests.learners.neuprint.small_recordings import DYNAMICS, small_recordings, small_settings, with_gaps


@pytest.fixture(scope="module")
def model() -> NeuprintModel:
    return fit(with_gaps(small_recordings()), np.arange(12), small_settings(), train_here)


def test_a_model_comes_back_from_its_folder(model: NeuprintModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m", "run")
    loaded = NeuprintModel.load(tmp_path / "m")
    new = small_recordings(3)
    np.testing.assert_array_equal(loaded.infer(new).phi, model.infer(new).phi)
    np.testing.assert_array_equal(loaded.phi, model.phi)
    assert loaded.neuron_ids.tolist() == model.neuron_ids.tolist()
    assert (loaded.settings, loaded.covariates) == (model.settings, model.covariates)
    with pytest.raises(ModelRefused, match="another run"):
        model.save(tmp_path / "m", "other")


def test_labels_do_not_reach_phi(model: NeuprintModel) -> None:
    recordings = small_recordings()
    shuffled = recordings.neurons.assign(type=recordings.neurons["type"].to_numpy()[::-1])
    found = model.infer(replace(recordings, neurons=shuffled)).phi
    np.testing.assert_array_equal(found, model.infer(recordings).phi)


def test_known_neurons_are_embedded_as_when_they_were_fitted(model: NeuprintModel) -> None:
    np.testing.assert_allclose(model.infer(with_gaps(small_recordings())).phi, model.phi, atol=1e-6)


def test_known_neurons_are_known_again_whatever_order_the_windows_had() -> None:
    task = NeuprintTask(small_recordings(), np.arange(12), small_settings(dynamics="gru"))
    fit = fitted(task, task.module().state_dict(), seed=7, placed=False)
    model, recordings = replace(fit, facts={"seed": 7}), task.recordings
    assert (model.space, model.map) == (None, None)
    (note,) = model.notes(recordings, model.infer(recordings), always=False)
    assert note.startswith("24 of 24 neurons are among those that the model was fitted with")
    assert not model.notes(recordings, model.infer(recordings, seed=0), always=False)


def test_recordings_with_other_covariates_are_refused(model: NeuprintModel) -> None:
    one = small_recordings(1)
    renamed = replace(one.recordings[0], behaviour_names=("speed", "noise"))
    with pytest.raises(RecordingsRefused, match="trained with the covariates running"):
        model.infer(replace(one, recordings=(renamed,)))


def test_short_sessions_are_refused() -> None:
    with pytest.raises(RecordingsRefused, match="30 frames, fewer than the window of 40"):
        fit(small_recordings(n_frames=30), np.arange(12), small_settings(), train_here)
    with pytest.raises(RecordingsRefused, match="38 of 50 frames are trained on"):
        fit(small_recordings(n_frames=50), np.arange(12), small_settings(), train_here)


def test_short_recordings_are_gone_over_more_often() -> None:
    settings = small_settings(dynamics="gru", least_steps=40)
    task = NeuprintTask(small_recordings(1), np.arange(12), settings)
    assert len(task.data(0).windows(WorkerRank())) == 4
    assert task.epochs() == 10
    assert NeuprintTask(small_recordings(1), np.arange(12), small_settings(least_steps=40)).epochs() == 2


def test_no_training_neuron_is_refused() -> None:
    with pytest.raises(LearnerError, match="no neuron to train on"):
        NeuprintTask(small_recordings(), np.array([], dtype=int), small_settings()).sessions  # noqa: B018


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("loss", ["mse", "nll"])
def test_every_dynamics_learns_with_either_loss(dynamics: str, loss: str) -> None:
    settings = small_settings(dynamics=dynamics, loss=loss, epochs=4, learning_rate=0.03)
    task, rows = NeuprintTask(small_recordings(), np.arange(12), settings), list[dict[str, Any]]()
    before = task.module().phi.detach().numpy().copy()
    state = train_here(task, "m", 1, rows.append)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert set(rows[-1]) == {"train_loss", "val_loss", "val_r2"}
    assert before.shape == tuple(state["phi"].shape) == (24, 3)
