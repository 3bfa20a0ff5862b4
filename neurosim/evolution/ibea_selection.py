"""Indicator-based selection of parents (IBEA; Zitzler & Kunzli 2004), and their crossover and mutation.

Parents are selected from a generation, as BluePyOpt does it, or from a population without generations.
Crossover is simulated binary, mutation polynomial (Deb), both bounded and drawing as DEAP does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

KAPPA = 0.05
TOURNAMENT = 4
_BLOCK = 96  # rows compared at a time, so that the temporary matrices stay in a core's cache


def ibea_fitness(scores: np.ndarray, kappa: float = KAPPA) -> np.ndarray:
    """Loss in quality of the population that each individual stands for (lower is better).

    With x scaled by the ranges of the population, I(i, j) = max over objectives of (x_j - x_i) and the
    fitness of i is the sum over j != i of exp(-I(i, j) / (kappa max|I|)). Operations are in the order of
    BluePyOpt's `selIBEA`, so that they round alike and ties are broken alike.

    Parameters
    ----------
    scores : ndarray, shape (n, M)

    Returns
    -------
    ndarray, shape (n,)
    """
    distinct, number = _distinct(np.ascontiguousarray(scores, np.float64))
    indicator = epsilon_indicator(distinct)
    largest = max(indicator.max(), -indicator.min())
    if largest != 0:
        indicator *= -1.0 / (kappa * largest)
        np.exp(indicator, out=indicator)
    if len(distinct) < len(scores):
        indicator = indicator[number].take(number, axis=1)
    return indicator.sum(axis=1) - indicator.diagonal()


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, and the number of each row among them; good parents come several times."""
    first: dict[bytes, int] = {}
    same_as = [first.setdefault(row.tobytes(), i) for i, row in enumerate(rows)]
    kept, number = np.unique(same_as, return_inverse=True)
    return rows[kept], number


def epsilon_indicator(scores: np.ndarray) -> np.ndarray:
    """Additive epsilon indicator I of scores (n, M) over the ranges of the population, shape (n, n).

    Row blocks against the columns from the block on: (a - b) / r is exactly -((b - a) / r), so the largest
    difference gives the upper triangle and the smallest, negated, the lower one.
    """
    n = len(scores)
    ranges = scores.max(axis=0) - scores.min(axis=0)
    ranges[ranges == 0] = 1.0
    objectives = np.ascontiguousarray(scores.T)
    indicator = np.empty((n, n))
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        largest = np.full((stop - start, n - start), -np.inf)
        smallest = np.full_like(largest, np.inf)
        difference = np.empty_like(largest)
        for values, scale in zip(objectives, ranges, strict=True):
            np.subtract(values[start:], values[start:stop, None], out=difference)
            difference /= scale
            np.maximum(largest, difference, out=largest)
            np.minimum(smallest, difference, out=smallest)
        indicator[start:stop, start:] = largest
        indicator[stop:, start:stop] = -smallest[:, stop - start :].T
    return indicator


def select_parents(scores: np.ndarray, n_parents: int, rng: random.Random) -> list[int]:
    """Draw parents by tournaments of 4 with replacement.

    No environmental selection goes before it: BluePyOpt's keeps the whole population by default, which leaves
    only its sorting by fitness to be done.

    Parameters
    ----------
    scores : ndarray, shape (n, M)

    Returns
    -------
    list of int, length n_parents
        Rows of `scores`; good ones come several times.
    """
    fitness = ibea_fitness(scores)
    order = np.argsort(fitness, kind="stable").tolist()
    ranked = fitness[order].tolist()
    parents = []
    for _ in range(n_parents):
        entrants = [int(rng.random() * len(order)) for _ in range(TOURNAMENT)]
        parents.append(order[min(entrants, key=ranked.__getitem__)])
    return parents


_LARGEST_EXPONENT = 500.0  # exp would overflow; only the order among the very worst is lost
_SCALES_KEPT = 0.25  # arrivals, as a share of the population, after which the ranges of the objectives are updated


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
        """Add an individual, parameters (P,) and scores (M,); if the population was full, the worst is removed."""
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


Genes = list[float]

ETA = 10
GENE_MUTATION_PROBABILITY = 0.5


def uniform_genes(lower: Sequence[float], upper: Sequence[float], rng: random.Random) -> Genes:
    """One individual, uniform in the bounds."""
    return [rng.uniform(low, high) for low, high in zip(lower, upper, strict=True)]


def vary(
    parents: Sequence[Genes],
    lower: Sequence[float],
    upper: Sequence[float],
    rng: random.Random,
    eta: float = ETA,
) -> list[Genes]:
    """Offspring of consecutive pairs of parents, every pair crossed and every child mutated.

    An odd last parent is only mutated. The draws that decide whether to cross and to mutate are taken, though
    both always happen (probability 1 in the published set-up).
    """
    children = [list(genes) for genes in parents]
    for first, second in zip(children[::2], children[1::2], strict=False):
        rng.random()
        _cross(first, second, lower, upper, rng, eta)
    for genes in children:
        rng.random()
        _mutate(genes, lower, upper, rng, eta)
    return children


def _cross(
    first: Genes,
    second: Genes,
    lower: Sequence[float],
    upper: Sequence[float],
    rng: random.Random,
    eta: float,
) -> None:
    for gene, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if rng.random() > 0.5 or abs(first[gene] - second[gene]) <= 1e-14:
            continue
        small, large = sorted((first[gene], second[gene]))
        spread = large - small
        draw = rng.random()
        left = _spread_factor(draw, 1.0 + (2.0 * (small - low) / spread), eta)
        right = _spread_factor(draw, 1.0 + (2.0 * (high - large) / spread), eta)
        children = (
            _clip(0.5 * (small + large - left * spread), low, high),
            _clip(0.5 * (small + large + right * spread), low, high),
        )
        if rng.random() <= 0.5:
            second[gene], first[gene] = children
        else:
            first[gene], second[gene] = children


def _spread_factor(draw: float, beta: float, eta: float) -> float:
    """Distance of a child from the parents' mean, in half distances of the parents."""
    alpha = 2.0 - beta ** -(eta + 1)
    if draw <= 1.0 / alpha:
        return (draw * alpha) ** (1.0 / (eta + 1))
    return (1.0 / (2.0 - draw * alpha)) ** (1.0 / (eta + 1))


def _mutate(genes: Genes, lower: Sequence[float], upper: Sequence[float], rng: random.Random, eta: float) -> None:
    power = 1.0 / (eta + 1.0)
    for gene, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if rng.random() > GENE_MUTATION_PROBABILITY:
            continue
        value, width = genes[gene], high - low
        draw = rng.random()
        if draw < 0.5:
            room = 1.0 - (value - low) / width
            step = (2.0 * draw + (1.0 - 2.0 * draw) * room ** (eta + 1)) ** power - 1.0
        else:
            room = 1.0 - (high - value) / width
            step = 1.0 - (2.0 * (1.0 - draw) + 2.0 * (draw - 0.5) * room ** (eta + 1)) ** power
        genes[gene] = _clip(value + step * width, low, high)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
