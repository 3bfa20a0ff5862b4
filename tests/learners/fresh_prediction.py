"""What a fresh process does to predict: with modules blocked, it reports what it loaded, and what it predicted."""

import importlib
import pkgutil
import sys
from dataclasses import replace
from typing import Any

import numpy as np

import neurofleet as nf
import neurofleet.learners
from tests.learners.neuprint.small_recordings import small_recordings

HEAVY = tuple("lightning torchmetrics umap numba ray matplotlib sklearn pynwb psutil optuna duckdb".split())
"""What loading a model and predicting with it must not load: each costs a notebook 0.1 to 3 s of its first answer."""

SIMULATION = ("neuron", "bluepyopt", "efel")
"""What learners work without."""


def made_recordings() -> Any:
    """Return made recordings whose one behaviour is running."""
    made = small_recordings()
    return replace(
        made,
        recordings=tuple(
            replace(recording, behaviour=recording.behaviour[:, :1], behaviour_names=("running",))
            for recording in made.recordings
        ),
    )


def predict(folder: str, data: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the heavy modules that were loaded, class probabilities, and embeddings.

    Parameters
    ----------
    data : str
        A file, or ``recordings`` for those of `made_recordings`.
    """
    sys.modules |= dict.fromkeys(SIMULATION)  # type: ignore[arg-type]  # None: importing them is an error

    model = nf.load_model(folder)
    source = made_recordings() if data == "recordings" else data
    named, embedded = model.predict(source), model.embed(source)
    if hasattr(named, "obsm"):
        probabilities, vectors = named.obs[["sims_prob"]].to_numpy(), embedded.obsm["X_sims"]
    else:
        probabilities = named.filter(regex="^p\\.").to_numpy()
        vectors = embedded.filter(regex="^(fusion|mean|phi)_").to_numpy()
    return [name for name in HEAVY if name in sys.modules], probabilities, vectors


def import_all_learners() -> list[str]:
    """Import every module of the learners without NEURON and BluePyOpt; return the modules."""
    sys.modules |= dict.fromkeys(SIMULATION)  # type: ignore[arg-type]
    names = [module.name for module in pkgutil.walk_packages(neurofleet.learners.__path__, "neurofleet.learners.")]
    for name in names:
        importlib.import_module(name)
    return names
