"""What methods take tested neurons for, and from what they learn it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier

from neurofleet.learners.local_training import train_here
from neurofleet.learners.neuprint import neuron_baselines
from neurofleet.learners.neuprint.activity_statistics import hand_statistics
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.neuprint_model import PROBES
from neurofleet.learners.neuprint.neuron_baselines import hand_forest
from neurofleet.learners.neuprint.neuron_classification import (
    FOREST,
    NeuronAnswer,
    NeuronSplitCase,
    baseline_answer,
    classes_of,
    probe_answer,
    with_hand_answer,
)
from neurofleet.learners.neuprint.neuron_splits import Mode, ablations, neuron_splits, trained_neurons
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.train_neuprint import fit
from neurofleet.learners.probes import KINDS, fit_probe
from neurofleet.learners.scores import Scores, score
from tests.learners.neuprint.synthetic_animals import synthetic_recordings


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 of them take most of the time."""
    few = ({"trees": 30, "min_samples_leaf": 1},)
    monkeypatch.setitem(KINDS, FOREST, replace(KINDS[FOREST], grid=few))
    monkeypatch.setattr(neuron_baselines, "TREES", 30)


@pytest.fixture(scope="module")
def recordings() -> Recordings:
    """Two animals; some neurons unlabelled."""
    found = synthetic_recordings(2, n_neurons=100, n_frames=1200, seed=1)
    kinds = found.neurons["type"].to_numpy().astype(object)
    kinds[::11] = ""
    return replace(found, neurons=found.neurons.assign(type=kinds))


def case_in(recordings: Recordings, mode: Mode, number: int = 0) -> NeuronSplitCase:
    split = neuron_splits(recordings, "type", mode, seeds=1)[number]
    return NeuronSplitCase(recordings, recordings.labels("type"), split, mode, seed=0)


def scores_of(case: NeuronSplitCase, answer: NeuronAnswer) -> Scores:
    return score(case.true, answer.guess, classes_of(case.names, case.split))


def vectors_of(recordings: Recordings) -> np.ndarray:
    """Return vectors that tell type A."""
    told = 3 * (recordings.labels("type") == "A")[:, None]
    return np.random.default_rng(0).standard_normal((len(recordings.neurons), 4)) + told


def test_no_answer_reads_the_classes_of_test_or_unlabelled_neurons(recordings: Recordings) -> None:
    case, vectors = case_in(recordings, "pooled"), vectors_of(recordings)
    hidden = case.names.copy()
    hidden[np.isin(case.split.role, ("test", "excluded"))] = "unheard of"
    blind = replace(case, names=hidden)
    pairs = [(probe_answer(one, kind, vectors) for one in (case, blind)) for kind in PROBES]
    pairs.append(with_hand_answer(one, vectors) for one in (case, blind))
    pairs.append(baseline_answer(one, "hand_forest") for one in (case, blind))
    for one, other in pairs:
        assert one.probabilities.shape == (len(case.split.rows("test")), len(one.classes))
        np.testing.assert_allclose(one.probabilities.sum(1), 1.0)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        np.testing.assert_array_equal(one.classes, other.classes)
    linear = probe_answer(case, "linear", vectors)
    scores = scores_of(case, linear)
    assert scores.accuracy == np.mean(linear.guess == case.true)
    assert scores.per_class[0].name == "A"
    assert scores.per_class[0].recall > 0.8
    assert scores_of(blind, linear).accuracy == 0.0  # no training neuron has their class


def test_the_forest_sees_phi_and_hand_statistics(recordings: Recordings) -> None:
    case, vectors = case_in(recordings, "pooled"), vectors_of(recordings)
    both = np.concatenate([vectors, hand_statistics(recordings).values], axis=1)
    train, test = case.split.rows("train"), case.split.rows("test")
    mean, sd = both[train].mean(0), both[train].std(0)
    x = np.clip((both - mean) / np.where(sd > 1e-9, sd, 1.0), -5, 5).astype(np.float32)
    forest = ExtraTreesClassifier(30, class_weight="balanced", random_state=0)
    forest.fit(x[train], case.names[train])
    answer = with_hand_answer(case, vectors)
    np.testing.assert_allclose(answer.probabilities, forest.predict_proba(x[test]), atol=1e-6)


def test_a_baseline_learns_from_training_neurons(recordings: Recordings) -> None:
    case = case_in(recordings, "pooled")
    train = case.split.rows("train")
    classes, codes = np.unique(case.names[train], return_inverse=True)
    labels = np.full(len(case.names), -1)
    labels[train] = codes
    truth = hand_forest(recordings, train, np.array([], dtype=int), labels, len(classes), 0)
    answer = baseline_answer(case, "hand_forest")
    np.testing.assert_array_equal(answer.probabilities, truth[case.split.rows("test")])


def test_probes_keep_animals_whole_in_cross_animal_splits_where_two_can_be_held_out() -> None:
    recordings = synthetic_recordings(4, n_neurons=60, n_frames=60)
    vectors, case = vectors_of(recordings), case_in(recordings, "cross")
    train, test = case.split.rows("train"), case.split.rows("test")
    home = recordings.labels("animal")[train]

    def expected(of: NeuronSplitCase, groups: np.ndarray | None) -> np.ndarray:
        codes = np.unique(of.names[train], return_inverse=True)[1]
        return fit_probe("knn", vectors[train], codes, codes.max() + 1, groups=groups).probabilities(vectors[test])

    whole, apart = expected(case, home), expected(case, None)
    assert not np.array_equal(whole, apart)
    np.testing.assert_array_equal(probe_answer(case, "knn", vectors).probabilities, whole)
    pooled = probe_answer(replace(case, mode="pooled"), "knn", vectors)
    np.testing.assert_array_equal(pooled.probabilities, apart)
    own = case.names.astype(object)
    for number, animal in enumerate(np.unique(home)[1:]):  # classes of one animal only
        own[(recordings.labels("animal") == animal) & (own == "ABCDE"[number])] = f"{animal} only"
    lonely = replace(case, names=own.astype(str))
    answer = probe_answer(lonely, "knn", vectors)
    np.testing.assert_array_equal(answer.probabilities, expected(lonely, None))


def test_bilinear_phi_tells_types_of_an_unseen_animal_and_needs_the_population(
    recordings: Recordings,
) -> None:
    case, inputs = case_in(recordings, "cross", 1), ablations(NeuprintSettings(epochs=5))
    neurons = trained_neurons(recordings, case.split, "cross")
    phi = {name: fit(recordings, neurons, inputs[name], train_here).phi for name in ("all", "behaviour")}
    scores = {name: scores_of(case, probe_answer(case, "linear", phi[name])) for name in phi}
    assert scores["all"].accuracy > 0.85
    assert scores["all"].per_class[1].recall > 0.7 > 0.4 > scores["behaviour"].per_class[1].recall
    control = case.shuffled()
    assert sorted(control.true) == sorted(case.true)
    assert scores_of(control, probe_answer(control, "linear", phi["all"])).accuracy < 0.5
