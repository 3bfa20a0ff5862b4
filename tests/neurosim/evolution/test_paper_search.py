"""The `paper` strategy against BluePyOpt's own IBEA."""

import random
from importlib import import_module

import numpy as np
import pytest

from neurofleet.neurosim.evolution import HallOfFame, PaperConfig, PaperStrategy, ParameterSpace, make_strategy
from neurofleet.neurosim.evolution.ibea_selection import ibea_fitness, select_parents

LOWER = [0.0, -110.0, 1e-7, 50.0, 0.5]
UPPER = [5.0, -60.0, 1e-2, 200.0, 0.7]
N_OBJECTIVES = 6


def toy_scores(values):
    """Six rival objectives of five parameters; a wall of 250 where a cell would be silent."""
    unit = [(value - low) / (high - low) for value, low, high in zip(values, LOWER, UPPER, strict=True)]
    if unit[0] + unit[3] > 1.6:
        return [250.0] * N_OBJECTIVES
    misses = [abs(unit[k % 5] - 0.13 * k) for k in range(N_OBJECTIVES)]
    return [min(250.0, 40 * miss + 3 * unit[(k + 1) % 5] ** 2) for k, miss in enumerate(misses)]


@pytest.fixture(scope="module")
def space() -> ParameterSpace:
    return ParameterSpace.from_bounds([f"p{k}.soma" for k in range(5)], np.array(LOWER), np.array(UPPER))


def run_bluepyopt(seed, offspring, generations, scores=toy_scores):
    """Every individual in the order in which BluePyOpt evaluates it, and its hall of fame."""
    from bluepyopt.deapext.optimisations import DEAPOptimisation
    from bluepyopt.evaluators import Evaluator
    from bluepyopt.objectives import Objective
    from bluepyopt.parameters import Parameter

    evaluated = []

    class ToyEvaluator(Evaluator):
        def init_simulator_and_evaluate_with_lists(self, param_list=None, target="scores"):
            evaluated.append(list(param_list))
            return scores(param_list)

    evaluator = ToyEvaluator(
        objectives=[Objective(f"o{k}") for k in range(N_OBJECTIVES)],
        params=[Parameter(f"p{k}", bounds=bounds) for k, bounds in enumerate(zip(LOWER, UPPER, strict=True))],
    )
    optimisation = DEAPOptimisation(evaluator=evaluator, seed=seed, offspring_size=offspring)
    _, hall, _, _ = optimisation.run(max_ngen=generations)
    return np.array(evaluated), [(list(entry), entry.fitness.sum) for entry in hall]


def run_ours(space, seed, offspring, generations, scores=toy_scores, hall_size=10):
    strategy = PaperStrategy(PaperConfig(offspring, generations), space, seed)
    hall, evaluated = HallOfFame(hall_size), []
    while not strategy.finished:
        individuals = strategy.ask()
        random.random()  # whoever else draws from the global generator must not matter
        values = np.array([scores(row) for row in individuals.tolist()])
        hall.update(individuals, values, strategy.generation)
        strategy.tell(individuals, values)
        evaluated.append(individuals)
    return np.concatenate(evaluated), hall


@pytest.mark.parametrize(("seed", "offspring", "generations"), [(1, 40, 30), (2, 40, 30), (4, 33, 25)])
def test_individuals_are_bluepyopts_bit_for_bit(space, seed, offspring, generations):
    expected, expected_hall = run_bluepyopt(seed, offspring, generations)
    found, hall = run_ours(space, seed, offspring, generations)
    assert len(expected) == offspring * generations
    np.testing.assert_array_equal(found, expected)
    assert [(list(e.parameters), e.total) for e in hall.entries] == expected_hall


def test_individuals_are_bluepyopts_on_a_plateau_of_ties(space):
    def coarse(values):
        return [float(round(score / 25) * 25) for score in toy_scores(values)]

    expected, expected_hall = run_bluepyopt(3, 24, 20, coarse)
    found, hall = run_ours(space, 3, 24, 20, coarse)
    np.testing.assert_array_equal(found, expected)
    assert [entry.total for entry in hall.entries] == [total for _, total in expected_hall]
    assert len({entry.parameters.tobytes() for entry in hall.entries}) == 10


@pytest.mark.parametrize(("n", "m"), [(2, 1), (97, 3), (512, 26), (1024, 40)])
def test_fitness_is_bluepyopts_bit_for_bit(n, m):
    selection = import_module("bluepyopt.deapext.tools.selIBEA")

    draw = np.random.default_rng(n)
    scores = np.abs(draw.standard_cauchy((n, m))).clip(0, 250)
    scores[n // 2 :] = scores[draw.integers(0, n // 2, n - n // 2)]  # parents come several times

    class Individual:
        def __init__(self, row):
            self.fitness = type("Fitness", (), {"wvalues": tuple(-row)})

    population = [Individual(row) for row in scores]
    selection._calc_fitnesses(population, selection._calc_fitness_components(population, 0.05))
    np.testing.assert_array_equal(ibea_fitness(scores), [one.ibea_fitness for one in population])


def test_equal_scores_leave_the_selection_to_chance():
    scores = np.full((12, 4), 250.0)
    assert not ibea_fitness(scores).any()
    assert len(set(select_parents(scores, 200, random.Random(1)))) > 6


def test_a_better_population_is_found(space):
    found, hall = run_ours(space, 1, 40, 30)
    first = min(sum(toy_scores(row)) for row in found[:40].tolist())
    assert hall.entries[0].total < 0.85 * first


def test_warm_individuals_come_first_and_take_no_more_than_their_share(space):
    cold = PaperStrategy(PaperConfig(20, 5), space, 7).ask()
    warm = np.tile([1.0, -70.0, np.nan, 900.0, 0.6], (30, 1))
    first = make_strategy(PaperConfig(20, 5, warm_share=0.5), space, 7, warm).ask()
    np.testing.assert_array_equal(first[:10, [0, 1, 4]], np.tile([1.0, -70.0, 0.6], (10, 1)))
    np.testing.assert_array_equal(first[:10, 3], 200.0)  # clipped to the bound
    np.testing.assert_array_equal(first[:10, 2], cold[:10, 2])  # unknown: drawn as without the warm start
    np.testing.assert_array_equal(first[10:], cold[10:])
