import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.cell_models import default_conductances
from neurofleet.neurosim.studies.sobol_indices import SensitivityProblem


def test_bounds_lie_to_either_side_of_the_value_also_of_a_negative_one():
    problem = SensitivityProblem(("gbar_Ih.soma", "e_pas.all"), (2e-5, -80.0), 0.25)
    np.testing.assert_allclose(problem.bounds, [[1.5e-5, 2.5e-5], [-100.0, -60.0]])


def test_the_unit_cube_and_back():
    problem = SensitivityProblem(("a", "b"), (2e-5, -80.0))
    unit = np.random.default_rng(0).random((50, 2))
    values = problem.values(unit)
    assert (values >= problem.bounds[:, 0]).all()
    assert (values <= problem.bounds[:, 1]).all()
    np.testing.assert_allclose(problem.unit(values), unit, atol=1e-12)


@pytest.mark.parametrize("half_width", [0.0, -0.1, 1.0, 1.5, float("nan")])
def test_a_width_that_leaves_the_range_of_a_conductance_is_refused(half_width):
    with pytest.raises(InputError, match="above 0 and below 1"):
        SensitivityProblem(("a", "b"), (1.0, 2.0), half_width)


@pytest.mark.parametrize(
    ("names", "centres", "told"),
    [
        (("a",), (1.0,), "two or more"),
        (("a", "a"), (1.0, 2.0), "each once"),
        (("a", "b"), (1.0,), "for each of 2 parameters"),
        (("a", "b"), (1.0, 0.0), "zero .* for b"),
        (("a", "b"), (float("inf"), 1.0), "for a"),
    ],
)
def test_what_is_no_problem_is_refused(names, centres, told):
    with pytest.raises(InputError, match=told):
        SensitivityProblem(names, centres)


def test_by_default_sodium_and_two_potassium_conductances_in_soma_and_axon():
    names = [f"gbar_{c}.{s}" for s in ("dend", "axon", "soma") for c in ("SK", "NaTs2_t", "Kv3_1", "K_Tst")]
    assert default_conductances(names) == (
        "gbar_NaTs2_t.soma",
        "gbar_Kv3_1.soma",
        "gbar_K_Tst.soma",
        "gbar_NaTs2_t.axon",
        "gbar_Kv3_1.axon",
        "gbar_K_Tst.axon",
    )
    with pytest.raises(InputError, match="the models have gbar_SK.soma"):
        default_conductances(["gbar_SK.soma", "Ra.all"])
    with pytest.raises(InputError, match="the models have gnabar_Mine.soma, Ra.all"):
        default_conductances(["gnabar_Mine.soma", "Ra.all"])
