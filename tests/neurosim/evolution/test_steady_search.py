"""The search without generations."""

import heapq
import itertools
import random

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.evolution import FastConfig, ParameterSpace, SteadyConfig, make_steady_strategy, make_strategy
from neurofleet.neurosim.evolution.ibea_selection import SteadyPopulation, ibea_fitness
from tests.neurosim.evolution.test_fast_search import (
    LOWER,
    NAMES,
    TRUE_SHARE,
    UPPER,
    best_total,
    cell_like_scores,
    evolve,
)


@pytest.fixture(scope="module")
def space() -> ParameterSpace:
    return ParameterSpace.from_bounds(NAMES, LOWER, UPPER)


def score(parameters):
    return cell_like_scores(parameters[None])[0]


def lead(strategy, workers, order=1, score=score):
    """Lead a strategy to its end with so many evaluations under way, of unlike duration.

    Returns the arrivals: (number of the ask, asks made before it was told, parameters, scores).
    """
    draw, arrivals, under_way = random.Random(order), [], []

    def submit(now):
        while strategy.open and len(under_way) < workers:
            parameters = strategy.ask()
            heapq.heappush(under_way, (now + draw.lognormvariate(0, 0.5), strategy.asked - 1, parameters))

    submit(0.0)
    while under_way:
        now, asked, parameters = heapq.heappop(under_way)
        scores = score(parameters)
        arrivals.append((asked, strategy.asked, parameters, scores))
        strategy.tell(asked, parameters, scores)
        submit(now)
    return arrivals


def best(arrivals):
    return min(scores.sum() for *_, scores in arrivals)


def test_fitness_is_that_of_ibea_while_ranges_hold():
    """Six specialists, each unbeaten in one objective and worst in the others, hold the ranges."""
    draw = np.random.default_rng(1)
    population = SteadyPopulation(40, 3)
    left = 0
    for number in range(200):
        scores = 5.0 + np.minimum(draw.gamma(2.0, 5.0, 6), 50.0)
        if number < 6:
            scores = np.where(np.arange(6) == number, 0.0, 60.0)
        before = population.scores.copy()
        population.add(np.full(3, number / 200), scores)
        if number < 40:
            assert len(population) == number + 1
            continue
        together = np.concatenate([before, scores[None]])
        stayed = np.delete(together, ibea_fitness(together).argmax(), axis=0)
        np.testing.assert_array_equal(np.sort(population.scores, axis=0), np.sort(stayed, axis=0))
        np.testing.assert_allclose(population.fitness, ibea_fitness(population.scores), rtol=1e-9)
        left += not np.array_equal(stayed, before)
    assert len(population) == 40
    assert left > 20


def test_fitness_follows_ranges_that_shrink():
    """Scores fall by orders of magnitude; the order of the population remains that of IBEA, nearly."""
    draw = np.random.default_rng(2)
    population = SteadyPopulation(64, 1)
    overlaps = []
    for number in range(2000):
        population.add(np.zeros(1), 0.5 ** (number / 200) * draw.gamma(2.0, 5.0, 8))
        if number > 100 and number % 50 == 0:
            exact = ibea_fitness(population.scores)
            good, truly = (set(np.argsort(f)[:16].tolist()) for f in (population.fitness, exact))
            overlaps.append(len(good & truly))
    assert np.mean(overlaps) > 14
    assert population.scores.max() < 1.0


def test_a_result_far_outside_the_ranges_is_survived():
    population = SteadyPopulation(8, 1)
    draw = np.random.default_rng(3)
    for _ in range(8):
        population.add(np.zeros(1), 1.0 + 1e-6 * draw.random(4))
    with np.errstate(all="raise", under="ignore"):
        population.add(np.ones(1), np.full(4, 250.0))
    assert population.scores.max() < 2.0
    assert np.isfinite(population.fitness).all()


@pytest.mark.parametrize("workers", [1, 32])
def test_reaches_what_ibea_with_generations_reaches(space, workers):
    """Five seeds, 1,500 evaluations, no CMA-ES in either."""
    steady, generational = [], []
    for seed in range(1, 6):
        config = SteadyConfig(evaluations=1500, switch_fraction=1.0)
        steady.append(best(lead(make_steady_strategy(config, space, seed), workers)))
        config = FastConfig(evaluations=1500, switch_fraction=1.0)
        generational.append(best_total(evolve(make_strategy(config, space, seed), signed=False)))
    assert np.median(steady) < 1.2 * np.median(generational)


def test_polish_pays_with_many_under_way(space):
    """64 under way are four generations of CMA-ES; it hears of its draws late and still gets there."""
    with_polish, without = (
        [
            best(
                lead(
                    make_steady_strategy(SteadyConfig(evaluations=3000, switch_fraction=switch), space, seed),
                    64,
                )
            )
            for seed in (1, 2, 3)
        ]
        for switch in (None, 1.0)
    )
    assert np.median(with_polish) < 0.4 * np.median(without)


