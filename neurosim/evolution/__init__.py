"""Search of model parameters: strategies are asked for individuals and told their scores.

`parameter_space`
    Names, bounds and axes of the free parameters.
`diverse_selection`
    Which of many good models a hall of fame keeps, and how different they are.
`ask_tell`
    What all strategies have in common, and the hall of fame.
`search_strategies`
    The searches: `paper`, `fast`, `steady`, `nsga2`, `spea2`, `nsga3`, `mo-cma-es`.
`spreading`
    The last part of the `fast` search.
`ibea_selection`
    Selection of parents, crossover and mutation.
`pareto_selection`
    Selection by dominance, with DEAP.
`multi_objective_cma_es`
    Multi-objective CMA-ES, with DEAP.
`cma_es`
    The second half of the `steady` search, and of `fast` where no deviation has a sign; else a later part of `fast`.
`residual_search`
    The middle part of the `fast` search: ensemble Kalman inversion of signed deviations.
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
    MultiObjectiveCMAESConfig,
    MultiObjectiveCMAESStrategy,
    PaperConfig,
    PaperStrategy,
    ParetoConfig,
    ParetoStrategy,
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
    "MultiObjectiveCMAESConfig",
    "MultiObjectiveCMAESStrategy",
    "ParameterSpace",
    "PaperConfig",
    "PaperStrategy",
    "ParetoConfig",
    "ParetoStrategy",
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
