"""Folds, intervals and controls: against answers made by hand, and against methods that leak."""

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from neurofleet.errors import LearnerError
from neurofleet.learners.folds import inner_repeated_folds, repeated_folds
from neurofleet.learners.label_controls import permuted_test_labels_check, shuffled_labels_control
from neurofleet.learners.method_comparison import compare
from neurofleet.learners.probes import fit_probe

RNG = np.random.default_rng(7)
Y = np.arange(120) % 3
X = RNG.normal(size=(120, 5)) + 1.2 * np.eye(3, 5)[Y]
ANIMALS = np.array([f"m{number}" for number in np.arange(120) // 10])


def honest(train, test, labels):
    return fit_probe("knn", X[train], labels[train], 3).probabilities(X[test])


def leaky(train, test, labels):
    """The class stands in the input, of the test units too."""
    x = np.hstack([X, 3 * np.eye(3)[labels]])
    return fit_probe("knn", x[train], labels[train], 3).probabilities(x[test])


@pytest.mark.parametrize("groups", [None, ANIMALS])
def test_each_unit_is_tested_once_a_repeat(groups):
    folds = repeated_folds(Y, groups, 4, 2, seed=1)
    assert [(fold.repeat, fold.fold) for fold in folds] == [(r, f) for r in range(2) for f in range(4)]
    for repeat in range(2):
        tested = np.concatenate([fold.test for fold in folds if fold.repeat == repeat])
        assert sorted(tested) == list(range(120))
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(120))
        assert set(Y[fold.train]) == set(Y[fold.test]) == {0, 1, 2}
        if groups is not None:
            assert not set(groups[fold.train]) & set(groups[fold.test])
    again = repeated_folds(Y, groups, 4, 2, seed=1)
    assert all((one.test == other.test).all() for one, other in zip(folds, again, strict=True))
    assert any((folds[k].test != folds[k + 4].test).any() for k in range(4) if len(folds[k].test) == 30)


def test_group_folds_spread_a_class_over_the_folds():
    groups = np.repeat(np.arange(20), 6)
    y = np.repeat(np.arange(20) >= 15, 6).astype(int)  # five animals of the rare class
    for fold in repeated_folds(y, groups, 5, 3):
        assert set(y[fold.test]) == {0, 1}


def test_groups_that_allow_no_split_are_refused():
    with pytest.raises(LearnerError, match="needs at least two groups, found one only: 'm1'"):
        repeated_folds(Y, np.full(120, "m1"))
    only = ANIMALS.copy()
    only[Y == 2] = "m9"
    with pytest.raises(LearnerError, match=r"found in one group only: c \(only in m9\)\. Leave"):
        repeated_folds(np.array(list("abc"))[Y], only)
    with pytest.raises(LearnerError, match="at least 13 groups, found 12. Ask for at most 12 folds"):
        repeated_folds(Y, ANIMALS, folds=13)
    with pytest.raises(LearnerError, match="3 of 120 units have no group"):
        repeated_folds(Y, np.where(np.arange(120) < 3, "", ANIMALS))
    with pytest.raises(LearnerError, match=r"5 units of each class, found z \(4\)"):
        repeated_folds(np.where(np.arange(120) < 4, "z", "a"))


def test_inner_folds_keep_a_lonely_class_and_its_group_in_training():
    y = Y.copy()
    y[ANIMALS == "m0"] = 2
    y[(ANIMALS != "m0") & (y == 2)] = 1
    folds = inner_repeated_folds(y, ANIMALS, 3, seed=0)
    for fold in folds:
        assert set(np.flatnonzero(ANIMALS == "m0")) <= set(fold.train)
        assert not set(ANIMALS[fold.train]) & set(ANIMALS[fold.test])
    with pytest.raises(LearnerError, match="Nothing can be chosen"):
        inner_repeated_folds(Y[:10], ANIMALS[:10], 3, seed=0)


def one_hot(guesses):
    return np.eye(3)[np.asarray(guesses)]


def test_the_table_is_right_by_hand():
    folds = repeated_folds(Y, None, 4, 2)
    wrong = np.where(np.arange(120) < 30, (Y + 1) % 3, Y)
    methods = {
        "perfect": one_hot([Y, Y]),
        "half": one_hot([Y, wrong]),
        "majority": one_hot([np.zeros_like(Y)] * 2),
    }
    table = compare(methods, Y, ["a", "b", "c"], folds, reference="half")
    assert (table.split, table.n, table.n_classes, table.majority_rate) == ("random", 120, 3, 1 / 3)
    perfect, half, majority = table.methods
    assert (perfect.balanced_accuracy, perfect.macro_f1, perfect.accuracy) == (1, 1, 1)
    assert (perfect.balanced_accuracy_low, perfect.balanced_accuracy_high) == (1, 1)
    expected = (1 + balanced_accuracy_score(Y, wrong)) / 2
    assert half.balanced_accuracy == pytest.approx(expected)
    assert half.macro_f1 == pytest.approx((1 + f1_score(Y, wrong, average="macro")) / 2)
    assert (half.difference, half.difference_low, half.difference_high) == (0, 0, 0)
    assert perfect.difference == pytest.approx(1 - expected)
    assert (half.folds_won, half.folds_lost, perfect.folds_lost) == (0, 0, 0)
    assert perfect.folds_won == sum((wrong != Y)[fold.test].any() for fold in folds if fold.repeat == 1)
    assert majority.balanced_accuracy == pytest.approx(1 / 3)
    json.dumps(table.to_dict(), allow_nan=False)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        guess = np.where(rng.random(120) < 0.7, Y, (Y + 1) % 3)
        row = compare({"m": one_hot([guess])}, Y, list("abc"), repeated_folds(Y, None, 2, 1), reference="m").methods[0]
        covered += row.balanced_accuracy_low <= 0.7 <= row.balanced_accuracy_high
    assert 34 <= covered <= 40


def test_groups_that_stand_or_fall_together_widen_the_interval():
    by_animal = np.where((np.arange(120) // 10) % 2 == 0, Y, (Y + 1) % 3)
    folds = repeated_folds(Y, ANIMALS, 3, 1)
    widths = [
        (row := compare({"m": one_hot([by_animal])}, Y, list("abc"), folds, reference="m", groups=groups).methods[0])
        and row.balanced_accuracy_high - row.balanced_accuracy_low
        for groups in (None, ANIMALS)
    ]
    assert widths[1] > 2 * widths[0]


def test_wrong_probabilities_are_refused():
    folds = repeated_folds(Y, None, 3, 1)
    with pytest.raises(LearnerError, match="did you mean 'knn'"):
        compare({"knn": one_hot([Y])}, Y, list("abc"), folds, reference="kn")
    with pytest.raises(LearnerError, match=r"= \(1, 120, 3\), found \(2, 120, 3\)"):
        compare({"knn": one_hot([Y, Y])}, Y, list("abc"), folds, reference="knn")
    holes = one_hot([Y])
    holes[0, 5] = np.nan
    with pytest.raises(LearnerError, match="1 of 120 units have no finite prediction"):
        compare({"knn": holes}, Y, list("abc"), folds, reference="knn")


def test_shuffled_labels_pass_an_honest_method_and_catch_a_leaky_one():
    folds = repeated_folds(Y, None, 3, 1)
    good, bad = (shuffled_labels_control(method, Y, folds) for method in (honest, leaky))
    assert good.valid
    assert good.limit < 0.5
    assert not bad.valid
    assert bad.balanced_accuracy > 0.95
    assert len(bad.each) == 5
    with pytest.raises(LearnerError, match="at least 5 permutations, found 3"):
        shuffled_labels_control(honest, Y, folds, permutations=3)


def test_permuted_test_labels_pass_an_honest_method_and_catch_a_leaky_one():
    fold = repeated_folds(Y, None, 3, 1)[0]
    good, bad = (permuted_test_labels_check(m, fold.train, fold.test, Y) for m in (honest, leaky))
    assert good.valid
    assert good.changed_labels > 5
    assert good.changed_outputs == 0
    assert not bad.valid
    assert bad.repeatable
    assert bad.changed_outputs > 5
    named = permuted_test_labels_check(
        lambda *rows: {"embedding": X[rows[1]], "p": leaky(*rows)}, fold.train, fold.test, Y
    )
    assert not named.valid
    rng = np.random.default_rng(0)
    noisy = permuted_test_labels_check(lambda a, b, c: rng.random((len(b), 3)), fold.train, fold.test, Y)
    assert not noisy.valid
    assert not noisy.repeatable
    with pytest.raises(LearnerError, match="at least two classes"):
        permuted_test_labels_check(honest, fold.train, fold.test[Y[fold.test] == 1], Y)
