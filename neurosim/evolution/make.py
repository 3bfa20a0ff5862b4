"""From a configuration to the strategy that follows it."""

from __future__ import annotations

import numpy as np

from neurosim.evolution.fast import FastConfig, FastStrategy
from neurosim.evolution.paper import PaperConfig, PaperStrategy
from neurosim.evolution.space import ParameterSpace
from neurosim.evolution.steady import SteadyConfig, SteadyStrategy
from neurosim.evolution.strategy import Strategy


def make_strategy(
    config: PaperConfig | FastConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
) -> Strategy:
    """Start the search that `config` describes.

    Parameters
    ----------
    config : PaperConfig or FastConfig
    space : ParameterSpace
    seed : int
    warm_start : ndarray, shape (k, P), optional
        First individuals in the order of `space.names`, NaN where unknown, as `read_warm_start` returns them.

    Raises
    ------
    ValueError
        `warm_start` does not have one column per parameter.
    """
    warm_start = _checked(warm_start, space)
    if isinstance(config, PaperConfig):
        return PaperStrategy(config, space, seed, warm_start)
    return FastStrategy(config, space, seed, warm_start)


def make_steady_strategy(
    config: SteadyConfig, space: ParameterSpace, seed: int, warm_start: np.ndarray | None = None
) -> SteadyStrategy:
    """Start a search without generations; parameters and errors as of `make_strategy`."""
    return SteadyStrategy(config, space, seed, _checked(warm_start, space))


def _checked(warm_start: np.ndarray | None, space: ParameterSpace) -> np.ndarray | None:
    if warm_start is not None:
        warm_start = np.array(warm_start, np.float64)
        if warm_start.ndim != 2 or warm_start.shape[1] != len(space):
            raise ValueError(f"warm_start of shape {warm_start.shape}, expected (individuals, {len(space)})")
    return warm_start
