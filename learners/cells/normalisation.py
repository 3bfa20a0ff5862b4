"""Bring values to log1p of so many counts per cell, the same way for reference and query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy.sparse as sp

from learners.cells.genes import Alignment
from learners.cells.genes import apply as aligned
from learners.errors import CellsRefused

Kind = Literal["counts", "normalised", "log1p", "scaled"]
"""Raw counts; counts divided by their total; log1p of these; values with a mean subtracted."""

TARGET_SUM = 1e4


@dataclass(frozen=True)
class Normalisation:
    """What is done to values of a kind.

    Attributes
    ----------
    kind : Kind
        What the values are before. Counts and normalised values are scaled to `target_sum` a cell and
        logged (log1p); log values are re-based when they have another target sum; scaled ones are left alone.
    target_sum : float or None
        The sum of a cell before log1p; None if nobody knows it (then nothing is done).
    found_sum : float or None
        For log values: their own target sum.
    totals : str
        Whether a query's totals are taken over the model's genes or over all of the query's.
    """

    kind: Kind
    target_sum: float | None = TARGET_SUM
    found_sum: float | None = None
    totals: Literal["model genes", "all genes"] = "model genes"

    def apply(self, values: sp.csr_matrix) -> sp.csr_matrix:
        """Return normalised values, float32, of cells × genes.

        Raises
        ------
        CellsRefused
            If a value is not finite, or negative where it cannot be.
        """
        check_finite(values, allow_negative=self.kind == "scaled")
        if self.kind == "scaled" or self.target_sum is None:
            return values
        if self.kind == "log1p":
            if self.found_sum is None or self.found_sum == self.target_sum:
                return values
            factor = self.target_sum / self.found_sum
            return _with_data(values, np.log1p(factor * np.expm1(values.data.astype(np.float64))))
        totals = values @ np.ones(values.shape[1])
        factors = np.divide(self.target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
        return _with_data(values, np.log1p(values.data * np.repeat(factors, np.diff(values.indptr))))

    def apply_to_query(self, values: sp.csr_matrix, alignment: Alignment) -> sp.csr_matrix:
        """Return a query's normalised values in the order of the model's genes."""
        if self.totals == "all genes":
            return aligned(alignment, self.apply(values))
        return self.apply(aligned(alignment, values))

    def __str__(self) -> str:
        if self.kind == "scaled" or self.target_sum is None:
            return f"{self.kind} values, taken as they are"
        if self.kind == "log1p":
            if self.found_sum is None or self.found_sum == self.target_sum:
                return f"log1p of {self.target_sum:g} per cell, taken as they are"
            return f"log1p of {self.found_sum:g} per cell, brought to {self.target_sum:g}"
        return f"{self.kind}, scaled to {self.target_sum:g} per cell and logged (log1p)"

    def for_query(self, kind: Kind, found_sum: float | None) -> Normalisation:
        """Return the same for a query whose values are of another kind."""
        return replace(self, kind=kind, found_sum=found_sum)


def check_finite(values: sp.csr_matrix, *, allow_negative: bool) -> None:
    """Refuse NaN, infinite and, if they cannot be, negative values.

    Raises
    ------
    CellsRefused
        With the number of such values.
    """
    data = values.data
    if not np.isfinite(data).all():
        n_nan, n_infinite = int(np.isnan(data).sum()), int(np.isinf(data).sum())
        raise CellsRefused(
            f"Expected numbers in the matrix, found {n_nan} NaN and {n_infinite} infinite values among"
            f" {values.shape[0]} cells. Remove these cells or genes, or set what was not measured to 0."
        )
    if not allow_negative and len(data) and data.min() < 0:
        raise CellsRefused(
            f"Expected counts or logs of counts, which are never negative, found {int((data < 0).sum())}"
            f" values below 0 among {values.shape[0]} cells, the lowest {data.min():g}. Give the counts (a"
            " layer, or raw)."
        )


def _with_data(values: sp.csr_matrix, data: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix(
        (data.astype(np.float32), values.indices, values.indptr), shape=values.shape, copy=False
    )
