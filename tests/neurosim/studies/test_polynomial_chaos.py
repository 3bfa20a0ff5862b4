import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.polynomial_chaos import (
    basis,
    best_order,
    design,
    exponents,
    number_of_terms,
    polynomial_chaos,
)
from neurofleet.neurosim.studies.sobol_indices import SensitivityProblem
from tests.neurosim.studies.known_indices import g_function, g_indices, ishigami, ishigami_indices, problem_of, smooth


@pytest.mark.parametrize(("parameters", "terms", "runs"), [(6, 210, 422), (10, 1001, 2004)])
def test_terms_and_runs_are_those_of_the_paper(parameters, terms, runs):
    problem = SensitivityProblem(tuple(map(str, range(parameters))), tuple(np.arange(1.0, parameters + 1)))
    assert number_of_terms(parameters) == terms
    nodes = design(problem)
    assert nodes.shape == (runs, parameters)
    assert len({tuple(row) for row in nodes}) == runs
    assert (nodes > problem.bounds[:, 0]).all()
    assert (nodes < problem.bounds[:, 1]).all()


def test_nodes_are_the_hammersley_set_that_chaospy_prints_in_its_manual():
    unit = problem_of(3).unit(design(problem_of(3)))
    # Van der Corput in 2 and 3 from element 4 on (of 1, 2, ...), and a grid.
    np.testing.assert_allclose(unit[:3, 0], [1 / 8, 5 / 8, 3 / 8])
    np.testing.assert_allclose(unit[:3, 1], [4 / 9, 7 / 9, 2 / 9])
    np.testing.assert_allclose(unit[:, 2], np.arange(1, 73) / 73)


def test_the_basis_is_orthonormal():
    nodes, weights = np.polynomial.legendre.leggauss(6)
    x, y = np.meshgrid((nodes + 1) / 2, (nodes + 1) / 2)
    found = basis(np.column_stack([x.ravel(), y.ravel()]), exponents(2))
    weight = np.outer(weights, weights).ravel() / 4
    np.testing.assert_allclose((found * weight[:, None]).T @ found, np.eye(15), atol=1e-12)


@pytest.mark.parametrize(("order", "within"), [(8, 2e-3), (12, 2e-5)])
def test_the_ishigami_function_in_the_limit_of_high_orders(order, within):
    problem = problem_of(3)
    nodes = design(problem, order)
    found = polynomial_chaos(problem, nodes, ishigami(problem.unit(nodes))[:, None], ["y"], order)
    first, total = ishigami_indices()
    np.testing.assert_allclose(found.first[0], first, atol=within)
    np.testing.assert_allclose(found.total[0], total, atol=within)
    assert found.surrogate_error[0] < within * 2


def test_a_polynomial_is_exact_whatever_the_units():
    problem = problem_of(6)
    nodes = design(problem)
    y = smooth(problem.unit(nodes))
    found = polynomial_chaos(problem, nodes, np.stack([y, 1e-9 * y + 3e-9], axis=1), ["y", "small"])
    np.testing.assert_allclose(found.first[0], found.first[1], atol=1e-6)
    assert found.surrogate_error[0] < 1e-20
    # By hand: y = (1 + a²)(2 + b) + a f / 2, whose variance is that of its parts on the unit cube.
    a2, b = 4 / 45, 1 / 12
    main_a = 2.5**2 * a2 + (1 / 4) ** 2 / 12 + 2 * 2.5 * 0.25 / 12
    main_b, main_f = (4 / 3) ** 2 * b, (1 / 4) ** 2 / 12
    together_ab, af = a2 * b, 0.25 / 144
    variance = main_a + main_b + main_f + together_ab + af
    np.testing.assert_allclose(found.first[0], np.array([main_a, main_b, 0, 0, 0, main_f]) / variance, atol=1e-12)
    np.testing.assert_allclose(
        found.total[0],
        np.array([main_a + together_ab + af, main_b + together_ab, 0, 0, 0, main_f + af]) / variance,
        atol=1e-12,
    )


