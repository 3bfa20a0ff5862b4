import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.dispersion import dispersion, reason_for_no_dispersion
from neurofleet.neurosim.studies.model_table import ModelTable, read_models, shared_parameters, with_ids
from tests.neurosim.studies.made_up_models import made_population, write_population


@pytest.fixture
def made(tmp_path):
    write_population(tmp_path, {"a": 6, "b": 6})
    models = read_models(tmp_path / "models.parquet")
    _, cells = made_population({"a": 6, "b": 6})
    classes = with_ids(cells, "cells", None)["line"]
    return models.columns(shared_parameters(models)[0]), classes


def test_distances_are_means_over_pairs_of_models(made):
    models, classes = made
    found = dispersion(models, classes, seed=1)
    values = (models.values - models.values.mean(axis=0)) / models.values.std(axis=0)
    distances = cdist(values, values)
    cell = models.cells == "100002"
    line = classes.loc[models.cells].to_numpy()
    mine = found.cells.set_index("cell").loc["100002"]
    assert mine["within_cell"] == pytest.approx(distances[np.ix_(cell, cell)][np.triu_indices(5, 1)].mean())
    others = (line == "a-Cre") & ~cell
    assert mine["between_cells"] == pytest.approx(distances[np.ix_(cell, others)].mean())
    assert mine["between_classes"] == pytest.approx(distances[np.ix_(cell, line == "b-Cre")].mean())
    to_centroid = np.linalg.norm(values[cell] - values[cell].mean(axis=0), axis=1)
    assert mine["to_centroid"] == pytest.approx(to_centroid.sum())
    np.testing.assert_allclose(found.models.loc[cell, "to_cell"], to_centroid)


def test_classes_that_differ_are_found_apart_and_equal_ones_are_not(made):
    models, classes = made
    tests = dispersion(models, classes, seed=1).tests
    assert (tests["p_mann_whitney"] < 0.01).all()
    assert tests["p_permutation"].iloc[1] < 0.01
    same = pd.Series(np.where(np.arange(12) % 2, "a", "b"), index=classes.index)
    assert dispersion(models, same, seed=1).tests["p_permutation"].iloc[1] > 0.05


def test_single_models_or_classes_of_one_cell_are_refused(made):
    models, classes = made
    with pytest.raises(InputError, match="1 model a cell"):
        dispersion(models.best(), classes, seed=1)
    alone = classes.where(classes.index == "100000", "rest")
    assert "a-Cre (1)" in str(reason_for_no_dispersion(models, alone))


def test_order_of_the_models_does_not_matter(made):
    models, classes = made
    assert isinstance(models, ModelTable)
    a = dispersion(models, classes, seed=1).cells
    b = dispersion(models, classes.sample(frac=1.0, random_state=0), seed=1).cells
    pd.testing.assert_frame_equal(a, b)
