"""The pages where cells are named: uploads, what is refused, and a result from file to download."""

import json
import os
import shutil
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.publishing import Stated, publish_command
from neurofleet.jobs.serve.access import Access, Role, Users
from neurofleet.jobs.serve.app import create_app
from neurofleet.jobs.serve.at_home import _onnx_of
from neurofleet.jobs.serve.bundle import WEB
from neurofleet.jobs.serve.name_cells import ModelCard
from neurofleet.jobs.serve.naming_process import refuse_other_files
from neurofleet.jobs.serve.namings import Limits
from neurofleet.learners.sims.cell_prediction import MOST_MISSING, WARNED_MISSING, WARNED_MISSING_GENES
from tests.jobs.small_model import small_model
from tests.learners.cells.made_cells import made_counts, written

ORIGIN = "http://127.0.0.1:8700"
PASSWORDS = {"anna": "correct horse battery", "bert": "another password"}
OLD_RUNS = Path(__file__).parents[1] / "old_runs"
ODD = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root with a query, a folder with a model of an odd name, and a file outside of both."""
    place = tmp_path_factory.mktemp("served")
    root = place / "root"
    root.mkdir()
    model = small_model(place)
    head = json.loads((model / "model.json").read_text())
    head["description"]["classes"][0] = ODD
    (model / "model.json").write_text(json.dumps(head))
    written(made_counts(120, seed=5, prefix="query"), root / "query.h5ad")
    (place / "outside.csv").write_text("a")
    os.symlink(place / "outside.csv", root / "link.csv")
    return place


@pytest.fixture(scope="module")
def app(place):
    users = Users(place / "users.json")
    for name, password in PASSWORDS.items():
        users.add(name, password, Role.predict)
    users.add("eve", "only looks at runs", Role.view)
    app = create_app(str(place / "root"), Access(users), models=(place / "model",))
    yield app
    app.state.server.namings.close()


def signed_in(app, name: str) -> TestClient:
    browser = TestClient(app, base_url=ORIGIN, headers={"Origin": ORIGIN})
    password = PASSWORDS.get(name, "only looks at runs")
    browser.post("/sign-in", data={"name": name, "password": password})
    return browser


@pytest.fixture(scope="module")
def anna(app):
    return signed_in(app, "anna")


@pytest.fixture(scope="module")
def card(anna) -> str:
    """The address of the model's page."""
    page = anna.get("/models").text
    return page.split('href="/models/')[1].split('"')[0]


def send(browser, name: str, content: bytes) -> str:
    """Upload a file in two chunks and return its id."""
    id = browser.post("/api/uploads", json={"name": name, "size": len(content)}).json()["id"]
    half = len(content) // 2
    for start, chunk in ((0, content[:half]), (half, content[half:])):
        browser.put(f"/api/uploads/{id}", params={"offset": start}, content=chunk)
    return id


