"""Probes: small classifiers on vectors of units or cells, each kept as plain arrays.

Every kind is fitted by scikit-learn and then kept as the arrays its formula needs, so that a stored probe
answers exactly as it did, whatever the version of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import softmax

from learners.calibration import fit_temperature
from learners.comparison_folds import inner_repeated_folds
from learners.errors import LearnerError
from learners.inner_folds import stratified_rows
from learners.probe_kinds import ABSENT, KINDS, Arrays, Setting
from learners.splits import nearest

PROBES = ("knn", "linear", "svm", "mlp")
FOLDS = 3
CLIP_SD = 5.0
TUNING_ROWS = 3000
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Probe:
    """A fitted classifier.

    Attributes
    ----------
    kind : str
        ``knn``, ``linear``, ``svm``, ``mlp``, ``lda`` or ``trees``.
    settings : dict
        What the inner cross-validation chose, and on how many rows.
    inner_balanced_accuracy : float
        At these settings, over the rows that it held out.
    held_out : (n, n_classes) float64 array
        Probabilities of each training row by the inner model that had not seen it; NaN for rows never held
        out. Not kept in a model folder: a restored probe has none (0 rows).
    n_classes : int
    values : dict of arrays
        What the formula of the kind needs.
    """

    kind: str
    settings: dict[str, Any]
    inner_balanced_accuracy: float
    held_out: np.ndarray
    n_classes: int
    values: Arrays = field(repr=False)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (m, n_classes) of rows `x` (m, n_features); rows sum to 1.

        Raises
        ------
        LearnerError
            For another number of features than was fitted on, or a value which is not finite.
        """
        x = np.asarray(x)
        n_features = len(self.values["mean"])
        if x.ndim != 2 or x.shape[1] != n_features:
            raise LearnerError(
                f"Expected rows of {n_features} features, as the probe was fitted on; found shape {x.shape}."
            )
        _refuse_not_finite(x)
        return answer(self.kind, self.values, x, self.n_classes, self.settings["temperature"])

    def arrays(self) -> Arrays:
        """Return what a model folder keeps as tensors."""
        return dict(self.values)

    def description(self) -> dict[str, Any]:
        """Return what a model folder keeps as JSON."""
        return {
            "kind": self.kind,
            "settings": self.settings,
            "inner_balanced_accuracy": self.inner_balanced_accuracy,
            "n_classes": self.n_classes,
        }


