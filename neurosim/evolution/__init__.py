"""Search of model parameters: strategies are asked for individuals and told their scores.

`parameter_space`
    Names, bounds and axes of the free parameters.
`diverse_selection`
    Which of many good models a hall of fame keeps, and how different they are.
`ask_tell`
    What all strategies have in common, and the hall of fame.
`search_strategies`
    The searches: `paper`, `fast`, `steady`, `kalman`, `regression`, `nsga2`, `spea2`.
`spreading`
    The last part of the `fast` search.
`ibea_selection`
    Selection of parents, crossover and mutation.
`pareto_selection`
    Selection by dominance, with DEAP.
`cma_es`
    The second half of the `fast` and `steady` searches.
`residual_search`
    The middle part of the `kalman` and `regression` searches: least squares with signed deviations.
`hall_of_fame_files`
    Halls of fame as the runs of fits store them.
`warm_start`
    First individuals from models that were fitted before.
"""

from neurofleet.neurosim.evolution.ask_tell import HallOfFame, HallOfFameEntry, Strategy, total_scores
from neurofleet.neurosim.evolution.diverse_selection import (
    Spread,
    select_diverse,
    select_over_seeds,
    spread_of,
    tolerated_total,
)
from neurofleet.neurosim.evolution.parameter_space import ParameterSpace, log_axes
from neurofleet.neurosim.evolution.search_strategies import (
    FastConfig,
    FastStrategy,
    KalmanConfig,
    PaperConfig,
    PaperStrategy,
    ParetoConfig,
    ParetoStrategy,
    RegressionConfig,
    ResidualConfig,
    ResidualStrategy,
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
    "KalmanConfig",
    "ParameterSpace",
    "PaperConfig",
    "PaperStrategy",
    "ParetoConfig",
    "ParetoStrategy",
    "RegressionConfig",
    "ResidualConfig",
    "ResidualStrategy",
    "Spread",
    "SteadyConfig",
    "SteadyStrategy",
    "Strategy",
    "log_axes",
    "make_steady_strategy",
    "make_strategy",
    "read_warm_start",
    "same_cell",
    "select_diverse",
    "select_over_seeds",
    "spread_of",
    "tolerated_total",
    "total_scores",
    "warm_start_models",
]
