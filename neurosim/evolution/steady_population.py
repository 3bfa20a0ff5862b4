"""A population from which the worst leaves when one arrives, by the fitness of IBEA kept up to date."""

from __future__ import annotations

import random

import numpy as np

from neurosim.evolution.ibea import KAPPA, TOURNAMENT, epsilon_indicator

_LARGEST_EXPONENT = 500.0  # beyond it only the order of hopeless individuals would be lost, and exp overflows
_SCALES_KEPT = 0.25  # of the population: so many arrivals later the ranges of the objectives are taken anew


class SteadyPopulation:
    """At most `size` individuals, (mu + 1) replacement.

    The fitness is that of `ibea_fitness`, except that the ranges of the objectives and the largest indicator
    may be those of up to a quarter of the population's arrivals ago. With them held, an arrival changes one
    row and one column of the matrix of indicators and nothing else.

    Parameters
    ----------
    size : int
    parameters : int
    """

    def __init__(self, size: int, parameters: int) -> None:
        self.size = size
        self._free = 0  # where the next one goes
        self._members = np.empty((size + 1, parameters))
        self._scores = np.empty((0, size + 1))  # (objectives, individuals): compared along whole rows
        self._loss = np.zeros((size + 1, size + 1))  # exp(-I / (kappa max|I|)), 0 on the diagonal
        self._ranges = np.empty(0)
        self._factor = 0.0
        self._since_scaled = 0
        self._fitness = np.empty(0)
        self._full = False

    def __len__(self) -> int:
        return self.size if self._full else self._free

    @property
    def full(self) -> bool:
        return self._full

    @property
    def fitness(self) -> np.ndarray:
        """Fitness of each individual, lower is better, shape (n,); only once it is full."""
        return np.delete(self._fitness, self._free)

    @property
    def scores(self) -> np.ndarray:
        """Scores in the order of `fitness`, shape (n, M)."""
        return np.delete(self._scores, self._free, axis=1).T if self._full else self._scores[:, : len(self)].T

    def add(self, member: np.ndarray, scores: np.ndarray) -> None:
        """Take in an individual, (P,) and (M,); if the population was full, the worst leaves."""
        if not len(self._scores):
            self._scores = np.empty((len(scores), self.size + 1))
        new = self._free
        self._members[new], self._scores[:, new] = member, scores
        if not self._full:
            self._free += 1
            self._full = self._free == self.size
            if self._full:
                self._rescale(np.arange(self.size))
                self._fitness = self._loss.sum(axis=1)
            return
        self._since_scaled += 1
        if self._since_scaled >= _SCALES_KEPT * self.size:
            self._rescale(np.arange(self.size + 1))
        else:
            self._compare(new)
        fitness = self._loss.sum(axis=1)
        self._free = int(fitness.argmax())
        self._fitness = fitness - self._loss[:, self._free]

    def draw(self, rng: random.Random) -> list[float]:
        """Return the winner of a tournament of 4."""
        entrants = []
        for _ in range(TOURNAMENT):
            index = int(rng.random() * self.size)
            entrants.append(index + (index >= self._free))
        return self._members[min(entrants, key=self._fitness.__getitem__)].tolist()

    def _compare(self, new: int) -> None:
        """Set the row and the column of one individual, with the ranges as they are."""
        difference = (self._scores - self._scores[:, new, None]) / self._ranges[:, None]
        for indicator, place in ((difference.max(axis=0), (new,)), (-difference.min(axis=0), (..., new))):
            self._loss[place] = np.exp(np.minimum(self._factor * indicator, _LARGEST_EXPONENT))
        self._loss[new, new] = 0.0

    def _rescale(self, present: np.ndarray) -> None:
        """Take the ranges and all indicators anew."""
        scores = self._scores[:, present].T
        indicator = epsilon_indicator(scores)
        self._ranges = np.ptp(scores, axis=0)
        self._ranges[self._ranges == 0] = 1.0
        largest = np.abs(indicator).max()
        self._factor = -1.0 / (KAPPA * largest) if largest else 0.0
        loss = np.exp(self._factor * indicator)
        np.fill_diagonal(loss, 0.0)
        self._loss[np.ix_(present, present)] = loss
        self._since_scaled = 0
