"""The networks' class head and the classical classifiers together, each weighed by inner validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from learners.calibration import calibrated_probabilities, fit_temperature, log_probabilities
from learners.hippie.classical import Classical, restore_classical
from learners.hippie.classical_choice import Candidate, Choice, choose

HEAD, CLASSICAL = "head", "classical"


@dataclass(frozen=True)
class Blend:
    """A weighted mean of two answers.

    Attributes
    ----------
    choice : Choice
        The weights of ``head`` and ``classical``.
    classical : Classical
    head_temperature : float
        By which the head's logarithms are divided before anything else.
    """

    choice: Choice
    classical: Classical
    head_temperature: float = 1.0

    @property
    def head_weight(self) -> float:
        """The weight of the networks; 0 where they are not asked."""
        return self.choice.weights.get(HEAD, 0.0)

    def probabilities(self, features: Mapping[str, np.ndarray], head: np.ndarray | None) -> np.ndarray:
        """Return class probabilities (m, n_classes).

        Parameters
        ----------
        features : mapping of (m, d) arrays
            As `learners.hippie.classical.feature_sets` makes them.
        head : (m, n_classes) array or None
            The networks' probabilities; may be None where they have no weight.
        """
        weight = self.head_weight
        total: np.ndarray | float = 0.0
        if weight < 1.0:
            total = (1.0 - weight) * self.classical.probabilities(features)
        if weight:
            assert head is not None
            total = total + weight * _calibrated(head, self.head_temperature)
        return np.asarray(total)

    def description(self) -> dict[str, Any]:
        """Return what a model folder keeps as JSON; the classical classifiers' arrays are kept beside it."""
        return {
            "choice": self.choice.to_dict(),
            "classical": self.classical.description(),
            "head_temperature": self.head_temperature,
        }


def fit_blend(classical: Classical, head_held_out: np.ndarray, y: np.ndarray) -> Blend:
    """Weigh fitted classical classifiers against a head by their held-out probabilities.

    The head's are calibrated first, by one temperature that is fitted to them.

    Parameters
    ----------
    head_held_out : (n, n_classes) array
        Of networks that had not seen a training unit; NaN where there is none.
    y : (n,) int array
        The training units' classes.
    """
    shared = np.isfinite(classical.held_out).all(1) & np.isfinite(head_held_out).all(1)
    temperature = fit_temperature(log_probabilities(head_held_out[shared]), y[shared]).temperature
    given = {CLASSICAL: classical.held_out, HEAD: _calibrated(head_held_out, temperature)}
    candidates = [
        Candidate(name, name, np.where(shared[:, None], held_out, np.nan)) for name, held_out in given.items()
    ]
    return Blend(choose(candidates, y)[0], classical, temperature)


def restore_blend(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Blend:
    """Return the blend that gave `description`, with its classical classifiers' arrays."""
    classical = restore_classical(description["classical"], arrays)
    return Blend(Choice(**description["choice"]), classical, description["head_temperature"])


def _calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    return calibrated_probabilities(log_probabilities(probabilities), temperature)
