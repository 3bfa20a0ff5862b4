"""Temperature and calibration errors against torchmetrics, a grid search and answers made by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from neurofleet.errors import LearnerError, TrainingFailed
from neurofleet.learners.calibration import (
    UNCALIBRATED,
    calibrated_probabilities,
    entropy,
    expected_calibration_error,
    fit_temperature,
    log_probabilities,
    margin,
    negative_log_likelihood,
    reliability_table,
)


@pytest.fixture(scope="module")
def calibrated():
    """Logits of which the labels were drawn: right as they are."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 5))
    draws = rng.random((4000, 1))
    return logits, (softmax(logits, axis=1).cumsum(axis=1) < draws).sum(axis=1)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_factor_that_spoils_logits_is_found(calibrated, factor):
    logits, true = calibrated
    found = fit_temperature(logits * factor, true)
    assert found.temperature == pytest.approx(factor, rel=0.06)
    grid = found.temperature * np.linspace(0.9, 1.1, 41)
    best = min(grid, key=lambda t: log_loss(true, softmax(logits * factor / t, axis=1)))
    assert found.temperature == pytest.approx(best, rel=0.0051)
    assert found.nll_after <= found.nll_before
    assert found.ece_after < 0.03
    assert found.n == 4000
    assert found.determined


def test_three_times_too_sure_is_seen_before_and_gone_after(calibrated):
    logits, true = calibrated
    found = fit_temperature(3 * logits, true)
    assert found.ece_before > 0.1
    assert found.ece_after < 0.03


def test_without_calibration_the_temperature_is_one(calibrated):
    logits, _ = calibrated
    assert UNCALIBRATED.temperature == 1.0
    assert UNCALIBRATED.to_dict()["nll_before"] is None
    assert calibrated_probabilities(logits) == pytest.approx(softmax(logits, axis=1))


def test_log_probabilities_of_an_ensemble_calibrate_like_logits(calibrated):
    logits, true = calibrated
    by_logits = fit_temperature(2 * logits, true)
    by_probabilities = fit_temperature(log_probabilities(softmax(2 * logits, axis=1)), true)
    assert by_probabilities.temperature == pytest.approx(by_logits.temperature, rel=1e-3)


def test_validation_cells_that_are_all_right_leave_the_temperature_at_one():
    found = fit_temperature(np.eye(3) * 2, np.arange(3))
    assert (found.temperature, found.determined) == (1.0, False)
    assert found.nll_before == found.nll_after


def test_logits_that_are_mostly_wrong_end_at_the_limit():
    found = fit_temperature(np.eye(3) * 2, np.array([1, 2, 2]))
    assert (found.temperature, found.determined) == (pytest.approx(20.0), False)


def test_probabilities_do_not_depend_on_how_many_are_shown(calibrated):
    logits, _ = calibrated
    assert calibrated_probabilities(logits, 2.0).sum(axis=1) == pytest.approx(1.0)
    assert calibrated_probabilities(logits, 2.0).max(axis=1).max() < 1.0


def test_calibration_error_agrees_with_torchmetrics(calibrated):
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, true = calibrated
    probabilities = softmax(1.7 * logits, axis=1)
    theirs = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(true), num_classes=5, n_bins=15, norm="l1"
    )
    assert expected_calibration_error(probabilities, true) == pytest.approx(float(theirs), abs=1e-6)
    assert negative_log_likelihood(probabilities, true) == pytest.approx(log_loss(true, probabilities))


def test_reliability_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [1.0, 0.0]])
    table = reliability_table(probabilities, np.array([0, 1, 1, 0]), bins=2)
    assert [(b.n, b.mean_probability, b.accuracy) for b in table] == [
        (0, None, None),
        (4, pytest.approx(0.8125), 0.75),
    ]
    assert expected_calibration_error(probabilities, np.array([0, 1, 1, 0]), bins=2) == pytest.approx(0.0625)


def test_margin_and_entropy_by_hand():
    probabilities = np.array([[0.7, 0.1, 0.2], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert margin(probabilities) == pytest.approx([0.5, 1.0, 0.0])
    assert entropy(probabilities) == pytest.approx([0.801819, 0.0, np.log(3)], abs=1e-6)


def test_unusable_input_is_refused():
    with pytest.raises(TrainingFailed, match="has not converged"):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(LearnerError, match="indices from 0 to 1"):
        fit_temperature(np.ones((2, 2)), np.array([0, 2]))
    with pytest.raises(LearnerError, match="at least one"):
        fit_temperature(np.ones((0, 2)), np.array([], dtype=int))
    with pytest.raises(LearnerError, match="above 0"):
        calibrated_probabilities(np.ones((1, 2)), 0.0)
