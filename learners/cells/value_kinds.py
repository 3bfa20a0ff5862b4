"""What values are: counts, normalised counts, logarithms, roots, or scaled values; judged for each cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurofleet.errors import CellsRefused

Kind = Literal[
    "counts",
    "normalised",
    "log1p",
    "log2",
    "log10",
    "log1p counts",
    "log2 counts",
    "log10 counts",
    "sqrt",
    "asinh",
    "scaled",
]
"""Counts, whole or with fractions; counts times a factor a cell; log(x + 1) of these by base; log(x + 1) of counts that
nobody scaled; square roots and asinh of any counts; values with a mean subtracted."""

KINDS: tuple[Kind, ...] = get_args(Kind)

LOG_FACTORS: dict[str, float] = {"log1p": 1.0, "log2": float(np.log(2)), "log10": float(np.log(10))}
"""Kind of logarithm -> by what its values are multiplied to be natural ones."""

LARGEST_LOG = 20.0
SAME_SUM = 0.02
FEW_VALUES = 5
"""A cell with fewer telling values than this is not judged."""

Undo = Callable[[np.ndarray], np.ndarray]

UNDO: dict[str, Undo] = {
    "log1p": np.expm1,
    "log2": lambda logs: np.exp2(logs) - 1,
    "log10": lambda logs: 10**logs - 1,
    "sqrt": np.square,
    "asinh": np.sinh,
}
ROOTS = ("sqrt", "asinh")


def linear(kind: str, data: np.ndarray) -> np.ndarray:
    """Return values of a kind without their logarithm or root."""
    undo = UNDO.get(kind.removesuffix(" counts"))
    return data if undo is None else undo(data)


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
        Counts of a cell, the median; for counts, and for logarithms in a reference that is trained for a query, without
        the logarithm and of the genes that the query has.
    is_whole : bool
        Whether counts have no fractions.
    advice : str
        Which other layers of the file fit better, where one does.
    """

    kind: Kind
    target_sum: float | None
    has_all_genes: bool
    evidence: str
    median_total: float | None = None
    is_whole: bool = True
    advice: str = ""


