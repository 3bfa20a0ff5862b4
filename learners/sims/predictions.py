"""Class probabilities of cells as they are handed out: the likeliest classes, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learners.calibration import entropy, margin
from learners.sims.model import SimsModel
from learners.sims.query import Query

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Predictions:
    """Predictions of some cells, in order.

    Attributes
    ----------
    cell_ids : array of str, shape (cells,)
    probabilities : array of float32, shape (cells, classes)
        Calibrated.
    best : array of int, shape (cells, top)
        The likeliest classes, likeliest first; of equal ones the class that comes first.
    margin : array of float32, shape (cells,)
        Between the largest and the second largest probability.
    entropy : array of float32, shape (cells,)
        In nats.
    n_empty : int
        Cells without any value in the model's genes.
    """

    cell_ids: np.ndarray
    probabilities: np.ndarray
    best: np.ndarray
    margin: np.ndarray
    entropy: np.ndarray
    n_empty: int


def predict(model: SimsModel, query: Query, rows: np.ndarray, top: int) -> Predictions:
    """Predict some cells of a query, which are held in memory as probabilities only.

    Raises
    ------
    CellsRefused
        If their values cannot be used.
    """
    ids, found, n_empty = [], [], 0
    for some, values in query.blocks(rows):
        ids.append(some)
        found.append(model.probabilities(values, query.closed))
        n_empty += int((np.diff(values.indptr) == 0).sum())
    exact = np.concatenate(found)
    probabilities = exact.astype(np.float32)
    return Predictions(
        np.concatenate(ids),
        probabilities,
        np.argsort(-probabilities, axis=1, kind="stable")[:, :top],
        margin(exact).astype(np.float32),
        entropy(exact).astype(np.float32),
        n_empty,
    )
