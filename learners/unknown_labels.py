"""When a label becomes unknown: the threshold on the top probability, and what each one costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofleet.errors import LearnerError, UsageError

UNKNOWN = "unknown"
"""The label of samples whose top probability is below the threshold."""

VALIDATION = "validation_top_probability"
"""The fact of a model that holds the calibrated top probabilities of its validation cells."""


def labels_or_unknown(predicted: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return what depends on the threshold: which samples are of unknown type, and the label of each.

    Parameters
    ----------
    predicted : (n,) array of str
        The likeliest class.
    probability : (n,) array
        Its calibrated probability.
    threshold : float
        A label becomes `UNKNOWN` where the probability is below it; 0 keeps all labels.

    Returns
    -------
    dict
        ``unknown`` (n,) bool and ``label`` (n,) str.

    Raises
    ------
    UsageError
        The threshold is no probability.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"unknown_below (--unknown-below): expected a probability from 0 to 1, found {threshold:g}.")
    unknown = probability.astype(np.float64) < threshold
    return {"unknown": unknown, "label": np.where(unknown, UNKNOWN, predicted)}


def refuse_two_thresholds(unknown_below: float | None, coverage: float | None) -> None:
    """Refuse a threshold and a coverage at once, and a coverage out of range.

    Raises
    ------
    UsageError
    """
    if unknown_below is not None and coverage is not None:
        raise UsageError("Give unknown_below (--unknown-below) or coverage (--coverage), one of the two.")
    if coverage is not None and not 0 < coverage <= 1:
        raise UsageError(f"coverage (--coverage) lies above 0 and at most at 1, found {coverage:g}.")


def threshold_for(unknown_below: float | None, coverage: float | None, facts: Mapping[str, Any], owner: str) -> float:
    """Return the threshold: the given one, or the one that a coverage leads to; 0 without either.

    Parameters
    ----------
    unknown_below : float or None
        The threshold itself.
    coverage : float or None
        The share of the model's validation cells that keeps its label, in (0, 1].
    facts : mapping
        Of a model, or of the predictions that it made; they hold the probabilities of the validation cells.
    owner : str
        Whose facts they are, for the message.

    Raises
    ------
    UsageError
        If both are given, the coverage is out of range, or the facts hold no validation cells.
    """
    refuse_two_thresholds(unknown_below, coverage)
    if coverage is None:
        return unknown_below or 0.0
    if not facts.get(VALIDATION):
        raise UsageError(
            f"coverage {coverage:g} (--coverage) needs the probabilities of the model's validation cells, and {owner}"
            " does not hold them: it was trained without validation cells, or by an earlier neurofleet."
            " Give unknown_below (--unknown-below), or train again with validation cells."
        )
    return threshold_for_coverage(facts[VALIDATION], coverage)


def threshold_for_coverage(top_probability: np.ndarray, coverage: float) -> float:
    """Return the highest threshold at which at least the share `coverage` of the samples keeps its label.

    A sample is unknown when its calibrated top probability is below the threshold.

    Parameters
    ----------
    top_probability : (n,) array
        Calibrated top probabilities of validation samples.
    coverage : float
        The share that keeps its label, in (0, 1].
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
