"""Splits of neurons, and what is seen in each of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.neuron_splits import (
    Mode,
    ablations,
    class_splits,
    growing_inputs,
    neuron_splits,
    summary,
    trained_neurons,
    units_of,
)
from neurofleet.learners.neuprint.population_recordings import Recordings
from tests.learners.neuprint.synthetic_animals import synthetic_recordings


@pytest.fixture(scope="module")
def recordings() -> Recordings:
    """Two animals; some neurons unlabelled."""
    found = synthetic_recordings(2, n_neurons=100, n_frames=60, seed=1)
    kinds = found.neurons["type"].to_numpy().astype(object)
    kinds[::11] = ""
    classes = np.where(np.isin(kinds, ("A", "B")), "EC", "IN")
    return replace(found, neurons=found.neurons.assign(type=kinds, **{"class": classes}))


def test_pooled_and_single_splits_are_80_10_10_and_stored_by_seed(recordings: Recordings) -> None:
    for mode, animal, n in (("pooled", None, 181), ("single", "s1", 90)):
        splits = neuron_splits(recordings, "type", mode, animal=animal, seeds=3)  # type: ignore[arg-type]
        assert [int(split.fold[0]) for split in splits] == [0, 1, 2]
        assert len({split.fingerprint for split in splits}) == 3
        for split in splits:
            sizes = [len(split.rows(role)) for role in ("train", "validation", "test")]
            assert sum(sizes) == pytest.approx(n, abs=1)
            assert sizes[1] == pytest.approx(n / 10, abs=2)
            trained = trained_neurons(recordings, split, mode)  # type: ignore[arg-type]
            assert not np.isin(split.rows("test"), trained).any()
            assert np.isin(split.rows("train"), trained).all()
            unlabelled = np.flatnonzero(recordings.labels("type") == "")
            assert np.isin(unlabelled, trained).sum() == (len(unlabelled) if mode == "pooled" else 9)


def test_cross_animal_splits_test_each_animal_with_none_of_it_trained_on(recordings: Recordings) -> None:
    splits = neuron_splits(recordings, "type", "cross", seeds=2)
    animals = recordings.neurons["animal"].to_numpy()
    tested = [np.unique(animals[split.rows("test")]).tolist() for split in splits]
    assert tested == [["s0"], ["s1"]] * 2
    for split, (one,) in zip(splits, tested, strict=True):
        trained = trained_neurons(recordings, split, "cross")
        assert one not in animals[trained]
        assert np.isin(np.flatnonzero((recordings.labels("type") == "") & (animals != one)), trained).all()


def test_what_cannot_be_split_is_refused(recordings: Recordings) -> None:
    alone = synthetic_recordings(1, n_neurons=30, n_frames=60)
    with pytest.raises(LearnerError, match=r"at least 2 animals, found 1 \(s0\)\. Ask for `split: single-animal`"):
        neuron_splits(alone, "type", "cross")
    with pytest.raises(LearnerError, match="did you mean 'cross'"):
        neuron_splits(recordings, "type", "corss")  # type: ignore[arg-type]
    with pytest.raises(LearnerError, match="single-animal split needs one animal of s0, s1; found none"):
        neuron_splits(recordings, "type", "single")
    with pytest.raises(LearnerError, match="at least 2 classes of 300"):
        neuron_splits(recordings, "type", "pooled", fewest=300)


@pytest.mark.parametrize("mode", ["pooled", "single"])
def test_the_class_task_keeps_the_subclass_tasks_test_neurons(recordings: Recordings, mode: Mode) -> None:
    kinds = recordings.labels("type")
    sub = np.where(np.isin(kinds, list("CDE")), kinds, "")
    only = replace(recordings, neurons=recordings.neurons.assign(sub=sub))
    animal = "s1" if mode == "single" else None
    inner = neuron_splits(only, "sub", mode, animal=animal, seeds=2)
    splits = class_splits(only, "class", "sub", mode, animal=animal, seeds=2)
    taken = only.labels("animal") == animal if animal else np.full(len(kinds), True)
    inhibitory = only.labels("class") == "IN"
    for split, finer in zip(splits, inner, strict=True):
        for role in ("validation", "test"):
            assert split.rows(role)[inhibitory[split.rows(role)]].tolist() == finer.rows(role).tolist()
            assert len(split.rows(role)[~inhibitory[split.rows(role)]]) == pytest.approx(
                (taken & ~inhibitory).sum() / 10, abs=2
            )
        assert (split.role[taken & inhibitory & (finer.role == "excluded")] == "train").all()
        assert (split.role[~taken] == "excluded").all()
    assert splits[0].fingerprint != splits[1].fingerprint


def test_a_class_that_is_not_in_the_subclass_split_is_drawn_like_any_other(recordings: Recordings) -> None:
    kinds = recordings.labels("type")
    sub = np.where(np.isin(kinds, list("CDE")), kinds, "").astype(object)
    sub[np.flatnonzero(kinds == "A")[:2]] = "rare"  # too few: no neuron of class EC is in the finer split
    only = replace(recordings, neurons=recordings.neurons.assign(sub=sub))
    (split,) = class_splits(only, "class", "sub", "pooled", seeds=1)
    assert (only.labels("class")[split.rows("test")] == "EC").sum() == pytest.approx(8, abs=2)
    with pytest.raises(LearnerError, match="all neurons of an animal"):
        class_splits(only, "class", "sub", "cross")


def test_a_long_list_of_rare_classes_ends_in_how_many_there_are_more(recordings: Recordings) -> None:
    kinds = recordings.labels("type").astype(object)
    rare = np.flatnonzero(kinds != "")[:12]
    kinds[rare] = [f"rare{number:02}" for number in range(12)]
    many = replace(recordings, neurons=recordings.neurons.assign(type=kinds))
    (split,) = neuron_splits(many, "type", "pooled", seeds=1)
    assert any(note.endswith("rare08, rare09 and 2 more.") for note in split.notes)
    assert (split.role[rare] == "excluded").all()


def test_ablations_differ_in_their_inputs_only() -> None:
    settings = NeuprintSettings(delta_um=50.0)
    found = ablations(settings, has_positions=True)
    assert {name: one.parts for name, one in found.items()} == {
        "none": (),
        "behaviour": ("behaviour",),
        "population": ("population", "centre", "surround"),
        "all": ("behaviour", "population", "centre", "surround"),
    }
    grown = growing_inputs(settings, ["running", "pupil"], has_positions=True)
    assert list(grown) == ["none", "+running", "+pupil", "+population", "+centre-surround"]
    assert [one.seen for one in grown.values()] == [
        [],
        ["running"],
        ["running", "pupil"],
        ["running", "pupil", "population"],
        ["running", "pupil", "population", "centre", "surround"],
    ]
    assert list(growing_inputs(settings, [])) == ["none", "+population"]
    for one in (*found.values(), *grown.values()):
        assert one.model_copy(update={"parts": (), "behaviour": None}) == found["none"]


def test_intervals_are_over_animals_where_each_is_tested_and_else_over_splits(recordings: Recordings) -> None:
    splits = neuron_splits(recordings, "type", "cross", seeds=2)
    units = units_of(recordings, splits, "cross")
    assert units == ["s0", "s1", "s0", "s1"]
    found = summary([0.5, 0.6, 0.7, 0.8], units)
    assert (found.mean, found.n) == (pytest.approx(0.65), 2)
    assert found.high == pytest.approx(0.65 + 12.706 * 0.0707107 / 2**0.5, abs=1e-3)  # of 0.6 and 0.7
    alone = neuron_splits(recordings, "type", "pooled", seeds=4)
    found = summary([0.5, 0.6, 0.7, 0.8], units_of(recordings, alone, "pooled"))
    assert found.n == 4
    assert found.high == pytest.approx(0.65 + 3.182 * 0.1291 / 2, abs=1e-3)
    found = summary([0.5, 0.7], ["s0", "s0"])
    assert (found.mean, found.low, found.high, found.n) == (pytest.approx(0.6), None, None, 1)
