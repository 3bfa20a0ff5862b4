"""One training of a NeuPRINT dynamics: which recordings, which neurons; written for other processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from learners.errors import LearnerError
from learners.neuprint.batches import NeuprintData, Place
from learners.neuprint.module import NeuprintModule
from learners.neuprint.opening import open_recordings
from learners.neuprint.recordings import Recordings
from learners.neuprint.sessions import Session, frames_of, sessions_of
from learners.neuprint.settings import Settings

_TENSORS, _DESCRIPTION = "task.safetensors", "task.json"


@dataclass(frozen=True)
class Task:
    """A training of f and of the Phi of training neurons (stage 1).

    Attributes
    ----------
    recordings : Recordings
    train_neurons : array of int
        Rows of ``recordings.neurons`` that are trained on. Others are never targets; in their recordings
        they still belong to the population.
    settings : Settings
    """

    recordings: Recordings
    train_neurons: np.ndarray
    settings: Settings

    @cached_property
    def sessions(self) -> list[Session]:
        """The sessions that hold a training neuron, with their covariates.

        Raises
        ------
        LearnerError
            If a session cannot be used, or no neuron is trained on.
        """
        found = [
            session
            for session in sessions_of(self.recordings, self.settings)
            if np.isin(session.numbers, self.train_neurons).any()
        ]
        if not found:
            raise LearnerError("There is no neuron to train on: no recording holds one of train_neurons.")
        for session in found:
            frames_of(session, self.settings)
        return found

    def module(self) -> NeuprintModule:
        """Return what is trained."""
        return NeuprintModule(self.settings, len(self.recordings.neurons), len(self.sessions[0].names))

    def data(self, seed: int) -> NeuprintData:
        """Return its data; `seed` decides their order."""
        return NeuprintData(self.sessions, self.train_neurons, self.settings, seed)

    def epochs(self) -> int:
        """Return after how many epochs training ends: more than the settings' for short recordings."""
        settings = self.settings
        if settings.is_quadratic:
            return settings.epochs
        steps_per_epoch = len(self.data(0).windows(Place()))
        return max(settings.epochs, -(-settings.least_steps // steps_per_epoch))

    def write(self, folder: Path, sources: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Write the task for `build`, and return what `build` is to be called with.

        Parameters
        ----------
        sources : mapping
            What `open_recordings` was called with, with absolute paths.
        """
        folder.mkdir(parents=True, exist_ok=True)
        neurons = np.ascontiguousarray(self.train_neurons, dtype=np.int64)
        save_file({"train_rows": neurons}, folder / _TENSORS)
        description = {
            "sources": dict(sources),
            "settings": self.settings.model_dump(mode="json"),
            "epochs": self.epochs(),
        }
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1))
        return {"folder": str(folder), "seed": seed}


def build(payload: Mapping[str, Any]) -> tuple[NeuprintModule, NeuprintData]:
    """Return module and data of a task that was written to ``payload["folder"]``.

    Parameters
    ----------
    payload : mapping
        As `Task.write` returned it; ``changes`` are settings that differ from the task's.
    """
    folder = Path(payload["folder"])
    description = json.loads((folder / _DESCRIPTION).read_text())
    task = Task(
        recordings=open_recordings(**description["sources"]),
        train_neurons=load_file(folder / _TENSORS)["train_rows"],
        settings=Settings(**(description["settings"] | payload.get("changes", {}))),
    )
    return task.module(), task.data(payload["seed"])
