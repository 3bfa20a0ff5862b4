"""NeuPRINT's training as the cluster runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurofleet.cluster.training.lightning_training import Training
from neurofleet.cluster.training.trainer import train
from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
from neurofleet.learners.neuprint.recording_files import open_recordings
from tests.learners.neuprint.small_recordings import small_recordings, small_settings


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two animals in files."""
    folder = tmp_path_factory.mktemp("recordings")
    for recording in small_recordings().recordings:
        np.savez(
            folder / f"{recording.animal}.npz",
            activity=recording.activity,
            rate_hz=recording.rate_hz,
            running=recording.behaviour[:, 0],
        )
    layout = {"behaviour": ["running"]}
    return {"paths": sorted(str(path) for path in folder.iterdir()), "layout": layout}


def written(sources: dict[str, Any], folder: Path, dynamics: str) -> Training:
    recordings = open_recordings(**sources)
    settings = small_settings(dynamics=dynamics, epochs=3, dropout=0.2)
    payload = NeuprintTask(recordings, np.arange(18), settings).write(folder, sources, seed=4)
    return Training("neurofleet.learners.neuprint.dynamics_training:build", payload, seed=4)


class Stopped(Exception):
    pass


def stop(_: Any) -> None:
    raise Stopped


@pytest.mark.parametrize("dynamics", ["bilinear", "transformer"])
def test_a_training_that_was_stopped_ends_like_an_undisturbed_one(
    sources: dict[str, Any], tmp_path: Path, dynamics: str
) -> None:
    training = written(sources, tmp_path / "task", dynamics)
    whole = train(training, tmp_path / "whole", max_epochs=3, loggers=())
    with pytest.raises(Stopped):
        train(training, tmp_path / "parts", max_epochs=3, loggers=(), progress=stop)
    resumed = train(training, tmp_path / "parts", max_epochs=3, loggers=())
    assert len(resumed.history) == 3
    assert {"train_loss", "val_loss", "val_r2"} <= set(resumed.metrics)
    for name, tensor in whole.weights().items():
        torch.testing.assert_close(resumed.weights()[name], tensor)
