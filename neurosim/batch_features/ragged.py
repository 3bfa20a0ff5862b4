"""Values of which each row of a matrix has its own number."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """Numbers that belong to rows.

    Attributes
    ----------
    row : ndarray of int, shape (k,)
        In ascending order.
    value : ndarray, shape (k,)
    n_rows : int
    """

    row: np.ndarray
    value: np.ndarray
    n_rows: int

    @classmethod
    def one_each(cls, value: np.ndarray, present: np.ndarray | None = None) -> "Ragged":
        """Return one value for each row, or none for a row that is not `present`."""
        row = np.arange(len(value)) if present is None else np.flatnonzero(present)
        return cls(row, value[row], len(value))

    @property
    def count(self) -> np.ndarray:
        """Number of values of each row, shape (n_rows,)."""
        return np.bincount(self.row, minlength=self.n_rows)

    @property
    def begin(self) -> np.ndarray:
        """Place of the first value of each row, shape (n_rows,)."""
        count = self.count
        return np.cumsum(count) - count

    @property
    def rank(self) -> np.ndarray:
        """Place of each value in its row, shape (k,)."""
        return np.arange(len(self.row)) - self.begin[self.row]

    def where(self, kept: np.ndarray) -> "Ragged":
        """Return the values that are `kept`, of shape (k,)."""
        return Ragged(self.row[kept], self.value[kept], self.n_rows)

    def sum(self) -> np.ndarray:
        """Return the sum of each row, shape (n_rows,), added one after the other."""
        return np.bincount(self.row, self.value, minlength=self.n_rows)

    def max(self) -> np.ndarray:
        """Return the largest value of each row, shape (n_rows,); -inf of a row without."""
        found = np.full(self.n_rows, -np.inf)
        np.maximum.at(found, self.row, self.value)
        return found

    def first(self, otherwise: float) -> np.ndarray:
        """Return the first value of each row, shape (n_rows,)."""
        found = np.full(self.n_rows, otherwise, np.result_type(self.value, type(otherwise)))
        has = self.count > 0
        found[has] = self.value[self.begin[has]]
        return found

    def at_rank(self, row: np.ndarray, rank: np.ndarray, otherwise: float) -> np.ndarray:
        """Return the values at places within rows, and `otherwise` beyond a row's end."""
        found = np.full(len(row), otherwise, np.result_type(self.value, type(otherwise)))
        has = rank < self.count[row]
        found[has] = self.value[self.begin[row[has]] + rank[has]]
        return found

    def differences(self) -> "Ragged":
        """Return each value minus the one before it in its row."""
        within = self.row[1:] == self.row[:-1]
        return Ragged(self.row[1:][within], np.diff(self.value)[within], self.n_rows)


def spans(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers of half-open spans one after the other, and the number of the span of each."""
    length = np.maximum(stop - start, 0)
    number = np.repeat(np.arange(len(start)), length)
    return np.arange(len(number)) - np.repeat(np.cumsum(length) - length, length) + start[number], number


def without_repeats(ascending: np.ndarray) -> np.ndarray:
    """Return which numbers are the first of their kind."""
    return np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]


def begins(ascending: np.ndarray) -> np.ndarray:
    """Return the place of the first of each kind."""
    return np.flatnonzero(without_repeats(ascending))
