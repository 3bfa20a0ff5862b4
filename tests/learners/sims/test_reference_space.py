"""How far cells are from a reference, and what is estimated of genes that they lack."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from neurofleet.learners.sims.cell_prediction import open_query, predict
from neurofleet.learners.sims.reference_space import HiddenGenes, reference_space
from neurofleet.learners.sims.sims_model import SimsModel
from tests.jobs.small_model import small_model
from tests.learners.cells.made_cells import made_counts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return SimsModel.load(small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def cells():
    return made_counts(200, seed=5, prefix="query")


def predicted(model, cells):
    query = open_query(model, cells)
    return predict(model, query, np.arange(len(query)), 1)


def test_nothing_changes_where_no_gene_is_missing(model, cells):
    with_space, without = predicted(model, cells), predicted(replace(model, space=None), cells)
    np.testing.assert_array_equal(with_space.probabilities, without.probabilities)
    assert without.distance is None


def test_missing_genes_are_estimated_better_than_by_their_means(model, cells):
    hidden = np.arange(cells.n_vars) % 3 == 0
    ((_, true),) = open_query(model, cells).blocks()
    query = open_query(model, cells[:, ~hidden].copy())
    ((_, known),) = query.blocks(filled=False)
    values = query.filled(known).toarray()
    np.testing.assert_array_equal(values[:, ~hidden], known.toarray()[:, ~hidden])
    far = np.square(values - true.toarray())[:, hidden].mean()
    assert far < 0.9 * np.square(model.gene_means - true.toarray())[:, hidden].mean()
    assert "estimated" in query.missing_genes_are
    old = open_query(replace(model, space=None), cells[:, ~hidden].copy())
    means = old.gene_means[hidden]
    np.testing.assert_allclose(old.filled(known).toarray()[:, hidden], np.tile(means, (200, 1)))
    assert "mean" in old.missing_genes_are


def test_probabilities_fall_with_what_is_hidden(model, cells):
    own, halves = model.calibration.temperature, cells[:, ::2].copy()
    measured = model.hidden.temperature
    assert measured[0] == own
    assert list(measured) == sorted(measured)
    knowing = replace(model, hidden=HiddenGenes((0.1, 0.9), (own, 5 * own)))
    assert open_query(knowing, cells).temperature == own
    query = open_query(knowing, halves)
    uncertainty = model.space.distances.uncertainty(query.absent)
    assert query.temperature == pytest.approx(own * 5 ** ((uncertainty - 0.1) / 0.8))
    assert "probabilities are lowered" in query.warning
    before, now = predicted(replace(model, hidden=None), halves), predicted(knowing, halves)
    np.testing.assert_array_equal(now.best, before.best)
    assert (now.probabilities.max(1) < before.probabilities.max(1)).all()
    assert "too high" in open_query(replace(model, hidden=None), halves).warning


def test_cells_like_the_reference_lie_inside_and_others_do_not(model, cells):
    assert (predicted(model, cells).distance > 1).mean() < 0.2
    foreign = cells.copy()
    foreign.X = cells.X[:, np.random.default_rng(0).permutation(cells.n_vars)]
    assert (predicted(model, foreign).distance > 1).mean() > 0.7


def test_cells_of_a_class_lie_where_the_class_is_on_the_map(model, cells):
    found, space = predicted(model, cells), model.space
    nearest = np.linalg.norm(found.plane[:, None] - space.plane[None], axis=2).argmin(1)
    assert (space.labels[nearest] == found.best[:, 0]).mean() > 0.8


def test_few_cells_make_no_space():
    values = sp.random(10, 30, 0.5, "csr", np.float32, random_state=0)
    assert reference_space(lambda rows: values[rows], np.arange(10), np.zeros(10, int)) is None
