"""The `fast` strategy, and what all strategies promise."""

import itertools
import random

import numpy as np
import pytest
from cmaes import CMA

from neurofleet.errors import InputError
from neurofleet.neurosim.evolution import (
    FastConfig,
    MultiObjectiveCMAESConfig,
    PaperConfig,
    ParameterSpace,
    ParetoConfig,
    log_axes,
    make_strategy,
    spread_of,
    total_scores,
)
from neurofleet.neurosim.evolution.cma_es import _sampler_class
from neurofleet.neurosim.evolution.pareto_selection import reference_points, select_pareto
from neurofleet.neurosim.evolution.residual_search import KalmanSearch, residual_columns

N_ACTIVE = 8
NAMES = ("cm.soma", "e_pas.all") + tuple(f"gbar_{channel}.soma" for channel in "ABCDEFGH")
LOWER = np.array([0.1, -110.0] + [0.0] * N_ACTIVE)
UPPER = np.array([10.0, -60.0, 5.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])
TRUE_SHARE = np.array([2e-3, 5e-2, 8e-4, 1e-2, 3e-3, 2e-1, 4e-4, 3e-2])  # of the upper bound


def cell_like_scores(parameters):
    """Twelve objectives as a cell has them: silent (250) where several conductances are large at once.

    Elsewhere each objective mixes a few parameters on their natural (logarithmic) scale.
    """
    return cell_like(parameters)[0]


def cell_like(parameters):
    """Scores, and the signed deviations behind them, which are missing where the cell is silent."""
    passive = (parameters[:, :2] - [1.2, -85.0]) / [0.6, 5.0]
    share = parameters[:, 2:] / UPPER[2:]
    active = np.log10(np.maximum(share, 1e-6) / TRUE_SHARE)
    deviation = np.concatenate([passive, active], axis=1)
    mix = np.random.default_rng(5).normal(size=(12, 10)) * (np.random.default_rng(6).random((12, 10)) < 0.4)
    residuals = 8 * deviation @ mix.T
    scores = np.minimum(np.abs(residuals) + np.abs(deviation).mean(axis=1, keepdims=True), 250.0)
    silent = share[:, :4].sum(axis=1) > 0.5
    return np.where(silent[:, None], 250.0, scores), np.where(silent[:, None], np.nan, residuals)


@pytest.fixture(scope="module")
def space() -> ParameterSpace:
    return ParameterSpace.from_bounds(NAMES, LOWER, UPPER)


def evolve(strategy, generations=None, signed=True):
    """Lead a strategy to its end, or through some generations; returns what was asked and told."""
    history = []
    while not strategy.finished and (generations is None or len(history) < generations):
        phase, parameters = strategy.phase, strategy.ask()
        scores, residuals = cell_like(parameters)
        strategy.tell(parameters, scores, residuals if signed else None)
        history.append((phase, parameters, scores))
    return history


def best_total(history):
    return min(total_scores(scores).min() for _, _, scores in history)


CONFIGS = {
    "paper": PaperConfig(offspring=32, generations=30),
    "fast": FastConfig(evaluations=960, offspring=32, polish_population=16, residual_share=0.7),
    "nsga2": ParetoConfig(evaluations=960, offspring=34, selector="nsga2"),
    "nsga3": ParetoConfig(evaluations=960, offspring=34, selector="nsga3"),
    "mo-cma-es": MultiObjectiveCMAESConfig(evaluations=960, offspring=32),
}
PHASES = {"paper": {"evolution"}, "fast": {"search", "residuals", "polish"}}


@pytest.mark.parametrize("selector", ["nsga2", "spea2", "nsga3"])
def test_deaps_selectors_keep_the_front_and_draw_from_the_given_generator(selector):
    draw = np.random.default_rng(7)
    x = np.linspace(0.0, 1.0, 11)
    front = np.stack([x, 1.0 - x], axis=1)
    scores = np.concatenate([front + 0.2 + 0.1 * draw.random((11, 2)), front])
    random.seed(1)
    before = random.getstate()
    survivors, parents = select_pareto(scores, 11, selector, random.Random(3))
    assert random.getstate() == before
    assert sorted(survivors) == list(range(11, 22))
    assert len(parents) == 11
    assert set(parents) <= set(survivors)
    random.seed(2)
    assert select_pareto(scores, 11, selector, random.Random(3)) == (survivors, parents)
    assert select_pareto(scores, 11, selector, random.Random(4))[1] != parents
    few, _ = select_pareto(scores + [0.0, 100.0], 4, selector, random.Random(3))
    assert {11, 21} <= set(few)  # the ends of the front
    assert selector != "nsga3" or sorted(few) == [11, 14, 18, 21]  # who is closest to each of four reference points


