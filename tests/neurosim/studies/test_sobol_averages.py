import numpy as np
import pytest

from neurofleet.neurosim.studies.sobol_indices import average


def test_every_cell_counts_once_and_missing_indices_do_not():
    found = average([0.1, 0.3, 0.6, np.nan, np.nan], ["a", "a", "b", "b", "c"])
    assert found.mean == pytest.approx((0.2 + 0.6) / 2)
    assert (found.cells, found.models) == (2, 3)


def test_the_interval_over_many_cells_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, 100)
    found = average(values, [f"cell-{i}" for i in range(100)])
    assert found.low == pytest.approx(values.mean() - 1.96 * values.std() / 10, abs=0.003)
    assert found.high == pytest.approx(values.mean() + 1.96 * values.std() / 10, abs=0.003)
    assert found.spread == pytest.approx(values.std(ddof=1))


def test_of_one_cell_models_are_resampled():
    found = average([0.2, 0.4, 0.6], ["a"] * 3)
    assert 0.2 <= found.low < 0.4 < found.high <= 0.6


def test_one_model_has_no_interval_and_none_has_no_mean():
    one, none = average([0.3], ["a"]), average([np.nan], ["a"])
    assert one.mean == 0.3
    assert np.isnan([one.low, one.high, one.spread, none.mean, none.low]).all()
    assert (none.cells, none.models) == (0, 0)
