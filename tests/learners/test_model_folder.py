"""Model folders: what was written comes back, and nothing else is ever loaded."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from neurofleet.errors import LearnerError
from neurofleet.learners.model_folder import ModelRefused, read_model, write_model

DESCRIPTION = {"classes": ["a", "b"], "genes": ["Actb", "Ärger"], "temperature": 1.25, "config": {"n_d": 64}}


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "weights": rng.normal(size=(4, 3)).astype(np.float32),
        "transposed": rng.normal(size=(4, 3)).astype(np.float32).T,
        "torch": torch.arange(6.0).reshape(2, 3).t(),
        "scalar": np.array(10.0),
        "counts": np.arange(3),
    }


@pytest.fixture
def model(tmp_path, tensors):
    write_model(tmp_path / "model", learner="sims", run="run-1", description=DESCRIPTION, tensors=tensors)
    return tmp_path / "model"


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_written_comes_back(model, tensors):
    found = read_model(model, learner="sims")
    assert (found.learner, found.run, found.description) == ("sims", "run-1", DESCRIPTION)
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].shape == tuple(tensor.shape)
        assert (found.tensors[name] == np.asarray(tensor)).all()
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.safetensors"]


def test_the_same_run_may_write_again_and_another_may_not(model):
    write_model(model, learner="sims", run="run-1", description={"second": True}, tensors={"a": np.ones(2)})
    assert read_model(model).description == {"second": True}
    before = (model / "model.safetensors").read_bytes()
    with pytest.raises(ModelRefused, match="another run"):
        write_model(model, learner="sims", run="run-2", description={}, tensors={"a": np.zeros(2)})
    assert (model / "model.safetensors").read_bytes() == before


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "split.parquet").write_text("kept")
    write_model(tmp_path, learner="sims", run="r", description={}, tensors={"a": np.ones(2)})
    assert (tmp_path / "split.parquet").read_text() == "kept"


def test_an_interruption_leaves_nothing_of_a_model(tmp_path, model, monkeypatch):
    replace, before = os.replace, {path.name: path.read_bytes() for path in model.iterdir()}
    for folder, number in ((tmp_path / "new", 1), (tmp_path / "new", 2), (model, 1)):
        calls = []

        def interrupted(source, target, calls=calls, number=number):
            calls.append(target)
            if len(calls) == number:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_model(folder, learner="sims", run="run-1", description={}, tensors={"a": np.ones(2)})
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    for bad in ({"score": float("nan")}, {"object": object()}):
        with pytest.raises(LearnerError, match="cannot be stored as JSON"):
            write_model(tmp_path / "m", learner="sims", run="r", description=bad, tensors={"a": np.ones(2)})
    assert not (tmp_path / "m").exists()


def test_damaged_tensors_are_refused(model):
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelRefused, match="checksum differs"):
        read_model(model)
    path.unlink()
    with pytest.raises(ModelRefused, match=r"model\.safetensors cannot be read"):
        read_model(model)


def test_tensors_that_differ_from_the_description_are_refused(model):
    stored = json.loads((model / "model.json").read_text())["tensors"]
    edit(model, tensors={**stored, "weights": {"dtype": "float32", "shape": [5, 3]}})
    with pytest.raises(ModelRefused, match=r"weights is float32 \[5, 3\].*holds float32 \[4, 3\]"):
        read_model(model)
    edit(model, tensors={name: entry for name, entry in stored.items() if name != "counts"})
    with pytest.raises(ModelRefused, match="counts is absent"):
        read_model(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "expected format 'neurofleet model', found 'other'"),
        ({"version": 99}, "of version 99; this neurofleet reads version 1"),
        ({"tensors": None}, "damaged: tensors missing"),
    ],
)
def test_foreign_and_newer_descriptions_are_refused(model, changes, message):
    edit(model, **changes)
    with pytest.raises(ModelRefused, match=message):
        read_model(model)


def test_a_description_cut_short_is_refused(model):
    path = model / "model.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelRefused, match="cannot be read as JSON"):
        read_model(model)


def test_a_model_of_another_learner_is_refused(model):
    with pytest.raises(ModelRefused, match="learner 'sims'; expected 'hippie'"):
        read_model(model, learner="hippie")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.pkl", "renamed.dat"])
def test_a_pickle_is_refused_and_never_executed(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelRefused, match="It is a pickle, which can run any code"):
        read_model(path)
    if name != "renamed.dat":
        with pytest.raises(ModelRefused, match=f"found {name}. Pickles are not loaded"):
            read_model(tmp_path)


def test_a_pickle_under_the_names_of_a_model_is_refused_and_never_executed(model):
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelRefused, match="checksum differs"):
        read_model(model)
    (model / "model.json").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelRefused, match="cannot be read as JSON"):
        read_model(model)


def test_missing_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ModelRefused, match="There is no folder"):
        read_model(tmp_path / "nowhere")
    with pytest.raises(ModelRefused, match="found nothing"):
        read_model(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelRefused, match=r"found notes\.txt"):
        read_model(tmp_path)
    with pytest.raises(ModelRefused, match="is a file; a model needs a folder"):
        write_model(tmp_path / "notes.txt", learner="sims", run="r", description={}, tensors={})
