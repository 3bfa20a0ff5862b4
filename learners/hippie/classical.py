"""Classical classifiers of units: models times feature sets, chosen and blended by inner cross-validation.

On sets of a few hundred labelled units these reach at least what a network does, so they stand beside it as
equals; a network can be handed in as one more candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from learners.comparison_folds import inner_repeated_folds
from learners.errors import LearnerError
from learners.hippie.classical_choice import Candidate, Choice, choose
from learners.inner_folds import stratified_rows
from learners.probe_kinds import KINDS, Arrays
from learners.probes import TUNING_ROWS, answer, checked, cross_validated, fitted
from learners.units.scaling import scaled
from learners.units.units import Units

MODELS = ("linear", "lda", "svm")
FOLDS = 5
"""Of the inner cross-validation."""

FEATURE_SETS = {
    "waveform": ("waveform",),
    "isi": ("isi",),
    "acg": ("acg",),
    "waveform+isi": ("waveform", "isi"),
    "hand": ("hand",),
    "waveform+hand": ("waveform", "hand"),
    "all+hand": ("waveform", "isi", "acg", "hand"),
}


@dataclass(frozen=True)
class Member:
    """A fitted model of a blend.

    Attributes
    ----------
    name : str
        Such as ``linear on waveform+hand (C 0.1)``.
    kind, features : str
    setting : dict
    temperature, weight : float
    values : dict of arrays
        What the model's formula needs, and `fill`: what stands in for a missing value.
    """

    name: str
    kind: str
    features: str
    setting: dict[str, Any]
    temperature: float
    weight: float
    values: Arrays = field(repr=False)


@dataclass(frozen=True)
class Classical:
    """A fitted classical classifier: a weighted mean of the probabilities of its members.

    Attributes
    ----------
    choice : Choice
        Which candidates, with which weights, and the inner score of each that was tried.
    members : tuple of Member
        The chosen candidates, fitted.
    n_classes : int
    held_out : (n, n_classes) float64 array
        Probabilities of the blend for each training row by inner models that had not seen it; NaN for rows
        never held out. Empty once restored.
    """

    choice: Choice
    members: tuple[Member, ...]
    n_classes: int
    held_out: np.ndarray = field(repr=False)

    def probabilities(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return class probabilities (m, n_classes).

        Parameters
        ----------
        features : mapping of (m, d) arrays
            As `feature_sets` makes them.

        Raises
        ------
        LearnerError
            When a feature set that the blend needs is not given.
        """
        lacking = sorted({member.features for member in self.members} - features.keys())
        if lacking:
            raise LearnerError(
                f"This classifier blends {', '.join(self.choice.weights)}; not given: {', '.join(lacking)}."
                " Give the feature sets that `feature_sets` makes."
            )
        total: np.ndarray | float = 0.0
        for member in self.members:
            x = _filled(features[member.features], member.values["fill"])
            found = answer(member.kind, member.values, x, self.n_classes, member.temperature)
            total = total + member.weight * found
        return np.asarray(total)

    def arrays(self) -> Arrays:
        """Return what a model folder keeps as tensors."""
        return {
            f"{number}.{name}": array
            for number, member in enumerate(self.members)
            for name, array in member.values.items()
        }

    def description(self) -> dict[str, Any]:
        """Return what a model folder keeps as JSON."""
        kept = ("name", "kind", "features", "setting", "temperature", "weight")
        return {
            "choice": self.choice.to_dict(),
            "members": [{name: getattr(member, name) for name in kept} for member in self.members],
            "n_classes": self.n_classes,
        }


