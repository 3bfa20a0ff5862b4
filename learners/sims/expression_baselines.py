"""Baselines beside every score: majority, logistic regression, nearest neighbours, and celltypist."""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from neurofleet.errors import LearnerError
from neurofleet.learners.folds import inner_folds, stratified_rows
from neurofleet.learners.scores import Scores, score
from neurofleet.learners.sims.logistic_regression import LogisticModel, fit_logistic

K_GRID = (1, 3, 5, 10, 15, 30)
NeighbourMatrix: TypeAlias = np.ndarray | csr_matrix


@dataclass(frozen=True)
class Neighbours:
    """A fitted classifier: PCA if any, the training cells, and the number of neighbours that vote.

    Attributes
    ----------
    k : int
    inner_accuracy : float
        Accuracy at that k on the cells that the inner cross-validation held out.
    """

    k: int
    inner_accuracy: float
    pca: PCA | None
    index: NearestNeighbors
    y: np.ndarray
    n_classes: int

    def predict(self, x: NeighbourMatrix) -> np.ndarray:
        """Return the class (n,) that most of the k nearest training cells have; the first of equals."""
        return _votes(self.index, self.pca, x, self.y, self.n_classes, (self.k,))[0]


def fit_neighbours(
    x: NeighbourMatrix, y: np.ndarray, n_classes: int, *, components: int | None = None, seed: int = 0
) -> Neighbours:
    """Fit k nearest neighbours (Euclidean); k is the best of 1, 3, 5, 10, 15, 30 by inner 3-fold accuracy.

    Parameters
    ----------
    x : (n_cells, n_genes) array or sparse matrix
        Log-normalised expression of the training cells.
    y : (n_cells,) int array
        Classes, 0 to n_classes - 1.
    components : int
        Principal components to search in, fitted on `x` (in the inner folds: on their training part); with
        fewer cells or genes, as many as there can be. None searches among the genes.

    Raises
    ------
    LearnerError
        When no class has 3 cells.
    """
    right = np.zeros(len(K_GRID))
    held_out = 0
    for train, test in inner_folds(y, seed=seed):
        pca, index = _fitted(x[train], components, seed)
        guesses = _votes(index, pca, x[test], y[train], n_classes, K_GRID)
        right += [(guess == y[test]).sum() for guess in guesses]
        held_out += len(test)
    best = int(right.argmax())
    pca, index = _fitted(x, components, seed)
    return Neighbours(K_GRID[best], float(right[best] / held_out), pca, index, y, n_classes)


def _fitted(x: NeighbourMatrix, components: int | None, seed: int) -> tuple[PCA | None, NearestNeighbors]:
    pca = None
    if components is not None:
        n = min(components, min(x.shape) - 1)
        pca = PCA(n, svd_solver="arpack" if issparse(x) else "auto", random_state=seed)
        x = pca.fit_transform(x)
    return pca, NearestNeighbors(algorithm="brute").fit(x)


def _votes(
    index: NearestNeighbors, pca: PCA | None, x: NeighbourMatrix, y: np.ndarray, n_classes: int, ks: tuple[int, ...]
) -> list[np.ndarray]:
    """Return the predicted classes (n,) for each number of neighbours."""
    most = min(max(ks), len(y))
    nearest = index.kneighbors(x if pca is None else pca.transform(x), most, return_distance=False)
    votes = np.cumsum(np.eye(n_classes, dtype=np.int16)[y[nearest]], axis=1)
    return [votes[:, min(k, most) - 1].argmax(axis=1) for k in ks]


CELL_LIMIT = 20_000
DENSE_VALUES = 100_000_000  # 400 MB of float32
ROWS_AT_ONCE = 4096
COMPONENTS = 50
Matrix: TypeAlias = np.ndarray | csr_matrix


