"""Bounded simulated binary crossover and polynomial mutation (Deb), drawing as DEAP does.

Each operator takes its random numbers in the order in which DEAP's `cxSimulatedBinaryBounded`,
`mutPolynomialBounded` and `varAnd` take them from the global generator, and rounds as they do; with the same
seed the same children follow. They are pure Python because that order is: a draw depends on the draw before
it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

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


def _mutate(
    genes: Genes, lower: Sequence[float], upper: Sequence[float], rng: random.Random, eta: float
) -> None:
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
