"""The probe that a model keeps: chosen on neurons it had not seen, restored to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurofleet.learners.local_training import train_here
from neurofleet.learners.model_folder import DESCRIPTION, ModelRefused
from neurofleet.learners.neuprint.neuprint_model import Naming, NeuprintModel, fit_naming, restore_naming
from neurofleet.learners.neuprint.train_neuprint import fit
from tests.learners.neuprint.small_recordings import small_recordings, small_settings

RNG = np.random.default_rng(0)
NAMES = np.resize(["a", "b", "c", ""], 120)
PHI = RNG.standard_normal((120, 3)) + 3 * (NAMES[:, None] == np.array(["a", "b", "c"]))


@pytest.fixture(scope="module")
def naming() -> Naming:
    return fit_naming(PHI, NAMES, None, seed=1)


def test_classes_are_told_by_the_probe_that_inner_validation_finds_best(naming: Naming) -> None:
    assert naming.tried[naming.probe.kind] == max(naming.tried.values()) == naming.probe.inner_balanced_accuracy
    assert naming.classes.tolist() == ["a", "b", "c"]
    new = RNG.standard_normal((60, 3)) + 3 * np.tile(np.eye(3), (20, 1))
    guess = naming.classes[naming.probabilities(new).argmax(1)]
    assert (guess == np.tile(["a", "b", "c"], 20)).mean() > 0.9


def test_animals_are_kept_whole_where_they_are_given() -> None:
    animals = np.repeat([f"s{number}" for number in range(12)], 10)
    names = np.repeat(np.resize(["a", "b"], 12), 10)
    own = RNG.standard_normal((12, 3)).repeat(10, axis=0) + 0.01 * RNG.standard_normal((120, 3))
    assert max(fit_naming(own, names, None, seed=1).tried.values()) == 1.0
    assert max(fit_naming(own, names, animals, seed=1).tried.values()) < 0.8


def test_it_comes_back_from_a_model_folder(naming: Naming, tmp_path: Path) -> None:
    told = json.loads(json.dumps(naming.description()))
    found = restore_naming(told, naming.probe.arrays()).probabilities(PHI)
    np.testing.assert_array_equal(found, naming.probabilities(PHI))
    recordings = small_recordings(1)
    model = fit(recordings, np.arange(12), small_settings(epochs=1), train_here)
    replace(model, naming=naming).save(tmp_path, "run")
    loaded = NeuprintModel.load(tmp_path)
    assert loaded.naming is not None
    np.testing.assert_array_equal(loaded.naming.probabilities(PHI), found)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    del description["description"]["naming"]["probe"]["kind"]
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(ModelRefused, match="damaged, or of another version: KeyError"):
        NeuprintModel.load(tmp_path)
