"""The sampler on densities that are known, and its diagnostics on chains that are known."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import truncnorm
from sklearn.neural_network import MLPRegressor

from neurofleet.neurosim.studies import posterior_sampling
from neurofleet.neurosim.studies.posterior_sampling import (
    PosteriorSampler,
    Step,
    Surrogate,
    autocorrelation_time,
    convergence,
    drawn_steps,
    effective_share,
    half_shift,
    log_density,
    nested_rhat,
    next_power,
    resampled,
    spread_draws,
)

MEAN, STD = np.array([0.5, 0.5, 0.1]), np.array([0.3, 0.05, 0.1])
PARTICLES, SWEEPS = 48, 2


def scores(unit: np.ndarray) -> np.ndarray:
    return np.abs((unit - MEAN) / STD)


def two_basins(unit: np.ndarray) -> np.ndarray:
    """A deep and narrow basin, and a wide one with three times its mass; one score that has their density."""
    narrow, wide = (-0.5 * (((unit - at) / std) ** 2).sum(axis=1) for at, std in ((0.25, 0.05), (0.75, 0.1)))
    ratio = np.log(3.0 / 2.0 ** unit.shape[1])
    return np.sqrt(-2.0 * (np.logaddexp(narrow, wide + ratio) - 0.1))[:, None]


def steps_of(density: Callable, last: int, seed: int = 1, sweeps: int = SWEEPS) -> list[Step]:
    sampler = PosteriorSampler(PARTICLES, 3, seed, sweeps=sweeps)
    steps: list[Step] = []
    while sum(step.last for step in steps) < last:
        steps.append(sampler.tell(density(sampler.ask())))
    return steps


@pytest.fixture(scope="module")
def chain() -> list[Step]:
    return steps_of(scores, 60)


def test_the_moments_of_a_normal_density_in_a_box_come_out(chain):
    unit = np.stack([step.unit for step in drawn_steps(chain)])
    expected = truncnorm((0 - MEAN) / STD, (1 - MEAN) / STD, MEAN, STD)
    found = convergence(unit)
    error = expected.std() / np.sqrt(found.effective)
    assert found.effective.min() > 500
    assert found.rhat.max() < 1.05
    assert found.shift.max() < 0.2
    assert np.all(np.abs(unit.mean(axis=(0, 1)) - expected.mean()) < 4 * error)
    assert unit.std(axis=(0, 1)) == pytest.approx(expected.std(), rel=0.1)
    assert all(((0 <= step.proposed) & (step.proposed <= 1)).all() for step in chain)


def test_separated_basins_of_unequal_depth_keep_their_shares():
    drawn = np.concatenate([drawn_steps(steps_of(two_basins, 6, seed, 3))[-1].unit for seed in (1, 2)])
    in_wide = (drawn.mean(axis=1) > 0.5).mean()
    assert in_wide == pytest.approx(0.75, abs=0.16), "as a binomial of 96 would, within more than three deviations"


def test_where_the_network_predicts_far_too_low_a_density_particles_still_move(monkeypatch):
    predicted = Surrogate.log_density
    lower = MEAN[0]

    def blind(self, unit):
        return predicted(self, unit) - 30.0 * (unit[:, 0] < lower)

    monkeypatch.setattr(Surrogate, "log_density", blind)
    steps = steps_of(scores, 120)
    drawn = drawn_steps(steps)
    assert np.any([step.accepted for step in drawn], axis=0).all()
    below = np.mean([step.unit[:, 0] < lower for step in drawn])
    assert below == pytest.approx(0.5, abs=0.07)  # the density is symmetric about it


def test_the_power_rises_to_one_and_three_stages_at_it_come_before_the_draws(chain):
    powers = {step.stage: step.power for step in chain}
    assert list(powers.values()) == sorted(powers.values())
    assert powers[0] == 0.0 < powers[1] < 1.0
    full = [stage for stage, power in powers.items() if power == 1.0]
    assert {step.stage for step in chain if step.last} == {full[3]} == {chain[-1].stage}
    assert all(sum(step.stage == stage for step in chain) == 6 * SWEEPS for stage in full[:3])
    energies = [-log_density(step.scores).mean() for step in chain]
    assert energies[0] > 3 * np.mean(energies[-60:])
    rest = len(drawn_steps(chain))
    assert rest == 45, "a quarter of the last stage is left out"


def test_the_steps_are_the_same_on_any_number_of_cores(monkeypatch):
    monkeypatch.setattr(posterior_sampling, "_TOGETHER", 10)
    chains = []
    for cpus in (1, 3):
        monkeypatch.setattr(posterior_sampling, "_usable_cpus", lambda cpus=cpus: cpus)
        sampler = PosteriorSampler(PARTICLES, 3, 1, sweeps=SWEEPS)
        chains.append([sampler.tell(scores(sampler.ask())) for _ in range(4)])
    for one, several in zip(*chains, strict=True):
        assert np.array_equal(one.proposed, several.proposed)
    parts = chains[0][-1].proposed.reshape(-1, 3)
    assert len(np.unique(parts, axis=0)) == PARTICLES, "no two particles have the random numbers of another"


def test_an_interrupt_ends_the_training_of_a_network(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPRegressor, "_backprop", interrupted)
    unit = np.random.default_rng(1).random((50, 3))
    with pytest.raises(KeyboardInterrupt):
        posterior_sampling.Surrogate(unit, scores(unit), 1.0, 1)


def test_a_chain_that_goes_on_from_any_step_is_the_uninterrupted_one(chain):
    for number in (0, 4, len(chain) - 5):
        sampler = PosteriorSampler(PARTICLES, 3, 1, chain[: number + 1], sweeps=SWEEPS)
        for before in chain[number + 1 : number + 4]:
            step = sampler.tell(scores(sampler.ask()))
            assert step.unit.tobytes() == before.unit.tobytes()
            assert step.unit.dtype == step.proposed_scores.dtype == np.float32, "all the digits that are stored"
            assert step.proposed_scores.tobytes() == before.proposed_scores.tobytes()
            assert (step.number, step.stage, step.power) == (before.number, before.stage, before.power)


def test_weights_of_the_next_stage_leave_six_in_ten_and_particles_survive_in_proportion():
    density = -np.linspace(0.0, 500.0, 200)
    power = next_power(0.01, density)
    assert effective_share((power - 0.01) * density) == pytest.approx(0.6, abs=0.001)
    assert next_power(0.9, density / 1000) == 1.0
    chosen = np.bincount(resampled(np.log([1.0, 2.0, 5.0, 1e-9] * 2), np.random.default_rng(1)), minlength=8)
    assert np.abs(chosen - np.array([1.0, 2.0, 5.0, 0.0] * 2) / 2).max() < 1


def test_rhat_and_effective_draws_of_known_chains():
    draw = np.random.default_rng(2)
    independent = draw.standard_normal((400, 20))
    assert nested_rhat(independent) == pytest.approx(1.0, abs=0.01)
    assert nested_rhat(independent + np.arange(20) % 2) > 1.1, "two groups that stay apart"
    assert nested_rhat(independent * (1 + np.arange(20) % 2 * 4)) > 1.1, "equal means, unequal widths"
    assert nested_rhat(independent + np.linspace(0, 2, 400)[:, None]) > 1.1, "a drift"
    drifting = independent + np.linspace(0, 0.5, 400)[:, None]
    assert nested_rhat(drifting) < 1.05, "a slower one, which all chains share, is not seen"
    none, shifted = half_shift(np.stack([independent, drifting], axis=2))
    assert none < 0.1
    assert shifted == pytest.approx(0.25, abs=0.1)
    assert half_shift(np.ones((3, 20, 1))) == np.inf
    assert nested_rhat(np.ones((400, 20))) == nested_rhat(independent[:3]) == np.inf
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
