"""Train a NeuPRINT model: dynamics on training neurons, then the Phi of all neurons with frozen dynamics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurofleet.learners.local_training import Train, TrainHere
from neurofleet.learners.model_folder import (
    checked_settings,
    model_fingerprint,
    now_in_words,
    package_versions,
    refuse_other_model,
    source_names,
)
from neurofleet.learners.neuprint.dynamics_settings import DEFAULT, PRESETS, NeuprintSettings, settings_of
from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
from neurofleet.learners.neuprint.neuprint_model import NeuprintModel, fit_naming
from neurofleet.learners.neuprint.neuron_splits import labelled_names
from neurofleet.learners.neuprint.phi_inference import infer_phi
from neurofleet.learners.neuprint.population_recordings import ANIMAL, Recordings
from neurofleet.learners.neuprint.recording_files import as_recordings
from neurofleet.learners.neuprint.session_tensors import sessions_of
from neurofleet.learners.progress import logger, told
from neurofleet.threads import one_thread


@told
@one_thread()
def train(
    recordings: Recordings | str | Path | Sequence[Recordings | str | Path],
    label: str,
    *,
    layout: Mapping[str, Any] | None = None,
    least_neurons: int = 8,
    preset: str = DEFAULT,
    settings: Mapping[str, Any] | None = None,
    seed: int = 1,
    out: str | Path | None = None,
    quiet: bool = False,
) -> NeuprintModel:
    """Train a NeuPRINT model on all neurons of recordings, and a probe that names neurons by their Phi.

    The model is the one that ``neurofleet run`` of a job (``kind: train``, ``learner: neuprint``) keeps. How well it
    names neurons of other animals, and how well simple methods do, is what that job and ``kind: evaluate`` measure.

    Parameters
    ----------
    recordings : Recordings, path or sequence of either
        Recordings in memory, or npz files (one session each), NWB files with optical physiology, or folders of the
        Bugeon release.
    label : str
        The label of neurons that is learned, such as ``class``. Inner folds keep animals whole where there are several.
    layout : mapping, optional
        What the files' arrays are called: see `neurofleet.learners.neuprint.recording_layout.RecordingLayout`.
    least_neurons : int
        Classes of fewer neurons are not learned.
    preset : str
        A name of `neurofleet.learners.neuprint.PRESETS`.
    settings : mapping, optional
        What differs from the preset: keys of `NeuprintSettings`.
    seed : int
        Decides first weights, and the order of windows.
    out : path, optional
        A folder for the model. The same training may write there again; the model of another one is never replaced.
    quiet : bool
        Whether no progress is printed on standard error.

    Returns
    -------
    NeuprintModel

    Raises
    ------
    LearnerError
        If recordings, label or settings cannot be used.
    Interrupted
        Ctrl-C (the notebook's stop button); no model was written.

    Examples
    --------
    >>> model = nf.neuprint.train(["first.npz", "second.npz"], label="class", out="model")
    >>> model.predict("third.npz")
    """
    chosen = checked_settings(settings_of, PRESETS, preset, settings)
    opened = as_recordings(recordings, layout)
    several = len(opened.animals) > 1
    names, notes = labelled_names(opened, label, "cross" if several else "pooled", animal=None, fewest=least_neurons)
    names = names.astype(str)
    run = model_fingerprint(
        {
            "learner": "neuprint",
            "label": label,
            "settings": chosen.model_dump(mode="json"),
            "seed": seed,
            "neurons": opened.neurons.index.tolist(),
            "names": names.tolist(),
        }
    )
    if out is not None:
        refuse_other_model(out, run)
    notes = [*opened.notes, *notes]
    for note in notes:
        logger.info(note)
    model = fit(opened, np.arange(len(opened.neurons)), chosen, TrainHere(), seed)
    logger.info(f"choosing a probe of Phi by {int((names != '').sum()):,} neurons with a class")
    naming = fit_naming(model.phi, names, opened.labels(ANIMAL) if several else None, seed)
    classes, counts = np.unique(names[names != ""], return_counts=True)
    facts = {
        "label": label,
        "layout": dict(layout or {}),
        "preset": preset,
        "seed": seed,
        "dynamics": chosen.dynamics,
        "data": {
            "files": source_names(recordings),
            "animals": list(opened.animals),
            "n_sessions": len(opened.recordings),
            "n_neurons": len(opened.neurons),
            "rate_hz": opened.rates_hz,
            "n_labelled": int((names != "").sum()),
            "neurons_of_class": dict(zip(classes.tolist(), counts.tolist(), strict=True)),
        },
        "naming": {"probe": naming.probe.kind, "tried": dict(naming.tried)},
        "notes": notes,
        "versions": package_versions(),
        "trained_at": now_in_words(),
    }
    model = replace(model, naming=naming, facts=facts)
    if out is not None:
        model.save(out, run)
    return model


def fit(
    recordings: Recordings,
    train_neurons: np.ndarray,
    settings: NeuprintSettings,
    train: Train,
    seed: int = 1,
    name: str = "model",
    *,
    placed: bool = True,
) -> NeuprintModel:
    """Fit dynamics on some neurons of a set and return it with the Phi of all neurons.

    Parameters
    ----------
    train_neurons : array of int
        Rows of ``recordings.neurons``. The dynamics predicts no other neuron while it is fitted.
    train : Train
        `neurofleet.learners.local_training.train_here`, or one that uses a cluster.
    placed : bool
        Whether the model holds where its neurons lie, and their map; a fit that is only asked for Phi needs neither.

    Raises
    ------
    LearnerError
        If the recordings cannot be used.
    """
    task = NeuprintTask(recordings, np.asarray(train_neurons, dtype=np.int64), settings)
    return fitted(task, train(task, name, seed), seed, placed=placed)


def fitted(task: NeuprintTask, weights: Mapping[str, torch.Tensor], seed: int, *, placed: bool = True) -> NeuprintModel:
    """Return the model of a finished training, with Phi of all neurons of the task's recordings; see `fit`.

    Phi of the training neurons is inferred from zero like that of the others, so that all are alike.
    """
    module = task.module()
    module.load_state_dict(dict(weights))
    sessions = sessions_of(task.recordings, task.settings)
    neurons = task.recordings.neurons
    inferred = infer_phi(module.dynamics, sessions, np.arange(len(neurons)), task.settings, seed)
    model = NeuprintModel(
        module.dynamics.eval(),
        task.settings,
        sessions[0].names,
        neurons.index.to_numpy().astype(str),
        inferred.phi,
    )
    return model.with_space(inferred, task.recordings.labels(ANIMAL), seed) if placed else model
