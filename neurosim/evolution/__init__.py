"""Evolution of model parameters: strategies that ask for individuals and are told their scores."""

from neurofleet.neurosim.evolution.ask_tell import HallOfFame, HallOfFameEntry, Strategy, total_scores
from neurofleet.neurosim.evolution.parameter_space import ParameterSpace, log_axes
from neurofleet.neurosim.evolution.search_strategies import (
    FastConfig,
    FastStrategy,
    PaperConfig,
    PaperStrategy,
    SteadyConfig,
    SteadyStrategy,
    make_steady_strategy,
    make_strategy,
)
from neurofleet.neurosim.evolution.warm_start import read_warm_start, same_cell, warm_start_models

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
