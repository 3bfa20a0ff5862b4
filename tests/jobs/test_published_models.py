"""Models that are published: written with a card and an index, found by name, copied once, and never believed."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from neurofleet import http_download, load_model
from neurofleet.errors import NeurofleetError, UsageError
from neurofleet.jobs.cli import app
from neurofleet.jobs.learners.publishing import Stated, VersionTaken, publish_command
from neurofleet.jobs.quick import QUICK_NOTE
from neurofleet.learners.model_card import card_text, checked_licence
from neurofleet.learners.model_folder import QUICK, ModelRefused, read_model, write_model
from neurofleet.learners.published_models import local_model, models_at
from neurofleet.learners.sims.cell_prediction import open_query
from tests.file_server import FileServer, serve
from tests.learners.cells.made_cells import made_counts
from tests.learners.fresh_prediction import made_recordings
from tests.learners.test_old_models import OLD, expected
from tests.s3_server import s3_server

SECRET = "secret"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A cache of the test's own, no places, and no pause between two attempts."""
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NEUROFLEET_MODELS", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http_download, "LONGEST_PAUSE_S", 0.0)


@pytest.fixture
def library(tmp_path) -> Path:
    for learner in ("sims", "hippie", "neuprint"):
        published(OLD / learner, tmp_path / "library", name=learner)
    return tmp_path / "library"


def published(model, to, name=None, version=None, **stated):
    return publish_command(str(model), str(to), name, version, Stated(**stated))