def test_kinks_of_the_g_function_show_in_the_error_and_leave_the_order_right():
    problem, a = problem_of(6), np.array([0, 1, 4.5, 9, 99, 99])
    nodes = design(problem)
    found = polynomial_chaos(problem, nodes, g_function(problem.unit(nodes), a)[:, None], ["g"])
    first, total = g_indices(a)
    np.testing.assert_allclose(found.first[0], first, atol=0.03)
    np.testing.assert_allclose(found.total[0], total, atol=0.03)
    assert 0.02 < found.surrogate_error[0] < 0.2


def test_the_error_is_that_of_fits_which_leave_one_run_out():
    problem = problem_of(2)
    nodes = design(problem)
    y = g_function(problem.unit(nodes), np.zeros(2))
    error = polynomial_chaos(problem, nodes, y[:, None], ["g"]).surrogate_error[0]
    terms = basis(problem.unit(nodes), exponents(2))
    missed = []
    for out in range(len(y)):
        kept = np.arange(len(y)) != out
        coefficients = np.linalg.lstsq(terms[kept], y[kept], rcond=None)[0]
        missed.append((y[out] - terms[out] @ coefficients) ** 2)
    assert error == pytest.approx(np.mean(missed) / y.var())


def test_runs_without_a_feature_are_left_out_and_counted():
    problem = problem_of(3)
    nodes = design(problem)
    y = smooth(problem.unit(nodes))
    gaps, too_few = y.copy(), y.copy()
    gaps[:18] = np.nan
    too_few[:19] = np.nan
    values = np.stack([y, gaps, too_few, np.full_like(y, 7.0), np.full_like(y, np.nan)], axis=1)
    found = polynomial_chaos(problem, nodes, values, ["all", "gaps", "few", "still", "none"])
    assert found.runs.tolist() == [72, 54, 53, 72, 0]
    assert found.left_out.tolist() == [0, 18, 19, 0, 72]
    np.testing.assert_allclose(found.first[1], found.first[0], atol=1e-9)
    assert np.isnan(found.first[2:]).all()
    assert np.isnan(found.total[2:]).all()
    assert found.reasons[:2] == (None, None)
    assert found.reasons[2] == "only 53 of 72 runs have it, 54 are needed"
    assert found.reasons[3] == "it does not vary: 7 in all 72 runs"
    assert found.reasons[4] == "only 0 of 72 runs have it, 54 are needed"


def test_arrays_that_do_not_belong_together_are_refused():
    problem = problem_of(3)
    nodes = design(problem)
    with pytest.raises(InputError, match="of shape"):
        polynomial_chaos(problem, nodes, np.zeros((len(nodes), 2)), ["one"])


def test_more_parameters_than_can_be_run_are_refused():
    problem = SensitivityProblem(tuple(map(str, range(17))), (1.0,) * 17)
    with pytest.raises(InputError, match="at most 16, found 17"):
        design(problem)


def test_a_rough_feature_is_told_from_its_roughness_by_a_lower_order():
    problem = problem_of(6)
    nodes = design(problem)
    unit = problem.unit(nodes)
    noise = np.random.default_rng(0).normal(0, 0.12, len(nodes))
    values = np.stack([unit[:, 0] + 0.5 * unit[:, 1] + noise, smooth(unit)], axis=1)
    fourth = polynomial_chaos(problem, nodes, values, ["rough", "smooth"])
    best = best_order(problem, nodes, values, ["rough", "smooth"])
    assert best.orders.tolist() == [1, 3]
    assert fourth.orders.tolist() == [4, 4]
    assert best.surrogate_error[0] < 0.5 * fourth.surrogate_error[0]
    # Four parameters have no part in it: the many terms give them one, the few do not.
    np.testing.assert_allclose(best.total[0], [0.8, 0.2, 0, 0, 0, 0], atol=0.02)
    assert fourth.total[0, 2:].min() > 0.05
    np.testing.assert_allclose(best.total[1], fourth.total[1], atol=1e-12)
