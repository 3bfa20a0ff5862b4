"""The sampler on densities that are known, and its diagnostics on chains that are known."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import truncnorm

from neurofleet.neurosim.studies.posterior_sampling import (
    PosteriorSampler,
    Step,
    autocorrelation_time,
    convergence,
    effective_share,
    kept_steps,
    log_density,
    split_rhat,
    spread_draws,
    start_points,
)

MEAN, STD = np.array([0.5, 0.5, 0.1]), np.array([0.3, 0.05, 0.1])
BEGINNING = 40


def scores(unit: np.ndarray) -> np.ndarray:
    return np.abs((unit - MEAN) / STD)


def steps_of(sampler: PosteriorSampler, number: int, scores: Callable = scores) -> list[Step]:
    steps: list[Step] = []
    while len(steps) < number:
        steps += sampler.tell(scores(sampler.ask()))
    return steps


@pytest.fixture(scope="module")
def chain() -> list[Step]:
    start = np.random.default_rng(3).random((24, 3))
    return steps_of(PosteriorSampler(start, 1, BEGINNING), 1500)


def test_the_moments_of_a_normal_density_in_a_box_come_out(chain):
    unit = np.stack([step.unit for step in chain[kept_steps(len(chain), BEGINNING)]])
    expected = truncnorm((0 - MEAN) / STD, (1 - MEAN) / STD, MEAN, STD)
    found = convergence(unit)
    error = expected.std() / np.sqrt(found.effective)
    assert found.effective.min() > 500
    assert found.rhat.max() < 1.05
    assert np.all(np.abs(unit.mean(axis=(0, 1)) - expected.mean()) < 4 * error)
    assert unit.std(axis=(0, 1)) == pytest.approx(expected.std(), rel=0.1)
    assert all(((0 <= step.unit) & (step.unit <= 1)).all() for step in chain)


def test_the_beginning_is_tempered_and_what_lies_outside_is_not_evaluated(chain):
    assert chain[0].warmest > 10
    sampler = PosteriorSampler(chain[0], 0, BEGINNING)
    temperatures = [sampler.temperature(step) for step in range(1, BEGINNING + 3)]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[-2:] == [1.0, 1.0]
    energies = [-log_density(step.scores).mean() for step in chain]
    assert energies[0] > energies[BEGINNING // 2] > np.mean(energies[-100:])
    assert all(step.evaluations <= 24 for step in chain)
    assert sum(step.evaluations for step in chain) < 0.95 * 24 * len(chain)


def test_a_chain_that_goes_on_from_any_stored_step_is_the_uninterrupted_one(chain):
    for number in (0, 17, 700):
        stored = chain[number]
        state = json.loads(json.dumps(stored.state()))
        again = steps_of(PosteriorSampler(Step.resumed(state, stored.unit, stored.scores), 9, BEGINNING), 30)
        for step, before in zip(again, chain[number + 1 :], strict=False):
            assert step.unit.tobytes() == before.unit.tobytes()
            assert step.scores.tobytes() == before.scores.tobytes()
            assert (step.number, step.evaluations, step.state()) == (before.number, before.evaluations, before.state())


def test_a_chain_goes_on_before_a_step_in_which_nothing_was_evaluated():
    start = np.random.default_rng(3).random((6, 3))
    flat = steps_of(PosteriorSampler(start, 1, BEGINNING), 400, np.zeros_like)
    outside = [step.number for step in flat if not step.evaluations]
    assert len(outside) > 3
    for number in outside:
        stored = flat[number - 1]
        resumed = PosteriorSampler(Step.resumed(stored.state(), stored.unit, stored.scores), 9, BEGINNING)
        again = steps_of(resumed, 3, np.zeros_like)
        assert [step.number for step in again[:3]] == [number, number + 1, number + 2]
        for step, before in zip(again, flat[number:], strict=False):
            assert step.state() == before.state()
            assert step.unit.tobytes() == before.unit.tobytes()


def test_walkers_start_from_the_hall_of_fame_then_from_other_models_of_all_seeds_then_around_them():
    draw = np.random.default_rng(1)
    hall = draw.random((4, 3))
    unit = np.concatenate([hall, 0.2 * draw.random((10, 3)), 0.8 + 0.2 * draw.random((10, 3))])
    totals, seeds = np.arange(24.0), np.repeat([1, 1, 2], [4, 10, 10])
    start = start_points(hall, unit, totals, seeds, 12, 3, 1)
    assert start[:4].tolist() == hall.tolist()
    assert {tuple(point) for point in start} <= {tuple(point) for point in unit}
    assert (start[4:] > 0.8).all(axis=1).any(), "models of the second seed are among them"
    few = start_points(hall[[0, 0, 1]], unit[:0], totals[:0], seeds[:0], 8, 3, 1)
    assert len(np.unique(few, axis=0)) == 8
    assert ((few >= 0) & (few <= 1)).all()


def test_rhat_and_effective_draws_of_known_chains():
    draw = np.random.default_rng(2)
    independent = draw.standard_normal((400, 20))
    assert split_rhat(independent) == pytest.approx(1.0, abs=0.01)
    assert split_rhat(independent + np.arange(20) % 2) > 1.1, "two groups that stay apart"
    assert split_rhat(independent * (1 + np.arange(20) % 2 * 4)) > 1.1, "equal means, unequal widths"
    assert split_rhat(independent + np.linspace(0, 2, 400)[:, None]) > 1.1, "a drift"
    assert split_rhat(np.ones((400, 20))) == split_rhat(independent[:3]) == np.inf
    assert autocorrelation_time(independent) == pytest.approx(1.0, abs=0.2)
    slow = np.zeros((4000, 20))
    for i in range(1, len(slow)):
        slow[i] = 0.9 * slow[i - 1] + draw.standard_normal(20)
    assert autocorrelation_time(slow) == pytest.approx((1 + 0.9) / (1 - 0.9), rel=0.15)
    stuck = np.tile(draw.standard_normal(20), (50, 1))
    assert convergence(stuck[:, :, None]).effective == pytest.approx(20), "a walker that never moves is one draw"


def test_draws_lie_evenly_in_the_chain_and_weights_tell_how_many_are_left():
    steps, walkers = spread_draws(50, 8, 100, 1)
    assert len({*zip(steps.tolist(), walkers.tolist(), strict=True)}) == 100
    assert np.histogram(steps, bins=5, range=(0, 50))[0].tolist() == pytest.approx([20] * 5, abs=1)
    assert len(spread_draws(2, 8, 100, 1)[0]) == 16
    assert effective_share(np.zeros(5)) == 1.0
    assert effective_share(np.array([0.0, -800.0])) == 0.5
