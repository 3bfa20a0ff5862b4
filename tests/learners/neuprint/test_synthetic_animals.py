"""Synthetic animals: the dynamics that tell their types apart are those that were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from neurofleet.learners.neuprint.activity_statistics import hand_statistics
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.session_tensors import covariates
from tests.learners.neuprint.synthetic_animals import synthetic_animal, synthetic_recordings


def test_shape_clock_and_scale() -> None:
    recording, types = synthetic_animal("s", n_neurons=50, n_frames=600, seed=1)
    assert recording.activity.shape == (600, 50)
    assert recording.rate_hz == pytest.approx(4.3)
    assert recording.behaviour_names == ("running", "noise")
    assert set(types) == set("ABCDE")
    np.testing.assert_allclose(recording.activity.std(axis=0), 1.0, atol=1e-3)
    assert recording.valid.all()


def test_the_seed_decides_everything() -> None:
    one, _ = synthetic_animal("s", n_neurons=20, n_frames=100, seed=1)
    again, _ = synthetic_animal("s", n_neurons=20, n_frames=100, seed=1)
    other, _ = synthetic_animal("s", n_neurons=20, n_frames=100, seed=2)
    np.testing.assert_array_equal(one.activity, again.activity)
    assert not np.array_equal(one.activity, other.activity)


def mean_by_type(values: np.ndarray, types: np.ndarray) -> dict[str, float]:
    return {kind: float(values[types == kind].mean()) for kind in "ABCDE"}


def test_types_differ_in_coupling_time_constant_and_running() -> None:
    recording, types = synthetic_animal("s", seed=3)
    x = recording.activity
    population = covariates(recording, ("population",)).per_neuron[:, :, 0]
    coupling = mean_by_type((x * population).mean(axis=0) / population.std(axis=0), types)
    assert coupling["A"] > 0.4
    assert coupling["B"] < -0.3
    memory = mean_by_type((x[4:] * x[:-4]).mean(axis=0), types)
    assert memory["C"] < memory["A"] - 0.1
    assert memory["D"] > memory["C"] + 0.2
    running = mean_by_type((x * recording.behaviour[:, :1]).mean(axis=0), types)
    assert running["E"] > 0.25
    assert max(abs(running[kind]) for kind in "ABCD") < 0.15


def test_real_adaptation_moves_running_to_another_type() -> None:
    recording, types = synthetic_animal("s", real_adaptation=True, seed=3)
    running = mean_by_type((recording.activity * recording.behaviour[:, :1]).mean(axis=0), types)
    assert running["D"] > 0.2
    assert abs(running["E"]) < 0.15
    plain, same_types = synthetic_animal("s", seed=3)
    np.testing.assert_array_equal(types, same_types)
    lag = 8  # frames; adaptation of 1.5 s undoes what lasts longer
    memory, without = (
        mean_by_type((x[lag:] * x[:-lag]).mean(axis=0), types) for x in (recording.activity, plain.activity)
    )
    assert memory["E"] < without["E"] - 0.15


def accuracy_on_the_last_animal(recordings: Recordings) -> tuple[float, float]:
    """Return the accuracy of hand statistics, and the share of the largest type."""
    values, types = hand_statistics(recordings).values, recordings.labels("type")
    tested = recordings.labels("animal") == recordings.animals[-1]
    forest = RandomForestClassifier(100, random_state=0).fit(values[~tested], types[~tested])
    _, counts = np.unique(types[tested], return_counts=True)
    return float((forest.predict(values[tested]) == types[tested]).mean()), counts.max() / tested.sum()


def test_hand_statistics_know_the_types_of_an_unseen_animal_unless_all_share_their_parameters() -> None:
    settings = {"n_neurons": 120, "n_frames": 1500}
    accuracy, _ = accuracy_on_the_last_animal(synthetic_recordings(3, seed=1, **settings))
    assert accuracy >= 0.9
    null, majority = accuracy_on_the_last_animal(synthetic_recordings(3, seed=1, same_parameters=True, **settings))
    assert null <= majority + 0.1


def test_animals_are_numbered_and_differ() -> None:
    recordings = synthetic_recordings(2, n_neurons=20, n_frames=100, seed=4)
    assert recordings.animals == ("s0", "s1")
    assert len(recordings.neurons) == 40
    assert not np.array_equal(recordings.recordings[0].activity, recordings.recordings[1].activity)
