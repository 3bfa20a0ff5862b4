"""Every method on one fold: sound probabilities, chosen in the training units, no label of a test unit."""

from dataclasses import replace

import numpy as np
import pytest

from neurofleet.learners.calibration import calibrated_probabilities
from neurofleet.learners.hippie.compared_methods import METHODS, UnitFoldCase, answers
from neurofleet.learners.hippie.unit_pretraining import pretrain
from neurofleet.learners.local_training import train_here
from tests.learners.hippie.small_units import QUICK, small_units

CHEAP = ("raw_knn", "pca_knn", "untrained", "frozen", "mean_knn", "probe", "classical", "head", "best")
"""All but PhysMAP, whose map takes long to compile."""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    units, labels = small_units(tmp_path_factory.mktemp("target"))
    pool, _ = small_units(tmp_path_factory.mktemp("pool"), seed=1, first=100)
    quick = QUICK.model_copy(update={"members": 1, "epochs": 8})
    animals = units.column("animal")
    test = np.isin(animals, ["m0", "m1"])
    return UnitFoldCase(
        units,
        labels,
        2,
        animals,
        np.flatnonzero(~test),
        np.flatnonzero(test),
        quick,
        pretrain(pool, quick, train_here, modalities=("waveform", "isi", "acg")),
        train_here,
    )


@pytest.fixture(scope="module")
def given(case):
    return answers(case, CHEAP)


def test_every_method_names_units(case, given):
    assert {*CHEAP, "physmap"} == METHODS.keys()
    for name, (probabilities, _) in given.items():
        assert probabilities.shape == (16, 2), name
        assert probabilities.sum(1) == pytest.approx(1, abs=1e-5), name
        assert (probabilities.argmax(1) == case.labels[case.test]).mean() >= 0.8, name


def test_the_best_is_the_weighed_mean_of_network_and_classical(case, given):
    weight = case.blend.head_weight
    assert given["best"][1]["weights"].get("head", 0.0) == weight
    head = calibrated_probabilities(np.log(given["head"][0]), case.blend.head_temperature)
    by_hand = weight * head + (1 - weight) * given["classical"][0]
    assert given["best"][0] == pytest.approx(by_hand)


def test_inner_answers_come_from_networks_that_had_not_seen_the_unit(case):
    assert np.isfinite(case.head_held_out).all()
    own = np.exp(case.networks.log_probabilities(case.units.take(case.train)))
    assert not np.allclose(case.head_held_out, own)


def test_labels_of_test_units_change_nothing(case, given):
    labels = case.labels.copy()
    labels[case.test] = 1 - labels[case.test]
    again = answers(replace(case, labels=labels), ("classical", "head", "best"))
    for name, (probabilities, _) in again.items():
        assert (probabilities == given[name][0]).all()
