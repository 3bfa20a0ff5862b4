"""Controls that show whether labels of test samples reach a method: shuffled labels, permuted test labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neurofleet.errors import LearnerError
from neurofleet.learners.folds import Fold
from neurofleet.learners.scores import Scores, balanced_accuracy
from neurofleet.learners.splits import ROLES, Split


@dataclass(frozen=True)
class ShuffleControl:
    """Outcome of a shuffle control.

    Attributes
    ----------
    valid : bool
        Whether the accuracy is at most `limit`.
    accuracy : float
        Mean over the shuffles.
    chance, standard_error, limit : float
        Majority-class rate of the test labels, its standard error, and chance + 3 standard errors.
    shuffles : int
    decisive : bool
        Whether any accuracy could have failed: with few cells and one dominant class the limit is above 1.
    """

    valid: bool
    accuracy: float
    chance: float
    standard_error: float
    limit: float
    shuffles: int
    decisive: bool


def shuffled_labels(labels: np.ndarray, split: Split, seed: int) -> np.ndarray:
    """Return the labels permuted at random within each part of the split, the test part included.

    A model trained on these is scored against these. Each part keeps its class sizes.
    """
    shuffled = np.array(labels)
    rng = np.random.default_rng(seed)
    for role in ROLES:
        rows = split.rows(role)
        shuffled[rows] = shuffled[rng.permutation(rows)]
    return shuffled


def shuffle_control(scores: Sequence[Scores]) -> ShuffleControl:
    """Judge the scores that models reached which were trained on, and scored against, shuffled labels.

    Test labels that were shuffled are independent of everything a model could have seen, unless labels leak
    into its input. With class shares p of the test labels and q of the predictions, the expected accuracy
    is then the sum of q·p, which is at most the largest p: the majority-class rate, reached by predicting
    the most frequent class always. That rate is taken as chance, for a model that learnt nothing but the
    class sizes reaches it. The standard error is the binomial one of all test samples of all shuffles.

    This holds only when the test labels are shuffled as well: predictions learnt from shuffled labels still
    go with the clusters of the data, so that against true labels a whole cluster is right or wrong by luck.

    Parameters
    ----------
    scores : list of Scores
        One for each shuffle. All test samples of a cross-validation belong in one of them, or fold by fold.

    Raises
    ------
    LearnerError
        When no scores are given.
    """
    if not scores:
        raise LearnerError("A shuffle control needs the scores of at least one shuffle, found none.")
    n = np.array([entry.n for entry in scores])
    accuracy = float(np.average([entry.accuracy for entry in scores], weights=n))
    chance = float(np.average([entry.majority_rate for entry in scores], weights=n))
    standard_error = math.sqrt(chance * (1 - chance) / n.sum())
    limit = chance + 3 * standard_error
    return ShuffleControl(
        valid=accuracy <= limit,
        accuracy=accuracy,
        chance=chance,
        standard_error=standard_error,
        limit=limit,
        shuffles=len(scores),
        decisive=limit < 1.0,
    )


PERMUTATIONS = 5
LabelMethod = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
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
    method: LabelMethod,
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


def _outputs(outputs: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(outputs) if isinstance(outputs, Mapping) else {"": outputs}


def _rows_that_differ(first: dict[str, np.ndarray], second: dict[str, np.ndarray], n: int) -> np.ndarray:
    differs = np.zeros(n, dtype=bool)
    for name, array in first.items():
        same = (array == second[name]) | (np.isnan(array) & np.isnan(second[name]))
        differs |= ~same.reshape(n, -1).all(axis=1)
    return differs
