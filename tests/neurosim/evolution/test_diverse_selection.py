"""Halls of fame of good and different models."""

from itertools import combinations

import numpy as np
import pytest

from neurofleet.neurosim.evolution import (
    HallOfFame,
    ParameterSpace,
    select_diverse,
    select_over_seeds,
    spread_of,
    tolerated_total,
)
from neurofleet.neurosim.evolution.diverse_selection import NEAR, distances


def narrowest(unit: np.ndarray) -> float:
    return float(distances(unit, unit)[np.triu_indices(len(unit), 1)].min())


def test_chosen_models_are_within_the_limit_and_about_as_far_apart_as_any_can_be():
    draw = np.random.default_rng(1)
    for _ in range(20):
        unit, totals = 0.4 * draw.random((12, 3)), draw.uniform(20.0, 40.0, 12)
        limit = float(np.sort(totals)[8])
        good, best = np.flatnonzero(totals <= limit), int(totals.argmin())
        chosen = select_diverse(unit, totals, 4, limit)
        widest = max(narrowest(unit[list(some)]) for some in combinations(good, 4) if best in some)
        assert totals[chosen[0]] == totals.min()
        assert (np.diff(totals[chosen]) >= 0).all()
        assert len(set(chosen)) == 4
        assert totals[chosen].max() <= limit
        assert narrowest(unit[chosen]) >= min(0.9 * widest / 2, 0.1)


def test_of_dense_basins_each_is_represented_and_a_bad_one_only_where_it_is_asked_for():
    draw = np.random.default_rng(2)
    centres = np.array([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8], [0.9, 0.9]])
    unit = np.concatenate([centre + 0.01 * draw.standard_normal((50, 2)) for centre in centres])
    basin = np.repeat([0, 1, 2, 3], 50)
    totals = np.array([10.0, 12.0, 11.0, 30.0])[basin] + draw.random(200)
    assert set(basin[select_diverse(unit, totals, 3, 14.0)]) == {0, 1, 2}
    of_the_bad = int(np.flatnonzero(basin == 3)[totals[basin == 3].argmin()])
    chosen = select_diverse(unit, totals, 4, 14.0, kept=[of_the_bad])
    assert set(basin[chosen]) == {0, 1, 2, 3}
    assert chosen[-1] == of_the_bad


def test_each_seed_has_its_part_of_half_the_places_and_the_good_ones_the_rest():
    draw = np.random.default_rng(6)
    seeds = np.repeat([1, 2, 3, 4], 40)
    unit = draw.random((4, 6))[seeds - 1] + 0.05 * draw.standard_normal((160, 6))
    totals = np.array([30.0, 31.0, 60.0, 90.0])[seeds - 1] + draw.random(160)
    chosen = select_over_seeds(unit, totals, seeds, 24, objectives=25, tolerance=0.25)
    counts = {int(seed): int((seeds[chosen] == seed).sum()) for seed in (1, 2, 3, 4)}
    assert counts[3] == counts[4] == 3
    assert counts[1] + counts[2] == 18
    assert min(counts[1], counts[2]) >= 3
    assert narrowest(unit[chosen]) >= NEAR
    alone = np.flatnonzero(seeds == 1)
    expected = select_diverse(unit[alone], totals[alone], 5, tolerated_total(totals[alone].min(), 25, 0.25))
    found = select_over_seeds(unit[alone], totals[alone], seeds[alone], 5, objectives=25, tolerance=0.25)
    assert found.tolist() == expected.tolist()


def test_too_few_good_models_are_made_up_for_by_the_best_that_are_no_copies():
    unit = np.array([[0.5, 0.5], [0.51, 0.5], [0.9, 0.5], [0.9, 0.51], [0.1, 0.5]])
    totals = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert select_diverse(unit, totals, 3, 1.5).tolist() == [0, 2, 4]
    assert select_diverse(unit, totals, 9, 1.5).tolist() == [0, 1, 2, 3, 4]
    assert select_diverse(unit[:0], totals[:0], 3, 1.5).tolist() == []


def test_a_model_as_close_as_the_cell_itself_is_as_good_as_the_best():
    assert tolerated_total(20.0, 20, 0.25) == pytest.approx(25.0)
    assert tolerated_total(4.0, 20, 0.25) == pytest.approx(16.0)
    z = np.abs(np.random.default_rng(3).standard_normal((4000, 20)))
    assert z.sum(axis=1).mean() == pytest.approx(tolerated_total(0.0, 20, 0.25), rel=0.01)


def test_a_hall_of_fame_with_a_tolerance_keeps_all_that_are_as_good_in_any_order():
    space = ParameterSpace.from_bounds(("a", "b"), np.zeros(2), np.ones(2))
    draw = np.random.default_rng(4)
    parameters, scores = draw.random((300, 2)), draw.uniform(1.0, 3.0, (300, 5))
    totals = scores.sum(axis=1)
    halls = []
    for order in (np.arange(300), np.arange(300)[::-1]):
        hall = HallOfFame(4, tolerance=0.5)
        for generation in order:
            hall.update(parameters[[generation]], scores[[generation]], int(generation))
        halls.append([(entry.generation, entry.total) for entry in hall.entries])
        assert len(hall) == max(4, int((totals <= totals.min() + 2.5).sum()))
        kept = [hall.entries[i] for i in hall.most_different(4, space)]
        assert kept[0].total == pytest.approx(totals.min())
        assert narrowest(np.array([entry.parameters for entry in kept])) > NEAR
    assert halls[0] == halls[1]


def test_the_spread_of_made_clouds():
    draw = np.random.default_rng(5)
    line = np.outer(np.linspace(0.0, 1.0, 200), np.ones(8))
    assert spread_of(line).effective_dimensions == pytest.approx(1.0)
    ball = 0.5 + 0.1 * draw.standard_normal((4000, 8))
    spread = spread_of(ball[:1000])
    assert spread.effective_dimensions == pytest.approx(8.0, rel=0.02)
    assert spread.by_parameter == pytest.approx([0.1] * 8, rel=0.1)
    assert spread.median_distance == pytest.approx(0.1 * np.sqrt(2.0), rel=0.05)
    assert not spread.copies
    four = np.repeat(draw.random((4, 8)), 10, axis=0) + 0.001 * draw.standard_normal((40, 8))
    spread = spread_of(four)
    assert (spread.distinct, spread.copies) == (4, True)
    assert spread.near_share == pytest.approx(4 * 45 / 780)
    alone = spread_of(ball[:1])
    assert (alone.models, alone.median_distance, alone.effective_dimensions, alone.copies) == (1, 0.0, 0.0, False)
