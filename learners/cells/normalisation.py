"""Recognise what values are, bring them to log1p of counts scaled to one sum per cell; statistics of each gene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_matrix import SOURCE_COLUMN, CellMatrix, stretches
from neurofleet.learners.cells.gene_alignment import Alignment
from neurofleet.learners.cells.gene_alignment import apply as aligned

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
    return sp.csr_matrix((data.astype(np.float32), values.indices, values.indptr), shape=values.shape, copy=False)


SAMPLE_STRETCHES, STRETCH_ROWS = 16, 64
LARGEST_LOG = 20.0
SAME_SUM = 0.02
TOTAL_COLUMNS = (
    "total_counts",
    "n_counts",
    "ncounts",
    "ncount_rna",
    "numi",
    "n_umi",
    "total_umis",
    "raw_sum",
)


ROUND_SUMS = (100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, TARGET_SUM)


@dataclass(frozen=True)
class Values:
    """What the values of a matrix are.

    Attributes
    ----------
    kind : Kind
    target_sum : float or None
        The sum of each cell before the logarithm, where there is evidence of it.
    has_all_genes : bool
        Whether cells sum to their target, so that no gene was left out after normalising.
    evidence : str
        What was seen.
    median_total : float or None
        Counts of a cell, the median; for counts.
    """

    kind: Kind
    target_sum: float | None
    has_all_genes: bool
    evidence: str
    median_total: float | None = None


def recognise(cells: CellMatrix, *, target_sum: float | None = None) -> Values:
    """Recognise values from up to a thousand cells of every file.

    Parameters
    ----------
    target_sum
        For log values: their target sum, where the user knows it.

    Raises
    ------
    CellsRefused
        If a value is not finite, all are zero, the logarithm is not the natural one, or files differ.
    """
    kinds: list[tuple[str, Values]] = []
    for part, start in zip(cells.parts, cells.starts, strict=False):
        rows = stretches(part.source.shape[0], SAMPLE_STRETCHES, STRETCH_ROWS)
        name = str(cells.obs[SOURCE_COLUMN].iloc[start])
        seen = _recognise(name, part.source.read(rows), cells.obs.iloc[start + rows])
        complete = seen.has_all_genes and (part.columns is None or len(part.columns) == part.source.shape[1])
        kinds.append((name, replace(seen, has_all_genes=complete)))
    first_name, first = kinds[0]
    for name, values in kinds[1:]:
        other_sum = first.kind == "log1p" and not _same(values.target_sum, first.target_sum)
        if values.kind != first.kind or other_sum:
            raise CellsRefused(
                f"The files' values differ: {first_name} has {first.kind} ({first.evidence}), {name} has"
                f" {values.kind} ({values.evidence}). Give the counts of all (a layer, or raw)."
            )
    first = replace(first, has_all_genes=all(values.has_all_genes for _, values in kinds))
    if target_sum is not None and first.kind == "log1p":
        return replace(first, target_sum=target_sum, evidence=f"{first.evidence}; target sum as stated")
    return first


def normalisation(values: Values, target_sum: float | None = None) -> Normalisation:
    """Return what is done to a reference's values: counts come to log1p of a sum per cell, others stay.

    Parameters
    ----------
    target_sum : float, optional
        Counts per cell before the logarithm; by default 10,000, or of `ROUND_SUMS` the largest that half of
        the cells reach. Cells of a panel of few genes have some hundred counts: scaled to 10,000, the
        logarithm makes one count and ten nearly alike.
    """
    if values.kind == "log1p":
        totals = "model genes" if values.has_all_genes else "all genes"
        return Normalisation("log1p", values.target_sum, values.target_sum, totals)  # type: ignore[arg-type]
    if values.kind == "scaled":
        return Normalisation("scaled", None)
    if target_sum is None and values.median_total is not None:
        target_sum = max([total for total in ROUND_SUMS if total <= values.median_total], default=ROUND_SUMS[0])
    return Normalisation(values.kind, TARGET_SUM if target_sum is None else target_sum)


def check_query(model: Normalisation, query: Values) -> Normalisation:
    """Return what is done to a query's values to make them like a model's.

    Raises
    ------
    CellsRefused
        If that is not possible, or cannot be seen from the values.
    """
    description = f"the query has {query.kind} values ({query.evidence})"
    if (model.kind == "scaled") != (query.kind == "scaled"):
        expected = "scaled values" if model.kind == "scaled" else "counts or logs of counts"
        raise CellsRefused(
            f"The model was trained on {expected}, {description}. Give the query as the reference was: scaling by the"
            " query's own mean shifts cells when its composition differs."
        )
    if query.kind == "log1p" and model.target_sum is not None and query.target_sum is None:
        raise CellsRefused(
            f"The model takes log1p of {model.target_sum:g} counts per cell, and {description}: they do not show"
            " to how many counts per cell they were scaled. Give the counts, or state the target sum."
        )
    if query.kind in ("counts", "normalised") and model.target_sum is None:
        raise CellsRefused(
            f"The model was trained on log values of an unknown target sum, {description}: they cannot be"
            " normalised the same way. Normalise them as the reference was, or train from counts."
        )
    if query.kind == "log1p" and _same(query.target_sum, model.target_sum):
        return model.for_query("log1p", model.target_sum)
    return model.for_query(query.kind, query.target_sum)


def _recognise(name: str, values: sp.csr_matrix, obs: pd.DataFrame) -> Values:
    check_finite(values, allow_negative=True)
    values.eliminate_zeros()
    n_cells, data = values.shape[0], values.data.astype(np.float64)
    if len(data) == 0:
        raise CellsRefused(f"{name}: all values of {n_cells} cells looked at are zero; there is nothing to learn.")
    seen = f"in {n_cells} cells looked at"
    whole = bool((data == np.rint(data)).all())
    if whole and data.min() < 0:
        raise CellsRefused(
            f"{name}: expected counts, which are never negative, found whole numbers with"
            f" {int((data < 0).sum())} of them below 0, the lowest {data.min():g}, {seen}."
        )
    if data.min() < 0:
        return Values("scaled", None, True, f"values from {data.min():.3g} to {data.max():.3g} {seen}")
    if whole:
        totals = _by_cell(values, data, np.add)
        median = float(np.median(totals))
        return Values("counts", None, True, f"whole numbers, {median:.0f} per cell, {seen}", median)
    if data.max() <= LARGEST_LOG:
        for base, undo in UNDO.items():
            linear = undo(data)
            total, counted = _common(_by_cell(values, linear, np.add)), _are_scaled_counts(values, linear)
            if base != "e" and (total or counted):
                raise CellsRefused(
                    f"{name}: values look like log{base}(x + 1), {seen}; natural logarithms (log1p) are"
                    f" expected. Multiply them by {np.log(float(base)):.4f}, or give the counts."
                )
            if total:
                return Values("log1p", total, True, f"expm1 sums to {total:g} in every cell, {seen}")
            if counted:
                unit = _by_cell(values, linear, np.minimum)
                for column in obs.columns[obs.columns.str.lower().isin(TOTAL_COLUMNS)]:
                    n_counts = obs[column].to_numpy(np.float64, na_value=np.nan)[np.diff(values.indptr) > 0]
                    if total := _common(unit * n_counts):
                        evidence = f"expm1 is {total:g} / {column} times whole numbers, {seen}"
                        return Values("log1p", total, False, evidence)
                sums = _by_cell(values, linear, np.add)
                evidence = (
                    f"expm1 is whole numbers times a factor per cell, and sums to {sums.min():.0f} to"
                    f" {sums.max():.0f}, so genes were left out after normalising, {seen}"
                )
                return Values("log1p", None, False, evidence)
    total = _common(_by_cell(values, data, np.add))
    if total:
        return Values("normalised", total, True, f"values sum to {total:g} in every cell, {seen}")
    if _are_scaled_counts(values, data):
        return Values("normalised", None, False, f"whole numbers times a factor per cell, {seen}")
    kind: Kind = "log1p" if data.max() <= LARGEST_LOG else "normalised"
    return Values(kind, None, False, f"fractions from 0 to {data.max():.3g}, of no pattern, {seen}")


UNDO: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "e": np.expm1,
    "2": lambda logs: np.exp2(logs) - 1,
    "10": lambda logs: 10**logs - 1,
}


def _by_cell(values: sp.csr_matrix, data: np.ndarray, reduce: np.ufunc) -> np.ndarray:
    """Reduce the values of each cell that has any."""
    filled = np.diff(values.indptr) > 0
    return reduce.reduceat(data, values.indptr[:-1][filled])


def _common(numbers: np.ndarray) -> float | None:
    """Return the number that nearly all of these are, to four digits; None if they differ."""
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) < 2:
        return None
    low, middle, high = np.percentile(numbers, [5, 50, 95])
    return float(f"{middle:.4g}") if middle > 0 and high - low <= SAME_SUM * middle else None


def _are_scaled_counts(values: sp.csr_matrix, linear: np.ndarray) -> bool:
    """Tell whether nearly every cell's values are whole multiples of its smallest."""
    n_values = np.diff(values.indptr)
    multiples = linear / np.repeat(_by_cell(values, linear, np.minimum), n_values[n_values > 0])
    small = multiples < 1000  # a larger one has no digits left to tell
    return bool(np.mean(np.abs(multiples - np.rint(multiples))[small] < 0.01) > 0.95)


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) <= SAME_SUM * second


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
