import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.saltelli import design, number_of_runs, saltelli
from tests.neurosim.studies.known_indices import g_function, g_indices, ishigami, ishigami_indices, problem_of


def test_intervals_hold_the_ishigami_indices():
    problem = problem_of(3)
    nodes = design(problem, 1024)
    assert len(nodes) == number_of_runs(1024, 3)
    found = saltelli(problem, nodes, ishigami(problem.unit(nodes))[:, None], ["y"])
    for index, low, high, truth in zip(
        (found.first, found.total),
        (found.first_low, found.total_low),
        (found.first_high, found.total_high),
        ishigami_indices(),
        strict=True,
    ):
        assert ((low[0] <= truth) & (truth <= high[0])).all()
        assert (high[0] - low[0] < 0.2).all()
        np.testing.assert_allclose(index[0], truth, atol=0.03)


def test_the_g_function():
    problem, a = problem_of(6), np.array([0, 1, 4.5, 9, 99, 99])
    nodes = design(problem, 1024)
    found = saltelli(problem, nodes, g_function(problem.unit(nodes), a)[:, None], ["g"])
    first, total = g_indices(a)
    np.testing.assert_allclose(found.first[0], first, atol=0.05)
    np.testing.assert_allclose(found.total[0], total, atol=0.05)


def test_points_with_a_failed_run_are_left_out_whole():
    problem = problem_of(3)
    nodes = design(problem, 1024)
    y = ishigami(problem.unit(nodes))
    gaps, few = y.copy(), y.copy()
    gaps[3::500] = np.nan
    few[::5][:513] = np.nan
    values = np.stack([gaps, few, np.ones_like(y)], axis=1)
    found = saltelli(problem, nodes, values, ["gaps", "few", "still"])
    assert found.left_out.tolist() == [5 * len(y[3::500]), 5 * 513, 0]
    np.testing.assert_allclose(found.total[0], ishigami_indices()[1], atol=0.04)
    assert found.reasons[1] == "only 2555 of 5120 runs have it, 2560 are needed"
    assert found.reasons[2].startswith("it does not vary")
    assert np.isnan(found.first[1:]).all()


def test_the_same_seed_gives_the_same_nodes_and_intervals_also_seed_zero():
    problem = problem_of(2)
    for seed in (0, 7):
        nodes = design(problem, 64, seed)
        np.testing.assert_array_equal(nodes, design(problem, 64, seed))
        y = g_function(problem.unit(nodes), np.zeros(2))[:, None]
        one, other = (saltelli(problem, nodes, y, ["g"], seed) for _ in range(2))
        np.testing.assert_array_equal(one.first_low, other.first_low)


@pytest.mark.parametrize("points", [0, 1, 100])
def test_points_that_are_no_power_of_two_are_refused(points):
    with pytest.raises(InputError, match="power of two"):
        design(problem_of(2), points)
