"""Cells that occur twice: in a reference, where a copy of a test cell must not be trained on, and again in a query."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_matrix import SOURCE_COLUMN, CellMatrix
from neurofleet.learners.cells.normalisation import Normalisation, check_values
from neurofleet.learners.cells.value_kinds import Values

GROUPS = 8
"""Genes are dealt to so many groups by their names; the profile of a cell has one number for each."""

SHARED_GROUPS = 4
"""Cells that are alike in so many groups are copies, though some genes differ."""

FEWEST_GENES, ENOUGH_GENES, MANY_GENES = 10, 50, 100
"""Genes that a copy has at least: one of equal values; of an equal profile; of a profile that is alike in part."""

KEPT_CELLS = 100_000
"""A model keeps the profiles of so many cells of its reference at most, 4 MB."""

CELLS_AT_ONCE = 512
"""Values of so many cells stay in the processor's cache while they are looked at."""

EXACT = 1e-4
_DENSE_VALUES = 16_000_000
_LARGEST_PRIME = 4_294_967_291


@dataclass(frozen=True)
class Profiles:
    """What is kept of cells to find them again: 44 bytes each.

    The number of a group depends on which of its genes a cell has, and which of these are above the cell's lowest value
    (or its median, where most genes have a value). No normalisation of a cell changes it.

    Attributes
    ----------
    groups : (n, 8) array of uint32
    projection : (n,) array
        The values times a random vector: equal for cells of equal values.
    n_genes : (n,) array of int32
        Genes that have a value.
    """

    groups: np.ndarray
    projection: np.ndarray
    n_genes: np.ndarray

    def __len__(self) -> int:
        return len(self.n_genes)

    @classmethod
    def joined(cls, parts: Sequence[Profiles]) -> Profiles:
        """Return the profiles of several blocks, one after the other."""
        fields = ("groups", "projection", "n_genes")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))

    def some(self, rows: np.ndarray, limit: int = KEPT_CELLS) -> Profiles:
        """Return those of some cells; of more than `limit`, evenly drawn ones."""
        if len(rows) > limit:
            rows = rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
        return Profiles(self.groups[rows], self.projection[rows], self.n_genes[rows])

    def to_array(self) -> np.ndarray:
        """Return what a model keeps, (n, 10) uint32."""
        rounded = np.rint(1000 * np.abs(self.projection)).astype(np.uint32)
        return np.column_stack([self.groups, rounded, self.n_genes.astype(np.uint32)])

    @classmethod
    def from_array(cls, kept: np.ndarray) -> Profiles:
        """Return the profiles that a model kept."""
        return cls(kept[:, :GROUPS], kept[:, GROUPS] / 1000, kept[:, GROUPS + 1].astype(np.int32))