def test_there_are_about_as_many_reference_points_as_models():
    assert [len(reference_points(objectives, 64)) for objectives in (1, 2, 3, 12, 25, 40)] == [1, 64, 66, 90, 50, 80]
    points = reference_points(25, 64)
    np.testing.assert_allclose(points.sum(axis=1), 1.0)
    np.testing.assert_allclose(points[:25], np.eye(25)[::-1])
    np.testing.assert_allclose(points[25:], (np.eye(25)[::-1] + 1 / 25) / 2)


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "mo-cma-es"])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_one_objective_is_searched_too_and_equal_scores_are_no_error(space, name, noise):
    strategy, draw = make_strategy(CONFIGS[name], space, 1), np.random.default_rng(1)
    for _ in range(4):
        parameters = strategy.ask()
        strategy.tell(parameters, 250.0 - noise * draw.random((len(parameters), 1)))
    assert len(strategy.ask()) == CONFIGS[name].offspring


def test_axes_follow_the_names():
    names = ("cm.soma", "Ra.all", "e_pas.all", "gbar_Ih.dend", "gIhbar_Ih.basal", "gbar_NaTa_t.axon")
    names += ("gNaTa_tbar_NaTa_t.axonal", "gnabar_hh.soma", "gamma_CaDynamics.soma", "decay_CaDynamics.axon")
    lower, upper = np.full(len(names), 0.5), np.ones(len(names))
    assert log_axes(names, lower, upper).tolist() == [False] * 5 + [True] * 5
    assert log_axes(["g_pas.all", "cm.all"], np.array([1e-7, 0.5]), np.array([1e-2, 10])).tolist() == [
        True,
        False,
    ]
    assert not log_axes(["gbar_X.soma"], np.array([-1.0]), np.array([1.0])).any()


def test_log_axes_start_at_a_ten_thousandth_of_the_upper_bound():
    names = ("gbar_A.soma", "gbar_B.soma", "decay_C.soma", "e_pas.all")
    space = ParameterSpace.from_bounds(names, np.array([0, 1e-7, 20, -110]), np.array([5, 0.01, 1000, -60]))
    np.testing.assert_allclose(space.from_unit(np.zeros(4)), [5e-4, 1e-6, 20, -110], rtol=1e-12)
    np.testing.assert_allclose(space.from_unit(np.full(4, 0.5)), [0.05, 1e-4, 20000**0.5, -85], rtol=1e-12)
    np.testing.assert_allclose(space.from_unit(np.ones(4)), space.upper, rtol=1e-12)
    assert space.to_unit(np.array([0.0, 0.0, 20.0, -200.0])).tolist() == [0.0, 0.0, 0.0, 0.0]
    unit = np.random.default_rng(1).uniform(size=(50, 4))
    np.testing.assert_allclose(space.to_unit(space.from_unit(unit)), unit, atol=1e-12)


