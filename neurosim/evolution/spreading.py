"""Proposals of models that are as good as those found and different from them."""

from __future__ import annotations

import random

import numpy as np

_DRAWN_ANEW = (1, 2)  # how many parameters
_EXCHANGED = 0.25  # probability of each parameter


def spread_out(models: np.ndarray, n: int, rng: random.Random) -> np.ndarray:
    """Return variants of good models, each of a model that is drawn from them.

    Half of the variants have one or two parameters drawn anew from the whole axis: many parameters matter little, and
    a search that converges never finds out how far they may go. The others have a quarter of their parameters from
    another of the models: what each may do alone is tried together.

    Parameters
    ----------
    models : ndarray, shape (k, P)
        In the unit cube of the search's axes.
    n : int
    rng : random.Random

    Returns
    -------
    ndarray, shape (n, P)
    """
    variants = np.array([models[rng.randrange(len(models))] for _ in range(n)])
    parameters = range(models.shape[1])
    for i, variant in enumerate(variants):
        if i % 2 == 0:
            for place in rng.sample(parameters, min(rng.randint(*_DRAWN_ANEW), len(parameters))):
                variant[place] = rng.random()
        else:
            other = models[rng.randrange(len(models))]
            for place in parameters:
                if rng.random() < _EXCHANGED:
                    variant[place] = other[place]
    return variants
