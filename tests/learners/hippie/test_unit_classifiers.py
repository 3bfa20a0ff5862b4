"""The classical classifier: choices made on held-out rows, blends by hand, and stored to the bit."""

import json

import numpy as np
import pandas as pd
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.calibration import calibrated_probabilities
from neurofleet.learners.folds import repeated_folds
from neurofleet.learners.hippie.unit_classifiers import (
    FEATURE_SETS,
    Candidate,
    balanced_log_loss,
    choose,
    feature_sets,
    fit_blend,
    fit_classical,
    restore_blend,
    restore_classical,
)
from neurofleet.learners.label_controls import permuted_test_labels_check, shuffled_labels_control
from neurofleet.learners.units.hand_features import HAND_FEATURES
from neurofleet.learners.units.units import Units

MODELS = ("linear", "svm", "knn")


@pytest.fixture(scope="module")
def made():
    """Two classes that differ in their waveform alone; intervals are noise, half of them missing."""
    rng = np.random.default_rng(0)
    n = 90
    y = np.arange(n) % 2
    t = np.linspace(-1, 1.5, 50)
    width = 0.25 + 0.12 * y + 0.06 * rng.normal(size=n)
    waveform = -np.exp(-((t / width[:, None]) ** 2)) + 0.05 * rng.normal(size=(n, 50))
    present = np.column_stack([np.ones(n, bool), np.arange(n) % 4 < 2, np.zeros(n, bool)])
    isi = rng.dirichlet(np.ones(100), size=n) * present[:, [1]]
    hand = np.full((n, len(HAND_FEATURES)), np.nan)
    hand[:, :3] = rng.normal(size=(n, 3))
    names = np.array([f"u{i}" for i in range(n)])
    units = Units(
        unit_ids=names,
        waveform=waveform.astype(np.float32),
        isi=isi.astype(np.float32),
        acg=np.zeros((n, 100), np.float32),
        present=present,
        hand=hand.astype(np.float32),
        obs=pd.DataFrame(index=names),
    )
    return feature_sets(units), y


def rows(features, chosen):
    return {name: x[chosen] for name, x in features.items()}


def test_feature_sets_are_as_wide_as_their_parts_and_nan_where_missing(made):
    features, _ = made
    widths = {"waveform": 50, "isi": 100, "acg": 100, "hand": len(HAND_FEATURES)}
    for name, parts in FEATURE_SETS.items():
        assert features[name].shape == (90, sum(widths[part] for part in parts))
    assert np.isnan(features["acg"]).all()
    assert (np.isnan(features["isi"]).all(axis=1) == (np.arange(90) % 4 >= 2)).all()
    assert features["waveform"].min() == pytest.approx(-1)


def test_what_tells_classes_apart_is_chosen(made):
    features, y = made
    model = fit_classical(rows(features, slice(60)), y[:60], 2, models=MODELS)
    name = max(model.choice.weights, key=model.choice.weights.get)
    assert "waveform" in name
    assert model.choice.tried[name] > 0.75
    assert max(v for name, v in model.choice.tried.items() if name.startswith("svm on isi")) < 0.65
    assert not any("on acg" in tried for tried in model.choice.tried)
    assert (model.probabilities(rows(features, slice(60, 90))).argmax(axis=1) == y[60:]).mean() > 0.7


def test_a_restored_classifier_answers_the_same_to_the_bit(made):
    features, y = made
    some = {name: features[name] for name in ("waveform", "hand")}
    model = fit_classical(rows(some, slice(60)), y[:60], 2, models=("linear", "svm"))
    again = restore_classical(json.loads(json.dumps(model.description())), model.arrays())
    tested = rows(some, slice(60, 90))
    probabilities = again.probabilities(tested)
    assert (probabilities == model.probabilities(tested)).all()
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert model.choice.rule == "best"
    assert sum(model.choice.weights.values()) == pytest.approx(1)


def test_a_head_is_blended_by_its_weight(made):
    features, y = made
    only = {"hand": features["hand"]}
    truth = np.eye(2)[y] * 0.8 + 0.1
    classical = fit_classical(rows(only, slice(60)), y[:60], 2, models=("linear",))
    blend = fit_blend(classical, truth[:60], y[:60])
    assert blend.head_weight > 0.9
    tested = rows(only, slice(60, 90))
    found = blend.probabilities(tested, truth[60:])
    head = calibrated_probabilities(np.log(truth[60:]), blend.head_temperature)
    by_hand = blend.head_weight * head + (1 - blend.head_weight) * classical.probabilities(tested)
    assert found == pytest.approx(by_hand)
    again = restore_blend(json.loads(json.dumps(blend.description())), classical.arrays())
    assert (again.probabilities(tested, truth[60:]) == found).all()
    useless = fit_blend(classical, 1 - truth[:60], y[:60])
    assert useless.head_weight == 0
    assert (useless.probabilities(tested, None) == classical.probabilities(tested)).all()


def candidate(name, guesses):
    return Candidate(name, np.eye(2)[np.asarray(guesses)] * 0.8 + 0.1)


def test_weights_by_hand():
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    good = candidate("good", [0, 0, 0, 0, 1, 1, 1, 0])
    fair = candidate("fair", [0, 0, 0, 1, 1, 1, 1, 0])
    poor = candidate("poor", [1, 0, 1, 0, 1, 0, 1, 0])
    bad = candidate("bad", [1, 1, 1, 1, 0, 0, 0, 1])
    all_of_them = [poor, good, bad, fair]
    choice, blend = choose(all_of_them, y)
    right, wrong = -np.log(0.9), -np.log(0.1)
    loss, error = balanced_log_loss(y, good.held_out)
    assert loss == pytest.approx((7 * right + wrong) / 8)
    spread = np.var([right, right, right, wrong]) / 4  # the first class has none but the floor
    assert error == pytest.approx(np.sqrt(spread + 1e-4 / 4) / 2)
    assert choice.weights["fair"] / choice.weights["good"] == pytest.approx(np.exp(-(wrong - right) / 8 / error))
    assert choice.tried == pytest.approx({"poor": 0.5, "good": 0.875, "bad": 0.125, "fair": 0.75})
    assert set(choice.weights) == {"good", "fair"}  # poor is 3.4 s.e. worse
    by_hand = sum(choice.weights[part.name] * part.held_out for part in (good, fair))
    assert blend == pytest.approx(by_hand)


def test_labels_of_tested_units_do_not_reach_it(made):
    features, y = made
    some = {name: features[name] for name in ("waveform", "hand")}

    def method(train, test, labels):
        model = fit_classical(rows(some, train), labels[train], 2, models=("lda",))
        return model.probabilities(rows(some, test))

    folds = repeated_folds(y, None, 3, 1)
    assert permuted_test_labels_check(method, folds[0].train, folds[0].test, y).valid
    assert shuffled_labels_control(method, y, folds).valid


def test_wrong_input_is_refused(made):
    features, y = made
    some = {"hand": features["hand"]}
    with pytest.raises(LearnerError, match="Unknown models forest"):
        fit_classical(some, y, 2, models=("forest",))
    with pytest.raises(LearnerError, match="holds infinite values"):
        fit_classical({"hand": np.where(np.isnan(features["hand"]), np.inf, 0)}, y, 2, models=("knn",))
    with pytest.raises(LearnerError, match="There is no candidate"):
        fit_classical({"acg": features["acg"]}, y, 2, models=("knn",))
    model = fit_classical(some, y, 2, models=("knn",))
    with pytest.raises(LearnerError, match="not given: hand"):
        model.probabilities({"isi": features["isi"]})
