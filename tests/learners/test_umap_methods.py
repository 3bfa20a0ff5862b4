"""Methods on UMAP, in one file because it is compiled anew in each process.

PhysMAP trusts the modality whose neighbours predict a unit, and never asks for labels; NeuPRINT's baseline
finds neurons that share a drive.
"""

import inspect

import numpy as np
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.hippie.physmap import physmap, weighted_neighbours
from neurofleet.learners.neuprint.neuron_baselines import BASELINES
from neurofleet.learners.probes import fit_probe
from tests.learners.neuprint.synthetic_animals import synthetic_recordings


def clusters(n, dimensions, seed, spread=0.05):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(3, dimensions))[y] + spread * rng.normal(size=(n, dimensions))
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def noise(n, dimensions, seed):
    x = np.random.default_rng(seed).normal(size=(n, dimensions))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def everywhere(*names, n=90):
    return {name: np.ones(n, dtype=bool) for name in names}


def test_a_modality_that_predicts_itself_is_trusted_more_than_noise():
    signal, y = clusters(90, 8, 0)
    weights, neighbours, distances = weighted_neighbours(
        {"signal": signal, "noise": noise(90, 8, 1)}, everywhere("signal", "noise")
    )
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights[:, 0].mean() > 0.6
    assert (y[neighbours[:, 1:11]] == y[:, None]).mean() > 0.95
    assert (neighbours[:, 0] == np.arange(90)).all()
    assert (distances[:, 0] == 0).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert all(len(set(row)) == 21 for row in neighbours)


def test_equal_modalities_weigh_alike_and_order_does_not_matter():
    signal, _ = clusters(60, 6, 0)
    has = everywhere("a", "b", n=60)
    weights, *_ = weighted_neighbours({"a": signal, "b": signal}, has)
    assert weights == pytest.approx(0.5)
    other = noise(60, 6, 2)
    one, *_ = weighted_neighbours({"a": signal, "b": other}, has)
    two, *_ = weighted_neighbours({"a": other, "b": signal}, has)
    assert one == pytest.approx(two[:, ::-1])


def test_one_modality_gives_its_own_neighbours():
    x, _ = clusters(50, 4, 3, spread=0.4)
    weights, neighbours, _ = weighted_neighbours({"a": x}, everywhere("a", n=50))
    assert (weights == 1).all()
    gap = np.linalg.norm(x[:, None] - x[None], axis=2) + 10 * np.eye(50)
    assert (neighbours[:, 1] == gap.argmin(axis=1)).all()


def test_a_missing_modality_has_no_weight():
    signal, y = clusters(90, 8, 0)
    has = everywhere("a", "b")
    has["b"] = np.arange(90) >= 20
    second = np.where(has["b"][:, None], clusters(90, 5, 4)[0], 0.0)
    weights, neighbours, _ = weighted_neighbours({"a": signal, "b": second}, has)
    assert (weights[:20, 1] == 0).all()
    assert (weights[20:, 1] > 0).all()
    assert (y[neighbours[:, 1:6]] == y[:, None]).mean() > 0.95


def test_there_is_no_way_to_hand_in_labels():
    assert set(inspect.signature(physmap).parameters) == {"modalities", "present", "seed"}


@pytest.mark.slow  # importing umap compiles it
def test_classes_are_found_again_on_the_map():
    signal, y = clusters(90, 8, 0, spread=0.3)
    one, same = (physmap({"waveform": signal, "isi": noise(90, 20, 1)}, seed=2) for _ in range(2))
    assert one.embedding.shape == (90, 5)
    assert (one.embedding == same.embedding).all()
    probe = fit_probe("knn", one.embedding[:60], y[:60], 3)
    assert (probe.probabilities(one.embedding[60:]).argmax(axis=1) == y[60:]).mean() > 0.8


def test_wrong_input_is_refused():
    x, _ = clusters(30, 4, 0)
    with pytest.raises(LearnerError, match="at least one modality"):
        physmap({})
    with pytest.raises(LearnerError, match="expects 6 to 6000 units"):
        physmap({"isi": x[:4]})
    with pytest.raises(LearnerError, match="2 of 30 units have none of isi"):
        physmap({"isi": x}, present={"isi": np.arange(30) > 1})


@pytest.mark.slow
def test_umap_keeps_neurons_of_one_drive_together() -> None:
    recordings = synthetic_recordings(1, n_neurons=120, n_frames=1500, seed=3)
    _, labels = np.unique(recordings.labels("type"), return_inverse=True)
    train, tested = np.arange(80), np.arange(80, 120)
    found = BASELINES["umap"](recordings, train, tested[:0], labels, 5, 0)
    assert found.shape == (120, 5)
    assert (found[tested].argmax(axis=1) == labels[tested]).mean() > 0.45