@pytest.mark.parametrize("workers", [1, 7, 300])
def test_budget_bounds_and_distinct_asks(space, workers):
    strategy = make_steady_strategy(SteadyConfig(evaluations=700), space, 5)
    phases = []
    arrivals = lead(strategy, workers, score=lambda p: (phases.append(strategy.phase), score(p))[1])
    assert strategy.finished
    assert strategy.evaluations == strategy.asked == len(arrivals) == 700 == strategy.planned_evaluations
    assert [phase for phase, _ in itertools.groupby(phases)] == ["search", "polish"]
    parameters = np.array([parameters for _, _, parameters, _ in arrivals])
    assert (parameters >= space.lower).all()
    assert (parameters <= space.upper).all()
    assert len(np.unique(parameters, axis=0)) == 700
    with pytest.raises(RuntimeError, match="nothing more"):
        strategy.ask()


def test_a_recorded_order_leads_to_the_same_individuals(space):
    config = SteadyConfig(evaluations=1200)
    arrivals = lead(make_steady_strategy(config, space, 3), 40)
    numbers = [asked for asked, *_ in arrivals]
    assert numbers != sorted(numbers)
    fresh, asks = make_steady_strategy(config, space, 3), []
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generators must not matter
    for asked, asked_before, parameters, scores in arrivals:
        while fresh.asked < asked_before:
            asks.append(fresh.ask())
        np.testing.assert_array_equal(asks[asked], parameters)
        fresh.tell(asked, parameters, scores)
    assert fresh.finished
    other = lead(make_steady_strategy(config, space, 3), 40, order=2)
    assert not np.array_equal(other[-1][2], arrivals[-1][2])


def test_seeds_differ(space):
    one, other = (make_steady_strategy(SteadyConfig(evaluations=400), space, seed).ask() for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_warm_individuals_are_asked_for_first(space):
    warm = np.full((200, 10), np.nan)
    warm[:, 2:] = TRUE_SHARE * UPPER[2:]
    config = SteadyConfig(evaluations=800, warm_share=0.5)
    strategy, cold = make_steady_strategy(config, space, 1, warm), make_steady_strategy(config, space, 1)
    for number in range(100):
        found, drawn = strategy.ask(), cold.ask()
        np.testing.assert_array_equal(found[:2], drawn[:2])
        np.testing.assert_array_equal(found[2:], warm[0, 2:] if number < 50 else drawn[2:])
    with pytest.raises(ValueError, match="warm_start of shape"):
        make_steady_strategy(SteadyConfig(), space, 1, warm[:, :4])


def test_a_settled_polish_begins_again_in_another_basin(space):
    """Two wells, 50 under way: draws of the run that ends must not call the next one back."""
    wells = np.full((2, 10), 0.25)
    wells[1] = 0.75

    def two_wells(parameters):
        distance = np.abs(space.to_unit(parameters) - wells).mean(axis=1)
        return np.minimum(distance * 100 + [1.0, 2.0], 250.0).min() * np.ones(3)

    strategy = make_steady_strategy(SteadyConfig(evaluations=9000, switch_fraction=0.044), space, 1)
    arrivals = lead(strategy, 50, score=two_wells)
    centres = np.array([space.to_unit(parameters).mean() for _, _, parameters, _ in arrivals])
    assert np.isclose(centres, 0.25, atol=0.02).sum() > 100
    assert np.isclose(centres, 0.75, atol=0.02).sum() > 100


def test_it_ends_when_no_other_basin_is_left(space):
    strategy = make_steady_strategy(SteadyConfig(evaluations=12000), space, 1)
    arrivals = lead(strategy, 50, score=lambda p: np.abs(space.to_unit(p) - 0.3).mean() * 100 * np.ones(3))
    assert strategy.finished
    assert strategy.evaluations == strategy.asked == len(arrivals) < 12000
    assert best(arrivals) < 1.0


def test_wrong_results_are_refused(space):
    strategy = make_steady_strategy(SteadyConfig(evaluations=400), space, 1)
    first = strategy.ask()
    scores = score(first)
    for asked, parameters, told, message in [
        (1, first, scores, "ask 1; 1 were made"),
        (-1, first, scores, "ask -1"),
        (0, first[:-1], scores, "shape"),
        (0, first, scores[:0], "shape"),
        (0, first, scores * np.nan, "not finite"),
        (0, first - 1e3, scores, "outside the bounds"),
    ]:
        with pytest.raises(ValueError, match=message):
            strategy.tell(asked, parameters, told)
    strategy.tell(0, first, scores)
    with pytest.raises(InputError, match="at least one generation"):
        make_steady_strategy(SteadyConfig(evaluations=20), space, 1)