def files_of(folder: Path, below: str = "") -> dict[str, bytes]:
    """What a web server would hold of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{below}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}


def run(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def test_each_learner_is_published_listed_and_loaded_by_name(library, monkeypatch, capsys):
    monkeypatch.setenv("NEUROFLEET_MODELS", str(library))
    capsys.readouterr()
    run("models", "--json")
    listed = json.loads(capsys.readouterr().out)["models"]
    assert [each["title"] for each in listed] == ["hippie@1", "neuprint@1", "sims@1"]
    assert listed[2]["about"]["classes"] == {"B": 50, "NK": 50, "T": 50}
    assert {row["method"] for row in listed[2]["about"]["scores"]["rows"]} > {"this model", "logistic"}
    for learner in ("sims", "hippie", "neuprint"):
        model = load_model(f"{learner}@1")
        before = read_model(OLD / learner).tensors
        after = read_model(library / learner / "1").tensors
        left_out = {"known_cells", "phi"}
        assert {name for name in before if name not in after or before[name].shape != after[name].shape} <= left_out
        assert all((after[name] == before[name]).all() for name in before.keys() - left_out)
        assert "classes: " in repr(model)
    embedded = load_model("neuprint@1").embed(made_recordings())
    np.testing.assert_allclose(embedded.filter(regex="^phi_"), expected("neuprint")["phi"], atol=1e-5)
    ((_, values),) = open_query(load_model("sims"), made_counts(12, seed=5)).blocks()
    np.testing.assert_allclose(load_model("sims").probabilities(values), expected("sims")["probabilities"], atol=1e-6)
    assert load_model("sims").identity["name"] == "sims@1"
    assert "sims: sims@1, the newest version" in capsys.readouterr().err
    run("models")
    assert "0.678 hand forest" in capsys.readouterr().out


def test_nothing_of_single_cells_is_published(tmp_path):
    stored = read_model(OLD / "sims")
    facts = stored.description["facts"] | {"notes": [f"{SECRET}-cell is a copy"]}
    read = (f"/home/{SECRET}/a.h5ad", f"/{SECRET}/b/a.h5ad", f"{SECRET}-query.h5ad", f"{SECRET}-labels.csv")
    facts["data"] = facts["data"] | {
        "files": ["a.h5ad", "a.h5ad"],
        "query": [f"{SECRET}-query.h5ad"],
        "sha256": {name: str(number) * 64 for number, name in enumerate(read)},
    }
    facts["split"] = {"how": {"test": {"donor": [f"{SECRET}-donor"]}}, "fingerprint": "f", "groups": [SECRET]}
    write_model(
        tmp_path / "model",
        learner="sims",
        run="r",
        description=stored.description | {"facts": facts},
        tensors=stored.tensors | {"known_cells": np.ones((7, 10), np.uint32)},
    )
    for name in ("split.parquet", "predictions.parquet"):
        (tmp_path / "model" / name).write_text(SECRET)
    entry = published(tmp_path / "model", tmp_path / "to")
    assert entry.about["data"]["sha256"] == {"a.h5ad": "0" * 64, "a.h5ad (2)": "1" * 64}
    stored = read_model(OLD / "neuprint")
    facts = stored.description["facts"]
    facts |= {"split": facts["split"] | {"how": "held-out-animal", "animal": f"{SECRET}-7"}}
    write_model(
        tmp_path / "neurons", learner="neuprint", run="r", description=stored.description, tensors=stored.tensors
    )
    neurons = published(tmp_path / "neurons", tmp_path / "to", name="neurons")
    assert neurons.about["scores"]["on"] == "neurons, split held-out-animal"
    everything = files_of(tmp_path / "to")
    names = {name.rpartition("/")[2] for name in everything}
    assert names == {"index.json", "README.md", "model.json", "model.safetensors", ".index.lock"}
    assert [name for name, content in everything.items() if SECRET.encode() in content or b'"s0/#0"' in content] == []
    assert "known_cells" not in read_model(tmp_path / "to" / entry.folder).tensors


def test_a_version_does_not_change(tmp_path, capsys):
    to = tmp_path / "to"
    first = published(OLD / "sims", to, name="pbmc", licence="CC BY 4.0", authors=("A. <b>Lab</b>",), species="human")
    before = files_of(to)
    assert published(OLD / "sims", to, name="pbmc").title == "pbmc@1"
    assert "nothing was written" in capsys.readouterr().out
    with pytest.raises(VersionTaken, match=r"pbmc@1 is published already, with other content \(the same model"):
        published(OLD / "sims", to, name="pbmc", version="1", species="mouse")
    with pytest.raises(VersionTaken, match="another model"):
        published(OLD / "hippie", to, name="pbmc", version="1")
    assert files_of(to) == before
    assert published(OLD / "hippie", to, name="pbmc").title == "pbmc@2"
    assert published(OLD / "sims", to, name="pbmc", species="mouse").title == "pbmc@3"
    assert published(OLD / "sims", to, name="pbmc", version="1.2.1").title == "pbmc@1.2.1"
    assert [model.version for model in models_at(str(to))] == ["1", "1.2.1", "2", "3"]
    card = (to / first.folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"], front["model-index"][0]["name"]) == (
        "cc-by-4.0",
        "neurofleet",
        "pbmc",
    )
    for words in ("| NK | 50 |", "| logistic | 1.000 |", "A. &lt;b>Lab", "Species: human.", "Technology: not stated."):
        assert words in card
    run("model-card", to / first.folder)
    assert card in capsys.readouterr().out
    run("model-card", OLD / "hippie")
    assert "Licence: not stated" in capsys.readouterr().out


def test_a_quick_model_is_marked_and_a_licence_of_one_s_own_is_kept(tmp_path, capsys):
    stored = read_model(OLD / "sims")
    facts = stored.description["facts"] | {QUICK: QUICK_NOTE}
    description = stored.description | {"facts": facts}
    write_model(tmp_path / "model", learner="sims", run="r", description=description, tensors=stored.tensors)
    entry = published(tmp_path / "model", tmp_path / "to", name="pbmc", licence="Other:  ask us")
    assert f"warning: {QUICK_NOTE}" in " ".join(capsys.readouterr().err.split())
    run("models", tmp_path / "to")
    assert "pbmc@1 (quick)" in capsys.readouterr().out
    run("model-card", tmp_path / "to" / entry.folder)
    card = capsys.readouterr().out
    assert f"**{QUICK_NOTE}**" in card
    assert "Licence: other: ask us." in card
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "ask-us")
    for said, spdx, name in (
        ("odbl", "ODbL-1.0", "odbl"),
        ("GPL 3.0", "GPL-3.0-only", "gpl-3.0"),
        ("agpl-3.0-or-later", "AGPL-3.0-or-later", "agpl-3.0"),
    ):
        assert checked_licence(said) == spdx
        assert f"\nlicense: {name}\n" in card_text("sims", "pbmc@1", entry.about | {"licence": spdx})


@pytest.mark.parametrize(
    ("model", "to", "options", "told"),
    [
        ("nowhere", "to", {}, "There is no folder nowhere"),
        ("nowhere@1", "to", {}, "NEUROFLEET_MODELS names no places"),
        (OLD / "sims", "https://host/models", {}, "publish writes into a folder or a bucket"),
        (OLD / "sims", "to", {"name": "../x"}, r"\.\./x: a name has letters"),
        (OLD / "sims", "to", {"version": "new"}, "@new: a version is a number such as 1"),
        (OLD / "sims", "to", {"licence": "cc by4.0"}, r"--licence: expected an SPDX.*did you mean 'cc-by-4.0'"),
        (OLD / "sims", "to", {"licence": "ask us"}, "or 'other: TEXT', found 'ask us'"),
        (OLD / "sims", "file.txt", {}, "Cannot publish into file.txt"),
    ],
)
def test_what_cannot_be_published(tmp_path, monkeypatch, model, to, options, told):
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    with pytest.raises((UsageError, ModelRefused), match=told):
        published(model, to, **options)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["file.txt"]


def test_publishers_at_the_same_time_lose_no_entry(tmp_path):
    with s3_server() as server:
        for place in (str(tmp_path / "to"), server.uri("models")):
            names = [f"m{number}" for number in range(6)]
            threads = [threading.Thread(target=published, args=(OLD / "sims", place, name)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [model.name for model in models_at(place)] == names
        folder = local_model(server.uri("models/m3/1"))
        assert read_model(folder).sha256 == read_model(OLD / "sims").sha256
        assert not list((tmp_path / "to").glob(".*.tmp"))


def test_a_model_of_a_web_server_is_copied_once(library, tmp_path, monkeypatch, capsys):
    with serve(FileServer(files_of(library, "/lab"))) as server:
        monkeypatch.setenv("NEUROFLEET_MODELS", f"{tmp_path / 'empty'}, {server.address}/lab/")
        folder = local_model("sims@1")
        assert (folder.name, folder.is_relative_to(tmp_path / "cache")) == ("sims@1", True)
        assert load_model("sims@1").classes == ("B", "NK", "T")
        asked = server.downloads.copy()
        capsys.readouterr()
        assert local_model("sims@1") == folder
        assert server.downloads == asked
        with pytest.raises(ModelRefused, match=r"no published model is called simms \(did you mean 'sims'\?\)"):
            local_model("simms")
        with pytest.raises(ModelRefused, match=r"There is no sims@2. Published of sims: 1"):
            local_model("sims@2")
        assert "There is no folder" in capsys.readouterr().err  # a model of the first place would be taken before
        with pytest.raises(ModelRefused, match="expected one published model, found hippie@1, neuprint@1, sims@1"):
            local_model(f"{server.address}/lab")
    with pytest.raises(ModelRefused, match=r"sims holds models and is none: .*sims/1 \(sims@1\)\. Name one"):
        local_model(library / "sims")
    assert local_model("sims") == folder  # without the server
    assert local_model("sims@1") == folder
    assert "cannot be reached, so the copy of" in capsys.readouterr().err
    (folder / "model.json").write_text("{}")  # damaged here
    with pytest.raises(Exception, match="no success in several attempts"):
        local_model("sims@1")
    assert not folder.exists()


def test_a_repository_of_hugging_face_is_a_place(library, monkeypatch):
    files = files_of(library / "sims" / "1", "/lab/pbmc/resolve/main")
    with serve(FileServer(files)) as server:
        large = "/lab/pbmc/resolve/main/model.safetensors"
        server.files["/cdn/1234"] = server.files.pop(large)
        server.redirects[large] = f"{server.address}/cdn/1234"
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        for place in ("hf://lab/pbmc", f"{server.address}/lab/pbmc", f"{server.address}/lab/pbmc/resolve/main"):
            assert load_model(place).classes == ("B", "NK", "T")
        with pytest.raises(UsageError, match="expected hf://ORG/NAME"):
            models_at("hf://pbmc")
        with pytest.raises(ModelRefused, match=r"hf://lab/other has no index\.json"):
            models_at("hf://lab/other")


def changed_index(library: Path, **changes) -> bytes:
    index = json.loads((library / "index.json").read_text())
    index["models"] = [index["models"][-1] | changes]
    return json.dumps(index).encode()


def test_what_a_server_sends_is_not_believed(library, tmp_path, monkeypatch):
    files = files_of(library)
    entry = json.loads(changed_index(library))["models"][0]
    with serve(FileServer(files.copy())) as server:
        monkeypatch.setenv("NEUROFLEET_MODELS", server.address)

        def refused(told: str, index: bytes = files["/index.json"], **others: bytes) -> None:
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            server.files |= files | {"/index.json": index} | {f"/sims/1/{name}": each for name, each in others.items()}
            with pytest.raises(NeurofleetError, match=told):
                local_model("sims@1")
            assert not [path for path in (tmp_path / "cache").rglob("model.*") if "models" in path.parts]

        tensors = files["/sims/1/model.safetensors"]
        refused("is not the file of the index", **{"model.safetensors": tensors[:-1] + b"x"})
        refused("found more", **{"model.safetensors": tensors * 2})
        refused("is not the file of the index", **{"model.safetensors": tensors[:-10]})
        for changes in (
            {"name": "../../evil"},
            {"folder": "../../evil"},
            {"folder": "https://evil/x"},
            {"version": "1/../../.."},
            {"files": entry["files"] | {"../evil.py": entry["files"]["README.md"]}},
            {"files": {"model.json": entry["files"]["model.json"]}},
            {"files": entry["files"] | {"model.json": {"sha256": "short", "bytes": 1}}},
        ):
            refused("damaged, or not to be trusted", changed_index(library, **changes))
        huge = entry["files"] | {"model.safetensors": {"sha256": "0" * 64, "bytes": 10**13}}
        refused("at most 8,000,000,000 are copied", changed_index(library, files=huge))
        refused("cannot be read as JSON", b"{")
        refused("of another program", b'{"models": []}')
        refused("cannot be read as JSON", b"[" * 200_000)
        deep = json.loads("[" * 500 + "]" * 500)
        for about in ({"classes": deep}, {"classes": "\ud800"}):
            refused("damaged", changed_index(library, about=about))
        endless = entry["files"] | {"model.safetensors": {"sha256": "0" * 64, "bytes": 10**400}}
        refused("damaged, or not to be trusted", changed_index(library, files=endless))
        server.files |= files
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        server.redirects["/sims/1/model.json"] = f"file://{OLD / 'sims' / 'model.json'}"
        with pytest.raises(Exception, match="which is not followed"):
            local_model("sims@1")
