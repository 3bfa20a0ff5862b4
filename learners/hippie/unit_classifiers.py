"""Classical classifiers of units, and their blend with the networks' class head.

On sets of a few hundred labelled units these reach at least what a network does, so they stand beside it as
equals; a network can be handed in as one more candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from neurofleet.errors import LearnerError
from neurofleet.learners.calibration import calibrated_probabilities, fit_temperature, log_probabilities
from neurofleet.learners.folds import inner_repeated_folds, stratified_rows
from neurofleet.learners.probes import (
    KINDS,
    TUNING_ROWS,
    Arrays,
    answer,
    checked,
    cross_validated,
    fitted,
)
from neurofleet.learners.progress import StepProgress
from neurofleet.learners.scores import balanced_accuracy
from neurofleet.learners.units.signal_scaling import scaled
from neurofleet.learners.units.units import Units

MOST_ERRORS = 3.0
LEAST_PROBABILITY = 0.01
RULE = "best"
"""How models' descriptions call the way in which candidates are weighed: `weights_by_log_loss`."""


@dataclass(frozen=True)
class Candidate:
    """A way to predict, with its held-out probabilities (n, n_classes); NaN for rows never held out."""

    name: str
    held_out: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class BlendChoice:
    """What was chosen.

    Attributes
    ----------
    rule : str
        Always `RULE`; older versions knew others.
    weights : dict of float
        By candidate; they sum to 1.
    inner_balanced_accuracy : float
        Of the blend on held-out training rows: somewhat optimistic, since the choice saw them.
    tried : dict of float
        Inner balanced accuracy of every candidate.
    """

    rule: str
    weights: dict[str, float]
    inner_balanced_accuracy: float
    tried: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        return asdict(self)


def choose(candidates: Sequence[Candidate], y: np.ndarray) -> tuple[BlendChoice, np.ndarray]:
    """Weigh the candidates; return the choice and the blend's held-out probabilities.

    Raises
    ------
    LearnerError
        For no candidate, or held-out rows that two candidates do not share.
    """
    if not candidates:
        raise LearnerError("There is no candidate to choose from. Give at least one feature set and model.")
    y = np.asarray(y)
    seen = np.all([np.isfinite(candidate.held_out).all(axis=1) for candidate in candidates], axis=0)
    if not seen.any():
        raise LearnerError(
            "No row has held-out probabilities of all candidates: "
            + ", ".join(candidate.name for candidate in candidates)
            + ". Hand in out-of-fold probabilities for the same rows, in the same order."
        )
    stacked = np.array([candidate.held_out for candidate in candidates])
    weights = weights_by_log_loss(stacked[:, seen], y[seen])
    held_out = np.full(stacked.shape[1:], np.nan)
    held_out[seen] = np.einsum("c,cnk->nk", weights, stacked[:, seen])
    names = [candidate.name for candidate in candidates]
    choice = BlendChoice(
        rule=RULE,
        weights={name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0},
        inner_balanced_accuracy=balanced_accuracy(y[seen], held_out[seen].argmax(axis=1)),
        tried={
            name: float(balanced_accuracy(y[seen], probabilities[seen].argmax(axis=1)))
            for name, probabilities in zip(names, stacked, strict=True)
        },
    )
    return choice, held_out