@pytest.mark.parametrize(
    ("lower", "upper", "log", "message"),
    [
        ([1.0, 0.0], [0.5, 1.0], [False, False], "Parameter a: bounds"),
        ([0.0, 0.0], [np.inf, 1.0], [False, False], "finite"),
        ([-1.0, 0.0], [1.0, 1.0], [True, False], "log axis cannot start below zero"),
        ([0.0], [1.0], [False], "shape"),
    ],
)
def test_impossible_spaces_are_refused(lower, upper, log, message):
    with pytest.raises(InputError, match=message):
        ParameterSpace(("a", "b"), np.array(lower), np.array(upper), np.array(log))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reaches_what_the_paper_strategy_does_not(space, seed):
    paper = evolve(make_strategy(PaperConfig(offspring=100, generations=16), space, seed))
    fast = evolve(make_strategy(FastConfig(evaluations=1600), space, seed))
    assert best_total(fast) < 0.1 * best_total(paper)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_replayed_history_goes_on_identically(space, name):
    """A fresh strategy, fed any number of stored generations, asks for exactly what the first asked for."""
    history = evolve(make_strategy(CONFIGS[name], space, 11))
    phases = [phase for phase, _, _ in history]
    assert set(phases) == PHASES.get(name, {"search"})
    for stored in {0, 1, 4, phases.count(phases[0]), phases.count(phases[0]) + 5, len(history) - 1}:
        fresh = make_strategy(CONFIGS[name], space, 11)
        for _, parameters, scores in history[:stored]:
            fresh.ask()
            fresh.tell(parameters, scores, cell_like(parameters)[1])
        random.seed(stored)
        np.random.seed(stored)  # noqa: NPY002 - the global generators must not matter
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        rest = evolve(fresh)
        assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
        for (_, expected, _), (_, found, _) in zip(history[stored:], rest, strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(fresh.candidates(20)[0], history_best(history))


def test_signs_save_evaluations(space):
    def median(signed):
        config = FastConfig(evaluations=640)
        return np.median([best_total(evolve(make_strategy(config, space, seed), signed=signed)) for seed in (1, 2, 3)])

    assert median(True) < 0.5 * median(False)


@pytest.mark.parametrize("evaluations", [960, 3000])
def test_without_signs_ibea_and_cma_es_search_alone(space, evaluations):
    """As `fast` did before it learnt from signs; and so do searches go on whose generations were stored without."""
    config = FastConfig(evaluations=evaluations)
    before = evolve(make_strategy(config, space, 4), signed=False)
    assert {phase for phase, *_ in before} <= {"search", "polish", "spread"}
    by_ibea = sum(len(parameters) for phase, parameters, _ in before if phase == "search")
    assert config.switch * evaluations - config.offspring_for(10) < by_ibea <= config.switch * evaluations

    none_has_a_sign, stored_without = (make_strategy(config, space, 4) for _ in range(2))
    for generation, (phase, parameters, scores) in enumerate(before):
        for strategy in (none_has_a_sign, stored_without):
            assert strategy.phase == phase
            np.testing.assert_array_equal(strategy.ask(), parameters)
        none_has_a_sign.tell(parameters, scores, np.full(scores.shape, np.nan))
        stored_without.tell(parameters, scores, cell_like(parameters)[1] if generation >= 2 else None)
    assert none_has_a_sign.learns_from_residuals
    assert not stored_without.learns_from_residuals


def test_a_model_without_a_residual_lacks_the_feature_if_any_model_had_one():
    none = np.nan
    search = KalmanSearch(np.random.default_rng(1), 3)
    unit = np.linspace(0.1, 0.9, 5)[:, None]
    scores = np.array([[180.0, 20.0, 5.0], [6.0, 20.0, 4.0], [2.0, 20.0, 3.0], [5.0, 1.0, 250.0], [0.5, 20.0, 0.5]])
    residuals = np.array([[none] * 3, [-6.0, none, none], [2.0, none, none], [5.0, -1.0, none], [0.5, none, none]])
    for rows in (slice(0, 2), slice(2, 5)):
        search.add(unit[rows], scores[rows], residuals[rows], scores[rows].sum(axis=1))
    assert search.unit.ravel().tolist() == pytest.approx([0.9, 0.5, 0.3])
    # of the second, only a model that was not kept had a residual; the third never has a sign
    assert search._targets().tolist() == [[0.5, 0.0, 0.5, 60.0], [2.0, 0.0, 3.0, 60.0], [-6.0, 0.0, 4.0, 60.0]]
    found, missing = residual_columns(scores, residuals, search.signed)
    assert missing.tolist() == [[True, True, False], [False, True, False], [False, True, False]] + [
        [False, False, True],
        [False, True, False],
    ]
    assert found[1:, 0].tolist() == [-6.0, 2.0, 5.0, 0.5]


def test_a_search_with_signs_that_has_settled_begins_again(space):
    strategy, draw, told = make_strategy(FastConfig(evaluations=3200), space, 1), np.random.default_rng(1), []
    judged = []
    while not strategy.finished:
        told.append(strategy.phase)
        judged.append((strategy.phase, strategy.evaluations, strategy.judged_from))
        parameters = strategy.ask()
        scores = draw.uniform(5.0, 5.01, size=(len(parameters), 3))  # nothing is ever better
        strategy.tell(parameters, scores, scores)
    phases = [phase for phase, _ in itertools.groupby(told)]
    assert phases[:4] == ["search", "residuals"] * 2
    assert phases[-2:] == ["polish", "spread"]
    begun = [at for (before, *_), (phase, at, _) in itertools.pairwise(judged) if before == "residuals" != phase]
    rounds = [(at, since) for phase, at, since in judged if phase in ("search", "residuals")]
    assert [since for at, since in rounds] == [0 if at <= begun[0] or at in begun else at for at, _ in rounds]
    assert {since for phase, _, since in judged if phase in ("polish", "spread")} == {begun[-1]}


def history_best(history):
    parameters = np.concatenate([parameters for _, parameters, _ in history])
    totals = np.concatenate([total_scores(scores) for _, _, scores in history])
    return parameters[totals.argmin()]


@pytest.mark.parametrize("name", CONFIGS)
def test_seeds_differ_and_repeat(space, name):
    one, again, other = (evolve(make_strategy(CONFIGS[name], space, seed), 3) for seed in (1, 1, 2))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0][1], other[0][1])


