"""Per-gene statistics in one pass over the cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurofleet.learners.cells.cell_matrix import CellMatrix
from neurofleet.learners.cells.normalisation import Normalisation
from neurofleet.learners.learner_errors import CellsRefused


@dataclass(frozen=True)
class GeneStatistics:
    """Statistics of normalised values over cells; (n_genes,) arrays.

    Attributes
    ----------
    mean, sd : array of float64
        sd of the population (divided by the number of cells).
    n_expressing : array of int64
        Cells in which the gene is not zero.
    n_cells : int
    """

    mean: np.ndarray
    sd: np.ndarray
    n_expressing: np.ndarray
    n_cells: int


def gene_statistics(cells: CellMatrix, rows: np.ndarray, normalisation: Normalisation) -> GeneStatistics:
    """Compute statistics over some cells (of training, never of test), reading each once.

    Raises
    ------
    CellsRefused
        If there are no rows, or a value is not finite, or negative where it cannot be.
    """
    if len(rows) == 0:
        raise CellsRefused("Expected cells to compute gene statistics from, found none.")
    n_genes = cells.shape[1]
    total, squares = np.zeros(n_genes), np.zeros(n_genes)
    n_expressing = np.zeros(n_genes, dtype=np.int64)
    for block in cells.blocks(np.sort(rows)):
        values = normalisation.apply(block)
        values.eliminate_zeros()
        data = values.data.astype(np.float64)
        total += np.bincount(values.indices, weights=data, minlength=n_genes)
        squares += np.bincount(values.indices, weights=data * data, minlength=n_genes)
        n_expressing += np.bincount(values.indices, minlength=n_genes)
    mean = total / len(rows)
    variance = np.maximum(squares / len(rows) - mean**2, 0.0)
    variance[n_expressing == 0] = 0.0
    return GeneStatistics(mean, np.sqrt(variance), n_expressing, len(rows))
