"""Nearest neighbours in expression or PCA space, with k chosen inside the training cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from learners.inner_folds import inner_folds

K_GRID = (1, 3, 5, 10, 15, 30)
Matrix: TypeAlias = np.ndarray | csr_matrix


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

    def predict(self, x: Matrix) -> np.ndarray:
        """Return the class (n,) that most of the k nearest training cells have; the first of equals."""
        return _votes(self.index, self.pca, x, self.y, self.n_classes, (self.k,))[0]


def fit_neighbours(
    x: Matrix, y: np.ndarray, n_classes: int, *, components: int | None = None, seed: int = 0
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


def _fitted(x: Matrix, components: int | None, seed: int) -> tuple[PCA | None, NearestNeighbors]:
    pca = None
    if components is not None:
        n = min(components, min(x.shape) - 1)
        pca = PCA(n, svd_solver="arpack" if issparse(x) else "auto", random_state=seed)
        x = pca.fit_transform(x)
    return pca, NearestNeighbors(algorithm="brute").fit(x)


def _votes(
    index: NearestNeighbors, pca: PCA | None, x: Matrix, y: np.ndarray, n_classes: int, ks: tuple[int, ...]
) -> list[np.ndarray]:
    """Return the predicted classes (n,) for each number of neighbours."""
    most = min(max(ks), len(y))
    nearest = index.kneighbors(x if pca is None else pca.transform(x), most, return_distance=False)
    votes = np.cumsum(np.eye(n_classes, dtype=np.int16)[y[nearest]], axis=1)
    return [votes[:, min(k, most) - 1].argmax(axis=1) for k in ks]