@dataclass(frozen=True)
class Baseline:
    """What a simple method reaches on the same split; `scores` is None where it could not be run.

    Attributes
    ----------
    scores : Scores or None
    seconds : float
        To tune, fit and predict.
    settings : dict
        What was chosen on training cells.
    notes : tuple of str
        Subsamples that were used, or why there is no score.
    """

    scores: Scores | None
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, numbers and strings, for JSON."""
        return asdict(self)


def run_baselines(
    train_x: Matrix,
    train_y: np.ndarray,
    test_x: Matrix,
    test_y: np.ndarray,
    classes: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    cell_limit: int = CELL_LIMIT,
    linear: LogisticModel | None = None,
) -> dict[str, Baseline]:
    """Fit each baseline on the training cells and score it on the test cells.

    Everything that is chosen (C, scaling, number of neighbours) is chosen by cross-validation inside the
    training cells. Larger sets than `cell_limit` are cut to a stratified subsample, which is said in the
    notes; logistic regression and celltypist also where the cells would not fit in 400 MB as dense float32.

    Parameters
    ----------
    train_x, test_x : (n, n_genes) array or CSR matrix
        Log-normalised expression, the same genes in the same order.
    train_y, test_y : (n,) int array
        Indices into `classes`.
    names : list of str
        Which of ``majority``, ``logistic``, ``pca_knn``, ``raw_knn``, ``celltypist``; default all.
    linear : LogisticModel, optional
        Fitted on these training cells: is scored as ``logistic`` where no subsample is needed, in place of another fit.

    Raises
    ------
    LearnerError
        For an unknown name, or numbers of genes that differ.
    """
    chosen = list(METHODS) if names is None else list(names)
    strange = [name for name in chosen if name not in METHODS]
    if strange:
        raise LearnerError(f"Unknown baselines {', '.join(strange)}; there are {', '.join(METHODS)}.")
    if train_x.shape[1] != test_x.shape[1]:
        raise LearnerError(f"Training cells have {train_x.shape[1]} genes, test cells {test_x.shape[1]}.")
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    tested = stratified_rows(test_y, cell_limit, seed=seed)
    notes = []
    if len(tested) < len(test_y):
        notes.append(f"Scored on a stratified subsample of {len(tested)} of {len(test_y)} test cells.")
        test_x, test_y = test_x[tested], test_y[tested]
    results = {}
    for name in chosen:
        limit = min(cell_limit, DENSE_VALUES // train_x.shape[1]) if name in DENSE else cell_limit
        rows = stratified_rows(train_y, limit, seed=seed)
        all_notes = list(notes)
        if name != "majority" and len(rows) < len(train_y):
            all_notes.append(f"Fitted on a stratified subsample of {len(rows)} of {len(train_y)} training cells.")
        if name == "celltypist" and importlib.util.find_spec("celltypist") is None:
            results[name] = Baseline(None, 0.0, notes=("celltypist is not installed (pip install celltypist).",))
            continue
        start = time.perf_counter()
        x, y = (train_x, train_y) if len(rows) == len(train_y) else (train_x[rows], train_y[rows])
        if name == "logistic" and linear is not None and len(rows) == len(train_y):
            predicted, settings = _by_logistic(linear, test_x)
        else:
            predicted, settings = METHODS[name](x, y, test_x, len(classes), seed)
        seconds = time.perf_counter() - start
        results[name] = Baseline(score(test_y, predicted, classes), seconds, settings, tuple(all_notes))
    return results


Prediction = tuple[np.ndarray, dict[str, Any]]


def _majority(x: Matrix, y: np.ndarray, test_x: Matrix, n_classes: int, seed: int) -> Prediction:
    return np.full(test_x.shape[0], np.bincount(y).argmax()), {}


def _logistic(x: Matrix, y: np.ndarray, test_x: Matrix, n_classes: int, seed: int) -> Prediction:
    return _by_logistic(fit_logistic(_dense(x), y, n_classes, seed=seed), test_x)


def _by_logistic(model: LogisticModel, test_x: Matrix) -> Prediction:
    settings = {"scaling": model.scaling, "C": model.C, "inner_accuracy": model.inner_accuracy}
    return _in_blocks(lambda block: model.logits(block).argmax(axis=1), test_x), settings


def _pca_knn(x: Matrix, y: np.ndarray, test_x: Matrix, n_classes: int, seed: int) -> Prediction:
    model = fit_neighbours(x, y, n_classes, components=COMPONENTS, seed=seed)
    return model.predict(test_x), {"k": model.k, "inner_accuracy": model.inner_accuracy}


def _raw_knn(x: Matrix, y: np.ndarray, test_x: Matrix, n_classes: int, seed: int) -> Prediction:
    model = fit_neighbours(x, y, n_classes, seed=seed)
    return model.predict(test_x), {"k": model.k, "inner_accuracy": model.inner_accuracy}


def _celltypist(x: Matrix, y: np.ndarray, test_x: Matrix, n_classes: int, seed: int) -> Prediction:
    """Train by celltypist's own stochastic gradient descent.

    Its other way of training asks scikit-learn for `multi_class`, which is gone since version 1.8.
    """
    celltypist = _imported_celltypist()
    model = celltypist.train(
        _dense(x),
        labels=y.astype(str),
        genes=np.arange(x.shape[1]).astype(str),
        check_expression=False,
        use_SGD=True,
        n_jobs=1,
        random_state=seed,
    )
    genes = model.classifier.features.astype(int)

    def predict(block: np.ndarray) -> np.ndarray:
        scaled = np.minimum(model.scaler.transform(block[:, genes]), 10.0)
        return model.predict_labels_and_prob(scaled)[2].astype(int)

    return _in_blocks(predict, test_x), {"training": "SGD", "version": celltypist.__version__}


def _imported_celltypist() -> Any:
    """Return the package, silent; it sends the messages of all libraries to the terminal on import."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        import celltypist
    root.setLevel(level)
    root.handlers[:] = handlers
    celltypist.logger.set_level(logging.WARNING)
    return celltypist


METHODS: dict[str, Callable[[Matrix, np.ndarray, Matrix, int, int], Prediction]] = {
    "majority": _majority,
    "logistic": _logistic,
    "pca_knn": _pca_knn,
    "raw_knn": _raw_knn,
    "celltypist": _celltypist,
}
DENSE = ("logistic", "celltypist")


def _dense(x: Matrix) -> np.ndarray:
    return np.asarray(x if isinstance(x, np.ndarray) else x.toarray(), dtype=np.float32)


def _in_blocks(predict: Callable[[np.ndarray], np.ndarray], x: Matrix) -> np.ndarray:
    starts = range(0, x.shape[0], ROWS_AT_ONCE)
    return np.concatenate([predict(_dense(x[start : start + ROWS_AT_ONCE])) for start in starts])
