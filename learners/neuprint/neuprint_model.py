"""A fitted NeuPRINT model: the Phi of neurons, their classes, and the folder that it is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurofleet.learners.model_folder import DESCRIPTION, ModelRefused, read_model, write_model
from neurofleet.learners.neuprint.dynamics import DynamicsModel, dynamics_for
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.phi_inference import Inferred, infer_phi
from neurofleet.learners.neuprint.population_recordings import Recordings, RecordingsRefused
from neurofleet.learners.neuprint.session_tensors import sessions_of
from neurofleet.learners.probes import Probe, fit_probe, restore_probe

PROBES = ("knn", "linear", "mlp")


@dataclass(frozen=True)
class Naming:
    """A probe of Phi, and what its classes are called.

    Attributes
    ----------
    classes : (n_classes,) str
    probe : Probe
    tried : mapping
        The balanced accuracy of each kind of probe, by cross-validation inside the neurons that it is fitted
        on; that of the kept one is the best of them, and so a little too good.
    """

    classes: np.ndarray
    probe: Probe
    tried: Mapping[str, float]

    def probabilities(self, phi: np.ndarray) -> np.ndarray:
        """Return class probabilities (neurons, n_classes) from Phi (neurons, phi)."""
        return self.probe.probabilities(phi)

    def description(self) -> dict[str, Any]:
        """Return what a model folder keeps as JSON, beside ``probe.arrays()``."""
        return {
            "classes": self.classes.tolist(),
            "tried": dict(self.tried),
            "probe": self.probe.description(),
        }


def fit_naming(phi: np.ndarray, names: np.ndarray, animals: np.ndarray | None, seed: int) -> Naming:
    """Fit each kind of probe to the named neurons, and return the one that inner validation finds best.

    Parameters
    ----------
    phi : (neurons, phi) array
    names : (neurons,) str
        "" where there is none.
    animals : (neurons,) str or None
        Kept whole in the inner folds, where at least two can be held out; None lets folds mix animals.

    Raises
    ------
    LearnerError
        There are too few neurons to choose by.
    """
    rows = np.flatnonzero(names != "")
    classes, codes = np.unique(names[rows].astype(str), return_inverse=True)
    groups = None if animals is None else animals_to_hold_out(animals[rows], codes)
    probes = [fit_probe(kind, phi[rows], codes, len(classes), groups=groups, seed=seed) for kind in PROBES]
    best = max(probes, key=lambda probe: probe.inner_balanced_accuracy)
    return Naming(classes, best, {probe.kind: probe.inner_balanced_accuracy for probe in probes})


def animals_to_hold_out(animals: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
    """Return the animals, or None where holding out animals would leave fewer than two to choose between.

    Parameters
    ----------
    animals, codes : (n,) arrays
        Animal and class of each training neuron.
    """
    homes = [np.unique(animals[codes == code]) for code in np.unique(codes)]
    lonely = [str(own[0]) for own in homes if len(own) == 1]
    free = ~np.isin(animals, lonely)
    enough = len(np.unique(animals[free])) >= 2 and len(np.unique(codes[free])) >= 2
    return animals if enough else None


def restore_naming(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Naming:
    """Return what gave `description`, with the `arrays` of its probe."""
    probe = restore_probe(description["probe"], arrays)
    return Naming(np.array(description["classes"], dtype=str), probe, description["tried"])


LEARNER = "neuprint"


@dataclass(frozen=True)
class NeuprintModel:
    """Frozen dynamics, and who the neurons are that it was fitted with.

    Attributes
    ----------
    dynamics : DynamicsModel
    settings : NeuprintSettings
    covariates : tuple of str
        Names, in the order in which the dynamics sees them.
    neuron_ids : (n,) str
    phi : (n, phi) float32
        Inferred with frozen dynamics, as `embed` does it.
    facts : mapping
        What else is known of the training. Plain JSON.
    naming : Naming or None
        What tells a neuron's class by its Phi; None where the model was fitted without classes.
    """

    dynamics: DynamicsModel
    settings: NeuprintSettings
    covariates: tuple[str, ...]
    neuron_ids: np.ndarray
    phi: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)
    naming: Naming | None = None

    def embed(self, recordings: Recordings, seed: int = 0) -> np.ndarray:
        """Return the Phi (n, phi) of all neurons of recordings, rows as in ``recordings.neurons``.

        Raises
        ------
        RecordingsRefused
            If the recordings lack covariates of the model, or are shorter than its window.
        """
        return self.inferred(recordings, seed).phi

    def inferred(self, recordings: Recordings, seed: int = 0) -> Inferred:
        """Return Phi, and how well the dynamics predicts each neuron with it; see `embed`."""
        sessions = sessions_of(recordings, self.settings)
        if sessions[0].names != self.covariates:
            raise RecordingsRefused(
                f"The model was trained with the covariates {', '.join(self.covariates) or 'none'}; these"
                f" recordings have {', '.join(sessions[0].names) or 'none'}. Give the same channels the same"
                " names, in the same order."
            )
        return infer_phi(self.dynamics, sessions, np.arange(len(recordings.neurons)), self.settings, seed)

    def save(self, folder: Path, run: str) -> None:
        """Write ``model.safetensors`` and ``model.json``.

        Raises
        ------
        ModelRefused
            If the folder holds the model of another run.
        """
        tensors: dict[str, Any] = {f"dynamics.{n}": t for n, t in self.dynamics.state_dict().items()}
        tensors["phi"] = self.phi
        description = {
            "settings": self.settings.model_dump(mode="json"),
            "covariates": list(self.covariates),
            "neuron_ids": [str(name) for name in self.neuron_ids],
            "facts": dict(self.facts),
        }
        if self.naming is not None:
            description["naming"] = self.naming.description()
            tensors |= {f"probe.{n}": array for n, array in self.naming.probe.arrays().items()}
        write_model(folder, learner=LEARNER, run=run, description=description, tensors=tensors)

    @classmethod
    def load(cls, folder: Path) -> NeuprintModel:
        """Read a model folder; nothing in it is run.

        Raises
        ------
        ModelRefused
            If it is no NeuPRINT model, or is damaged.
        """
        stored = read_model(folder, learner=LEARNER)
        try:
            description, tensors = stored.description, stored.tensors
            settings = NeuprintSettings(**description["settings"])
            dynamics = dynamics_for(settings, len(description["covariates"]))
            state = {name: torch.from_numpy(array) for name, array in _under("dynamics.", tensors).items()}
            dynamics.load_state_dict(state)
            told = description.get("naming")
            naming = restore_naming(told, _under("probe.", tensors)) if told else None
            ids, phi = np.array(description["neuron_ids"], dtype=str), tensors["phi"]
            if phi.shape != (len(ids), settings.phi):
                raise ValueError(f"phi of shape {phi.shape} for {len(ids)} neurons of {settings.phi} numbers")
            names = tuple(description["covariates"])
            return cls(dynamics.eval(), settings, names, ids, phi, description["facts"], naming)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelRefused(
                f"{folder / DESCRIPTION} is damaged, or of another version: {type(error).__name__}: {error}."
                " Put back a good copy of the folder, or train again."
            ) from error


def _under(start: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
