"""A HIPPIE model from Python: trained on units in memory or in files; it names and embeds units."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from neurofleet.errors import LearnerError, UsageError
from neurofleet.learners import hippie
from neurofleet.learners.model_folder import ModelRefused, load_model
from neurofleet.learners.units.unit_files import open_units
from tests.learners.hippie.small_units import write_units

QUICK = {"width": 4, "features": 8, "fusion": 16, "latent": 4, "members": 1, "epochs": 3, "batch_size": 16}


def trained(units, label="cell_type", **options):
    return hippie.train(units, label, **({"settings": QUICK, "group": "animal", "quiet": True} | options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hippie")


@pytest.fixture(scope="module")
def units(folder):
    return open_units(write_units(folder / "units.npz"))


@pytest.fixture(scope="module")
def model(units, folder):
    return trained(units, out=folder / "model")


@pytest.fixture(scope="module")
def others(folder):
    return write_units(folder / "others.npz", 12, seed=3, first=100)


def test_units_in_memory_and_in_a_file_give_the_same_model(model, folder, others):
    from_file = trained(folder / "units.npz")
    pd.testing.assert_frame_equal(model.predict(others), from_file.predict(others))
    assert from_file.facts["data"]["files"] == ["units.npz"]
    assert model.facts["data"]["units_of_class"] == {"narrow": 24, "wide": 24}


def test_units_are_named(model, others):
    named = model.predict(others)
    opened = open_units(others)
    assert list(named.index) == list(opened.unit_ids)
    np.testing.assert_allclose(named[["p.narrow", "p.wide"]].to_numpy(), model.probabilities(opened))
    assert (named["class"] == opened.column("cell_type")).mean() > 0.8
    np.testing.assert_allclose(named["probability"], named[["p.narrow", "p.wide"]].max(axis=1))


def test_what_was_found_out_about_files_is_warned_of_and_unmeasured_units_get_no_class(model, others, folder):
    arrays = dict(np.load(others))
    for name in ("waveform", "isi", "acg"):
        arrays[name][3] = 0
    np.savez(folder / "gaps.npz", **arrays)
    with pytest.warns(UserWarning, match="nothing was measured of 1 of 12 units"):
        named = model.predict(folder / "gaps.npz")
    assert named["class"].iloc[3] == ""
    assert named.drop(columns=["class", "outside"]).iloc[3].isna().all()
    assert not named["outside"].iloc[3]
    measured = [row for row in range(12) if row != 3]
    pd.testing.assert_frame_equal(named.iloc[measured], model.predict(others).iloc[measured])


def test_units_unlike_those_of_the_training_lie_outside_and_known_ones_are_told(model, units, others, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.predict(open_units(others))["outside"].mean() < 0.3
    arrays = dict(np.load(others))
    arrays["waveform"] = np.roll(arrays["waveform"], 12, axis=1) - 0.8 * np.roll(arrays["waveform"], -6, axis=1)
    np.savez(folder / "shifted.npz", **arrays)
    with pytest.warns(UserWarning, match=r"12 of 12 units \(100.0 %\) lie outside.*100 % by the waveform alone"):
        shifted = model.predict(folder / "shifted.npz")
    assert (shifted["distance"] > 1).all()
    with pytest.warns(UserWarning, match="5 of 5 units are among those that the model was trained on"):
        model.predict(units.take(range(5)))
    old = replace(model, trained=None)
    assert "does not hold where its training data lie" in " ".join(old.notes(units, always=True))
    assert "distance" not in old.predict(units)


def test_units_are_embedded(model, others):
    table, data = model.embed(others), model.embed(others, to="anndata")
    vectors = model.vectors(open_units(others))
    np.testing.assert_array_equal(table.filter(regex="^fusion_").to_numpy(), vectors["fusion"])
    np.testing.assert_array_equal(data.obsm["X_mean"], vectors["mean"])
    np.testing.assert_array_equal(data.obsm["X_map"], table[["map_0", "map_1"]].to_numpy())
    assert {"class", "probability", "animal", "technology"} <= set(data.obs)
    assert list(data.obs_names) == list(table.index)


def test_the_model_folder_opens_as_the_same_model(model, folder, others):
    loaded = load_model(folder / "model")
    assert type(loaded) is hippie.HippieModel
    pd.testing.assert_frame_equal(loaded.embed(others), model.embed(others))
    with pytest.raises(ModelRefused, match="another run"):
        trained(folder / "units.npz", out=folder / "model", seed=2)


def test_a_model_is_described(model):
    text = repr(model)
    assert "2 classes: narrow, wide" in text
    assert "waveform, isi, acg" in text
    assert "48 units of Units, label 'cell_type'" in text


def test_pretraining_is_on_other_units(units, others, folder, capfd):
    settings = QUICK | {"epochs": 1, "pretrain_epochs": 1}
    model = trained(units, pool=others, settings=settings, quiet=False)
    assert model.facts["data"]["n_pool"] == 12
    assert "pretraining: epoch 1 of 1" in capfd.readouterr().err
    with pytest.raises(LearnerError, match="also in the pretraining pool"):
        trained(units, pool=folder / "units.npz", settings=settings)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"label": "celltype"}, LearnerError, "did you mean 'cell_type'"),
        ({"classes": ["narow", "wide"]}, LearnerError, "did you mean 'narrow'"),
        ({"settings": {"member": 2}}, UsageError, "did you mean 'members'"),
    ],
)
def test_what_cannot_be_used_is_refused(units, options, error, words):
    with pytest.raises(error, match=words):
        trained(units, **options)
