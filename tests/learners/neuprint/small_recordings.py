"""Small recordings and settings for the tests of NeuPRINT's dynamics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.session_tensors import Window
from tests.learners.neuprint.synthetic_animals import synthetic_recordings

DYNAMICS = ("linear", "bilinear", "nonlinear", "gru", "transformer")


def small_settings(**changes: Any) -> NeuprintSettings:
    """Return settings for windows of 40 frames."""
    small = {"phi": 3, "window": 40, "warm_up": 8, "lags": 4, "hidden": 8, "feed_forward": 16}
    return NeuprintSettings(
        **(small | {"batch_neurons": 8, "epochs": 2, "inference_steps": 8, "least_steps": 0} | changes)
    )


def small_recordings(n_animals: int = 2, n_neurons: int = 12, n_frames: int = 160) -> Recordings:
    """Return synthetic animals."""
    return synthetic_recordings(n_animals, n_neurons=n_neurons, n_frames=n_frames)


def with_gaps(recordings: Recordings, share: float = 0.1, seed: int = 0) -> Recordings:
    """Return the recordings with some entries not measured, among them a stretch of one neuron."""
    rng = np.random.default_rng(seed)
    found = []
    for recording in recordings.recordings:
        valid = rng.random(recording.activity.shape) >= share
        valid[20:60, 0] = False
        activity = np.where(valid, recording.activity, 0.0).astype(np.float32)
        found.append(replace(recording, activity=activity, valid=valid))
    return replace(recordings, recordings=tuple(found))


def random_window(rows: int = 5, steps: int = 30, n_covariates: int = 2, warm_up: int = 8) -> Window:
    """Return a window of noise."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(rows, steps, generator=generator) < 0.9
    targets[:, :warm_up] = False
    return Window(
        torch.randn(rows, steps, generator=generator),
        torch.randn(rows, steps, n_covariates, generator=generator),
        targets,
        torch.arange(rows),
        float(targets.sum()),
        float(rows),
    )
