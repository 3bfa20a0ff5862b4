"""Folds inside a training set, for choosing settings without a look at other cells."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedKFold

from learners.errors import LearnerError


def inner_folds(y: np.ndarray, folds: int = 3, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return stratified (training rows, held-out rows), one pair a fold.

    Cells of classes with fewer members than folds are in every training part and never held out.

    Raises
    ------
    LearnerError
        When no class has a member for each fold.
    """
    common, rare = _by_size(y, folds)
    if len(common) == 0:
        raise LearnerError(
            f"No class has {folds} training cells or more, so no setting can be chosen by {folds}-fold"
            " cross-validation. Give a larger reference, or merge classes."
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = splitter.split(common, y[common])
    return [(np.concatenate([common[train], rare]), common[held_out]) for train, held_out in parts]


def stratified_rows(y: np.ndarray, limit: int, folds: int = 3, seed: int = 0) -> np.ndarray:
    """Return about `limit` rows, each class in proportion but never below `folds` cells that it has."""
    if len(y) <= limit:
        return np.arange(len(y))
    rng = np.random.default_rng(seed)
    kept = []
    for name, count in zip(*np.unique(y, return_counts=True), strict=True):
        rows = np.flatnonzero(y == name)
        kept.append(rng.permutation(rows)[: max(round(count * limit / len(y)), min(folds, count))])
    return np.sort(np.concatenate(kept))


def _by_size(y: np.ndarray, folds: int) -> tuple[np.ndarray, np.ndarray]:
    enough = np.bincount(y)[y] >= folds
    return np.flatnonzero(enough), np.flatnonzero(~enough)
