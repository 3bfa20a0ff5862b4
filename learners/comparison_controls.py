"""Controls that show whether labels of test units reach a method: shuffled labels, permuted test labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from learners.comparison_folds import Fold
from learners.errors import LearnerError
from learners.probes import balanced_accuracy

PERMUTATIONS = 5
Method = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(train rows, test rows, labels of all rows) -> class probabilities of the test rows.

An honest method reads the labels of the train rows only; the others are there so that a leak can show.
"""


@dataclass(frozen=True)
class ShuffledLabels:
    """What a method reaches that was trained on, and scored against, shuffled labels.

    Attributes
    ----------
    valid : bool
        Whether the mean balanced accuracy is at most `limit`.
    balanced_accuracy : float
        Mean over the permutations.
    each : tuple of float
    chance, standard_error, limit : float
        1 / classes; standard error of the mean; chance + 3 standard errors.
    """

    valid: bool
    balanced_accuracy: float
    each: tuple[float, ...]
    chance: float
    standard_error: float
    limit: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PermutedTestLabels:
    """Whether a method's answers for test units stayed the same to the bit as their labels were permuted.

    Attributes
    ----------
    valid : bool
        Whether they did.
    changed_labels, changed_outputs : int
        Test units whose label, whose answer differs.
    repeatable : bool
        Whether the method gives the same twice for the same labels; if not, nothing is shown by a difference.
    """

    valid: bool
    changed_labels: int
    changed_outputs: int
    repeatable: bool

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        return asdict(self)


def shuffled_labels_control(
    method: Method,
    labels: np.ndarray,
    folds: Sequence[Fold],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> ShuffledLabels:
    """Run a method on shuffled labels: its mean balanced accuracy must not be above chance + 3 s.e.

    In each fold the labels are permuted within the training and within the test part, so that class sizes
    stay. Only the first repeat is run. The standard error of the mean comes from the spread over the
    permutations, or from the number of units of each class where that gives more: five values alone may
    lie close together by luck.

    Parameters
    ----------
    method : callable
        (train rows, test rows, labels of all rows) -> probabilities of the test rows.
    labels : (n,) int array
    folds : list of Fold
    permutations : int
        At least 5: one shuffle spreads by 0.03 to 0.05.

    Raises
    ------
    LearnerError
        For fewer than 5 permutations.
    """
    if permutations < PERMUTATIONS:
        raise LearnerError(f"Expected at least {PERMUTATIONS} permutations, found {permutations}.")
    labels = np.asarray(labels)
    first = [fold for fold in folds if fold.repeat == 0]
    each = []
    for number in range(permutations):
        rng = np.random.default_rng([seed, number])
        truth, guess = [], []
        for fold in first:
            shuffled = labels.copy()
            for rows in (fold.train, fold.test):
                shuffled[rows] = labels[rng.permutation(rows)]
            guess.append(method(fold.train, fold.test, shuffled).argmax(axis=1))
            truth.append(shuffled[fold.test])
        each.append(balanced_accuracy(np.concatenate(truth), np.concatenate(guess)))
    sizes = np.unique(labels, return_counts=True)[1]
    chance = 1 / len(sizes)
    of_one = math.sqrt(chance * (1 - chance) * (1 / sizes).sum()) / len(sizes)
    error = max(float(np.std(each, ddof=1)), of_one) / math.sqrt(permutations)
    mean = float(np.mean(each))
    limit = chance + 3 * error
    return ShuffledLabels(mean <= limit, mean, tuple(each), chance, error, limit)


def permuted_test_labels_check(
    method: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray | Mapping[str, np.ndarray]],
    train: np.ndarray,
    test: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
) -> PermutedTestLabels:
    """Permute the labels of the test units, run again, and see whether any answer for them differs by a bit.

    Parameters
    ----------
    method : callable
        (train rows, test rows, labels of all rows) -> an array with one row a test unit, or several by name
        (such as embedding and probabilities).
    train, test : int arrays
        Rows.
    labels : (n,) int array

    Raises
    ------
    LearnerError
        When the test units are all of one class, so that a permutation changes nothing.
    """
    labels, test = np.asarray(labels), np.asarray(test)
    if len(np.unique(labels[test])) < 2:
        raise LearnerError(
            f"Expected test units of at least two classes, found {len(test)} of one: permuting their labels"
            " changes nothing. Take another fold."
        )
    rng = np.random.default_rng(seed)
    permuted = labels.copy()
    while (permuted == labels).all():
        permuted[test] = labels[rng.permutation(test)]
    as_is, changed = (_outputs(method(train, test, given)) for given in (labels, permuted))
    differs = _rows_that_differ(as_is, changed, len(test))
    again = as_is if not differs.any() else _outputs(method(train, test, labels))
    return PermutedTestLabels(
        valid=not differs.any(),
        changed_labels=int((permuted != labels).sum()),
        changed_outputs=int(differs.sum()),
        repeatable=not _rows_that_differ(as_is, again, len(test)).any(),
    )


def _outputs(found: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(found) if isinstance(found, Mapping) else {"": found}


def _rows_that_differ(one: dict[str, np.ndarray], other: dict[str, np.ndarray], n: int) -> np.ndarray:
    differs = np.zeros(n, dtype=bool)
    for name, array in one.items():
        same = (array == other[name]) | (np.isnan(array) & np.isnan(other[name]))
        differs |= ~same.reshape(n, -1).all(axis=1)
    return differs