def restore_probe(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Probe:
    """Return the probe that gave `description` and `arrays`; its probabilities are the same to the bit."""
    n_classes = int(description["n_classes"])
    return Probe(
        kind=description["kind"],
        settings=dict(description["settings"]),
        inner_balanced_accuracy=description["inner_balanced_accuracy"],
        held_out=np.empty((0, n_classes)),
        n_classes=n_classes,
        values={name: np.asarray(array) for name, array in arrays.items()},
    )


def fit_probe(
    kind: str,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Probe:
    """Fit a probe; its settings are those of the best balanced accuracy in an inner 3-fold cross-validation.

    Features are standardised and clipped at 5 s.d. Classes weigh alike in all kinds but ``knn``. The
    confidence of ``knn`` is the share of votes, that of ``svm`` and ``lda`` a softmax over their decision
    values with a temperature fitted on held-out rows. Above 3,000 rows the settings are chosen on a
    stratified subsample of that size; ``svm`` is then fitted on at most 5,000 rows, the others on at most
    20,000 (``settings`` tells both numbers).

    Parameters
    ----------
    kind : str
        One of `PROBES`; also ``lda`` (shrunk linear discriminants) or ``trees`` (300 extremely random ones).
    x : (n, n_features) array
        Vectors, embeddings or hand features.
    y : (n,) int array
        Classes, 0 to n_classes - 1.
    groups : (n,) array
        Animal or recording; the inner folds keep groups whole.

    Raises
    ------
    LearnerError
        For an unknown kind, shapes that do not agree, values that are not finite, or too few rows.
    """
    if kind not in KINDS:
        raise LearnerError(f"Expected a probe of {', '.join(KINDS)}, found {kind!r}{nearest(kind, KINDS)}.")
    x, y = np.asarray(x), np.asarray(y)
    checked(x, y, n_classes, groups)
    _refuse_not_finite(x)
    rows = stratified_rows(y, TUNING_ROWS, FOLDS, seed)
    inner = inner_repeated_folds(y[rows], None if groups is None else groups[rows], FOLDS, seed)
    tried = cross_validated(kind, x[rows], y[rows], n_classes, inner, seed)
    best = max(tried, key=lambda one: one.balanced_accuracy)
    held_out = np.full((len(y), n_classes), np.nan)
    held_out[rows] = best.held_out
    final = stratified_rows(y, KINDS[kind].most_rows, FOLDS, seed)
    settings = best.setting | {
        "temperature": best.temperature,
        "tuned_on": len(rows),
        "fitted_on": len(final),
        "seed": seed,
    }
    values = fitted(kind, x[final], y[final], n_classes, best.setting, seed)
    return Probe(kind, settings, best.balanced_accuracy, held_out, n_classes, values)


@dataclass(frozen=True)
class Tried:
    """One setting, and what its inner models gave for the rows they had not seen (NaN: never held out)."""

    setting: Setting
    balanced_accuracy: float
    temperature: float
    held_out: np.ndarray


def cross_validated(
    kind: str,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    folds: list[Any],
    seed: int,
) -> list[Tried]:
    """Return every setting of a kind with its held-out probabilities; repeats are averaged."""
    tried = []
    for setting in KINDS[kind].grid:
        total, count = np.zeros((len(y), n_classes)), np.zeros(len(y))
        for fold in folds:
            values = fitted(kind, x[fold.train], y[fold.train], n_classes, setting, seed)
            total[fold.test] += raw_answer(kind, values, x[fold.test], n_classes)
            count[fold.test] += 1
        seen = count > 0
        held_out = np.full((len(y), n_classes), np.nan)
        held_out[seen] = total[seen] / count[seen, None]
        temperature = 1.0
        if KINDS[kind].decision_values:
            possible = seen & (held_out[np.arange(len(y)), y] > ABSENT / 10)  # its class was trained on
            temperature = fit_temperature(held_out[possible], y[possible]).temperature
            held_out[seen] = softmax(held_out[seen] / temperature, axis=1)
        reached = balanced_accuracy(y[seen], held_out[seen].argmax(axis=1))
        tried.append(Tried(setting, reached, temperature, held_out))
    return tried


def balanced_accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall over the classes that occur in `true`, both (n,) int arrays from 0."""
    size = np.bincount(true)
    found = np.bincount(true[true == predicted], minlength=len(size))
    return float((found[size > 0] / size[size > 0]).mean())


def fitted(kind: str, x: np.ndarray, y: np.ndarray, n_classes: int, setting: Setting, seed: int) -> Arrays:
    """Fit one setting on standardised rows; return its arrays."""
    x = np.asarray(x, dtype=np.float64)
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 1e-9 * np.maximum(1.0, np.abs(mean)), sd, 1.0)
    arrays = {"mean": mean, "sd": sd}
    return arrays | KINDS[kind].fit(_standardised(arrays, x), y, n_classes, setting, seed)


def raw_answer(kind: str, values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probabilities (m, n_classes), for ``svm`` decision values, a block of rows at a time."""
    blocks = [x[start : start + ROWS_AT_ONCE] for start in range(0, len(x), ROWS_AT_ONCE)]
    if not blocks:
        return np.empty((0, n_classes))
    return np.concatenate(
        [KINDS[kind].answer(values, _standardised(values, block), n_classes) for block in blocks]
    )


def answer(kind: str, values: Arrays, x: np.ndarray, n_classes: int, temperature: float) -> np.ndarray:
    """Return probabilities (m, n_classes)."""
    raw = raw_answer(kind, values, x, n_classes)
    return softmax(raw / temperature, axis=1) if KINDS[kind].decision_values else raw


def checked(x: np.ndarray, y: np.ndarray, n_classes: int, groups: np.ndarray | None) -> None:
    """Refuse shapes that do not agree and classes out of range."""
    if x.ndim != 2 or y.shape != x.shape[:1] or (groups is not None and len(groups) != len(y)):
        found = "" if groups is None else f" and {len(groups)} groups"
        raise LearnerError(
            f"Expected rows x features and a class per row, found shapes {x.shape} and {y.shape}{found}."
        )
    present = np.unique(y)
    if len(present) < 2 or present[0] < 0 or present[-1] >= n_classes:
        raise LearnerError(
            f"Expected at least two classes with indices from 0 to {n_classes - 1}, found {present.tolist()}."
        )


def _refuse_not_finite(x: np.ndarray) -> None:
    wrong = ~np.isfinite(x)
    if wrong.any():
        raise LearnerError(
            f"{int(wrong.any(axis=1).sum())} of {len(x)} rows hold NaN or infinity (the first: row"
            f" {int(np.flatnonzero(wrong.any(axis=1))[0])}). Fill or drop them first; for an embedding, the"
            " model has not converged."
        )


def _standardised(values: Arrays, x: np.ndarray) -> np.ndarray:
    return np.clip((x - values["mean"]) / values["sd"], -CLIP_SD, CLIP_SD)
