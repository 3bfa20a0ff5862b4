"""Unknown cells: thresholds and curves counted by hand."""

import numpy as np
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.unknown_labels import threshold_for_coverage, unknown_curve


def test_the_threshold_keeps_the_wanted_share_and_no_more_than_ties_force():
    top = np.array([0.9, 0.5, 0.7, 0.3, 0.7, 0.2, 0.95, 0.6, 0.4, 0.8])
    for coverage, kept in ((0.1, 1), (0.3, 3), (0.4, 5), (0.7, 7), (1.0, 10)):
        assert (top >= threshold_for_coverage(top, coverage)).sum() == kept
    assert threshold_for_coverage(top, 0.7) == 0.5
    with pytest.raises(LearnerError, match="coverage"):
        threshold_for_coverage(top, 0.0)


def test_the_curve_by_hand():
    top = np.array([0.9, 0.8, 0.6, 0.4, 0.7, 0.3])
    right = np.array([True, True, False, True, False, False])
    known = np.array([True, True, True, True, False, False])
    curve = unknown_curve(top, right, known, np.array([0.0, 0.5, 0.75, 1.0]))
    assert curve.known_accuracy.tolist() == [0.75, 0.5, 0.5, 0.0]
    assert curve.kept_accuracy[:3] == pytest.approx([0.75, 2 / 3, 1.0])
    assert np.isnan(curve.kept_accuracy[3])
    assert curve.unknown_recall.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert curve.coverage == pytest.approx([1.0, 4 / 6, 2 / 6, 0.0])


def test_the_sweep_goes_from_nothing_unknown_to_all_but_the_certain():
    rng = np.random.default_rng(0)
    curve = unknown_curve(rng.random(200), rng.random(200) < 0.8, rng.random(200) < 0.7)
    assert (curve.threshold[0], curve.threshold[-1], len(curve.threshold)) == (0.0, 1.0, 101)
    assert (curve.coverage[0], curve.coverage[-1]) == (1.0, 0.0)
    assert (np.diff(curve.unknown_recall) >= 0).all()


def test_without_unknown_cells_their_recall_is_not_a_number():
    curve = unknown_curve(np.array([0.5, 0.6]), np.array([True, False]), np.array([True, True]))
    assert np.isnan(curve.unknown_recall).all()
