"""Logistic regression: the rotated fit is the plain one; settings come from held-out cells only."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from neurofleet.errors import LearnerError
from neurofleet.learners.sims import logistic_regression
from neurofleet.learners.sims.logistic_regression import LOG, Z_SCORE, fit_logistic


def cells(n, n_genes, n_classes, seed=0, strength=1.5):
    """Log-normalised-like values; each class raises a few genes of its own."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    marker = rng.random((n_classes, n_genes)) < 0.05
    x = rng.poisson(0.5 + strength * marker[y])
    return np.log1p(x).astype(np.float32), y


@pytest.fixture(scope="module")
def wide():
    return cells(90, 300, 4)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("c", [0.1, 3.0])
def test_rotated_weights_are_those_of_scikit_learn_on_the_genes(n_classes, c, monkeypatch):
    monkeypatch.setattr(logistic_regression, "TOLERANCE", 1e-8)
    x, y = cells(90, 300, n_classes)
    ((weights, bias),) = logistic_regression._path(x, y, n_classes, (c,))
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(x.astype(np.float64), y)
    if n_classes == 2:
        assert weights[:, 1] - weights[:, 0] == pytest.approx(theirs.coef_[0], abs=2e-4)
        assert bias[1] - bias[0] == pytest.approx(theirs.intercept_[0], abs=2e-3)
    else:
        assert np.abs(theirs.coef_).max() > 0.05
        # float32: on an AVX2 processor the largest of 1,200 differences was 2.03e-4
        assert weights == pytest.approx(theirs.coef_.T, abs=3e-4)
        assert bias == pytest.approx(theirs.intercept_, abs=2e-3)


def test_more_cells_than_genes_give_the_same_as_scikit_learn(monkeypatch):
    monkeypatch.setattr(logistic_regression, "TOLERANCE", 1e-8)
    x, y = cells(400, 30, 3)
    ((weights, _),) = logistic_regression._path(x, y, 3, (1.0,))
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(x.astype(np.float64), y)
    assert weights == pytest.approx(theirs.coef_.T, abs=2e-4)


def test_a_path_ends_where_each_fit_alone_would(wide):
    x, y = wide
    path = logistic_regression._path(x, y, 4, (0.1, 1.0, 10.0))
    for c, (weights, bias) in zip((0.1, 1.0, 10.0), path, strict=True):
        theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x.astype(np.float64), y)
        mine = x @ weights + bias
        ours = np.exp(mine - mine.max(1, keepdims=True))
        assert ours / ours.sum(1, keepdims=True) == pytest.approx(theirs.predict_proba(x), abs=0.01)


def test_held_out_probabilities_are_of_models_that_had_not_seen_the_cell(wide):
    x, y = wide
    model = fit_logistic(x, y, 4, seed=1)
    expected = np.zeros((len(y), 4))
    for train, test in StratifiedKFold(3, shuffle=True, random_state=1).split(x, y):
        inside, outside = x[train].astype(np.float64), x[test].astype(np.float64)
        if model.scaling == Z_SCORE:
            mean, sd = inside.mean(axis=0), inside.std(axis=0)
            sd = np.maximum(sd, np.quantile(sd[sd > 0], 0.05))
            inside, outside = (np.clip((part - mean) / sd, -10, 10) for part in (inside, outside))
        theirs = LogisticRegression(C=model.C, tol=1e-8, max_iter=5000).fit(inside, y[train])
        expected[test] = theirs.predict_proba(outside)
    assert model.held_out_probabilities == pytest.approx(expected, abs=0.01)
    guess = model.held_out_probabilities.argmax(axis=1)
    assert model.inner_accuracy == pytest.approx((guess == y).mean())
    assert len(model.tried) == 13
    assert min(s.log_loss for s in model.tried) == model.inner_log_loss


def test_the_stored_arrays_are_enough_to_predict(wide):
    x, y = wide
    model = fit_logistic(x, y, 4)
    scaled = np.clip((x - model.mean) / model.sd, -model.clip, model.clip)
    logits = scaled @ model.weights + model.bias
    assert model.logits(x) == pytest.approx(logits, abs=1e-4)
    assert model.probabilities(x).sum(axis=1) == pytest.approx(1.0)
    assert (model.probabilities(x).argmax(axis=1) == y).mean() > 0.95
    assert model.weights.dtype == model.bias.dtype == model.mean.dtype == model.sd.dtype == np.float32


def test_genes_constant_in_training_count_for_nothing():
    x, y = cells(120, 200, 3)
    x[:, :20] = 0.0
    for scaling in (LOG, Z_SCORE):
        mean, sd, clip = logistic_regression._statistics(x, scaling)
        assert (sd > 0).all()
        ((weights, _),) = logistic_regression._path(logistic_regression._scaled(x, mean, sd, clip), y, 3, (0.1,))
        assert np.abs(weights[:20]).max() < 1e-6


def test_rare_and_absent_classes_do_not_break_tuning():
    x, y = cells(90, 150, 3)
    y[:2], y[2] = 4, 5  # two cells, one cell; class 3 and class 6 have none
    model = fit_logistic(x, y, 7)
    assert np.isnan(model.held_out_probabilities[:3]).all()
    assert np.isfinite(model.held_out_probabilities[3:]).all()
    assert model.probabilities(x)[:, [3, 6]].max() < 1e-6
    assert (model.probabilities(x)[:3].argmax(axis=1) == [4, 4, 5]).all()


def test_large_sets_are_tuned_on_a_subsample_and_fitted_on_all():
    x, y = cells(400, 20, 3)
    model = fit_logistic(x, y, 3, tuning_cells=150)
    assert np.isfinite(model.held_out_probabilities[:, 0]).sum() == pytest.approx(150, abs=2)
    scaled = logistic_regression._scaled(x, model.mean, model.sd, model.clip)
    theirs = LogisticRegression(C=model.C, tol=1e-6, max_iter=5000).fit(scaled, y)
    assert model.probabilities(x) == pytest.approx(theirs.predict_proba(scaled), abs=0.01)


def test_the_seed_decides_the_folds_and_nothing_else_is_random(wide):
    x, y = wide
    first, again = fit_logistic(x, y, 4, seed=3), fit_logistic(x, y, 4, seed=3)
    assert (first.weights == again.weights).all()
    other = fit_logistic(x, y, 4, seed=4)
    assert (other.held_out_probabilities != first.held_out_probabilities).any()


def test_unusable_input_is_refused(wide):
    x, y = wide
    with pytest.raises(LearnerError, match="at least two classes"):
        fit_logistic(x, np.zeros(len(y), dtype=int), 4)
    with pytest.raises(LearnerError, match="NaN or infinity"):
        fit_logistic(np.where(x > 1, np.nan, x), y, 4)
    with pytest.raises(LearnerError, match="No class has 3 training cells"):
        fit_logistic(x[:4], np.arange(4), 4)
    with pytest.raises(LearnerError, match="fitted on 300 genes"):
        fit_logistic(x, y, 4).logits(x[:, :10])
