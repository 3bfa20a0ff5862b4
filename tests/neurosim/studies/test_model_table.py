import numpy as np
import pandas as pd
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.model_table import (
    join_models,
    read_models,
    repeated_parameters,
    shared_parameters,
    values_of_cells,
)
from tests.neurosim.studies.made_up_models import made_population


@pytest.fixture
def place(tmp_path):
    population, _ = made_population({"a": 2, "b": 2}, models=3)
    population.sample(frac=1.0, random_state=0).to_parquet(tmp_path / "models.parquet")
    return tmp_path / "models.parquet"


def test_published_models_are_sorted_by_cell_and_rank(place):
    models = read_models(place)
    assert models.cells.tolist() == sorted(models.cells)
    assert models.ranks.tolist() == [0, 1, 2] * 4
    assert set(models.best().cells) == {"100000", "100001", "200000", "200001"}


def test_a_runs_halls_of_fame_are_read_pooled_first(tmp_path):
    folder = tmp_path / "run" / "hall_of_fame" / "cell=mine"
    folder.mkdir(parents=True)
    hall = pd.DataFrame({"cell": "mine", "total": [3.0, 1.0], "param.Ra": [30.0, 10.0]})
    hall.to_parquet(folder / "pooled.parquet")
    hall.assign(total=0.0).to_parquet(folder / "1.parquet")
    models = read_models(tmp_path / "run")
    assert models.parameters == ("Ra",)
    assert models.values[:, 0].tolist() == [10.0, 30.0]


def test_a_run_without_a_hall_of_fame_is_refused(tmp_path):
    with pytest.raises(InputError, match="hall of fame"):
        read_models(tmp_path)


def test_constants_repeats_and_absent_parameters_are_not_shared(place):
    one = read_models(place)
    table = pd.read_parquet(place).assign(cell_id=lambda t: t["cell_id"] + 5, own=1.0)
    table["own"] = np.arange(len(table))
    table.to_parquet(place)
    models = join_models([one, read_models(place)])
    shared, left_out = shared_parameters(models)
    assert shared == ("Ra", "gbar_Kv3_1.soma", "gbar_Ih.soma", "gbar_Ih.dend")
    assert left_out == {"own": "not in all cells", "celsius": "constant", "Ra.dend": "equal to Ra"}
    assert "own" not in repeated_parameters(models)


def test_no_shared_parameter_is_refused(place):
    one = read_models(place)
    table = pd.read_parquet(place).assign(cell_id=lambda t: t["cell_id"] + 5)
    kept = ("cell_id", "hof_index")
    table.rename(columns={name: f"x{name}" for name in table if name not in kept}).to_parquet(place)
    with pytest.raises(InputError, match="found none"):
        shared_parameters(join_models([one, read_models(place)]))


def test_one_cell_in_two_populations_is_refused(place):
    with pytest.raises(InputError, match="100000"):
        join_models([read_models(place), read_models(place)])


def test_a_cell_counts_once_with_its_best_model_or_its_median(place):
    models = read_models(place)
    mine = models.values[models.cells == "100000"]
    assert values_of_cells(models, "best").loc["100000"].tolist() == mine[0].tolist()
    assert values_of_cells(models, "median").loc["100000"].tolist() == np.median(mine, axis=0).tolist()