def named(browser, card: str, **form) -> str:
    """Start a naming, wait for its end, and return its address."""
    answer = browser.post(f"/models/{card}", data=form, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    address = answer.headers["location"]
    for _ in range(600):
        if "hx-get" not in browser.get(address).text.split("<main")[1] or 'id="below"' in browser.get(address).text:
            return address
        time.sleep(0.1)
    raise AssertionError("it takes too long")


def test_a_card_says_what_a_model_is(anna, app, card, place):
    page = anna.get(f"/models/{card}").text
    head = json.loads((place / "model" / "model.json").read_text())
    assert head["sha256"] in page
    assert ODD not in page
    assert "&lt;img src=x" in page
    assert anna.get("/models/nonsense").status_code == 404
    script = anna.get(f"/models/{card}/at-home/at_home_worker.js")
    assert "'wasm-unsafe-eval'" in script.headers["content-security-policy"]
    assert "wasm" not in anna.get(f"/models/{card}").headers["content-security-policy"]
    assert anna.get(f"/models/{card}/at-home/app.js").status_code == 404
    assert signed_in(app, "eve").get(f"/models/{card}/at-home/model.onnx").status_code == 403


def test_the_page_for_browsers_warns_as_predict_does(app, tmp_path):
    limits = [MOST_MISSING, WARNED_MISSING, WARNED_MISSING_GENES]
    worker = (WEB / "at_home_worker.js").read_text()
    assert f"[MOST_MISSING, WARNED_MISSING, WARNED_MISSING_GENES] = {limits}" in worker
    assert "% of its networks' attention" in worker
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        _onnx_of(app.state.server, ModelCard("key", "odd", tmp_path, {"sha256": "../../odd"}))


def test_an_upload_goes_on_where_it_was_cut(anna, app):
    id = anna.post("/api/uploads", json={"name": "a.h5ad", "size": 10}).json()["id"]
    assert anna.put(f"/api/uploads/{id}", params={"offset": 0}, content=b"0123").json()["received"] == 4
    assert anna.get(f"/api/uploads/{id}").json() == {"id": id, "received": 4, "size": 10}
    again = anna.put(f"/api/uploads/{id}", params={"offset": 0}, content=b"0123")
    assert (again.status_code, again.json()["received"]) == (409, 4)
    assert anna.put(f"/api/uploads/{id}", params={"offset": 4}, content=b"4567891").status_code == 400
    assert anna.put(f"/api/uploads/{id}", params={"offset": 4}, content=b"456789").json()["received"] == 10
    upload = app.state.server.namings.upload(id, "anna")
    assert upload.path.read_bytes() == b"0123456789"
    assert signed_in(app, "bert").get(f"/api/uploads/{id}").status_code == 404
    assert anna.delete(f"/api/uploads/{id}").status_code == 204
    assert not upload.path.exists()


def test_what_cannot_be_taken_is_refused_in_words(anna, card, app, place):
    new = {"name": "cells.exe", "size": 10}
    assert "ends in one of" in anna.post("/api/uploads", json=new).json()["error"]
    assert "at most 8 GiB" in anna.post("/api/uploads", json=new | {"name": "a.h5ad", "size": 2**40}).json()["error"]
    id = anna.post("/api/uploads", json={"name": "../../../x/y.h5ad", "size": 5}).json()["id"]
    namings = app.state.server.namings
    assert namings.upload(id, "anna").path == namings.place / f"upload-{id}" / "query.h5ad"
    assert "0 of 5 bytes" in anna.post(f"/models/{card}", data={"upload": id}).text
    for outside in ("../outside.csv", "link.csv", str(place / "outside.csv"), "/etc/passwd", "nothing.h5ad", "\0"):
        answer = anna.post(f"/models/{card}", data={"path": outside})
        assert answer.status_code == 400
        assert "is no file below" in answer.text
    assert "Choose a file" in anna.post(f"/models/{card}").text


def test_naming_needs_its_role(app, anna, card):
    eve = signed_in(app, "eve")
    assert "Name my cells" not in eve.get("/").text
    for answer in (eve.get("/models"), eve.post("/api/uploads", json={"name": "a.h5ad", "size": 1})):
        assert answer.status_code == 403
        assert "predict" in answer.text


def test_cells_are_named_from_file_to_download(anna, card, place, app, tmp_path):
    content = (place / "root" / "query.h5ad").read_bytes()
    address = named(anna, card, upload=send(anna, f"{ODD}.h5ad", content), majority="true")
    page = anna.get(address).text
    assert ODD not in page
    assert "60 of the model" in page
    assert "120 of 120 cells are unknown" in anna.get(f"{address}/labels", params={"below": 1}).text
    found = anna.get(f"/api{address}/map").json()
    assert len(found["query"]["x"]) == len(found["query"]["c"]) == 120
    assert len(found["reference"]["x"]) == len(found["reference"]["c"]) > 20
    for name in ("predictions.parquet", "predictions.csv", "cells.h5ad"):
        answer = anna.get(f"{address}/files/{name}", params={"below": 0.9})
        (tmp_path / name).write_bytes(answer.content)
    table = pq.read_table(tmp_path / "predictions.parquet").to_pandas()
    assert 0 < table["unknown"].sum() < 120
    assert list(table["unknown"]) == list(table["prob_0"].astype(float) < 0.9)
    assert list(pd.read_csv(tmp_path / "predictions.csv")["label"]) == list(table["label"])
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert list(cells.obs["sims_label"]) == list(table["label"])
    assert cells.uns["sims"]["threshold"] == 0.9
    assert "unsafe-inline" in anna.get(f"{address}/report").headers["content-security-policy"]
    assert anna.get(f"{address}/files/passwd").status_code == 404
    assert signed_in(app, "bert").get(address).status_code == 404


def test_a_damaged_file_is_told(anna, card, place):
    content = (place / "root" / "query.h5ad").read_bytes()
    address = named(anna, card, upload=send(anna, "cut.h5ad", content[: len(content) // 2]))
    page = anna.get(address).text
    assert "cut.h5ad" in page
    assert "damaged" in page
    assert str(place) not in page.split("<footer")[0]
    assert anna.get(f"/api{address}/map").status_code == 400


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_a_file_that_reads_other_files_is_refused(place, tmp_path, kind):
    path, secret = tmp_path / "sent.h5ad", tmp_path / "secret"
    shutil.copyfile(place / "root" / "query.h5ad", path)
    refuse_other_files(path)
    with h5py.File(path, "r+") as file:
        if kind == "link":
            file["layers/stolen"] = h5py.ExternalLink(str(secret), "/X")
        elif kind == "external":
            file.create_dataset("layers/stolen", (4,), "u1", external=[(str(secret), 0, 4)])
        else:
            layout = h5py.VirtualLayout((4,), "u1")
            layout[:] = h5py.VirtualSource(str(secret), "X", (4,))
            file["layers"].create_virtual_dataset("stolen", layout)
    with pytest.raises(UsageError, match="stolen.*in (an)?other file"):
        refuse_other_files(path)


def test_a_file_that_needs_too_much_memory_is_told(place, card):
    access = Access()
    app = create_app(str(place / "root"), access, models=(place / "model",))
    app.state.server.namings.limits = Limits(memory_bytes=200 * 2**20)
    browser = TestClient(app, base_url=ORIGIN, headers={"Authorization": f"Bearer {access.script_token}"})
    address = named(browser, card, path="query.h5ad")
    assert "GiB of memory" in browser.get(address).text
    app.state.server.namings.close()


def test_units_are_named_too(tmp_path):
    """Four of them: their map is no UMAP, which would be compiled."""
    answers = OLD_RUNS / "answers"
    arrays = dict(np.load(answers / "units.npz"))
    n = len(arrays["unit_id"])
    arrays["label"] = np.array(["own"] * n)
    np.savez(tmp_path / "few.npz", **{name: a[:4] if a.ndim and len(a) == n else a for name, a in arrays.items()})
    access = Access()
    publish_command(str(OLD_RUNS / "neuprint"), str(tmp_path / "lab"), "phi", None, Stated())
    app = create_app(str(OLD_RUNS), access, models=(tmp_path / "lab",))
    browser = TestClient(app, base_url=ORIGIN, headers={"Origin": ORIGIN})
    browser.get("/", params={"token": access.link_token})
    models = browser.get("/models").text
    assert "neurons" in models
    assert ">phi@1</a>" in models
    card = models.split(">hippie</a>")[0].rpartition('href="/models/')[2].split('"')[0]
    id = send(browser, "few.npz", (tmp_path / "few.npz").read_bytes())
    result = named(browser, card, upload=id)
    assert "of 4 units are unknown below 0.00" in browser.get(result).text
    (tmp_path / "found.csv").write_bytes(browser.get(f"{result}/files/predictions.csv", params={"below": 0.99}).content)
    table, expected = pd.read_csv(tmp_path / "found.csv"), pq.read_table(answers / "units.parquet").to_pandas()[:4]
    assert table["class"].tolist() == expected["class"].tolist()
    assert (table["label"] == "unknown").tolist() == (expected["probability"] < 0.99).tolist()
    (tmp_path / "found.h5ad").write_bytes(browser.get(f"{result}/files/cells.h5ad", params={"below": 0.99}).content)
    obs = anndata.read_h5ad(tmp_path / "found.h5ad").obs
    assert set(obs["file.label"]) == set(table["file.label"]) == {"own"}
    assert obs["label"].tolist() == table["label"].tolist()
    places = browser.get(f"/api{result}/map").json()
    assert (len(places["query"]["x"]), places["reference"]["x"]) == (4, [])
    wrong = browser.post(f"/models/{card}", data={"upload": id, "layout": "labels: ../../secret.csv"})
    assert wrong.status_code == 400
    assert "which alone is served" in wrong.text
    app.state.server.namings.close()
