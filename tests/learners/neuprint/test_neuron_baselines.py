"""Methods beside NeuPRINT: what they may read, what they learn, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.neuprint import neuron_baselines
from neurofleet.learners.neuprint.neuron_baselines import BASELINES, raw_window
from neurofleet.learners.neuprint.population_recordings import Recording, Recordings, gathered
from tests.learners.neuprint.synthetic_animals import synthetic_recordings

QUICK = ("random", "pca", "hand_forest", "lolcat", "transformer_isi", "transformer_raw")


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 6, "STEPS_PER_CHECK": 3, "BATCH": 32}.items():
        monkeypatch.setattr(neuron_baselines, name, value)
    monkeypatch.setattr(neuron_baselines, "TREES", 20)


@pytest.fixture(scope="module")
def small() -> Recordings:
    return synthetic_recordings(2, n_neurons=40, n_frames=300, seed=7)


def parts(recordings: Recordings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return train, validation and test rows, the last ones those of the last animal, and labels."""
    known = recordings.labels("type")
    _, labels = np.unique(known, return_inverse=True)
    tested = np.flatnonzero(recordings.labels("animal") == recordings.animals[-1])
    others = np.setdiff1d(np.arange(len(known)), tested)
    return others[: len(others) * 3 // 4], others[len(others) * 3 // 4 :], tested, labels


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", QUICK)
def test_probabilities_are_for_all_neurons_seeded_and_blind_to_labels_of_tested_ones(
    name: str, small: Recordings
) -> None:
    train, validation, tested, labels = parts(small)
    found = BASELINES[name](small, train, validation, labels, 5, 3)
    assert found.shape == (80, 5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    hidden = labels.copy()
    hidden[tested] = -1
    np.testing.assert_array_equal(BASELINES[name](small, train, validation, hidden, 5, 3), found)
    other = BASELINES[name](small, train, validation, np.roll(labels, 1), 5, 3)
    assert not np.array_equal(other, found)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", ["pca", "lolcat", "transformer_isi", "transformer_raw"])
def test_nothing_is_fitted_on_tested_neurons(name: str, small: Recordings) -> None:
    train, validation, tested, labels = parts(small)
    first, last = small.recordings
    rng = np.random.default_rng(0)
    changed = replace(last, activity=rng.standard_normal(last.activity.shape).astype(np.float32))
    before = BASELINES[name](small, train, validation, labels, 5, 3)
    after = BASELINES[name](replace(small, recordings=(first, changed)), train, validation, labels, 5, 3)
    seen = np.concatenate([train, validation])
    np.testing.assert_allclose(after[seen], before[seen], atol=1e-6)
    assert not np.allclose(after[tested], before[tested], atol=1e-3)


def rhythms(animal: str, seed: int) -> tuple[Recording, pd.DataFrame]:
    """Return neurons of two types, whose events come every 5 or every 16 frames or so, out of step."""
    rng = np.random.default_rng(seed)
    types = np.array(["fast", "slow"] * 20)
    activity = 0.05 * rng.standard_normal((640, 40))
    for neuron, kind in enumerate(types):
        frame = int(rng.integers(0, 16))
        while frame < 640:
            activity[frame:, neuron] += 0.5 ** np.arange(640 - frame)
            frame += int(rng.integers(4, 7) if kind == "fast" else rng.integers(13, 20))
    recording = Recording(
        animal=animal,
        session=animal,
        activity=((activity - activity.mean(axis=0)) / activity.std(axis=0)).astype(np.float32),
        valid=np.ones(activity.shape, dtype=bool),
        behaviour=np.zeros((640, 0), dtype=np.float32),
        behaviour_names=(),
        rate_hz=4.3,
        neuron_ids=np.array([f"{animal}/{number}" for number in range(40)]),
    )
    return recording, pd.DataFrame({"type": types})


@pytest.mark.parametrize("name", ["hand_forest", "lolcat", "transformer_isi", "transformer_raw"])
def test_rhythms_of_an_unseen_animal_are_recognised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_baselines, "STEPS", 60)
    monkeypatch.setattr(neuron_baselines, "BATCH", 32)
    monkeypatch.setattr(neuron_baselines, "TREES", 20)
    animals = [rhythms(animal, seed) for seed, animal in enumerate(("one", "two"))]
    recordings = gathered(*zip(*animals, strict=True))
    train, validation, tested, labels = parts(recordings)
    found = BASELINES[name](recordings, train, validation, labels, 2, 0).argmax(axis=1)
    assert (found[tested] == labels[tested]).mean() >= 0.9


def test_random_vectors_stay_at_chance() -> None:
    recordings = synthetic_recordings(2, n_neurons=200, n_frames=20, seed=1)
    train, validation, tested, labels = parts(recordings)
    found = BASELINES["random"](recordings, train, validation, labels, 5, 0).argmax(axis=1)
    assert (found[tested] == labels[tested]).mean() < 0.4


def test_the_window_is_at_one_place_for_all_neurons_of_a_recording(small: Recordings) -> None:
    long = synthetic_recordings(1, n_neurons=4, n_frames=400, seed=2).recordings[0]
    short = small.recordings[0]
    empty = [pd.DataFrame(index=range(one.n_neurons)) for one in (long, short)]
    window = raw_window(gathered([replace(long, animal="x", session="x"), short], empty), 5)
    assert window.shape == (40, 300)  # ids of the four neurons are those of the other recording, too
    starts = [start for start in range(101) if np.array_equal(window[:4], long.activity[start : start + 300].T)]
    assert len(starts) == 1
    np.testing.assert_array_equal(window[4:], short.activity[:, 4:].T)


def test_the_order_of_intervals_does_not_matter_and_that_of_frames_does() -> None:
    torch = neuron_baselines.torch
    torch.manual_seed(0)
    order = torch.randperm(12)
    histograms = torch.rand(3, 12, 16)
    for network in (
        neuron_baselines.Lolcat(16, 4),
        neuron_baselines.IntervalTransformer(16, 4).eval(),
    ):
        torch.testing.assert_close(network(histograms[:, order]), network(histograms))
    network = neuron_baselines.TraceTransformer(12, 4).eval()
    traces = torch.randn(3, 1, 12, neuron_baselines.PATCH_FRAMES)
    whole, turned = (network(x.flatten(2)) for x in (traces, traces[:, :, order]))
    assert not torch.allclose(whole, turned, atol=1e-4)


def test_networks_refuse_to_train_blindly_and_on_short_sessions(small: Recordings) -> None:
    train, validation, _, labels = parts(small)
    with pytest.raises(LearnerError, match="need validation neurons"):
        BASELINES["lolcat"](small, train, validation[:0], labels, 5, 0)
    short = synthetic_recordings(1, n_neurons=8, n_frames=50)
    with pytest.raises(LearnerError, match=r"s0 has 50 frames, fewer than the window of 64.*long_enough"):
        BASELINES["lolcat"](short, np.arange(5), np.arange(5, 8), np.arange(8) % 2, 2, 0)
