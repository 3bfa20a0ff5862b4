"""The label-shuffle control: a model that learnt from shuffled labels must do no better than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from learners.errors import LearnerError
from learners.scores import Scores
from learners.splits import ROLES, Split


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
