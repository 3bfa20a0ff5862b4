import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

from neurofleet.errors import InputError
from neurofleet.neurosim.studies import random_forest
from neurofleet.neurosim.studies.model_table import read_models, shared_parameters, with_ids
from tests.neurosim.studies.made_up_models import made_population, write_population

SIZES = {"a": 12, "b": 10}


@pytest.fixture
def few_trees(monkeypatch):
    monkeypatch.setattr(random_forest, "TREES", (4, 8, 12))


def made(folder, apart):
    write_population(folder, SIZES, apart=apart)
    models = read_models(folder / "models.parquet")
    classes = with_ids(made_population(SIZES)[1], "cells", None)["line"]
    return models.columns(shared_parameters(models)[0]), classes


def test_scores_of_tree_numbers_are_those_of_a_grid_search(tmp_path, few_trees):
    models, classes = made(tmp_path, apart=1.0)
    group = np.unique(models.cells, return_inverse=True)[1]
    labels = classes.loc[models.cells].to_numpy(dtype=str)
    search = GridSearchCV(
        RandomForestClassifier(random_state=3),
        {"n_estimators": list(random_forest.TREES)},
        scoring="f1_macro",
        cv=StratifiedGroupKFold(random_forest.FOLDS, shuffle=True, random_state=3),
    ).fit(models.values, labels, groups=group)
    found = random_forest.grid_scores(models.values, labels, group, seed=3, jobs=2)
    np.testing.assert_allclose(found, search.cv_results_["mean_test_score"], atol=1e-12)


def test_separate_classes_are_told_apart_and_controls_are_not(tmp_path, few_trees):
    models, classes = made(tmp_path, apart=8.0)
    found = random_forest.classify(models, classes, seed=1)
    assert (found.scores["f1"] == 1.0).all()
    assert found.scores["shuffled_f1"].mean() < 0.8
    assert (found.scores["majority_rate"] < 0.6).all()
    assert set(found.importances["quantity"].head(2)) == {"gbar_Kv3_1.soma", "gbar_Ih.soma"}
    tested = found.predictions.groupby("shuffle")["cell"]
    assert tested.nunique().eq(tested.size()).all(), "a test cell is asked about once"


def test_models_that_know_their_cell_alone_do_not_help(tmp_path, few_trees):
    """Cells without classes: a split by row would know each cell again, a split by cell cannot."""
    models, classes = made(tmp_path, apart=0.0)
    rng = np.random.default_rng(1)
    told = pd.Series(rng.permutation(classes.to_numpy()), index=classes.index)
    found = random_forest.classify(models, told, seed=1)
    assert found.scores["f1"].mean() < 0.75


def test_small_classes_are_left_out_with_a_note_and_refused_where_no_two_are_left():
    classes = pd.Series(["a"] * 12 + ["b"] * 10 + ["c"] * 9 + [""])
    kept, notes = random_forest.refuse_small_classes(classes)
    assert sorted(set(kept)) == ["a", "b"]
    assert "c (9)" in notes[0]
    with pytest.raises(InputError, match=r"a \(12\), c \(9\)"):
        random_forest.refuse_small_classes(classes[classes != "b"])