class CellValues:
    """The values of the cells of a block that have any, without zeros.

    Parameters
    ----------
    values : csr_matrix, shape (cells, genes)
        Finite.
    """

    def __init__(self, values: sp.csr_matrix) -> None:
        if (values.data == 0).any():
            values = values.copy()
            values.eliminate_zeros()
        lengths = np.diff(values.indptr)
        self.rows = np.flatnonzero(lengths)
        """Which cells of the block these are, (n,)."""
        self.lengths = lengths[self.rows]
        self.data = values.data.astype(np.float64)
        self._starts = values.indptr[:-1][self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def reduce(self, data: np.ndarray, how: np.ufunc = np.add) -> np.ndarray:
        """Reduce (n_values,) to one number a cell, (n,)."""
        return how.reduceat(data, self._starts) if len(self.rows) else np.zeros(0)

    def repeat(self, numbers: np.ndarray) -> np.ndarray:
        """Return one number a cell for each of its values."""
        return np.repeat(numbers, self.lengths)

    def of(self, cells: np.ndarray) -> CellValues:
        """Return some of the cells, by a mask (n,)."""
        chosen = object.__new__(CellValues)
        chosen.rows, chosen.lengths = self.rows[cells], self.lengths[cells]
        chosen.data = self.data[self.repeat(cells)]
        chosen._starts = np.cumsum(chosen.lengths) - chosen.lengths
        return chosen

    @cached_property
    def smallest(self) -> np.ndarray:
        return self.reduce(self.data, np.minimum)

    @cached_property
    def largest(self) -> np.ndarray:
        return self.reduce(self.data, np.maximum)

    @cached_property
    def n_whole(self) -> np.ndarray:
        """Whole numbers of each cell."""
        return self.reduce((self.data == np.rint(self.data)).astype(np.int64))

    @property
    def are_whole(self) -> np.ndarray:
        """Cells of whole numbers only."""
        return self.n_whole == self.lengths

    @property
    def can_be_logs(self) -> np.ndarray:
        return (self.smallest > 0) & (self.largest <= LARGEST_LOG)

    def sums(self, kind: str = "counts") -> np.ndarray:
        """Return the sum of each cell, after undoing the logarithm or root of a kind."""
        with np.errstate(over="ignore"):
            return self.reduce(linear(kind, self.data))

    def share_of_multiples(self, kind: str = "counts") -> np.ndarray:
        """Return how many of a cell's values are whole multiples of its smallest, once those of a kind are undone.

        Counts of a cell times one factor are. The smallest values do not count, nor do multiples above 1,000,
        which have no digits left to tell. NaN for a cell of too few values to tell.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            undone = linear(kind, self.data)
            multiples = undone / self.repeat(self.reduce(undone, np.minimum))
            telling = (multiples > 1.5) & (multiples < 1000)
            near = np.abs(multiples - np.rint(multiples)) < 0.01
        n = self.reduce(telling.astype(np.int64))
        hits = self.reduce((telling & near).astype(np.int64))
        return np.where(n >= FEW_VALUES, hits / np.maximum(n, 1), np.nan)

    def are_scaled_counts(self, kind: str = "counts") -> bool:
        """Tell whether nearly all values of all cells are whole multiples of their cell's smallest."""
        with np.errstate(over="ignore", invalid="ignore"):
            undone = linear(kind, self.data)
            multiples = undone / self.repeat(self.reduce(undone, np.minimum))
            small = multiples < 1000  # a larger one has no digits left to tell
            return bool(np.mean(np.abs(multiples - np.rint(multiples))[small] < 0.01) > 0.95)


MULTIPLES = 0.9
"""A cell with this share of whole multiples is one of scaled counts."""


def common_sum(sums: np.ndarray) -> float | None:
    """Return the number that nearly all of these are, to four digits; None if they differ."""
    finite = sums[np.isfinite(sums)]
    if len(finite) < 2:
        return None
    low, middle, high = np.percentile(finite, [5, 50, 95])
    return float(f"{middle:.4g}") if middle > 0 and high - low <= SAME_SUM * middle else None


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

IN_WORDS = {
    "log1p": "expm1",
    "log2": "2**x - 1",
    "log10": "10**x - 1",
    "sqrt": "the square",
    "asinh": "sinh",
}
"""Kind -> how its values are undone."""


@dataclass(frozen=True)
class _Sample:
    """Some cells of a file, to recognise the kind of its values by."""

    name: str
    values: sp.csr_matrix
    obs: pd.DataFrame
    cells: CellValues

    @property
    def seen(self) -> str:
        return f"in {self.values.shape[0]} cells looked at"

    def part(self, cells: np.ndarray) -> _Sample:
        """Return some of the cells, by a mask over those that have values."""
        return _Sample(self.name, self.values, self.obs, self.cells.of(cells))


def recognised(name: str, values: sp.csr_matrix, obs: pd.DataFrame) -> Values:
    """Recognise the values of a file from some of its cells.

    Parameters
    ----------
    name : str
        The file's, for messages.
    values : csr_matrix, shape (cells, genes)
        All genes of the file.
    obs : DataFrame
        A row for each of these cells, indexed by their ids.

    Raises
    ------
    CellsRefused
        If a value is not finite, all are zero, cells differ in kind, or the kind cannot be told.
    """
    check_finite(values, allow_negative=True)
    sample = _Sample(name, values, obs, CellValues(values))
    cells, seen = sample.cells, sample.seen
    if not len(cells):
        raise CellsRefused(
            f"{name}: all values of {len(obs)} cells looked at are zero. Give the layer that holds counts or"
            " logarithms."
        )
    are_whole, smallest = cells.are_whole, float(cells.smallest.min())
    if are_whole.all():
        if smallest < 0:
            raise CellsRefused(
                f"{name}: expected counts, which are never negative, found whole numbers with"
                f" {int((cells.data < 0).sum())} of them below 0, the lowest {smallest:g}, {seen}."
            )
        median = float(np.median(cells.sums()))
        return Values("counts", None, True, f"whole numbers, {median:.0f} per cell, {seen}", median)
    telling_whole = are_whole & (cells.lengths >= FEW_VALUES) & (cells.smallest < cells.largest)
    if smallest < 0:
        found = _signed(sample)
    elif not telling_whole.any():
        found = _fractional(sample)
    else:
        found = _fractional(sample.part(~are_whole))
        if found.kind == "counts":
            found = _counts_with_fractions(sample)
    _refuse_unlike(sample, found)
    return found


def _signed(sample: _Sample) -> Values:
    """Tell scaled values from residuals: a scaled gene has one lowest value, in all cells that lack it."""
    columns = np.linspace(0, sample.values.shape[1] - 1, min(200, sample.values.shape[1])).astype(int)
    some = sample.values[:, np.unique(columns)].toarray()
    repeated = (some == some.min(0)).mean(0) > 0.05
    how = "scaled by gene" if repeated.mean() > 0.5 else "Pearson residuals, or corrected for a covariate or a batch"
    data = sample.cells.data
    evidence = f"values from {data.min():.3g} to {data.max():.3g} {sample.seen}: {how}"
    return Values("scaled", None, True, evidence)


def _fractional(sample: _Sample) -> Values:
    """Recognise cells with fractions and without negative values."""
    cells, seen = sample.cells, sample.seen
    kinds = ["counts", *((*LOG_FACTORS, "asinh") if cells.largest.max() <= LARGEST_LOG else ()), "sqrt"]
    spread = {kind: _relative_spread(cells.sums(kind)) for kind in kinds}
    tightest = min(kinds, key=spread.__getitem__)
    if spread[tightest] <= SAME_SUM:
        return _of_common_sum(sample, tightest)
    scaled = [kind for kind in kinds if cells.are_scaled_counts(kind)]
    if scaled:
        with np.errstate(invalid="ignore"):
            shares = {kind: cells.share_of_multiples(kind) for kind in scaled}
        known = {kind: float(np.nanmean(share)) for kind, share in shares.items() if not np.isnan(share).all()}
        first = "log1p" if "log1p" in scaled else scaled[0]
        return _of_multiples(sample, max(known, key=known.__getitem__) if known else first)
    logs = _look_like_logs(cells) | _dense_logs(cells)
    if logs.sum() >= FEW_VALUES:
        if not logs.all() and _without_pattern(sample.part(~logs)).kind == "counts":
            raise _mixed(sample, logs, "look like log values", "the others do not")
        found = max(LOG_FACTORS, key=lambda kind: int(_are_logs(cells.of(logs), kind).sum()))
        once = f"{IN_WORDS[found]} of {int(logs.sum())} cells"
        evidence = f"{once} is whole numbers times a factor, or has one sum, {seen}"
        return Values(found, None, False, evidence)  # type: ignore[arg-type]
    return _without_pattern(sample)


def _of_common_sum(sample: _Sample, kind: str) -> Values:
    cells, seen = sample.cells, sample.seen
    total = common_sum(cells.sums(kind))
    assert total is not None
    if kind == "counts":
        return Values("normalised", total, True, f"values sum to {total:g} in every cell, {seen}")
    if kind == "sqrt":
        if cells.are_scaled_counts():
            return Values("normalised", None, False, f"whole numbers times a factor per cell, {seen}")
        if not cells.are_scaled_counts("sqrt"):
            raise CellsRefused(
                f"{sample.name}: the squares of values sum to {total:g} in every cell, {seen}: square roots of"
                " normalised counts, or values divided by their length (L2). It cannot be seen which. Give the counts."
            )
        return Values("sqrt", total, True, f"squares of values sum to {total:g} in every cell, {seen}")
    evidence = f"{IN_WORDS[kind]} sums to {total:g} in every cell, {seen}"
    return Values(kind, total, True, evidence)  # type: ignore[arg-type]


def _of_multiples(sample: _Sample, kind: str) -> Values:
    cells, seen = sample.cells, sample.seen
    undone = linear(kind, cells.data)
    if kind == "counts" and cells.n_whole.sum() > 0.5 * len(cells.data):
        return _counts_with_fractions(sample)
    if kind == "counts":
        _refuse_two_sums(sample, cells.sums(), kind)
        return Values("normalised", None, False, f"whole numbers times a factor per cell, {seen}")
    unit = cells.reduce(undone, np.minimum)
    if np.median(unit) < 1.5 and np.mean(np.abs(undone - np.rint(undone))[undone < 1000] < 0.01) > 0.95:
        median = float(np.median(cells.reduce(undone)))
        how = {"sqrt": "square roots", "asinh": "asinh"}.get(kind, f"{kind.removesuffix('1p')}(x + 1)")
        evidence = f"{how} of whole numbers, {median:.0f} per cell, {seen}"
        name = kind if kind in ROOTS else f"{kind} counts"
        return Values(name, None, True, evidence, median)  # type: ignore[arg-type]
    _refuse_two_sums(sample, cells.reduce(undone), kind)
    if kind in ROOTS:
        evidence = f"{IN_WORDS[kind]} is whole numbers times a factor per cell, {seen}"
        return Values(kind, None, False, evidence)  # type: ignore[arg-type]
    columns = sample.obs.columns
    for column in columns[columns.astype(str).str.lower().isin(TOTAL_COLUMNS)]:
        try:
            n_counts = sample.obs[column].to_numpy(np.float64, na_value=np.nan)[cells.rows]
        except (TypeError, ValueError):
            continue
        _refuse_two_sums(sample, unit * n_counts, kind)
        if total := common_sum(unit * n_counts):
            evidence = f"{IN_WORDS[kind]} is {total:g} / {column} times whole numbers, {seen}"
            return Values(kind, total, False, evidence)  # type: ignore[arg-type]
    sums = cells.reduce(undone)
    evidence = (
        f"{IN_WORDS[kind]} is whole numbers times a factor per cell, and sums to {sums.min():.0f} to"
        f" {sums.max():.0f}, so genes were left out after normalising, {seen}{_gap(sums)}"
    )
    return Values(kind, None, False, evidence)  # type: ignore[arg-type]


def _without_pattern(sample: _Sample) -> Values:
    """Tell counts with fractions from logarithms of which neither sums nor multiples are left.

    Counts of a shallow cell are 1 mostly, and undoing a logarithm that never was makes sums that differ more than
    the cells do, and that grow with the genes seen.
    """
    cells, seen = sample.cells, sample.seen
    largest = float(cells.largest.max())
    n_distinct_whole = len(np.unique(cells.data[cells.data == np.rint(cells.data)]))
    if largest > LARGEST_LOG or (cells.n_whole.sum() > 0.05 * len(cells.data) and n_distinct_whole > 2):
        return _counts_with_fractions(sample)
    up_to_one = float(np.mean(cells.data <= 1.05))
    sums, logs = cells.sums(), cells.sums("log1p")
    spreads_more = _log_spread(logs) > _log_spread(sums) - 0.05
    grows = _rank_correlation(logs, cells.lengths) > 0.58
    if up_to_one >= 0.5 and spreads_more and grows:
        return _counts_with_fractions(sample)
    if up_to_one < 0.25 or (up_to_one < 0.5 and not (spreads_more and grows)):
        return Values("log1p", None, False, f"fractions from 0 to {largest:.3g}, of no pattern, {seen}")
    raise CellsRefused(
        f"{sample.name}: values are fractions from 0 to {largest:.3g} {seen}, and neither their sums nor their ratios"
        " tell whether they are counts with fractions or logarithms. Give whole counts (a layer, or raw), or say what"
        " they are: `values: counts` or `values: log1p` in a job, --values on the command line, values= in Python."
    )


def _counts_with_fractions(sample: _Sample) -> Values:
    cells = sample.cells
    median = float(np.median(cells.sums()))
    share = 100 * float(cells.n_whole.sum()) / len(cells.data)
    evidence = (
        f"counts with fractions, up to {cells.largest.max():.3g}, {share:.0f} % whole, {median:.0f} per cell,"
        f" {sample.seen}"
    )
    return Values("counts", None, True, evidence, median, is_whole=False)


def unlike(cells: CellValues, seen: Values) -> tuple[np.ndarray, str]:
    """Find cells whose values are surely of another kind than the file's.

    Returns
    -------
    mask : (n,) array of bool
        Of the cells that have values.
    what : str
        What they have, in words.
    """
    telling = cells.lengths >= FEW_VALUES
    kind = seen.kind.removesuffix(" counts")
    if kind == "counts" and seen.is_whole:
        found = ~cells.are_whole
        example = cells.data[cells.data != np.rint(cells.data)][:1]
        return found, f"have fractions such as {example[0]:.4g}" if len(example) else ""
    if kind == "scaled":
        return telling & (cells.smallest > 0) & (cells.are_whole | _look_like_logs(cells)), "have no value below 0"
    varied = telling & (cells.smallest < cells.largest)
    if kind in ("counts", "normalised"):
        logs = varied & _look_like_logs(cells)
        if kind == "counts":
            logs |= varied & _dense_logs(cells)
        if logs.any() or seen.target_sum is None:
            return logs, "look like log values"
        return _off_sum(cells, telling, seen)
    whole = varied & cells.are_whole
    if kind in ("log2", "sqrt"):  # of a few cells all logarithms or roots of counts are whole by chance
        whole &= cells.largest >= 3
        whole &= whole.mean() > 0.02
    if whole.any():
        return whole, "have whole numbers"
    if kind in LOG_FACTORS and (cells.largest > LARGEST_LOG).any():
        return cells.largest > LARGEST_LOG, f"have values up to {cells.largest.max():.4g}, which no logarithm is"
    if seen.target_sum is not None and seen.has_all_genes:
        return _off_sum(cells, telling, seen)
    doubtful = varied & (cells.share_of_multiples(kind) < 0.5)
    if doubtful.any():
        for other in ("counts", *LOG_FACTORS):
            like = doubtful & (cells.share_of_multiples(other) > MULTIPLES)
            if other != kind and like.any():
                return like, f"look like {_called(other)} values"
    return np.zeros(len(cells), dtype=bool), ""


def _off_sum(cells: CellValues, telling: np.ndarray, seen: Values) -> tuple[np.ndarray, str]:
    """Find cells of another sum: of half of it or of twice as much, or of one that several of them share."""
    assert seen.target_sum is not None
    kind = "counts" if seen.kind == "normalised" else seen.kind
    sums = cells.sums(kind)
    ratio = sums / seen.target_sum
    far = telling & ((ratio < 0.5) | (ratio > 2))
    off = telling & (np.abs(ratio - 1) > SAME_SUM)
    if off.sum() >= FEW_VALUES:
        middle = np.median(sums[off])
        shared = off & (np.abs(sums / middle - 1) < SAME_SUM / 2)
        if shared.sum() > 0.5 * off.sum():
            far |= shared
    if not far.any():
        return far, ""
    return far, f"sum to {np.median(sums[far]):.4g}{_after(kind)} in place of {seen.target_sum:g}"


def _refuse_unlike(sample: _Sample, found: Values) -> None:
    mask, what = unlike(sample.cells, found)
    if mask.any():
        raise _mixed(sample, mask, what, f"the file has {found.kind} otherwise ({found.evidence})")


def _mixed(sample: _Sample, mask: np.ndarray, what: str, others: str) -> CellsRefused:
    ids = sample.obs.index[sample.cells.rows[mask]]
    return CellsRefused(
        f"{sample.name}: values are not of one kind: {len(ids)} of {len(sample.obs)} cells looked at, from {ids[0]} to"
        f" {ids[-1]}, {what}; {others}. Give one kind of values for all cells (a layer, or raw), best the counts."
    )


def _after(kind: str) -> str:
    return f" after {IN_WORDS[kind]}" if kind in IN_WORDS else ""


def _called(kind: str) -> str:
    return {"counts": "normalised", "log1p": "log1p"}.get(kind, f"{kind}(x + 1)")


def _look_like_logs(cells: CellValues) -> np.ndarray:
    """Find cells whose values are scaled counts once a logarithm is undone, (n,)."""
    found = np.zeros(len(cells), dtype=bool)
    possible = cells.can_be_logs & (cells.lengths >= FEW_VALUES)
    if possible.any():
        some = cells.of(possible)
        logs = np.any([some.share_of_multiples(kind) > MULTIPLES for kind in LOG_FACTORS], axis=0)
        # logarithms are never whole; counts with few fractions look like log2, as 2**x - 1 of whole numbers is whole
        found[possible] = logs & ~(some.share_of_multiples() > MULTIPLES) & (some.n_whole < 0.1 * some.lengths)
    return found


def _are_logs(cells: CellValues, kind: str) -> np.ndarray:
    return (cells.share_of_multiples(kind) > MULTIPLES) | _dense_part(cells.sums(kind))


def _dense_logs(cells: CellValues) -> np.ndarray:
    """Find cells of small values whose sums are alike once a logarithm is undone, (n,)."""
    found = np.zeros(len(cells), dtype=bool)
    possible = cells.can_be_logs & (cells.lengths >= FEW_VALUES)
    if possible.sum() >= 20:
        for kind in LOG_FACTORS:
            found[possible] |= _dense_part(cells.of(possible).sums(kind))
    return found


def _dense_part(sums: np.ndarray) -> np.ndarray:
    """Return which sums lie in the 2 % wide window that holds most, where that is a fifth of all; else none."""
    none = np.zeros(len(sums), dtype=bool)
    usable = np.isfinite(sums) & (sums > 0)
    if usable.sum() < 20:
        return none
    logs = np.sort(np.log(sums[usable]))
    n_within = np.searchsorted(logs, logs + SAME_SUM, side="right") - np.arange(len(logs))
    if n_within.max() < 0.2 * len(sums):
        return none
    low = logs[n_within.argmax()]
    with np.errstate(divide="ignore", invalid="ignore"):
        return usable & (np.log(sums) >= low) & (np.log(sums) <= low + SAME_SUM)


def _refuse_two_sums(sample: _Sample, sums: np.ndarray, kind: str) -> None:
    """Refuse cells that were normalised to two sums: nearly all have one of the two."""
    dense = _dense_part(sums)
    if not dense.any():
        return
    first = np.median(sums[dense])
    others = np.abs(sums / first - 1) > 0.1
    second = np.zeros(len(sums), dtype=bool)
    second[others] = _dense_part(sums[others])
    if np.mean(second) > 0.05 and np.mean(dense | second) > 0.9:
        words = f"sum to {np.median(sums[second]):.4g}{_after(kind)}"
        raise _mixed(sample, second, words, f"others sum to {first:.4g}")


def _gap(sums: np.ndarray) -> str:
    """Say where sums fall into two groups that lie far apart; genes that were left out can do that, too."""
    logs = np.sort(np.log(sums))
    gaps = np.diff(logs)
    place = int(gaps.argmax()) + 1 if len(gaps) else 0
    if not len(gaps) or gaps.max() < np.log(5) or min(place, len(logs) - place) < 0.05 * len(logs):
        return ""
    return f"; sums of {place} cells are {np.exp(gaps.max()):.0f} times below the others': were two sums normalised to?"


def _relative_spread(numbers: np.ndarray) -> float:
    finite = numbers[np.isfinite(numbers)]
    if len(finite) < 2 or np.median(finite) <= 0:
        return np.inf
    low, middle, high = np.percentile(finite, [5, 50, 95])
    return float((high - low) / middle)


def _log_spread(sums: np.ndarray) -> float:
    low, high = np.percentile(np.log(sums), [5, 95])
    return float(high - low)


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    ranks = np.stack([pd.Series(numbers).rank().to_numpy() for numbers in (first, second)])
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nan_to_num(np.asarray(np.corrcoef(ranks))[0, 1]))


def same_sum(first: float | None, second: float | None) -> bool:
    """Tell whether two target sums are the same, within 2 %, or both unknown."""
    if first is None or second is None:
        return first is second
    return abs(first - second) <= SAME_SUM * second
