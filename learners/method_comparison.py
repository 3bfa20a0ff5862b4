"""One table for several methods under one split: intervals, and differences paired unit by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.learners.folds import Fold
from neurofleet.learners.scores import balanced_accuracy, score

DRAWS = 2000


@dataclass(frozen=True)
class MethodScores:
    """What one method reaches; scores are means over the repeats, of the pooled out-of-fold predictions.

    Attributes
    ----------
    method : str
    balanced_accuracy, balanced_accuracy_low, balanced_accuracy_high : float
        With its 95 % bootstrap interval.
    macro_f1, accuracy : float
    difference, difference_low, difference_high : float
        Balanced accuracy minus that of the reference method, on the same resamples.
    folds_won, folds_lost : int
        Folds in which the balanced accuracy is above, below that of the reference.
    """

    method: str
    balanced_accuracy: float
    balanced_accuracy_low: float
    balanced_accuracy_high: float
    macro_f1: float
    accuracy: float
    difference: float
    difference_low: float
    difference_high: float
    folds_won: int
    folds_lost: int


@dataclass(frozen=True)
class MethodComparison:
    """All methods under one split.

    Attributes
    ----------
    split : str
        ``by group`` or ``random``.
    n, n_classes, n_groups, folds, repeats : int
        `n_groups` is 0 for a random split.
    classes : tuple of str
    class_sizes : tuple of int
    majority_rate : float
    reference : str
    resamples : int
        Bootstrap draws that hold every class, of 2,000.
    methods : tuple of MethodScores
    """

    split: str
    n: int
    n_classes: int
    n_groups: int
    folds: int
    repeats: int
    classes: tuple[str, ...]
    class_sizes: tuple[int, ...]
    majority_rate: float
    reference: str
    resamples: int
    methods: tuple[MethodScores, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, numbers and strings, for JSON."""
        return asdict(self)


def compare(
    probabilities: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    folds: Sequence[Fold],
    *,
    reference: str,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> MethodComparison:
    """Score every method on the same folds and compare each with the reference.

    Whether a unit was found is averaged over the repeats; the bootstrap draws units, or whole groups where
    `groups` are given, and leaves out resamples that lack a class.

    Parameters
    ----------
    probabilities : mapping of (repeats, n, n_classes) arrays
        Pooled out-of-fold class probabilities of each method.
    labels : (n,) int array
        Indices into `classes`.
    folds : list of Fold
        The folds that the probabilities come from.
    reference : str
        The method that the others are compared with.
    groups : (n,) array
        For a split by group: the same groups.

    Raises
    ------
    LearnerError
        For an unknown reference, shapes that do not agree, or units without a prediction.
    """
    labels = np.asarray(labels)
    if reference not in probabilities:
        raise LearnerError(
            f"Expected a reference method of {', '.join(probabilities)}, found {reference!r}"
            f"{did_you_mean(reference, probabilities)}."
        )
    repeats = 1 + max(fold.repeat for fold in folds)
    guesses = {
        name: _guesses(name, array, (repeats, len(labels), len(classes))) for name, array in probabilities.items()
    }
    weights = _resamples(labels, groups, seed)
    hit_rates = {name: (guess == labels).mean(axis=0) for name, guess in guesses.items()}
    resampled = {name: _balanced(right, labels, weights) for name, right in hit_rates.items()}
    methods = []
    for name, guess in guesses.items():
        scores = [score(labels, each, classes) for each in guess]
        low, high = _interval(resampled[name])
        d_low, d_high = _interval(resampled[name] - resampled[reference])
        won, lost = _won_and_lost(guess, guesses[reference], labels, folds)
        reached = float(_balanced(hit_rates[name], labels, np.ones((1, len(labels))))[0])
        base = float(_balanced(hit_rates[reference], labels, np.ones((1, len(labels))))[0])
        methods.append(
            MethodScores(
                method=name,
                balanced_accuracy=reached,
                balanced_accuracy_low=low,
                balanced_accuracy_high=high,
                macro_f1=float(np.mean([each.macro_f1 for each in scores])),
                accuracy=float(np.mean([each.accuracy for each in scores])),
                difference=reached - base,
                difference_low=d_low,
                difference_high=d_high,
                folds_won=won,
                folds_lost=lost,
            )
        )
    sizes = np.bincount(labels, minlength=len(classes))
    return MethodComparison(
        split="random" if groups is None else "by group",
        n=len(labels),
        n_classes=int((sizes > 0).sum()),
        n_groups=0 if groups is None else len(np.unique(groups)),
        folds=1 + max(fold.fold for fold in folds),
        repeats=repeats,
        classes=tuple(str(name) for name in classes),
        class_sizes=tuple(int(size) for size in sizes),
        majority_rate=float(sizes.max() / len(labels)),
        reference=reference,
        resamples=len(weights),
        methods=tuple(methods),
    )


def _guesses(name: str, probabilities: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    array = np.asarray(probabilities)
    if array.shape != shape:
        raise LearnerError(
            f"{name}: expected probabilities of shape (repeats, units, classes) = {shape}, found {array.shape}."
        )
    empty = ~np.isfinite(array).all(axis=2)
    if empty.any():
        raise LearnerError(
            f"{name}: {int(empty.any(axis=0).sum())} of {shape[1]} units have no finite prediction in every"
            " repeat. Each unit must be tested once a repeat, by every method."
        )
    return array.argmax(axis=2)


def _resamples(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """Return how often each unit is drawn (draws, n), without the draws that lack a class."""
    rng = np.random.default_rng(seed)
    member = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    n = member.max() + 1
    weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)[:, member].astype(np.float32)
    present = np.unique(labels)
    whole = np.all([weights[:, labels == k].sum(axis=1) > 0 for k in present], axis=0)
    if not whole.any():
        raise LearnerError(
            f"None of {DRAWS} resamples holds every class; there are too few groups or units for an interval."
        )
    return weights[whole]


def _balanced(right: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the balanced accuracy of each resample, from how often each unit was found (n,)."""
    recalls = [
        weights[:, labels == k] @ right[labels == k] / weights[:, labels == k].sum(axis=1) for k in np.unique(labels)
    ]
    return np.mean(recalls, axis=0)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _won_and_lost(
    guess: np.ndarray, reference: np.ndarray, labels: np.ndarray, folds: Sequence[Fold]
) -> tuple[int, int]:
    won = lost = 0
    for fold in folds:
        truth = labels[fold.test]
        mine = balanced_accuracy(truth, guess[fold.repeat, fold.test])
        other = balanced_accuracy(truth, reference[fold.repeat, fold.test])
        won += mine > other + 1e-12
        lost += mine < other - 1e-12
    return won, lost
