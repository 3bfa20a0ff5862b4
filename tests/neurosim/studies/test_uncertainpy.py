import collections
import importlib.util

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.polynomial_chaos import design, load_uncertainpy, polynomial_chaos, uncertainpy_indices
from tests.neurosim.studies.known_indices import g_function, ishigami, problem_of

INSTALLED = importlib.util.find_spec("uncertainpy") is not None
needs_uncertainpy = pytest.mark.skipif(not INSTALLED, reason="uncertainpy is not installed")
quiet = pytest.mark.filterwarnings("ignore")


@quiet
@needs_uncertainpy
def test_both_give_the_same_indices_also_with_runs_missing():
    problem = problem_of(2)
    nodes = design(problem)
    unit = problem.unit(nodes)
    y = ishigami(np.column_stack([unit, unit[:, 0]]))
    gaps = y.copy()
    gaps[[3, 9]] = np.nan
    values = np.stack([1e-7 * y + 40, gaps, g_function(unit, np.zeros(2)), np.full_like(y, 2.0)], axis=1)
    features = ["small", "gaps", "g", "still"]
    ours = polynomial_chaos(problem, nodes, values, features)
    theirs = uncertainpy_indices(problem, nodes, values, features)
    np.testing.assert_allclose(theirs.first[:3], ours.first[:3], atol=1e-6)
    np.testing.assert_allclose(theirs.total[:3], ours.total[:3], atol=1e-6)
    assert theirs.reasons == ours.reasons
    assert theirs.runs.tolist() == ours.runs.tolist() == [32, 30, 32, 32]
    assert np.isnan(theirs.first[3]).all()


@quiet
@needs_uncertainpy
def test_the_name_that_is_lent_to_it_is_taken_back():
    assert load_uncertainpy().__version__ == "1.2.3"
    assert not hasattr(collections, "MutableMapping")


@quiet
@needs_uncertainpy
def test_other_nodes_than_its_own_are_refused():
    problem = problem_of(2)
    nodes = design(problem)[::-1]
    with pytest.raises(InputError, match="asked for other nodes"):
        uncertainpy_indices(problem, nodes, nodes[:, :1].copy(), ["y"])


@pytest.mark.skipif(INSTALLED, reason="uncertainpy is installed")
def test_without_it_the_way_to_install_it_is_told():
    with pytest.raises(InputError, match=r"pip install --no-deps uncertainpy==1\.2\.3"):
        load_uncertainpy()
    assert not hasattr(collections, "MutableMapping")
