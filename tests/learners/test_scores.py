"""Scores against scikit-learn and against answers made by hand."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from neurofleet.errors import LearnerError
from neurofleet.learners.scores import Scores, score

TRUE = ["a", "a", "a", "b", "b", "c", "c", "c", "c", "c"]
PREDICTED = ["a", "a", "b", "b", "d", "c", "c", "c", "a", "c"]


def test_scores_by_hand():
    scores = score(TRUE, PREDICTED, ["a", "b", "c", "d"])
    assert (scores.n, scores.n_classes, scores.majority_rate, scores.accuracy) == (10, 3, 0.5, 0.7)
    # Wilson, z = 1.96: (0.7 + 0.19208) / 1.38416 +- 1.96 / 1.38416 * sqrt(0.021 + 0.009604)
    assert (scores.accuracy_low, scores.accuracy_high) == pytest.approx((0.3968, 0.8922), abs=2e-4)
    assert scores.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 4 / 5) / 3)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 8 / 9) / 3)  # d occurs in no true label
    a = scores.per_class[0]
    assert (a.name, a.precision, a.recall, a.support) == ("a", pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert scores.per_class[3].support == 0
    assert scores.confusion == [[2, 1, 0, 0], [0, 1, 0, 1], [1, 0, 4, 0], [0, 0, 0, 0]]


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    true, predicted = rng.integers(0, 6, 500), rng.integers(0, 6, 500)
    predicted[:300] = true[:300]
    scores = score(true, predicted, list("uvwxyz"))
    assert scores.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(true, predicted, average="macro"))


def test_indices_and_names_give_the_same_scores_and_come_back_from_json():
    names = ["a", "b", "c", "d"]
    by_name = score(TRUE, PREDICTED, names)
    by_index = score([names.index(t) for t in TRUE], [names.index(p) for p in PREDICTED], names)
    assert by_name == by_index
    assert Scores.from_dict(json.loads(json.dumps(by_name.to_dict(), allow_nan=False))) == by_name


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([], [], "no sample"),
        (["a"], ["a", "b"], "found 2 for 1"),
        (["e"], ["a"], "true: 1 class is not among the 2 .* e"),
        ([0], [2], "indices from 0 to 1, found 2 to 2"),
        ([0], [[0.1, 0.9]], "array of shape"),
    ],
)
def test_unusable_input_is_refused(true, predicted, message):
    with pytest.raises(LearnerError, match=message):
        score(true, predicted, ["a", "b"])
