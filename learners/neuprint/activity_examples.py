"""Activity of a few neurons beside what the dynamics predicts of it, to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.session_tensors import SessionTensors, frames_of, sessions_of, window_starts

if TYPE_CHECKING:
    from neurofleet.learners.neuprint.neuprint_model import NeuprintModel

CLASSES = 6
FRAMES = 300


def activity_examples(model: NeuprintModel, recordings: Recordings, classes: np.ndarray) -> pd.DataFrame:
    """Return recorded and predicted activity of a neuron of each of the most frequent classes.

    Of each class that neuron whose R² is the median of its class; frames are the last ones, which training did not see
    unless ``train_share`` is 1. Each frame is predicted from the recorded frames before it.

    Parameters
    ----------
    model : NeuprintModel
        With the Phi of all neurons of the recordings.
    recordings : Recordings
    classes : array of str, shape (neurons,)
        "" where there is none.

    Returns
    -------
    DataFrame
        ``neuron_id``, ``class``, ``animal``, ``session``, ``rate_hz`` (frames per second), ``r2`` (over the frames that
        are here), ``r2_repeated`` (that of the frame before as the prediction), ``frame``, ``recorded`` and
        ``predicted`` (z-scored as the dynamics sees it).
    """
    settings = model.settings
    names, counts = np.unique(classes[classes != ""], return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")][:CLASSES]
    ids, animals = recordings.neurons.index.to_numpy().astype(str), recordings.labels("animal")
    found: dict[str, list[pd.DataFrame]] = {}
    for session, recording in zip(sessions_of(recordings, settings), recordings.recordings, strict=True):
        rows = np.flatnonzero(np.isin(classes[session.numbers], shown))
        if not len(rows):
            continue
        parts = frames_of(session, settings)
        first, end = parts["validation"] if settings.train_share < 1.0 else parts["train"]
        first = min(max(first, end - FRAMES), end - settings.window)
        starts = window_starts((first, end), settings.window, settings.warm_up)
        counted = [start + np.arange(settings.warm_up, settings.window) for start in starts]
        recorded, predicted = _predicted(model, session, rows, starts)
        for number, seen, guess in zip(session.numbers[rows], recorded, predicted, strict=True):
            spread = float(np.square(seen - seen.mean()).sum())
            change = float(np.square(np.diff(seen)).mean()) * len(seen)
            table = {
                "neuron_id": ids[number],
                "class": str(classes[number]),
                "animal": str(animals[number]),
                "session": session.name,
                "rate_hz": recording.rate_hz,
                "r2_repeated": 1.0 - change / spread if spread else 0.0,
                "r2": 1.0 - float(np.square(seen - guess).sum()) / spread if spread else 0.0,
                "frame": np.concatenate(counted),
                "recorded": seen,
                "predicted": guess,
            }
            found.setdefault(table["class"], []).append(pd.DataFrame(table))
    middle = []
    for name in shown:
        by_r2 = sorted(found.get(name, []), key=lambda each: each["r2"].iloc[0])
        middle += by_r2[len(by_r2) // 2 :][:1]
    return pd.concat(middle, ignore_index=True) if middle else pd.DataFrame()


def _predicted(
    model: NeuprintModel, session: SessionTensors, rows: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return recorded and predicted targets of the windows that begin at `starts`, each (rows, targets)."""
    settings, parameter = model.settings, next(model.dynamics.parameters())
    phi = torch.from_numpy(model.phi[session.numbers[rows]]).to(parameter)
    both: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    with torch.inference_mode():
        for start in starts:
            window = session.window(rows, np.array([start]), settings.window, settings.warm_up)
            mean = model.dynamics(window.to(parameter.device), phi).mean.cpu()
            for part, values in zip(both, (window.activity, mean), strict=True):
                part.append(values[:, settings.warm_up :])
    return torch.cat(both[0], 1).numpy(), torch.cat(both[1], 1).numpy()
