"""What the hall of fame keeps."""

import numpy as np
import pytest

from neurofleet.neurosim.evolution import HallOfFame, total_scores


def test_holds_the_best_distinct_models_in_order():
    draw = np.random.default_rng(1)
    parameters = draw.uniform(size=(60, 3))
    parameters[40:] = parameters[:20]  # parents shown again with their children
    scores = np.abs(np.repeat(parameters.sum(axis=1)[:, None], 4, axis=1) - 1.0)
    hall = HallOfFame(10)
    for generation in range(3):
        rows = slice(20 * generation, 20 * generation + 20)
        hall.update(parameters[rows], scores[rows], generation)
    totals = [entry.total for entry in hall.entries]
    assert totals == sorted(set(total_scores(scores)))[:10]
    for entry in hall.entries:
        row = 20 * entry.generation + entry.individual
        assert row < 40  # the first time it was seen
        np.testing.assert_array_equal(entry.parameters, parameters[row])
        np.testing.assert_array_equal(entry.scores, scores[row])


def test_content_does_not_depend_on_the_order_of_generations():
    draw = np.random.default_rng(2)
    generations = [
        (number, draw.integers(0, 3, (15, 2)).astype(float), draw.integers(0, 2, (15, 3)).astype(float))
        for number in range(4)
    ]

    def content(order):
        hall = HallOfFame(6)
        for number, parameters, scores in order:
            hall.update(parameters, scores, number)
        return [(entry.rank_key, entry.parameters.tolist()) for entry in hall.entries]

    assert content(generations) == content(generations[::-1])
    keys = [key for key, _ in content(generations)]
    assert keys == sorted(keys)


def test_it_keeps_copies():
    parameters, scores = np.ones((1, 2)), np.ones((1, 2))
    hall = HallOfFame(1)
    hall.update(parameters, scores, 0)
    parameters[:] = scores[:] = 9.0
    assert hall.entries[0].parameters.tolist() == hall.entries[0].scores.tolist() == [1.0, 1.0]


def test_totals_are_summed_from_left_to_right():
    scores = np.random.default_rng(3).uniform(0, 250, (50, 40))
    assert total_scores(scores).tolist() == [sum(row) for row in scores.tolist()]
    assert not np.array_equal(total_scores(scores), scores.sum(axis=1))


def test_an_empty_hall_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        HallOfFame(0)
