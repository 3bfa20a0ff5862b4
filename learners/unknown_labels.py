"""When a label becomes unknown: the threshold on the top probability, and what each one costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neurofleet.learners.learner_errors import LearnerError


def threshold_for_coverage(top_probability: np.ndarray, coverage: float) -> float:
    """Return the highest threshold at which at least the share `coverage` of the samples keeps its label.

    A sample is unknown when its calibrated top probability is below the threshold.

    Parameters
    ----------
    top_probability : (n,) array
        Calibrated top probabilities of validation samples.
    coverage : float
        Wanted share in (0, 1].
    """
    top = np.asarray(top_probability, dtype=np.float64)
    if not 0 < coverage <= 1:
        raise LearnerError(f"A coverage lies above 0 and at most at 1, found {coverage!r}.")
    if len(top) == 0:
        raise LearnerError("A threshold needs validation samples, found none.")
    kept = math.ceil(coverage * len(top) - 1e-9)
    return float(np.sort(top)[::-1][kept - 1])


@dataclass(frozen=True)
class UnknownCurve:
    """What each threshold costs and catches; arrays of the same length, NaN where there is nothing to count.

    Attributes
    ----------
    threshold : array
        Samples with a top probability below it are called unknown.
    known_accuracy : array
        Share of the samples of known types that keep their label and have the right one.
    kept_accuracy : array
        Share of right labels among the samples of known types that keep their label.
    unknown_recall : array
        Share of the samples of unknown types that are called unknown.
    coverage : array
        Share of all samples that keep their label.
    """

    threshold: np.ndarray
    known_accuracy: np.ndarray
    kept_accuracy: np.ndarray
    unknown_recall: np.ndarray
    coverage: np.ndarray


def unknown_curve(
    top_probability: np.ndarray, right: np.ndarray, known: np.ndarray, thresholds: np.ndarray | None = None
) -> UnknownCurve:
    """Sweep the threshold from 0 to 1 in an experiment that left one type or more out of training.

    Parameters
    ----------
    top_probability : (n,) array
        Calibrated top probability of each test sample.
    right : (n,) bool array
        Whether the predicted class is the true one; not read where `known` is False.
    known : (n,) bool array
        Whether the sample's true type was trained on.
    thresholds : array
        Default 0, 0.01 … 1.
    """
    top = np.asarray(top_probability, dtype=np.float64)
    right, known = np.asarray(right, dtype=bool), np.asarray(known, dtype=bool)
    if not len(top) == len(right) == len(known) or len(top) == 0:
        raise LearnerError(
            f"Expected three arrays of one length, at least 1; found {len(top)}, {len(right)}, {len(known)}."
        )
    thresholds = np.linspace(0.0, 1.0, 101) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    kept = top >= thresholds[:, None]
    kept_known = (kept & known).sum(axis=1)
    kept_right = (kept & known & right).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return UnknownCurve(
            threshold=thresholds,
            known_accuracy=kept_right / np.float64(known.sum()),
            kept_accuracy=kept_right / kept_known,
            unknown_recall=(~kept & ~known).sum(axis=1) / np.float64((~known).sum()),
            coverage=kept.mean(axis=1),
        )
