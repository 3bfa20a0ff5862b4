"""A NeuPRINT model from Python: trained on recordings in memory or in files; it embeds and names neurons."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from neurofleet.errors import LearnerError, UsageError
from neurofleet.learners import neuprint
from neurofleet.learners.model_folder import ModelRefused, load_model
from neurofleet.learners.neuprint.neuprint_model import NeuprintModel
from neurofleet.learners.neuprint.recording_files import as_recordings
from tests.learners.neuprint.small_recordings import small_recordings, small_settings

QUICK = small_settings(dynamics="bilinear").model_dump()


def trained(recordings, label="type", **options):
    return neuprint.train(recordings, label, **({"settings": QUICK, "least_neurons": 2, "quiet": True} | options))


@pytest.fixture(scope="module")
def recordings():
    return small_recordings()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("neuprint") / "model"


@pytest.fixture(scope="module")
def model(recordings, folder):
    return trained(recordings, out=folder)


def test_neurons_are_named_and_embedded(model, recordings):
    table, named = model.embed(recordings), model.predict(recordings)
    phi = table.filter(regex="^phi_").to_numpy()
    np.testing.assert_allclose(phi, model.phi, atol=1e-6)
    assert list(table.index) == list(recordings.neurons.index)
    assert list(table["animal"]) == list(recordings.neurons["animal"])
    assert list(table["type"]) == list(recordings.neurons["type"])
    pd.testing.assert_frame_equal(named, table[named.columns])
    assert list(named.columns)[:2] == ["predicted", "probability"]
    data = model.embed(recordings, to="anndata")
    np.testing.assert_array_equal(data.obsm["X_phi"], phi)
    np.testing.assert_allclose(data.obsm["X_map"], model.map.plane, atol=0.01 * model.map.plane.std())


def test_the_model_folder_opens_as_the_same_model(model, folder, recordings):
    loaded = load_model(folder)
    assert type(loaded) is NeuprintModel
    pd.testing.assert_frame_equal(loaded.predict(recordings), model.predict(recordings))
    with pytest.raises(ModelRefused, match="another run"):
        trained(recordings, out=folder, seed=2)


def test_neurons_that_are_unlike_known_or_sampled_otherwise_are_told(model, recordings):
    with pytest.warns(UserWarning, match="24 of 24 neurons are among those that the model was fitted with"):
        assert not model.predict(recordings)["outside"].any()
    rng = np.random.default_rng(0)
    noise = tuple(
        replace(
            one,
            activity=np.sign(rng.normal(size=one.activity.shape)).astype(np.float32),
            rate_hz=2 * one.rate_hz,
            neuron_ids=np.array([f"new{name}" for name in one.neuron_ids]),
        )
        for one in recordings.recordings
    )
    neurons = recordings.neurons.set_axis([f"new{name}" for name in recordings.neurons.index])
    with pytest.warns(UserWarning, match=r"(?s)its lags count frames.*neurons \([\d.]+ %\) lie outside"):
        assert model.predict(replace(recordings, recordings=noise, neurons=neurons))["outside"].mean() > 0.5


def test_several_sets_of_recordings_are_one(model, recordings):
    first, second = recordings.recordings
    parts = [
        type(recordings)((one,), recordings.neurons[recordings.neurons["animal"] == one.animal])
        for one in (first, second)
    ]
    joined = as_recordings(parts)
    pd.testing.assert_frame_equal(joined.neurons, recordings.neurons, check_names=False)
    with pytest.raises(LearnerError, match="both of animal and session"):
        as_recordings([parts[0], parts[0]])


def test_a_model_without_classes_names_none(model, recordings):
    bare = NeuprintModel(model.dynamics, model.settings, model.covariates, model.neuron_ids, model.phi)
    assert "predicted" not in bare.embed(recordings)
    with pytest.raises(LearnerError, match="fitted without classes"):
        bare.predict(recordings)
    assert "no classes" in repr(bare)


def test_a_model_is_described(model):
    text = repr(model)
    assert "classes: " in text
    assert "bilinear dynamics" in text
    assert "24 neurons of Recordings, label 'type'" in text


def test_what_cannot_be_used_is_refused(recordings):
    with pytest.raises(LearnerError, match="did you mean 'type'"):
        trained(recordings, "typ")
    with pytest.raises(UsageError, match="did you mean 'phi'"):
        trained(recordings, settings={"phy": 3})
