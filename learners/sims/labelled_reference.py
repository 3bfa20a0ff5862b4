"""Labelled cells that a SIMS model is trained on, and how their values are normalised."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from neurofleet.learners.cells.cell_labels import Labels
from neurofleet.learners.cells.cell_matrix import CellMatrix, stretches
from neurofleet.learners.cells.normalisation import Normalisation, gene_statistics, normalisation, recognise
from neurofleet.learners.cells.value_kinds import LOG_FACTORS, Values
from neurofleet.learners.sims.tabnet import inputs_from
from neurofleet.learners.sims.tabnet_settings import SimsSettings
from neurofleet.learners.sims.tabnet_training import SimsTask

GENE_CELLS, STRETCH = 102_400, 64
"""The number of training cells, at most, that genes are chosen and scaled by, in stretches of neighbours spread evenly:
a large reference is read once less.
"""


@dataclass(frozen=True)
class Reference:
    """Labelled cells, and how their values are normalised.

    Attributes
    ----------
    cells : CellMatrix
    labels : array of int, shape (cells,)
        Class numbers; -1 where there is none.
    classes : tuple of str
    normalisation : Normalisation
    in_query : array of int
        Cells that are in the query that the model is trained for, too, labelled or not; they are never trained on.
    """

    cells: CellMatrix
    labels: np.ndarray
    classes: tuple[str, ...]
    normalisation: Normalisation
    in_query: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def values(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return log-normalised values (rows, genes)."""
        return self.normalisation.apply(self.cells.read(rows))

    def task(self, train_rows: np.ndarray, validation_rows: np.ndarray, settings: SimsSettings) -> SimsTask:
        """Return a training on some of the cells; genes and scaling come from its training rows."""
        shown = np.sort(train_rows)
        shown = shown[stretches(len(shown), GENE_CELLS // STRETCH, STRETCH)]
        statistics = gene_statistics(self.cells, shown, self.normalisation)
        return SimsTask(
            self.cells,
            self.normalisation,
            self.labels,
            len(self.classes),
            np.sort(train_rows),
            np.sort(validation_rows),
            inputs_from(settings, statistics),
            settings,
        )


def reference_of(
    cells: CellMatrix, labels: Labels, values: Values | None = None, target_sum: float | None = None
) -> Reference:
    """Return cells with their labels, and how their values are normalised.

    Parameters
    ----------
    values : Values, optional
        What they were recognised as; looked at anew without it.
    target_sum : float, optional
        See `neurofleet.learners.cells.normalisation.normalisation`.
    """
    codes = np.full(len(cells), -1, dtype=np.int64)
    codes[labels.rows] = labels.codes
    values = values or recognise(cells)
    if cells.queries and values.kind in LOG_FACTORS:
        # Sums of all genes say nothing of the shared ones, over which both sides are scaled alike.
        target_sum = float(f"{values.median_total:.4g}") if values.median_total else None
        values = replace(values, kind=f"{values.kind} counts")  # type: ignore[arg-type]
    how = normalisation(values, target_sum)
    if cells.queries and how.kind != "scaled":
        how = replace(how, totals="chosen genes")
    return Reference(cells, codes, labels.classes, how)