@pytest.mark.parametrize("name", CONFIGS)
def test_individuals_stay_inside_the_bounds_and_the_budget(space, name):
    strategy = make_strategy(CONFIGS[name], space, 5)
    history = evolve(strategy)
    parameters = np.concatenate([parameters for _, parameters, _ in history])
    assert (parameters >= space.lower).all()
    assert (parameters <= space.upper).all()
    assert 0.9 * 960 <= len(parameters) == strategy.evaluations <= strategy.planned_evaluations == 960
    assert strategy.generation == len(history)
    with pytest.raises(RuntimeError, match="finished"):
        strategy.ask()


def test_the_last_share_of_the_budget_finds_out_how_far_parameters_may_go(space):
    """Three parameters change nothing: models that are as good are spread over their axes."""
    found = {}
    for share in (0.0, 0.25):
        config = FastConfig(evaluations=3000, offspring=32, polish_population=16, spread_share=share)
        strategy = make_strategy(config, space, 2)
        phases = []
        while not strategy.finished:
            phases.append(strategy.phase)
            parameters = strategy.ask()
            effective = parameters.copy()
            effective[:, -3:] = TRUE_SHARE[-3:] * UPPER[-3:]
            strategy.tell(parameters, cell_like_scores(effective))
        assert phases == sorted(phases, key=["search", "polish", "spread"].index)
        assert phases.count("spread") * 16 == pytest.approx(share * 3000, abs=32)
        kept = strategy.candidates(10)
        effective = kept.copy()
        effective[:, -3:] = TRUE_SHARE[-3:] * UPPER[-3:]
        assert total_scores(cell_like_scores(effective)).max() <= 0.8 * 12  # as good as the cell itself would be
        found[share] = spread_of(space.to_unit(kept))
    assert found[0.25].distinct == 10
    assert min(found[0.25].by_parameter[-3:]) > 0.2 > 2 * max(found[0.25].by_parameter[:-3])
    assert found[0.25].median_distance > 1.5 * found[0.0].median_distance
    defaults = [FastConfig(), FastConfig(tolerance=0.0), FastConfig(evaluations=2999)]
    assert [config.spread for config in defaults] == [0.25, 0.0, 0.0]


@pytest.mark.parametrize("budget", [64, 150, 400])
def test_small_budgets_are_spent_sensibly(space, budget):
    strategy = make_strategy(FastConfig(evaluations=budget), space, 1)
    history = evolve(strategy)
    assert 0.7 * budget <= strategy.evaluations <= budget
    assert {phase for phase, _, _ in history} == {"search", "residuals"}
    assert best_total(history) < total_scores(history[0][2]).min()


def test_ask_and_tell_keep_to_their_contract(space):
    strategy = make_strategy(FastConfig(evaluations=400, offspring=32, switch_fraction=0.5), space, 1)
    with pytest.raises(RuntimeError, match="without ask"):
        strategy.tell(np.zeros((1, 10)), np.zeros((1, 3)))
    first = strategy.ask()
    size = len(first)
    np.testing.assert_array_equal(strategy.ask(size), first)  # the same until it is told
    with pytest.raises(ValueError, match=f"{size} individuals, 7 were asked"):
        strategy.ask(7)
    scores = cell_like_scores(first)
    for parameters, told, message in [
        (first[:-1], scores[:-1], "shape"),
        (first, scores[:-1], "shape"),
        (first, np.where(scores == scores.max(), np.nan, scores), "not finite"),
        (first - 1e3, scores, "outside the bounds"),
    ]:
        with pytest.raises(ValueError, match=message):
            strategy.tell(parameters, told)
    strategy.tell(first, scores)
    assert strategy.ask().shape == (32, 10)


