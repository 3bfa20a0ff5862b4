"""First individuals from halls of fame."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from neurofleet.errors import InputError
from neurofleet.neurosim.evolution import ParameterSpace, read_warm_start

NAMES = ("gbar_NaTa_t.axon", "Ra.all", "gbar_Kd.axon")


@pytest.fixture
def space() -> ParameterSpace:
    return ParameterSpace.from_bounds(NAMES, np.array([0.0, 50.0, 0.0]), np.array([10.0, 200.0, 0.01]))


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


def hall(cell, totals, value):
    return {
        "cell": [cell] * len(totals),
        "total": totals,
        "param.gbar_NaTa_t.axon": [value + k for k in range(len(totals))],
        "param.Ra.all": [100.0] * len(totals),
    }


def test_a_run_gives_the_best_of_every_cell_first(tmp_path, space):
    halls = tmp_path / "hall_of_fame"
    write(halls / "cell=b" / "seed=1.parquet", **hall("b", [9.0, 5.0], 1.0))
    write(halls / "cell=b" / "seed=2.parquet", **hall("b", [7.0], 3.0))
    write(halls / "cell=a" / "pooled.parquet", **hall("a", [2.0, 3.0], 5.0))
    write(halls / "cell=a" / "seed=1.parquet", **hall("a", [1.0], 8.0))  # pooled already
    warm = read_warm_start(tmp_path, space)
    assert warm[:, 0].tolist() == [5.0, 2.0, 6.0, 3.0, 1.0]
    assert (warm[:, 1] == 100.0).all()
    assert np.isnan(warm[:, 2]).all()
    np.testing.assert_array_equal(read_warm_start((tmp_path).as_uri(), space), warm)


def test_the_cell_itself_is_left_out(tmp_path, space):
    halls = tmp_path / "hall_of_fame"
    write(halls / "cell=a" / "pooled.parquet", **hall("a", [2.0], 5.0))
    write(halls / "cell=b" / "pooled.parquet", **hall("b", [4.0], 1.0))
    assert read_warm_start(tmp_path, space, exclude_cell="a")[:, 0].tolist() == [1.0]
    only = halls / "cell=a" / "pooled.parquet"
    with pytest.raises(InputError, match="of other cells"):
        read_warm_start(only, space, exclude_cell="a")


def test_a_specimen_is_recognised_inside_a_longer_id(tmp_path, space):
    file = write(
        tmp_path / "published.parquet",
        cell_id=[483101699, 502267531],
        hof_index=[0, 0],
        **{"gbar_NaTa_t.axon": [1.0, 2.0]},
    )
    warm = read_warm_start(file, space, exclude_cell="Cux2-483101699")
    assert warm[:, 0].tolist() == [2.0]


def test_a_published_population_is_read_by_rank(tmp_path, space):
    file = write(
        tmp_path / "published.parquet",
        cell_id=[2, 1, 2, 1],
        hof_index=[1, 0, 0, 10],
        Ra=[60.0, 70.0, 80.0, None],
        **{"gbar_NaTa_t.axon": [4.0, 1.0, 2.0, 3.0], "gbar_Kd.axon": [None, 0.001, None, None]},
    )
    warm = read_warm_start(file, space)
    assert warm[:, 0].tolist() == [1.0, 2.0, 4.0, 3.0]  # the last one lacks two parameters
    np.testing.assert_array_equal(warm[:, 1], [70.0, 80.0, 60.0, np.nan])
    np.testing.assert_array_equal(warm[:, 2], [0.001, np.nan, np.nan, np.nan])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cell": ["a"], "total": [1.0], "param.gbar_Im.dend": [1.0]}, "expected models with parameters"),
        ({"who": ["a"], "param.Ra.all": [1.0]}, "expected a column cell or cell_id"),
    ],
)
def test_another_file_is_refused_with_a_reason(tmp_path, space, columns, message):
    with pytest.raises(InputError, match=message):
        read_warm_start(write(tmp_path / "other.parquet", **columns), space)


def test_what_cannot_be_read_is_named(tmp_path, space):
    with pytest.raises(InputError, match="nothing there"):
        read_warm_start(tmp_path / "nowhere", space)
    with pytest.raises(InputError, match="a folder without one"):
        read_warm_start(tmp_path, space)
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(InputError, match=r"text\.parquet as Parquet"):
        read_warm_start(tmp_path / "text.parquet", space)


def test_the_published_populations_serve_the_spiny_recipe(shared_data):
    names = ("cm.soma", "Ra.all", "g_pas.all", "gbar_NaTa_t.axon", "gbar_Im.apic")
    space = ParameterSpace.from_bounds(names, np.zeros(5), np.full(5, 1e3))
    file = shared_data / "neuron" / "allactive_hof_params_dev.parquet"
    warm = read_warm_start(file, space, exclude_cell="483101699")
    assert warm.shape == (112 * 40, 5)
    assert not np.isnan(warm[:, :3]).any()
    spiny = 61 * 40  # with all five parameters, so first; aspiny cells have no NaTa_t
    assert np.isnan(warm).any(axis=1).tolist() == [False] * spiny + [True] * (len(warm) - spiny)
    assert len(np.unique(warm[:61, 3])) == 61
