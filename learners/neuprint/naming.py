"""The classes of neurons from their Phi: the probe that a model keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from learners.neuprint.evaluation import PROBES, animals_to_hold_out
from learners.probes import Probe, fit_probe, restore_probe


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


def restore_naming(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Naming:
    """Return what gave `description`, with the `arrays` of its probe."""
    probe = restore_probe(description["probe"], arrays)
    return Naming(np.array(description["classes"], dtype=str), probe, description["tried"])
