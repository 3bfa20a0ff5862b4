"""Scores of predicted classes: what every reported accuracy carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neurofleet.errors import LearnerError


@dataclass(frozen=True)
class ClassScore:
    """How well one class was found; `support` is its number of samples in truth."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """How well classes were predicted.

    Attributes
    ----------
    n, n_classes : int
        Samples, and classes that occur among their true labels.
    majority_rate : float
        Share of the most frequent true class: what predicting it always would reach.
    accuracy, accuracy_low, accuracy_high : float
        Share of right predictions with its 95 % Wilson interval.
    balanced_accuracy : float
        Mean recall over the classes that occur in truth.
    macro_f1 : float
        Mean F1 over the classes that occur in truth; classes that were only predicted do not enter.
    classes : list of str
        All classes that could be predicted, in the order of the confusion matrix.
    per_class : list of ClassScore
        One for each of `classes`; 0 where a ratio has no denominator.
    confusion : list of lists of int
        Number of samples by true class (rows) and predicted class (columns).
    """

    n: int
    n_classes: int
    majority_rate: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    macro_f1: float
    classes: list[str]
    per_class: list[ClassScore]
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, numbers and strings, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Scores:
        """Return the scores that `to_dict` wrote."""
        per_class = [ClassScore(**entry) for entry in content["per_class"]]
        return cls(**{**content, "per_class": per_class})


def score(
    true: Sequence[int] | Sequence[str] | np.ndarray,
    predicted: Sequence[int] | Sequence[str] | np.ndarray,
    classes: Sequence[str],
) -> Scores:
    """Compare predicted with true classes, each (n,) names of `classes` or indices into them.

    Raises
    ------
    LearnerError
        When there is nothing to score, the lengths differ, or a class is not among `classes`.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    names = [str(name) for name in classes]
    truth = _indices(true, names, "true")
    guess = _indices(predicted, names, "predicted")
    if len(truth) != len(guess):
        raise LearnerError(f"Expected a prediction for each sample, found {len(guess)} for {len(truth)}.")
    if len(truth) == 0:
        raise LearnerError("There is nothing to score: no sample was given.")
    labels = np.arange(len(names))
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=labels, zero_division=0.0)
    present = support > 0
    right = int((truth == guess).sum())
    interval = binomtest(right, len(truth)).proportion_ci(0.95, method="wilson")
    return Scores(
        n=len(truth),
        n_classes=int(present.sum()),
        majority_rate=float(support.max() / len(truth)),
        accuracy=right / len(truth),
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        balanced_accuracy=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        classes=names,
        per_class=[
            ClassScore(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(names)
        ],
        confusion=confusion_matrix(truth, guess, labels=labels).tolist(),
    )


def balanced_accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall over the classes that occur in `true`, both (n,) int arrays from 0."""
    size = np.bincount(true)
    right = np.bincount(true[true == predicted], minlength=len(size))
    return float((right[size > 0] / size[size > 0]).mean())


def _indices(values: Sequence[int] | Sequence[str] | np.ndarray, names: list[str], what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise LearnerError(f"Expected one {what} class per sample, found an array of shape {array.shape}.")
    if np.issubdtype(array.dtype, np.integer):
        if len(array) and not (0 <= array.min() and array.max() < len(names)):
            raise LearnerError(
                f"{what}: expected indices from 0 to {len(names) - 1}, found {array.min()} to {array.max()}."
            )
        return array.astype(np.int64)
    index = {name: i for i, name in enumerate(names)}
    strange = sorted({str(value) for value in array} - set(index))
    if strange:
        raise LearnerError(
            f"{what}: {len(strange)} classes are not among the {len(names)} that can be predicted:"
            f" {', '.join(strange[:10])}."
        )
    return np.array([index[str(value)] for value in array], dtype=np.int64)
