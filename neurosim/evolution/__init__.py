"""Evolution of model parameters: strategies that ask for individuals and are told their scores."""

from neurosim.evolution.fast import FastConfig, FastStrategy
from neurosim.evolution.hall_of_fame import HallOfFame, HallOfFameEntry, total_scores
from neurosim.evolution.make import make_steady_strategy, make_strategy
from neurosim.evolution.paper import PaperConfig, PaperStrategy
from neurosim.evolution.space import ParameterSpace, log_axes
from neurosim.evolution.steady import SteadyConfig, SteadyStrategy
from neurosim.evolution.strategy import Strategy
from neurosim.evolution.warm_start import read_warm_start, same_cell, warm_start_models

__all__ = [
    "FastConfig",
    "FastStrategy",
    "HallOfFame",
    "HallOfFameEntry",
    "ParameterSpace",
    "PaperConfig",
    "PaperStrategy",
    "SteadyConfig",
    "SteadyStrategy",
    "Strategy",
    "log_axes",
    "make_steady_strategy",
    "make_strategy",
    "read_warm_start",
    "same_cell",
    "total_scores",
    "warm_start_models",
]
