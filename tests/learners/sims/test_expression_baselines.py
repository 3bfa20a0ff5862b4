"""Baselines against scikit-learn; a shuffle control that lets chance pass and stops a leak."""

import importlib.util
import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from neurofleet.errors import LearnerError
from neurofleet.learners.label_controls import shuffle_control, shuffled_labels
from neurofleet.learners.scores import score
from neurofleet.learners.sims.expression_baselines import K_GRID, fit_neighbours, run_baselines
from neurofleet.learners.splits import make_split

CLASSES = ["a", "b", "c"]
HAVE_CELLTYPIST = importlib.util.find_spec("celltypist") is not None


def cells(n, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    rate = np.full((3, 80), 0.5)
    rate[0, :8], rate[1, 8:16], rate[2, 16:24] = 1.6, 1.6, 1.6
    return np.log1p(rng.poisson(rate[y])).astype(np.float32), y


@pytest.fixture(scope="module")
def data():
    x, y = cells(400)
    return x[:250], y[:250], x[250:], y[250:]


@pytest.mark.parametrize("components", [None, 10])
def test_neighbours_choose_and_predict_as_scikit_learn_does(data, components):
    x, y, test_x, _ = data
    model = fit_neighbours(x, y, 3, components=components, seed=2)
    knn = KNeighborsClassifier(algorithm="brute")
    steps = [knn] if components is None else [PCA(components, random_state=2), knn]
    search = GridSearchCV(
        make_pipeline(*steps),
        {"kneighborsclassifier__n_neighbors": list(K_GRID)},
        cv=StratifiedKFold(3, shuffle=True, random_state=2),
    ).fit(x, y)
    assert model.k == search.best_params_["kneighborsclassifier__n_neighbors"]
    assert model.inner_accuracy == pytest.approx(search.best_score_, abs=2e-3)
    assert (model.predict(test_x) == search.predict(test_x)).mean() > 0.99


def test_all_baselines_are_scored_on_the_same_cells_dense_or_sparse(data):
    x, y, test_x, test_y = data
    names = ["majority", "logistic", "pca_knn", "raw_knn"]
    dense = run_baselines(x, y, test_x, test_y, CLASSES, names=names)
    sparse = run_baselines(csr_matrix(x), y, csr_matrix(test_x), test_y, CLASSES, names=names)
    assert list(dense) == names
    assert dense["majority"].scores.accuracy == pytest.approx((test_y == np.bincount(y).argmax()).mean())
    assert dense["logistic"].scores.accuracy > dense["majority"].scores.accuracy + 0.15
    for name in names:
        assert dense[name].scores.n == len(test_y)
        assert sparse[name].scores.accuracy == pytest.approx(dense[name].scores.accuracy, abs=0.02)
        json.dumps(dense[name].to_dict(), allow_nan=False)


def test_subsamples_are_said(data):
    x, y, test_x, test_y = data
    found = run_baselines(x, y, test_x, test_y, CLASSES, names=["majority", "raw_knn"], cell_limit=100)
    assert found["raw_knn"].scores.n == pytest.approx(100, abs=2)
    assert "test cells" in found["raw_knn"].notes[0]
    assert "of 250 training cells" in found["raw_knn"].notes[1]
    assert len(found["majority"].notes) == 1


def test_celltypist_is_scored_or_says_why_not(data):
    x, y, test_x, test_y = data
    found = run_baselines(x, y, test_x, test_y, CLASSES, names=["celltypist"])["celltypist"]
    if HAVE_CELLTYPIST:
        assert found.scores.accuracy > 0.7
    else:
        assert found.scores is None
        assert "not installed" in found.notes[0]


def test_unusable_input_is_refused(data):
    x, y, test_x, test_y = data
    with pytest.raises(LearnerError, match="Unknown baselines forest"):
        run_baselines(x, y, test_x, test_y, CLASSES, names=["forest"])
    with pytest.raises(LearnerError, match="80 genes, test cells 70"):
        run_baselines(x, y, test_x[:, :70], test_y, CLASSES)


def shuffled_run(seed, leak):
    x, y = cells(300, seed=9)
    split = make_split(np.arange(300), np.array(CLASSES)[y], test=0.4, validation=0.0, seed=1)
    labels = shuffled_labels(y, split, seed)
    if leak:
        x = np.concatenate([x, 5 * np.eye(3, dtype=np.float32)[labels]], axis=1)
    train, test = split.rows("train"), split.rows("test")
    model = fit_neighbours(x[train], labels[train], 3)
    return score(labels[test], model.predict(x[test]), CLASSES)


def test_the_control_passes_models_that_learnt_nothing_and_stops_a_leak():
    honest = [shuffled_run(seed, leak=False) for seed in range(6)]
    control = shuffle_control(honest)
    assert control.valid
    assert control.chance == pytest.approx(honest[0].majority_rate)
    assert control.standard_error == pytest.approx(np.sqrt(control.chance * (1 - control.chance) / 720))
    assert all(shuffle_control([entry]).valid for entry in honest)
    assert not shuffle_control([shuffled_run(0, leak=True)]).valid


def test_predicting_the_majority_always_is_chance():
    true = np.repeat([0, 1], [80, 20])
    assert shuffle_control([score(true, np.zeros(100, dtype=int), CLASSES)]).valid
    assert not shuffle_control([score(true, true, CLASSES)]).valid


def test_a_control_that_nothing_could_fail_says_so():
    few = score(np.repeat([0, 1], [19, 1]), np.repeat([0, 1], [19, 1]), CLASSES)
    assert not shuffle_control([few]).decisive
    assert shuffle_control([few] * 20).decisive
    assert not shuffle_control([few] * 20).valid


def test_shuffling_keeps_the_class_sizes_of_each_part():
    _, y = cells(300)
    split = make_split(np.arange(300), np.array(CLASSES)[y])
    labels = shuffled_labels(y, split, 0)
    for role in ("train", "validation", "test"):
        assert (np.bincount(labels[split.rows(role)]) == np.bincount(y[split.rows(role)])).all()
    assert (labels != y).mean() > 0.3
    with pytest.raises(LearnerError, match="at least one shuffle"):
        shuffle_control([])
