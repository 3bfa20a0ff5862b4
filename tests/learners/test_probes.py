"""Probes against scikit-learn, restored to the bit, and tuned on rows that they had not seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from neurofleet.errors import LearnerError
from neurofleet.learners import probes
from neurofleet.learners.probes import KINDS, PROBES, fit_probe, restore_probe
from neurofleet.learners.scores import balanced_accuracy


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setitem(KINDS, "trees", replace(KINDS["trees"], grid=({"trees": 20, "min_samples_leaf": 1},)))


def blobs(n, n_classes, seed=0, features=8, apart=1.5):
    rng = np.random.default_rng(seed)
    centres = apart * rng.normal(size=(n_classes, features))
    y = np.arange(n) % n_classes
    return rng.normal(size=(n, features)) * 3 + centres[y] * 2 + 5, y


def standardised(x, like):
    return np.clip((x - like.mean(axis=0)) / like.std(axis=0), -5, 5)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("kind", ["knn", "linear", "svm", "lda", "trees"])
def test_the_stored_formula_is_that_of_scikit_learn(kind, n_classes):
    x, y = blobs(120, n_classes)
    probe = fit_probe(kind, x[:80], y[:80], n_classes, seed=3)
    inside, outside, chosen = standardised(x[:80], x[:80]), standardised(x[80:], x[:80]), probe.settings
    if kind == "knn":
        theirs = KNeighborsClassifier(chosen["k"]).fit(inside, y[:80])
    elif kind == "linear":
        theirs = LogisticRegression(C=chosen["C"], class_weight="balanced", max_iter=2000).fit(inside, y[:80])
    elif kind == "lda":
        alike = np.full(n_classes, 1 / n_classes)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=chosen["shrinkage"], priors=alike)
        theirs.fit(inside, y[:80])
        softened = theirs.predict_log_proba(outside) / chosen["temperature"]
        assert probe.probabilities(x[80:]) == pytest.approx(softmax(softened, axis=1), abs=1e-9)
        return
    elif kind == "trees":
        theirs = ExtraTreesClassifier(20, class_weight="balanced", random_state=3).fit(inside, y[:80])
    else:
        gamma = chosen["gamma_by_features"] / x.shape[1]
        theirs = SVC(C=chosen["C"], gamma=gamma, class_weight="balanced").fit(inside, y[:80])
        values = theirs.decision_function(outside)
        ours = probes.raw_answer("svm", probe.values, x[80:], n_classes)
        assert (ours[:, 1] * 2 if n_classes == 2 else ours) == pytest.approx(values, abs=1e-9)
        assert (probe.probabilities(x[80:]).argmax(axis=1) == theirs.predict(outside)).all()
        return
    assert probe.probabilities(x[80:]) == pytest.approx(theirs.predict_proba(outside), abs=1e-9)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_restored_probe_answers_the_same_to_the_bit(kind):
    x, y = blobs(90, 3)
    probe = fit_probe(kind, x[:60], y[:60], 4)
    again = restore_probe(json.loads(json.dumps(probe.description())), probe.arrays())
    found = again.probabilities(x[60:])
    assert (found == probe.probabilities(x[60:])).all()
    assert found.shape == (30, 4)
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[:, 3] == pytest.approx(0)  # a class without training rows
    assert (found.argmax(axis=1) == y[60:]).mean() > 0.6


def test_the_same_seed_gives_the_same_mlp():
    x, y = blobs(60, 2)
    one, same, other = (fit_probe("mlp", x, y, 2, seed=seed).probabilities(x) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_held_out_probabilities_come_from_models_that_had_not_seen_the_row():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 30)), np.arange(90) % 3  # nothing to learn
    probe = fit_probe("linear", x, y, 3)
    assert (probe.probabilities(x).argmax(axis=1) == y).mean() > 0.6
    assert probe.inner_balanced_accuracy < 0.5
    reached = balanced_accuracy_score(y, probe.held_out.argmax(axis=1))
    assert probe.inner_balanced_accuracy == pytest.approx(reached)


def test_inner_folds_keep_groups_whole():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 10)
    y = np.arange(12)[groups] % 2
    own = rng.normal(size=(12, 6))[groups] + 0.01 * rng.normal(size=(120, 6))  # the group, not the class
    assert fit_probe("knn", own, y, 2).inner_balanced_accuracy == 1.0
    assert fit_probe("knn", own, y, 2, groups=groups).inner_balanced_accuracy < 0.75


def test_rare_classes_stay_in_the_training_part():
    x, y = blobs(62, 2)
    y[-2:] = 2
    probe = fit_probe("svm", x, y, 3)
    assert np.isnan(probe.held_out[-2:]).all()
    assert np.isfinite(probe.held_out[:-2]).all()
    assert set(probe.values["classes"]) == {0, 1, 2}


def test_a_rare_class_is_not_given_up():
    rng = np.random.default_rng(1)
    y = (np.arange(300) >= 280).astype(int)
    x = rng.normal(size=(300, 4)) + 0.8 * y[:, None]
    for kind in ("linear", "svm", "mlp"):
        assert fit_probe(kind, x, y, 2).inner_balanced_accuracy > 0.62, kind


def test_many_rows_are_tuned_on_a_subsample(monkeypatch):
    monkeypatch.setattr(probes, "TUNING_ROWS", 60)
    x, y = blobs(200, 2)
    probe = fit_probe("linear", x, y, 2)
    assert (probe.settings["tuned_on"], probe.settings["fitted_on"]) == (60, 200)
    assert np.isfinite(probe.held_out).all(axis=1).sum() == 60


def test_the_temperature_makes_confidence_honest():
    x, y = blobs(400, 2, apart=0.35)
    probe = fit_probe("svm", x[:300], y[:300], 2)
    confidence = probe.held_out.max(axis=1).mean()
    assert confidence == pytest.approx((probe.held_out.argmax(axis=1) == y[:300]).mean(), abs=0.05)


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    true, guess = rng.choice([0, 1, 3], 50), rng.integers(0, 4, 50)
    by_hand = np.mean([(guess[true == k] == k).mean() for k in (0, 1, 3)])
    assert balanced_accuracy(true, guess) == pytest.approx(by_hand)


def test_wrong_input_is_refused():
    x, y = blobs(30, 2)
    with pytest.raises(LearnerError, match="did you mean 'linear'"):
        fit_probe("liner", x, y, 2)
    with pytest.raises(LearnerError, match="indices from 0 to 1"):
        fit_probe("knn", x, y + 1, 2)
    with pytest.raises(LearnerError, match=r"found shapes \(30, 8\) and \(29,\)"):
        fit_probe("knn", x, y[:-1], 2)
    broken = x.copy()
    broken[4, 0] = np.nan
    with pytest.raises(LearnerError, match="1 of 30 rows hold NaN or infinity .the first: row 4"):
        fit_probe("knn", broken, y, 2)
    probe = fit_probe("knn", x, y, 2)
    with pytest.raises(LearnerError, match="rows of 8 features"):
        probe.probabilities(x[:, :5])
    assert set(PROBES) == {"knn", "linear", "svm", "mlp"}


@pytest.mark.filterwarnings("error")
def test_many_classes_of_few_rows_do_not_flood_the_terminal():
    y = np.concatenate([np.arange(20), np.repeat([20, 21], 6)])
    x = np.random.default_rng(0).normal(size=(len(y), 3))
    with pytest.warns(UserWarning, match="number of unique classes"):
        LogisticRegression().fit(x, y)
    assert fit_probe("linear", x, y, 22).n_classes == 22
