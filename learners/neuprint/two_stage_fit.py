"""Fit a NeuPRINT model: dynamics on training neurons, then the Phi of all neurons with frozen dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
from neurofleet.learners.neuprint.neuprint_model import NeuprintModel
from neurofleet.learners.neuprint.phi_inference import infer_phi
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.session_tensors import sessions_of


class TrainNeuprint(Protocol):
    """How a task is trained: in this process, or on a cluster."""

    def __call__(self, task: NeuprintTask, name: str, seed: int) -> Mapping[str, torch.Tensor]:
        """Return the state of the task's module after training; `name` tells trainings apart."""


def fit(
    recordings: Recordings,
    train_neurons: np.ndarray,
    settings: NeuprintSettings,
    train: TrainNeuprint,
    seed: int = 1,
    name: str = "model",
) -> NeuprintModel:
    """Fit dynamics on some neurons of a set and return it with the Phi of all neurons.

    Parameters
    ----------
    train_neurons : array of int
        Rows of ``recordings.neurons``. The dynamics predicts no other neuron while it is fitted.
    train : TrainNeuprint
        `neurofleet.learners.local_training.train_here`, or one that uses a cluster.

    Raises
    ------
    LearnerError
        If the recordings cannot be used.
    """
    task = NeuprintTask(recordings, np.asarray(train_neurons, dtype=np.int64), settings)
    return fitted(task, train(task, name, seed), seed)


def fitted(task: NeuprintTask, weights: Mapping[str, torch.Tensor], seed: int) -> NeuprintModel:
    """Return the model of a finished training, with Phi of all neurons of the task's recordings.

    Phi of the training neurons is inferred from zero like that of the others, so that all are alike.
    """
    module = task.module()
    module.load_state_dict(dict(weights))
    sessions = sessions_of(task.recordings, task.settings)
    neurons = task.recordings.neurons
    inferred = infer_phi(module.dynamics, sessions, np.arange(len(neurons)), task.settings, seed)
    return NeuprintModel(
        module.dynamics.eval(),
        task.settings,
        sessions[0].names,
        neurons.index.to_numpy().astype(str),
        inferred.phi,
    )
