"""Bring values of any kind to log1p of counts scaled to one sum per cell; statistics of each gene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused, UsageError, did_you_mean
from neurofleet.learners.cells.cell_matrix import SOURCE_COLUMN, CellMatrix, MatrixPart, stretches
from neurofleet.learners.cells.gene_alignment import Alignment
from neurofleet.learners.cells.gene_alignment import apply as aligned
from neurofleet.learners.cells.gene_columns import refuse_odd_columns
from neurofleet.learners.cells.value_kinds import (
    KINDS,
    LOG_FACTORS,
    CellValues,
    Kind,
    Values,
    check_finite,
    common_sum,
    linear,
    recognised,
    same_sum,
    unlike,
)

TARGET_SUM = 1e4


@dataclass(frozen=True)
class Normalisation:
    """What is done to values of a kind.

    Attributes
    ----------
    kind : Kind
        What the values are before. Counts and normalised values are scaled to `target_sum` a cell and logged (log1p),
        once roots and logarithms of counts that were not scaled are undone; other log values become natural ones, and
        are re-based when they have another target sum; scaled ones are left alone.
    target_sum : float or None
        The sum of a cell before log1p; None if nobody knows it (then nothing is done).
    found_sum : float or None
        For log values: their own target sum.
    totals : str
        Whether a query's totals are taken over the model's genes or over all of the query's; ``chosen genes`` for a
        model of those genes alone that a query has: over these also where the query has logarithms.
    """

    kind: Kind
    target_sum: float | None = TARGET_SUM
    found_sum: float | None = None
    totals: Literal["model genes", "all genes", "chosen genes"] = "model genes"

    def apply(self, values: sp.csr_matrix) -> sp.csr_matrix:
        """Return normalised values, float32, of cells × genes.

        Raises
        ------
        CellsRefused
            If a value is not finite, or negative where it cannot be.
        """
        check_finite(values, allow_negative=self.kind == "scaled")
        if self.kind == "scaled":
            return values
        if self.kind in LOG_FACTORS:
            return self._natural(values)
        if self.target_sum is None:
            return values
        if self.kind not in ("counts", "normalised"):
            values = _with_data(values, linear(self.kind, values.data.astype(np.float64)))
        totals = values @ np.ones(values.shape[1])
        factors = np.divide(self.target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
        return _with_data(values, np.log1p(values.data * np.repeat(factors, np.diff(values.indptr))))

    def _natural(self, values: sp.csr_matrix) -> sp.csr_matrix:
        """Return natural logarithms of `target_sum` from those of another base or sum."""
        if self.target_sum is None or self.found_sum is None or self.found_sum == self.target_sum:
            if self.kind == "log1p":
                return values
            return _with_data(values, LOG_FACTORS[self.kind] * values.data.astype(np.float64))
        factor = self.target_sum / self.found_sum
        return _with_data(values, np.log1p(factor * linear(self.kind, values.data.astype(np.float64))))

    def apply_to_query(self, values: sp.csr_matrix, alignment: Alignment) -> sp.csr_matrix:
        """Return a query's normalised values in the order of the model's genes."""
        if self.totals == "all genes":
            return aligned(alignment, self.apply(values))
        return self.apply(aligned(alignment, values))

    def __str__(self) -> str:
        natural = "taken as they are" if self.kind in ("scaled", "log1p") else "made natural"
        if self.kind == "scaled" or self.target_sum is None:
            return f"{self.kind} values, {natural}"
        if self.kind in LOG_FACTORS:
            if self.found_sum is None or self.found_sum == self.target_sum:
                return f"{self.kind} of {self.target_sum:g} per cell, {natural}"
            return f"{self.kind} of {self.found_sum:g} per cell, brought to {self.target_sum:g}"
        return f"{self.kind}, scaled to {self.target_sum:g} per cell and logged (log1p)"

    def for_query(self, kind: Kind, found_sum: float | None) -> Normalisation:
        """Return the same for a query whose values are of another kind."""
        return replace(self, kind=kind, found_sum=found_sum)

    def for_genes(self, share: float) -> Normalisation:
        """Return the same for a query that has only some of the model's genes.

        Parameters
        ----------
        share : float
            Of a cell's counts, that the reference has in these genes on average: their sum is brought to this share of
            the target where totals are taken over the model's genes.
        """
        takes_totals = self.target_sum is not None and self.kind not in ("scaled", *LOG_FACTORS)
        if not takes_totals or self.totals == "all genes" or not 0 < share < 1:
            return self
        assert self.target_sum is not None
        return replace(self, target_sum=share * self.target_sum)


def _with_data(values: sp.csr_matrix, data: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix((data.astype(np.float32), values.indices, values.indptr), shape=values.shape, copy=False)


SAMPLE_STRETCHES, STRETCH_ROWS = 16, 64

ROUND_SUMS = (100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, TARGET_SUM)


def recognise(cells: CellMatrix, *, target_sum: float | None = None, stated: str | None = None) -> Values:
    """Recognise values from up to a thousand cells of every file.

    Parameters
    ----------
    target_sum
        For log values: their target sum, where the user knows it.
    stated
        What the values are, where the user knows it: one of `KINDS`.

    Raises
    ------
    CellsRefused
        If a value is not finite, all are zero, cells or files differ in kind, or the kind cannot be told.
    """
    if stated is not None and stated not in KINDS:
        raise UsageError(f"values: expected one of {', '.join(KINDS)}, found {stated!r}{did_you_mean(stated, KINDS)}.")
    kinds: list[tuple[str, Values]] = []
    for part, start in zip(cells.parts, cells.starts, strict=False):
        name = str(cells.obs[SOURCE_COLUMN].iloc[start])
        rows = stretches(part.source.shape[0], SAMPLE_STRETCHES, STRETCH_ROWS)
        values, obs = part.read_genes(rows), cells.obs.iloc[start + rows]
        check_finite(values, allow_negative=True)
        refuse_odd_columns(values, part.genes, name)
        try:
            seen = recognised(name, values, obs) if stated is None else _as_stated(name, values, stated)
        except CellsRefused as error:
            raise CellsRefused(f"{error} {better_layers(part, name, rows, obs)}".strip()) from None
        if seen.kind == "scaled" or (seen.kind in LOG_FACTORS and seen.target_sum is None):
            seen = replace(seen, advice=better_layers(part, name, rows, obs))
        undone = bool(cells.queries) and seen.kind in LOG_FACTORS  # see `sims.labelled_reference.reference_of`
        if undone or (seen.median_total is not None and not part.has_all_genes):
            kept = part.read(rows)
            sums = _with_data(kept, linear(seen.kind, kept.data)) @ np.ones(kept.shape[1])
            seen = replace(seen, median_total=float(np.median(sums)))
        kinds.append((name, replace(seen, has_all_genes=seen.has_all_genes and part.has_all_genes)))
    first_name, first = kinds[0]
    for name, values_of_file in kinds[1:]:
        other_sum = first.kind in LOG_FACTORS and not same_sum(values_of_file.target_sum, first.target_sum)
        if values_of_file.kind != first.kind or other_sum:
            raise CellsRefused(
                f"The files' values differ: {first_name} has {first.kind} ({first.evidence}), {name} has"
                f" {values_of_file.kind} ({values_of_file.evidence}). Give the counts of all (a layer, or raw)."
            )
    first = replace(
        first,
        has_all_genes=all(values.has_all_genes for _, values in kinds),
        is_whole=all(values.is_whole for _, values in kinds),
    )
    if target_sum is None or first.kind not in LOG_FACTORS:
        return first
    if first.target_sum is not None and not same_sum(target_sum, first.target_sum):
        raise CellsRefused(
            f"{first_name}: values are {first.kind} of {first.target_sum:g} counts a cell ({first.evidence}), and a"
            f" target sum of {target_sum:g} is stated. Of log values it is what they were scaled to: leave it away."
        )
    return replace(first, target_sum=target_sum, evidence=f"{first.evidence}; target sum as stated")


def better_layers(part: MatrixPart, name: str, rows: np.ndarray, obs: pd.DataFrame) -> str:
    """Say which other layers of a file hold counts, or log values of a known sum; empty if none does."""
    found = []
    for layer, read in part.others.items():
        try:
            seen = recognised(name, read(rows), obs)
        except (CellsRefused, OSError):
            continue
        if seen.kind != "scaled" and not (seen.kind in LOG_FACTORS and seen.target_sum is None):
            what = seen.kind if seen.target_sum is None else f"{seen.kind} of {seen.target_sum:g} a cell"
            if layer == what:
                what = "whole numbers" if seen.is_whole else "with fractions"
            found.append((not seen.kind.endswith("counts"), what, layer))
    if not found:
        return ""
    listed = " and ".join(f"{layer} ({what})" for _, what, layer in sorted(found))
    best = sorted(found)[0][2]
    return (
        f"The file holds what fits better: {listed}. Give --layer {best}, `layer: {best}` in a job, or layer={best!r}"
        " in Python."
    )


def _as_stated(name: str, values: sp.csr_matrix, stated: str) -> Values:
    """Return what a user says that values are, as far as it can be."""
    check_finite(values, allow_negative=stated == "scaled")
    cells, whole = CellValues(values), ("counts", "normalised")
    if not len(cells):
        raise CellsRefused(
            f"{name}: all values of the cells looked at are zero. Give the layer that holds counts or logarithms."
        )
    if stated not in (*whole, "scaled") and not cells.can_be_logs.all() and stated != "sqrt":
        raise CellsRefused(f"{name}: values up to {cells.largest.max():g} are no {stated} values, as `values` states.")
    sums = cells.sums(stated)
    total = common_sum(sums) if stated in LOG_FACTORS else None
    median = float(np.median(sums)) if stated.endswith("counts") else None
    is_whole = bool(cells.are_whole.all())
    return Values(stated, total, total is not None, "as stated", median, is_whole)  # type: ignore[arg-type]


def check_values(values: sp.csr_matrix, seen: Values, ids: np.ndarray) -> None:
    """Refuse cells whose values are of another kind than those that were looked at first.

    Parameters
    ----------
    values : csr_matrix, shape (cells, genes)
    seen : Values
        Of the file.
    ids : (cells,) array of str

    Raises
    ------
    CellsRefused
        Naming these cells.
    """
    check_finite(values, allow_negative=seen.kind == "scaled")
    cells = CellValues(values)
    mask, what = unlike(cells, seen)
    if mask.any():
        odd = ids[cells.rows[mask]]
        raise CellsRefused(
            f"Values are not of one kind: {len(odd)} of the {len(ids)} cells from {ids[0]} to {ids[-1]} {what}"
            f" ({', '.join(map(str, odd[:3]))}, ...); the cells looked at first have {seen.kind} ({seen.evidence})."
            " Give one kind of values for all cells (a layer, or raw), best the counts."
        )


def normalisation(values: Values, target_sum: float | None = None) -> Normalisation:
    """Return what is done to a reference's values: counts come to log1p of a sum per cell, others stay.

    Parameters
    ----------
    target_sum : float, optional
        Counts per cell before the logarithm; by default 10,000, or of `ROUND_SUMS` the largest that half of
        the cells reach. Cells of a panel of few genes have some hundred counts: scaled to 10,000, the
        logarithm makes one count and ten nearly alike.
    """
    if values.kind in LOG_FACTORS:
        totals = "model genes" if values.has_all_genes else "all genes"
        return Normalisation(values.kind, values.target_sum, values.target_sum, totals)  # type: ignore[arg-type]
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
    advice = f" {query.advice}" if query.advice else ""
    if (model.kind == "scaled") != (query.kind == "scaled"):
        expected = "scaled values" if model.kind == "scaled" else "counts or logs of counts"
        raise CellsRefused(
            f"The model was trained on {expected}, {description}. Give the query as the reference was: scaling by the"
            " query's own mean shifts cells when its composition differs." + advice
        )
    is_log = query.kind in LOG_FACTORS
    if is_log and model.totals == "chosen genes":
        return model.for_query(f"{query.kind} counts", None)  # type: ignore[arg-type]
    if is_log and model.target_sum is not None and query.target_sum is None:
        raise CellsRefused(
            f"The model takes log1p of {model.target_sum:g} counts per cell, and {description}: they do not show"
            " to how many counts per cell they were scaled. Give the counts, or state the target sum." + advice
        )
    if not is_log and query.kind != "scaled" and model.target_sum is None:
        raise CellsRefused(
            f"The model was trained on log values of an unknown target sum, {description}: they cannot be"
            " normalised the same way. Normalise them as the reference was, or train from counts."
        )
    if is_log and same_sum(query.target_sum, model.target_sum):
        return model.for_query(query.kind, model.target_sum)
    return model.for_query(query.kind, query.target_sum)


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