class ProfileMaker:
    """Makes profiles of cells; the same for the same genes, in any order and any process.

    Parameters
    ----------
    genes : (n_genes,) sequence of str
    """

    def __init__(self, genes: Sequence[str] | np.ndarray) -> None:
        codes = np.frombuffer(
            b"".join(hashlib.blake2b(str(gene).encode(), digest_size=24).digest() for gene in genes), dtype=np.uint64
        ).reshape(-1, 3)
        self._group = (codes[:, 0] % GROUPS).astype(np.int64)
        # sums of fewer than 2**15 whole numbers below 2**38 are exact in float64
        self._weights = (codes[:, 1:] >> 26).astype(np.float64).ravel()  # of a low and of a high value of each gene
        self._vector = (codes[:, 0] >> 11) / 2.0**53 + 0.5

    def of(self, values: sp.csr_matrix) -> Profiles:
        """Return the profiles of cells × genes."""
        if (values.data == 0).any():
            values = values.copy()
            values.eliminate_zeros()
        n_cells = values.shape[0]
        lengths = np.diff(values.indptr)
        above = values.data > np.repeat(self._thresholds(values, lengths), lengths)
        place = np.repeat(np.arange(n_cells) * GROUPS, lengths) + self._group[values.indices]
        sums = np.bincount(place, self._weights[2 * values.indices + above], minlength=n_cells * GROUPS)
        groups = (sums.reshape(n_cells, GROUPS).astype(np.uint64) % _LARGEST_PRIME).astype(np.uint32)
        return Profiles(groups, values @ self._vector, lengths.astype(np.int32))

    def _thresholds(self, values: sp.csr_matrix, lengths: np.ndarray) -> np.ndarray:
        """Return above what a value counts as high in each cell: its lowest, or the median of all genes."""
        filled = np.flatnonzero(lengths)
        lowest = np.zeros(len(lengths))
        lowest[filled] = np.minimum.reduceat(values.data, values.indptr[filled]) if len(filled) else 0
        thresholds = np.where(lowest > 0, lowest * 1.001, 0.0)
        dense = np.flatnonzero(2 * lengths > values.shape[1])
        size = max(_DENSE_VALUES // max(values.shape[1], 1), 1)
        for start in range(0, len(dense), size):
            some = dense[start : start + size]
            thresholds[some] = np.maximum(thresholds[some], np.median(values[some].toarray(), axis=1))
        return thresholds


@dataclass(frozen=True)
class Copies:
    """Cells that are copies of others.

    Attributes
    ----------
    original : (n_cells,) array of int
        The first cell that each cell is a copy of; -1 for most.
    identical : (n_cells,) array of bool
        Whether it has the same values; the others have the same genes, or nearly so.
    """

    original: np.ndarray
    identical: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The cells that are copies, ascending."""
        return np.flatnonzero(self.original >= 0)

    def note(self, cells: CellMatrix, labels: np.ndarray) -> str:
        """Return what a user must know; empty if there are no copies.

        Parameters
        ----------
        labels : (n_cells,) array of int
            Class of each cell.
        """
        rows = self.rows
        if not len(rows):
            return ""
        firsts = self.original[rows]
        source = cells.obs[SOURCE_COLUMN].to_numpy()
        counts = {
            "are in another file": int((source[rows] != source[firsts]).sum()),
            "have a few other genes or other values": int((~self.identical[rows]).sum()),
            "have another label, so look which one is right": int((labels[rows] != labels[firsts]).sum()),
        }
        details = "".join(f"; {count:,} of them {what}" for what, count in counts.items() if count)
        return (
            f"{len(rows):,} of {len(cells):,} cells are copies of others ({cells.cell_ids[rows[0]]} of"
            f" {cells.cell_ids[firsts[0]]}, ...){details}. Each cell is used once, the first of its copies, so that"
            " none is trained on and tested as well."
        )


def looked_at(cells: CellMatrix, seen: Values, normalisation: Normalisation) -> Profiles:
    """Read all cells once, refuse values of another kind than the file's, and return the cells' profiles.

    Raises
    ------
    CellsRefused
        If values are not finite, or of another kind, or a file is damaged.
    """
    maker, parts, start = ProfileMaker(cells.genes), [], 0
    source = cells.obs[SOURCE_COLUMN].to_numpy()
    few = (
        block[first : first + CELLS_AT_ONCE]
        for block in cells.blocks()
        for first in range(0, block.shape[0], CELLS_AT_ONCE)
    )
    for block in few:
        ids = cells.cell_ids[start : start + block.shape[0]]
        try:
            check_values(block, seen, ids)
            parts.append(maker.of(normalisation.apply(block)))
        except CellsRefused as error:
            raise CellsRefused(f"{source[start]}: {error}") from None
        start += block.shape[0]
    return Profiles.joined(parts)


def find_copies(profiles: Profiles, rows: np.ndarray) -> Copies:
    """Find the cells of which an earlier one is there: with the same values, or the same genes but for a few.

    Parameters
    ----------
    rows : (n,) array of int
        The cells that are compared, ascending.
    """
    groups, n_genes, projection = profiles.groups[rows], profiles.n_genes[rows], profiles.projection[rows]
    own = np.arange(len(rows))
    first = own.copy()
    rich = np.flatnonzero(n_genes >= MANY_GENES)
    if len(rich):
        alike = np.stack([_first_of_same(groups[rich, group]) for group in range(GROUPS)], axis=1)
        most = np.zeros(len(rich), dtype=np.int64)
        for group in range(GROUPS):
            times = (alike == alike[:, group, None]).sum(1)
            better = (alike[:, group] != np.arange(len(rich))) & (times > most) & (times >= SHARED_GROUPS)
            first[rich[better]], most[better] = rich[alike[better, group]], times[better]
    rest = np.flatnonzero((n_genes >= FEWEST_GENES) & (first == own))
    if len(rest):
        same = rest[_first_of_same(_keys(groups[rest]))]
        found = _close(projection[rest], projection[same]) | (n_genes[rest] >= ENOUGH_GENES)
        first[rest[found]] = same[found]
    while (first[first] != first).any():
        first = first[first]
    identical = _close(projection, projection[first]) & (groups == groups[first]).all(1)
    original, is_identical = np.full(len(profiles), -1), np.zeros(len(profiles), dtype=bool)
    original[rows] = np.where(first != own, rows[first], -1)
    is_identical[rows] = identical & (first != own)
    return Copies(original, is_identical)


class KnownCells:
    """Finds the cells of a reference again.

    Parameters
    ----------
    known : Profiles
    """

    def __init__(self, known: Profiles) -> None:
        self._of_group = [np.unique(known.groups[known.n_genes >= MANY_GENES, group]) for group in range(GROUPS)]
        keys = _keys(known.groups)
        order = np.argsort(keys, kind="stable")
        self._keys, self._projection = keys[order], known.projection[order]

    def has(self, cells: Profiles) -> np.ndarray:
        """Return which cells are among the known ones, or nearly so, (n,) bool."""
        alike = np.stack([_among(cells.groups[:, group], known) for group, known in enumerate(self._of_group)])
        rich = (cells.n_genes >= MANY_GENES) & (alike.sum(0) >= SHARED_GROUPS)
        keys = _keys(cells.groups)
        if not len(self._keys):
            return rich
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        whole = self._keys[place] == keys
        close = np.abs(self._projection[place] - np.abs(cells.projection)) <= 0.002
        whole &= (cells.n_genes >= ENOUGH_GENES) | (close & (cells.n_genes >= FEWEST_GENES))
        return rich | whole


def _keys(groups: np.ndarray) -> np.ndarray:
    """Return one number for the numbers of all groups, (n,) uint64."""
    keys = np.zeros(len(groups), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for group in range(GROUPS):
            keys = keys * np.uint64(0x9E3779B97F4A7C15) + groups[:, group].astype(np.uint64)
    return keys


def _among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return (known[place] == keys) & (keys != 0)


def _first_of_same(keys: np.ndarray) -> np.ndarray:
    """Return for each key the place of the first one that equals it; a key of 0 is like no other."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.where(keys == 0, np.arange(len(keys)), first[inverse])


def _close(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.abs(first - second) <= EXACT * np.maximum(np.abs(first), np.abs(second))