def test_what_is_told_counts(space):
    """Individuals that came back a rounding error away, as from another machine, are carried on with."""
    one, other = (make_strategy(CONFIGS["fast"], space, 3) for _ in range(2))
    for _ in range(5):
        for strategy, nudge in ((one, 1.0), (other, 1.0 - 1e-15)):
            parameters = np.clip(strategy.ask() * nudge, space.lower, space.upper)
            strategy.tell(parameters, cell_like_scores(parameters))
    np.testing.assert_allclose(one.ask(), other.ask(), rtol=1e-6)


def test_a_settled_polish_begins_again_in_another_basin_or_ends():
    """A landscape of two wells: the second is tried when the first is exhausted, and then nothing is left."""
    space = ParameterSpace.from_bounds(NAMES[:4], LOWER[:4], UPPER[:4])
    wells = np.full((2, 4), 0.25)
    wells[1] = 0.75

    def scores(parameters):
        distance = np.abs(space.to_unit(parameters)[:, None, :] - wells).mean(axis=2)
        return np.minimum(distance * 100 + [1.0, 2.0], 250.0).min(axis=1)[:, None] * np.ones(3)

    strategy = make_strategy(FastConfig(evaluations=20000, switch_fraction=0.02), space, 1)
    centres = []
    while not strategy.finished:
        parameters = strategy.ask()
        if strategy.phase == "polish":
            centres.append(space.to_unit(parameters).mean())
        strategy.tell(parameters, scores(parameters))
    assert strategy.evaluations < 20000
    assert np.isclose(centres, 0.25, atol=0.02).any()
    assert np.isclose(centres, 0.75, atol=0.02).any()


def test_warm_individuals_are_scored_first(space):
    warm = np.full((200, 10), np.nan)
    warm[:, 2:] = TRUE_SHARE * UPPER[2:]
    strategy = make_strategy(FastConfig(evaluations=800, warm_share=0.5), space, 1, warm)
    first = strategy.ask()
    cold = make_strategy(FastConfig(evaluations=800), space, 1).ask()
    half = len(first) // 2
    np.testing.assert_array_equal(first[:half, 2:], warm[:half, 2:])
    np.testing.assert_array_equal(first[:half, :2], cold[:half, :2])
    np.testing.assert_array_equal(first[half:], cold[half:])
    with pytest.raises(ValueError, match="warm_start of shape"):
        make_strategy(FastConfig(), space, 1, warm[:, :4])


@pytest.mark.parametrize(
    "settings",
    [
        {"evaluations": 3},
        {"offspring": 2},
        {"switch_fraction": 0.0},
        {"polish_sigma": 2.0},
        {"warm_share": 1.5},
        {"residual_share": -0.5},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError, match="evolution: expected"):
        FastConfig(**settings)


def test_a_budget_below_one_generation_is_refused(space):
    with pytest.raises(InputError, match="at least one generation"):
        make_strategy(FastConfig(evaluations=20), space, 1)


def test_candidates_are_distinct_and_best_first(space):
    strategy = make_strategy(CONFIGS["fast"], space, 2)
    evolve(strategy)
    candidates = strategy.candidates(40)
    totals = total_scores(cell_like_scores(candidates))
    assert len(np.unique(candidates, axis=0)) == 40
    assert (np.diff(totals) >= 0).all()


def test_cma_es_draws_what_the_library_draws():
    options = {"mean": np.full(5, 0.2), "sigma": 0.3, "bounds": np.tile([0.0, 1.0], (5, 1)), "seed": 3}
    ours, theirs = _sampler_class()(**options), CMA(**options)
    for _ in range(20):
        both = [[run.ask() for _ in range(run.population_size)] for run in (ours, theirs)]
        np.testing.assert_array_equal(*both)
        for run, drawn in zip((ours, theirs), both, strict=True):
            run.tell([(x, float(((x - 0.9) ** 2).sum())) for x in drawn])