def restore_classical(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Classical:
    """Return the classifier that gave `description` and `arrays`; it answers the same to the bit."""
    members = []
    for number, content in enumerate(description["members"]):
        start = f"{number}."
        values = {
            name.removeprefix(start): np.asarray(array)
            for name, array in arrays.items()
            if name.startswith(start)
        }
        members.append(Member(**content, values=values))
    n_classes = int(description["n_classes"])
    choice = Choice(**description["choice"])
    return Classical(choice, tuple(members), n_classes, np.empty((0, n_classes)))


def feature_sets(units: Units) -> dict[str, np.ndarray]:
    """Return the vectors (n, d) of the units by name of the feature set; NaN where a modality is missing."""
    parts: dict[str, np.ndarray] = {"hand": np.asarray(units.hand, dtype=np.float64)}
    for number, (modality, rows) in enumerate(scaled(units).items()):
        parts[modality] = np.where(units.present[:, [number]], rows.astype(np.float64), np.nan)
    return {name: np.hstack([parts[part] for part in wanted]) for name, wanted in FEATURE_SETS.items()}


def fit_classical(
    features: Mapping[str, np.ndarray],
    y: np.ndarray,
    n_classes: int,
    *,
    groups: np.ndarray | None = None,
    rule: str = "best",
    models: Sequence[str] = MODELS,
    seed: int = 0,
) -> Classical:
    """Try every model on every feature set, choose by their held-out probabilities, fit what was chosen.

    Missing values become the median of the training rows; feature sets that no training unit has are passed
    over. Above 3,000 rows everything is chosen on a stratified subsample of that size.

    Parameters
    ----------
    features : mapping of (n, d) arrays
        By name of the feature set, as `feature_sets` makes them; NaN where missing.
    y : (n,) int array
        Classes, 0 to n_classes - 1.
    groups : (n,) array
        Animal or recording; the inner folds keep groups whole.
    rule : str
        How to choose: see `learners.hippie.classical_choice.RULES`.

    Raises
    ------
    LearnerError
        For an unknown rule or model, shapes that do not agree, infinite values, or too few rows.
    """
    y = np.asarray(y)
    strange = [name for name in models if name not in KINDS]
    if strange:
        raise LearnerError(f"Unknown models {', '.join(strange)}; there are {', '.join(KINDS)}.")
    vectors, fills = {}, {}
    for name, x in features.items():
        checked(np.asarray(x), y, n_classes, groups)
        if np.isinf(x).any():
            raise LearnerError(f"Feature set {name} holds infinite values. Mark what is missing by NaN.")
        if not np.isnan(x).all():
            fills[name] = _medians(np.asarray(x, dtype=np.float64))
            vectors[name] = _filled(x, fills[name])
    rows = stratified_rows(y, TUNING_ROWS, FOLDS, seed)
    folds = inner_repeated_folds(y[rows], None if groups is None else groups[rows], FOLDS, seed)
    candidates = []
    settings: dict[str, tuple[str, str, dict[str, Any], float]] = {}
    for features_name, x in vectors.items():
        for kind in models:
            family = f"{kind} on {features_name}"
            for one in cross_validated(kind, x[rows], y[rows], n_classes, folds, seed):
                name = f"{family} ({', '.join(f'{key} {value}' for key, value in one.setting.items())})"
                held_out = np.full((len(y), n_classes), np.nan)
                held_out[rows] = one.held_out
                candidates.append(Candidate(name, family, held_out))
                settings[name] = (kind, features_name, one.setting, one.temperature)
    choice, held_out = choose(candidates, y, rule)
    members = []
    for name, weight in choice.weights.items():
        kind, features_name, setting, temperature = settings[name]
        final = stratified_rows(y, KINDS[kind].most_rows, FOLDS, seed)
        values = fitted(kind, vectors[features_name][final], y[final], n_classes, setting, seed)
        values["fill"] = fills[features_name]
        members.append(Member(name, kind, features_name, setting, temperature, weight, values))
    return Classical(choice, tuple(members), n_classes, held_out)


def _medians(x: np.ndarray) -> np.ndarray:
    known = ~np.isnan(x).all(axis=0)
    fill = np.zeros(x.shape[1])
    fill[known] = np.nanmedian(x[:, known], axis=0)
    return fill


def _filled(x: np.ndarray, fill: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return np.where(np.isnan(x), fill, x)