def weights_by_log_loss(held_out: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weight of each candidate: exp(-gap / s.e.), which sum to 1.

    The gap is how far a candidate's class-balanced log loss is above the best one, and s.e. is the standard error of
    that one: candidates that cannot be distinguished weigh about alike, those more than 3 s.e. worse have no weight.

    Parameters
    ----------
    held_out : (candidates, n, n_classes) array
    y : (n,) int array
    """
    losses = np.array([balanced_log_loss(y, probabilities) for probabilities in held_out])
    mean, error = losses[:, 0], losses[int(losses[:, 0].argmin()), 1]
    weights = np.exp((mean.min() - mean) / error)
    weights[mean - mean.min() > MOST_ERRORS * error] = 0.0
    return weights / weights.sum()


def balanced_log_loss(y: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Return the log loss (nats), every class weighing alike, and its standard error.

    A probability counts as at least 0.01, so that one unit which a sure model gets wrong does not decide.
    """
    losses = -np.log(np.clip(probabilities[np.arange(len(y)), y], LEAST_PROBABILITY, None))
    by_class = [losses[y == k] for k in np.unique(y)]
    variance = sum(max(part.var(), LEAST_PROBABILITY**2) / len(part) for part in by_class)
    return float(np.mean([part.mean() for part in by_class])), float(np.sqrt(variance) / len(by_class))


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
    choice : BlendChoice
        Which candidates, with which weights, and the inner score of each that was tried.
    members : tuple of Member
        The chosen candidates, fitted.
    n_classes : int
    held_out : (n, n_classes) float64 array
        Probabilities of the blend for each training row by inner models that had not seen it; NaN for rows
        never held out. Empty once restored.
    """

    choice: BlendChoice
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
            probabilities = answer(member.kind, member.values, x, self.n_classes, member.temperature)
            total = total + member.weight * probabilities
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
            name.removeprefix(start): np.asarray(array) for name, array in arrays.items() if name.startswith(start)
        }
        members.append(Member(**content, values=values))
    n_classes = int(description["n_classes"])
    choice = BlendChoice(**description["choice"])
    return Classical(choice, tuple(members), n_classes, np.empty((0, n_classes)))


def feature_sets(units: Units) -> dict[str, np.ndarray]:
    """Return the vectors (n, d) of the units by name of the feature set; NaN where a modality is missing."""
    parts: dict[str, np.ndarray] = {"hand": np.asarray(units.hand, dtype=np.float64)}
    for number, (modality, rows) in enumerate(scaled(units).items()):
        parts[modality] = np.where(units.present[:, [number]], rows.astype(np.float64), np.nan)
    return {name: np.hstack([parts[part] for part in names]) for name, names in FEATURE_SETS.items()}


def fit_classical(
    features: Mapping[str, np.ndarray],
    y: np.ndarray,
    n_classes: int,
    *,
    groups: np.ndarray | None = None,
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

    Raises
    ------
    LearnerError
        For an unknown model, shapes that do not agree, infinite values, or too few rows.
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
    steps = StepProgress(len(vectors) * len(models))
    settings: dict[str, tuple[str, str, dict[str, Any], float]] = {}
    for features_name, x in vectors.items():
        for kind in models:
            for tried in cross_validated(kind, x[rows], y[rows], n_classes, folds, seed):
                setting_text = ", ".join(f"{key} {value}" for key, value in tried.setting.items())
                name = f"{kind} on {features_name} ({setting_text})"
                held_out = np.full((len(y), n_classes), np.nan)
                held_out[rows] = tried.held_out
                candidates.append(Candidate(name, held_out))
                settings[name] = (kind, features_name, tried.setting, tried.temperature)
            steps.done(f"classical classifiers: {kind} on {features_name}")
    choice, held_out = choose(candidates, y)
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


HEAD, CLASSICAL = "head", "classical"


@dataclass(frozen=True)
class Blend:
    """A weighted mean of two answers.

    Attributes
    ----------
    choice : BlendChoice
        The weights of ``head`` and ``classical``.
    classical : Classical
    head_temperature : float
        By which the head's logarithms are divided before anything else.
    """

    choice: BlendChoice
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
            As `neurofleet.learners.hippie.unit_classifiers.feature_sets` makes them.
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
    answers = {CLASSICAL: classical.held_out, HEAD: _calibrated(head_held_out, temperature)}
    candidates = [Candidate(name, np.where(shared[:, None], held_out, np.nan)) for name, held_out in answers.items()]
    return Blend(choose(candidates, y)[0], classical, temperature)


def restore_blend(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Blend:
    """Return the blend that gave `description`, with its classical classifiers' arrays."""
    classical = restore_classical(description["classical"], arrays)
    return Blend(BlendChoice(**description["choice"]), classical, description["head_temperature"])


def _calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    return calibrated_probabilities(log_probabilities(probabilities), temperature)
