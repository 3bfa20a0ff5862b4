"""Multinomial logistic regression on log-normalised expression, tuned by inner cross-validation.

The penalty and the loss do not change when the cells are rotated in gene space. With fewer cells than genes
the solver therefore works in the space that the cells span (from the eigenvectors of their Gram matrix), and
the weights are rotated back: exact, and as fast as if there were as many genes as cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh
from scipy.special import softmax

from neurofleet.errors import LearnerError
from neurofleet.learners.folds import inner_folds, stratified_rows

Z_SCORE, LOG = "z-score", "log"
C_GRID = {Z_SCORE: (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), LOG: (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)}
CLIP = 10.0
SD_FLOOR_QUANTILE = 0.05
FOLDS = 3
TUNING_CELLS = 3000
ABSENT_BIAS = -30.0
TOLERANCE = 1e-5
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LogisticSetting:
    """One setting that the inner cross-validation tried, and its scores on the held-out cells."""

    scaling: str
    C: float
    log_loss: float
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class LogisticModel:
    """A fitted model: probabilities are softmax(clip((x - mean) / sd) @ weights + bias).

    Attributes
    ----------
    weights, bias : (n_genes, n_classes) and (n_classes,) float32 arrays
    mean, sd : (n_genes,) float32 arrays
        Of the training cells; 0 and 1 with scaling ``log``.
    clip : float
        Largest absolute scaled value; infinite with scaling ``log``.
    C, scaling : float, str
        What the inner cross-validation chose: inverse penalty, and ``z-score`` or ``log``.
    inner_accuracy, inner_macro_f1, inner_log_loss : float
        Scores of that setting on the cells that the inner cross-validation held out; of a streamed regression (see
        `neurofleet.learners.sims.streamed_regression`) on the cells that chose its step size.
    held_out_probabilities : (n_cells, n_classes) float32 array
        Probabilities of each training cell by the inner model that had not seen it; NaN for cells that were
        never held out (of classes with fewer than 3 cells, or beyond the cells that were tuned on).
    tried : list of LogisticSetting
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    clip: float
    C: float
    scaling: str
    inner_accuracy: float
    inner_macro_f1: float
    inner_log_loss: float
    held_out_probabilities: np.ndarray
    tried: list[LogisticSetting] = field(default_factory=list)

    @property
    def setting(self) -> LogisticSetting:
        """What the inner cross-validation chose."""
        scores = (self.inner_log_loss, self.inner_accuracy, self.inner_macro_f1)
        return LogisticSetting(self.scaling, self.C, *scores)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return the logits (n, n_classes) of log-normalised cells (n, n_genes)."""
        if x.ndim != 2 or x.shape[1] != len(self.weights):
            raise LearnerError(
                f"The model was fitted on {len(self.weights)} genes; found an array of shape {x.shape}."
                " Align the genes of the query first."
            )
        return self.scaled(x) @ self.weights + self.bias

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Return the cells as the weights take them, (n, n_genes) float32."""
        return _scaled(np.asarray(x, dtype=np.float32), self.mean, self.sd, self.clip)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return the class probabilities (n, n_classes) of log-normalised cells (n, n_genes)."""
        return softmax(self.logits(x), axis=1)


def fit_logistic(
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    *,
    seed: int = 0,
    tuning_cells: int = TUNING_CELLS,
    tuned: LogisticModel | None = None,
) -> LogisticModel:
    """Fit L2 logistic regression; C and the input scaling come from 3-fold cross-validation inside `x`.

    Two scalings are compared: z-scores (sd floored at its 5 % quantile, clipped at ±10) and plain log
    values. Everything, scaling included, is fitted anew on the training part of each inner fold. Classes
    are unweighted; those with fewer than 3 cells are in all inner training parts and never held out. A class
    without a cell gets probability about 0.

    Parameters
    ----------
    x : (n_cells, n_genes) float32 array
        Log-normalised expression of the training cells.
    y : (n_cells,) int array
        Classes, 0 to n_classes - 1.
    seed : int
        Decides the inner folds.
    tuning_cells : int
        With more cells than this the settings are compared on a stratified subsample of so many; the final
        fit uses all cells.
    tuned : LogisticModel, optional
        Its C and scaling are taken, with its inner scores, in place of a search.

    Raises
    ------
    LearnerError
        When the shapes do not agree, a value is not finite, or fewer than two classes have cells.
    """
    x = np.asarray(x, dtype=np.float32)
    y = _checked(x, y, n_classes)
    probabilities = np.full((len(y), n_classes), np.nan, dtype=np.float32)
    if tuned is None:
        rows = stratified_rows(y, tuning_cells, FOLDS, seed)
        tried, held_out = _inner_cross_validation(x[rows], y[rows], n_classes, seed)
        best = _best(tried)
        chosen = tried[best]
        probabilities[rows] = held_out[best]
    else:
        tried, chosen = tuned.tried, tuned.setting
    mean, sd, clip = _statistics(x, chosen.scaling)
    (weights, bias), *_ = _path(_scaled(x, mean, sd, clip), y, n_classes, (chosen.C,))
    return LogisticModel(
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        mean=mean,
        sd=sd,
        clip=clip,
        C=chosen.C,
        scaling=chosen.scaling,
        inner_accuracy=chosen.accuracy,
        inner_macro_f1=chosen.macro_f1,
        inner_log_loss=chosen.log_loss,
        held_out_probabilities=probabilities,
        tried=tried,
    )


def _checked(x: np.ndarray, y: np.ndarray, n_classes: int) -> np.ndarray:
    y = np.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise LearnerError(f"Expected cells x genes and a class per cell, found shapes {x.shape} and {y.shape}.")
    if not np.isfinite(x).all():
        raise LearnerError("The expression values hold NaN or infinity. Clean the reference first.")
    present = np.unique(y)
    if len(present) < 2 or present[0] < 0 or present[-1] >= n_classes:
        raise LearnerError(
            f"Expected at least two classes with indices from 0 to {n_classes - 1}, found {present.tolist()}."
        )
    return y


def _best(tried: list[LogisticSetting]) -> int:
    """Return the setting with the lowest held-out log loss."""
    return min(range(len(tried)), key=lambda i: tried[i].log_loss)


def _inner_cross_validation(
    x: np.ndarray, y: np.ndarray, n_classes: int, seed: int
) -> tuple[list[LogisticSetting], list[np.ndarray]]:
    """Return all settings with their scores, and for each the held-out probabilities (n, n_classes)."""
    folds = inner_folds(y, FOLDS, seed)
    common = np.sort(np.concatenate([held for _, held in folds]))
    tried, held_out = [], []
    for scaling, grid in C_GRID.items():
        predictions = [np.full((len(y), n_classes), np.nan, dtype=np.float32) for _ in grid]
        for train, test in folds:
            mean, sd, clip = _statistics(x[train], scaling)
            path = _path(_scaled(x[train], mean, sd, clip), y[train], n_classes, grid)
            x_test = _scaled(x[test], mean, sd, clip)
            for probabilities, (weights, bias) in zip(predictions, path, strict=True):
                probabilities[test] = softmax(x_test @ weights + bias, axis=1)
        for c, probabilities in zip(grid, predictions, strict=True):
            tried.append(_setting(scaling, c, y[common], probabilities[common]))
            held_out.append(probabilities)
    return tried, held_out


def _setting(scaling: str, c: float, y: np.ndarray, probabilities: np.ndarray) -> LogisticSetting:
    from sklearn.metrics import f1_score, log_loss

    guess = probabilities.argmax(axis=1)
    return LogisticSetting(
        scaling=scaling,
        C=c,
        log_loss=float(log_loss(y, probabilities, labels=np.arange(probabilities.shape[1]))),
        accuracy=float((guess == y).mean()),
        macro_f1=float(f1_score(y, guess, labels=np.unique(y), average="macro", zero_division=0.0)),
    )


def _statistics(x: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray, float]:
    n_genes = x.shape[1]
    if scaling == LOG:
        return np.zeros(n_genes, np.float32), np.ones(n_genes, np.float32), math.inf
    mean, sd = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    varying = sd[sd > 0]
    floor = np.quantile(varying, SD_FLOOR_QUANTILE) if len(varying) else 1.0
    return mean.astype(np.float32), np.maximum(sd, floor).astype(np.float32), CLIP


def _scaled(x: np.ndarray, mean: np.ndarray, sd: np.ndarray, clip: float) -> np.ndarray:
    if math.isinf(clip):
        return x
    scaled = x - mean
    scaled /= sd
    return np.clip(scaled, -clip, clip, out=scaled)


def _path(x: np.ndarray, y: np.ndarray, n_classes: int, grid: tuple[float, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit for each C, from strong to weak penalty, each from the one before; return weights and biases.

    The intercept is not penalised, so centring the genes changes nothing but the speed.
    """
    from sklearn.linear_model import LogisticRegression

    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x = x - centre
    n_cells, n_genes = x.shape
    rotation = None
    inputs = x
    if n_cells < n_genes and n_cells <= TUNING_CELLS:
        inputs, rotation = _rotated(x)
    solver = LogisticRegression(warm_start=True, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    steps = []
    for c in grid:
        solver.set_params(C=c).fit(inputs, y)
        coefficients, intercept = solver.coef_.T, solver.intercept_
        if len(solver.classes_) == 2:  # one logit of the second class; halves keep the probabilities
            coefficients, intercept = coefficients * [-0.5, 0.5], intercept * [-0.5, 0.5]
        steps.append((coefficients, intercept))
    stacked = np.concatenate([coefficients for coefficients, _ in steps], axis=1)
    if rotation is not None:
        stacked = x.T @ (rotation @ stacked).astype(np.float32)
    path = []
    for weights, (_, intercept) in zip(np.split(stacked, len(grid), axis=1), steps, strict=True):
        full, bias = np.zeros((n_genes, n_classes), np.float32), np.full(n_classes, ABSENT_BIAS, np.float32)
        full[:, solver.classes_] = weights
        bias[solver.classes_] = intercept - centre @ weights
        path.append((full, bias))
    return path


def _rotated(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells (n, r) in an orthonormal basis of their span, and R with basis = x.T @ R."""
    values, vectors = eigh((x @ x.T).astype(np.float64), driver="evd")
    kept = values > 1e-6 * values[-1]
    length = np.sqrt(values[kept])
    return (vectors[:, kept] * length).astype(np.float32), vectors[:, kept] / length
