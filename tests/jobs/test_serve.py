"""``neurofleet serve``: pages, who may see them, and what is refused. In process, without a browser."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

import neurofleet as nf
from neurofleet.cluster.store.schemas import FEATURES, MORPHOLOGY, RATES, TRACES, table_of
from neurofleet.errors import UsageError
from neurofleet.jobs.fit.campaign_state import STATUS, CampaignState, CellState
from neurofleet.jobs.serve.access import Access, NotAllowed, Role, Users
from neurofleet.jobs.serve.app import create_app
from neurofleet.jobs.serve.bundle import RECORD, STATIC, sources_digest
from neurofleet.jobs.serve.catalogue import NoSuchRun, RunCatalogue
from neurofleet.jobs.serve.guard import COOKIE
from neurofleet.jobs.serve.root_reader import OutsideRoot
from neurofleet.jobs.serve.serve_command import serve_command
from tests.jobs.made_root import write_root
from tests.jobs.made_run import ACTIVE, made_job, write_run
from tests.s3_server import KEY, SECRET, s3_server

OLD_RUNS = Path(__file__).parents[1] / "old_runs"
PASSWORD = "correct horse battery"


def client(root: Path, access: Access | None = None, **settings) -> TestClient:
    """A client that has not signed in."""
    return TestClient(create_app(str(root), access), base_url="http://127.0.0.1:8700", **settings)


def signed_in(root: Path, **settings) -> TestClient:
    """A client with the session that the one-time link gives."""
    access = Access()
    browser = client(root, access, **settings)
    browser.get("/", params={"token": access.link_token})
    return browser


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with runs of all kinds."""
    return write_root(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def browser(root) -> TestClient:
    return signed_in(root)


def test_a_link_signs_one_browser_in_once(root):
    links = []
    access = Access(say=links.append)
    first, second = client(root, access), client(root, access)
    assert first.get("/").status_code == 401
    token = access.link_token
    answer = first.get("/", params={"token": token})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}-8700=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert first.get("/").status_code == 200
    refused = second.get("/", params={"token": token})
    assert refused.status_code == 401
    assert "used already" in refused.text
    assert second.get("/").status_code == 401
    second.get("/", params={"token": links[-1]})
    assert second.get("/").status_code == 200


def test_scripts_send_their_token(root):
    access = Access()
    script = client(root, access)
    assert script.get("/", headers={"Authorization": f"Bearer {access.script_token}"}).status_code == 200
    for wrong in ("Bearer nonsense", f"Bearer {access.link_token}", "Basic !!!", "Basic bm9ib2R5", "Bearer é"):
        answer = script.get("/", headers={"Authorization": wrong.encode()})
        assert answer.status_code == 401
        assert ("the token of the one-time link" in answer.text) == (access.link_token in wrong)
    assert access.by_link(access.link_token)  # not used up


def test_pages_may_not_be_framed_and_run_no_foreign_script(browser):
    headers = browser.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    page = browser.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|https?://", page)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8700", "", "[::2]:8700", "localhost@evil"])
def test_a_host_of_another_name_is_refused(browser, host):
    answer = browser.get("/", headers={"Host": host})
    assert answer.status_code == 400
    assert "is not called" in answer.text


def test_another_servers_page_changes_nothing(tmp_path):
    browser = signed_in(tmp_path)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:8701"):
        assert browser.post("/sign-out", headers={"Origin": origin}).status_code == 403
    assert browser.post("/sign-out").status_code == 403
    assert browser.get("/").status_code == 200
    browser.post("/sign-out", headers={"Origin": "http://127.0.0.1:8700"})
    assert browser.get("/").status_code == 401


def test_users_sign_in_with_passwords_and_have_roles(tmp_path):
    path = tmp_path / "users.json"
    Users(path).add("anna", PASSWORD, Role.predict)
    assert path.stat().st_mode & 0o077 == 0
    assert PASSWORD not in path.read_text()
    access = Access(Users(path))
    browser = client(tmp_path, access, follow_redirects=False)
    assert browser.get("/").headers["location"] == "/sign-in"
    assert browser.get("/", params={"token": access.link_token}).status_code == 401
    own = {"Origin": "http://127.0.0.1:8700"}
    wrong = browser.post("/sign-in", data={"name": "anna", "password": "wrong"}, headers=own)
    assert wrong.status_code == 401
    assert "do not belong together" in wrong.text
    assert browser.post("/sign-in", data={"name": "anna", "password": PASSWORD}).status_code == 403
    assert browser.post("/sign-in", data={"name": "anna", "password": PASSWORD}, headers=own).status_code == 303
    assert "anna (predict)" in browser.get("/").text
    path.write_text(json.dumps({"users": {}}))
    os.utime(path, ns=(1, 1))
    assert browser.get("/").status_code == 303, "a user who was removed has no session any more"


def test_a_password_is_not_guessed_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("neurofleet.jobs.serve.access.TRIES", 1)
    users = Users(tmp_path / "users.json")
    users.add("anna", PASSWORD, Role.view)
    assert users.visitor("anna", PASSWORD) is not None
    assert users.visitor("anna", "wrong") is None
    assert users.visitor("anna", PASSWORD) is None
    with pytest.raises(UsageError, match="at least 10 characters"):
        users.add("bob", "short", Role.view)
    with pytest.raises(UsageError, match="found '../bob'"):
        users.add("../bob", PASSWORD, Role.view)


def test_a_role_that_is_missing_is_named(tmp_path):
    access = Access(read_only=True)
    visitor = access.of_session(access.by_link(access.link_token))
    assert visitor.role is Role.view
    with pytest.raises(NotAllowed, match="needs the role 'submit'; you has the role 'view'"):
        visitor.require(Role.submit)


def test_an_address_that_others_reach_needs_users(tmp_path):
    with pytest.raises(UsageError, match="--add-user NAME"):
        serve_command(str(tmp_path), host="0.0.0.0")
    with pytest.raises(UsageError, match="nobody in it yet"):
        serve_command(str(tmp_path), users=tmp_path / "none.json")
    with pytest.raises(UsageError, match="found no folder"):
        serve_command(str(tmp_path / "gone"))


def test_the_runs_are_listed_and_filtered(browser):
    page = browser.get("/").text
    assert "7 runs" in page
    for run in ("fits/first", "fits/second", "models/hippie", "models/sims"):
        assert f">{run}<" in page
    fits = browser.get("/", params={"kind": "fit", "q": "FIRST"}, headers={"HX-Request": "true"}).text
    assert fits.count("<tr>") == 2
    assert "<html" not in fits
    assert "No run fits" in browser.get("/", params={"q": "nothing of this name"}).text
    assert browser.get("/", params={"page": 0}).status_code == 422


def test_a_run_that_goes_on_is_read_again(tmp_path):
    write_run(tmp_path / "a", finished=False)
    catalogue = RunCatalogue(tmp_path)
    assert [row.progress.state for row in catalogue.rows()] == ["unfinished"]
    catalogue._made_at = -1e9
    assert catalogue.refresh() == set(), "nothing has changed"
    write_run(tmp_path / "b")
    catalogue._made_at = -1e9
    assert catalogue.refresh() == {"b"}
    assert catalogue.row("b").progress.state == "finished"


def test_a_damaged_run_hides_no_other(tmp_path):
    write_run(tmp_path / "good")
    for name, file, content in (
        ("job", "job.yaml", "a: [1"),
        ("status", "status.json", '{"cells": 3}'),
        ("events", "events.jsonl", '{"event": "finished"\n'),
    ):
        write_run(tmp_path / name, finished=False)
        (tmp_path / name / file).write_text(content)
    rows = {row.run: row for row in RunCatalogue(tmp_path).rows()}
    assert not rows["good"].fault
    assert all(rows[name].fault for name in ("job", "status", "events"))
    assert "not readable as YAML" in signed_in(tmp_path).get("/").text


def test_links_out_of_the_root_are_not_followed(tmp_path):
    secret = write_run(tmp_path / "secret")
    served = tmp_path / "served"
    write_run(served / "own")
    (served / "link").symlink_to(secret.root)
    (served / "own" / "provenance.json").unlink()
    (served / "own" / "provenance.json").symlink_to(Path(secret.root) / "provenance.json")
    catalogue = RunCatalogue(served)
    assert [row.run for row in catalogue.rows()] == []  # without its provenance it is no run
    write_run(served / "other")
    (served / "other" / "log.jsonl").symlink_to("/etc/passwd")
    catalogue._made_at = -1e9
    with pytest.raises(OutsideRoot, match="leads out of"):
        catalogue.folder("other")
    with pytest.raises(NoSuchRun):
        catalogue.folder("link")
    with pytest.raises(NoSuchRun):
        catalogue.folder("../secret")


def test_names_are_text_on_every_page(tmp_path):
    job = made_job(("a",), (1,)) | {"name": "<script>alert(1)</script>"}
    write_run(tmp_path / 'x" onload', job=job, seeds=(1,))
    page = signed_in(tmp_path).get("/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert '" onload' not in page


def test_what_is_not_there_is_said(browser):
    answer = browser.get("/nothing")
    assert answer.status_code == 404
    assert "There is no page at /nothing." in answer.text
    assert browser.get("/static/../app.py").status_code == 404
    assert browser.get("/static/%2e%2e/app.py").status_code == 404


def test_a_mistake_is_one_sentence_without_its_trace(tmp_path, monkeypatch):
    browser = signed_in(tmp_path, raise_server_exceptions=False)
    monkeypatch.setattr(RunCatalogue, "rows", lambda self: 1 / 0)
    answer = browser.get("/")
    assert answer.status_code == 500
    assert "The server made a mistake (ZeroDivisionError)" in answer.text
    assert "Traceback" not in answer.text


def test_the_bundle_belongs_to_its_sources():
    import hashlib

    record = json.loads(RECORD.read_text())
    assert record["sources"] == sources_digest(), "npm ci --ignore-scripts && npm run build in jobs/serve/web"
    for name, digest in record["bundle"].items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
    assert "htmx.org" in (STATIC / "LICENCES.txt").read_text()


def test_a_run_page_has_cells_job_events_and_findings(browser, root):
    fit = browser.get("/runs/fits/first").text
    for text in ("Nothing has been evaluated yet", "morphology: a.swc", "stage started", "neuron"):
        assert text in fit
    assert browser.get("/runs/fits/none").status_code == 404
    assert browser.get("/runs/../secret").status_code == 404
    assert browser.get("/runs/%2e%2e/etc/passwd").status_code == 404
    old = signed_in(OLD_RUNS)
    page = old.get("/runs/fit").text
    assert "of 1 cells" not in page
    assert re.search(r'<b>\w+</b>.*?class="state finished"', page, re.S)
    assert "training, SD" in old.get("/runs/validate").text
    assert old.get("/runs/hippie").status_code == 200


def test_a_run_of_many_cells_is_shown_in_pages(tmp_path):
    write_status(write_run(tmp_path / "many", finished=False), 130, failed=3)
    browser = signed_in(tmp_path)
    page = browser.get("/runs/many").text
    assert "Page 1 of 3" in page
    assert "130 of 130" in page
    found = browser.get("/runs/many", params={"q": "failed"}, headers={"HX-Request": "true"}).text
    assert found.count("no &lt;morphology&gt;") == 3
    rows = browser.get("/").text
    assert "3 failed" in rows


def write_status(store, cells: int, failed: int) -> None:
    """Write the status of a campaign whose first cells have failed."""
    states = [
        CellState(f"c{i}", "failed" if i < failed else "waiting", "no <morphology>" * (i < failed), None, 0, 10, ())
        for i in range(cells)
    ]
    numbers = {"hosts": 2, "hosts_lost": 0, "utilisation": 0.5, "evaluations": 0, "planned": 10 * cells}
    rest = {"evaluations_per_s": 0.0, "core_hours": 0.0, "core_hours_left": None, "seconds_left": None}
    limits = {"max_core_hours": None, "max_wall_hours": None, "stopped": "", "cells": states}
    state = CampaignState(run="many", at="2030-01-01T00:00:00+00:00", **numbers, **rest, **limits)
    store.write_text(STATUS, state.to_json())


def test_the_log_is_filtered_and_only_text(tmp_path):
    write_run(tmp_path / "a")
    records = [
        {"at": f"2030-01-01T00:00:{i:02d}", "level": level, "cell": None, "message": message}
        for i, (level, message) in enumerate([("info", "begun"), ("warning", "<img src=x onerror=alert(1)>")])
    ]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "a" / "log.jsonl").write_text("\n".join([*lines, '{"level": "info", "torn']))
    browser = signed_in(tmp_path)
    every = browser.get("/log/a").text
    assert every.index("onerror") < every.index("begun"), "the latest first"
    assert "<img" not in every
    assert "begun" not in browser.get("/log/a", params={"level": "warning"}).text
    assert "No record fits" in browser.get("/log/a", params={"q": "nothing"}).text
    assert browser.get("/log/a", params={"level": "shout"}).status_code == 422


def test_two_runs_of_a_kind_are_compared(browser):
    text = browser.get("/difference/fits/second", params={"other": "fits/first"}).text
    assert "cells" in text
    refused = browser.get("/difference/fits/second", params={"other": "sample"})
    assert refused.status_code == 400
    assert "choose a run of the same kind" in refused.text


def test_a_report_is_shut_off_from_the_pages(tmp_path):
    write_run(tmp_path / "a")
    browser = signed_in(tmp_path)
    assert "has no report yet" in browser.get("/report/a").text
    (tmp_path / "a" / "report.html").write_text("<script>alert(1)</script>")
    policy = browser.get("/report/a").headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "script-src" not in policy


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    return write_fitted(tmp_path_factory.mktemp("fitted"))


def write_fitted(root: Path) -> Path:
    """Write a finished fit and what is stored of its cell."""
    store = write_run(root / "fit", cells=("a", "b"))
    write_status(store, 2, failed=0)
    time_ms = np.linspace(0, 300, 50)
    for kind, rows in (
        (TRACES, [_trace(None, 3, time_ms), *(_trace(rank, None, time_ms) for rank in (1, 2, 3))]),
        (FEATURES, [{"rank": 1, "objective": "LongDC_46.soma.AP_width", "value": 1.0, "mean": 2.0, "std": 0.5}]),
        (RATES, [{"rank": rank, "amplitude_nA": 0.2, "rate_Hz": 10.0} for rank in (None, 1, 2)]),
        (MORPHOLOGY, [_section("soma", [0.0], 12.0), _section("dend", [0.0, 40.0], 1.5)]),
    ):
        store.write_table(f"{kind}/cell=a/part.parquet", table_of(kind, rows, "a"))
    return root


def _trace(rank, sweep, time_ms):
    row = {"rank": rank, "sweep": sweep, "protocol": "LongDC_46", "amplitude_nA": 0.2, "start_ms": 50.0}
    return row | {"stop_ms": 250.0, "time_ms": time_ms, "voltage_mV": -80 + time_ms / 10}


def _section(kind, x_um, diameter_um):
    places = {name: [0.0] * len(x_um) for name in ("y_um", "z_um")}
    return {"kind": kind, "parent": -1, "x_um": x_um, **places, "diameter_um": [diameter_um] * len(x_um)}


@pytest.fixture(scope="module")
def cells(fitted) -> TestClient:
    return signed_in(fitted)


def test_a_cell_page_has_models_stages_and_morphology(cells):
    page = cells.get("/cell/a/fit").text
    for text in (
        'data-component="cell"',
        "/api/models/a/fit",
        "hall of fame: 6 models",
        "kind-dend",
        "no result within",
    ):
        assert text in page
    assert "no stored traces" in cells.get("/cell/b/fit").text
    for cell in ("c", "..", "%2e%2e", "a%2f..%2f.."):
        assert cells.get(f"/cell/{cell}/fit").status_code in (400, 404)
    assert not re.search(r"style=|\son\w+=", page)


def test_models_come_with_their_places_inside_the_bounds(cells):
    models = cells.get("/api/models/a/fit").json()
    assert len(models["totals"]) == 6
    assert models["totals"] == sorted(models["totals"])
    assert models["parameters"] == list(ACTIVE)
    cm = models["parameters"].index("cm.soma")
    low, high = models["bounds"]["cm.soma"]
    assert models["places"][0][cm] == pytest.approx((models["values"][0][cm] - low) / (high - low))
    assert models["features"][0]["value"] == 1.0


def test_what_is_stored_of_a_cell_is_sent_by_rank(cells):
    rows = cells.get("/api/stored/traces/a/fit", params={"rank": [2]}).json()
    assert [(row["rank"], row["sweep"]) for row in rows] == [(None, 3), (2, None)]
    arrow = cells.get("/api/stored/rates/a/fit", params={"format": "arrow"})
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table["rate_Hz"].to_pylist() == [10.0] * 3
    assert "stored when a cell ends" in cells.get("/api/stored/traces/b/fit").json()["error"]
    assert cells.get("/api/stored/secrets/a/fit").status_code == 422


def test_the_search_is_sent_stage_by_stage(cells):
    passive, active = cells.get("/api/search/a/fit").json()
    assert (passive["stage"], active["stage"]) == ("passive", "active")
    assert [seed["seed"] for seed in active["seeds"]] == [1, 2]
    best = active["seeds"][0]["best"]
    assert best == sorted(best, reverse=True)
    assert len(active["median"]) == 5


def test_runs_and_tables_are_sent(cells):
    (run,) = cells.get("/api/runs").json()
    assert run["run"] == "fit"
    assert run["progress"]["state"] == "finished"
    assert cells.get("/api/runs", params={"kind": "train"}).json() == []
    assert cells.get("/api/run/fit").json()["tables"]["pooled"] == 12
    rows = cells.get("/api/table/pooled/fit", params={"limit": 3}).json()
    assert len(rows) == 3
    assert "no table 'poled' (did you mean 'pooled'?)" in cells.get("/api/table/poled/fit").json()["error"]


def test_sql_needs_a_role_and_sees_no_file(fitted, cells):
    count = {"query": "select count(*) n from pooled"}
    answer = cells.post("/api/sql/fit", json=count, headers={"Origin": "http://127.0.0.1:8700"})
    assert answer.json() == [{"n": 12}]
    own = {"Origin": "http://127.0.0.1:8700"}
    for query in ("select * from read_csv('/etc/passwd')", "copy pooled to '/tmp/x'", "select 1; drop table pooled"):
        assert cells.post("/api/sql/fit", json={"query": query}, headers=own).status_code == 400
    access = Access(read_only=True)
    viewer = client(fitted, access)
    refused = viewer.post("/api/sql/fit", json=count, headers={"Authorization": f"Bearer {access.script_token}"})
    assert refused.status_code == 403
    assert "needs the role 'predict'" in refused.json()["error"]


def test_a_hall_of_fame_is_downloaded_as_csv(cells):
    text = cells.get("/export/csv/a/fit").text
    assert text.count("\n") == 7
    assert '"param.cm.soma"' in text.splitlines()[0]
    assert cells.get("/export/exe/a/fit").status_code == 422


def test_inputs_outside_of_the_root_are_not_read(tmp_path):
    write_run(tmp_path / "served" / "fit", job_folder=tmp_path / "elsewhere")
    refused = signed_in(tmp_path / "served").get("/export/hoc/a/fit")
    assert refused.status_code == 400
    assert "which alone is served" in refused.text


def test_a_population_is_placed_coloured_and_two_groups_are_compared(tmp_path):
    draw = np.random.default_rng(0)
    columns = {f"phi_{i}": draw.normal(np.repeat([0, 5 * (i == 0)], 20)) for i in range(3)}
    (tmp_path / "trained").mkdir()
    shutil.copy(OLD_RUNS / "neuprint" / "job.yaml", tmp_path / "trained")
    (tmp_path / "trained" / "provenance.json").write_text("{}")
    names = {"neuron_id": [f"n{i}" for i in range(40)], "class": ["<b>"] * 20 + [None] * 20}
    pq.write_table(pa.table(names | columns), tmp_path / "trained" / "embeddings.parquet")
    browser = signed_in(tmp_path)
    page = browser.get("/populations").text
    assert 'data-source="embeddings:trained"' in page
    asked = {"source": "embeddings:trained", "map": "columns"}
    found = browser.get("/api/population", params=asked | {"colour": "class"}).json()
    assert found["colour"] == {"levels": ["<b>"], "codes": [0] * 20 + [-1] * 20}
    x = np.array(found["x"])
    assert min(abs(x[:20].mean() - x[20:].mean()), 99) > 1.5, "the first component is what tells the halves apart"
    assert "did you mean 'columns'" in browser.get("/api/population", params=asked | {"map": "colums"}).json()["error"]
    own = {"Origin": "http://127.0.0.1:8700"}
    groups = {"source": "embeddings:trained", "first": list(range(20)), "second": list(range(20, 40))}
    first, *others = browser.post("/api/population/compare", json=groups, headers=own).json()
    assert (first["quantity"], first["higher"], first["significant"]) == ("phi_0", "B", True)
    assert 0.9 < first["delta_low"] <= first["cliffs_delta"] <= first["delta_high"]
    assert first["cliffs_delta"] > 0.9 > max(other["cliffs_delta"] for other in others)
    for wrong, why in (({"first": [20]}, "in both groups"), ({"first": [-1]}, "numbered 0 to 39")):
        refused = browser.post("/api/population/compare", json=groups | wrong, headers=own)
        assert (refused.status_code, why in refused.json()["error"]) == (400, True)


def test_cells_of_all_fits_are_points_that_can_be_compared(browser):
    sources = browser.get("/populations").text
    assert 'value="cells:fits/first"' in sources
    found = browser.get("/api/population", params={"source": "cells:fits/first", "map": "parameters"}).json()
    assert sorted(found["names"]) == ["a", "b"]
    asked = {"source": "models:fits/first", "map": "parameters", "colour": "class.broad"}
    assert browser.get("/api/population", params=asked).json()["colour"]["levels"] == ["Pvalb", "Sst"]
    every = browser.get("/api/population", params={"source": "models:fits/first", "map": "e-features"}).json()
    assert len(every["x"]) == 12
    assert browser.get("/api/population", params={"source": "cells:fits/none", "map": "parameters"}).status_code == 404
    assert browser.get("/api/population", params={"source": "secrets:x", "map": "parameters"}).status_code == 400


def test_a_served_run_opens_like_its_folder_compared_table_by_table(fitted, cells, monkeypatch):
    """The client in this process stands for the server."""
    monkeypatch.setattr("neurofleet.jobs.served_run.requests.Session", lambda: cells)
    served, own = nf.open_run("http://127.0.0.1:8700/runs/fit"), nf.open_run(fitted / "fit")
    assert (served.kind, served.name, served.status, served.tables) == (own.kind, own.name, own.status, own.tables)
    assert served.job == own.job
    pd.testing.assert_frame_equal(served.hall_of_fame("a"), own.hall_of_fame("a"), check_dtype=False, check_like=True)
    pd.testing.assert_frame_equal(served.table("hall_of_fame"), own.table("hall_of_fame"))
    with pytest.raises(UsageError, match="There is no run 'fat'"):
        nf.open_run("http://127.0.0.1:8700/runs/fat")
    with pytest.raises(UsageError, match="expected the address of a run's page"):
        nf.open_run("http://127.0.0.1:8700/")
    with pytest.raises(UsageError, match="needs its folder"):
        served.model()


def test_the_interface_is_described_in_a_bundle_of_schemas(cells):
    described = cells.get("/api/openapi.json").json()
    assert "/api/models/{cell}/{run}" in described["paths"]
    assert "/sign-in" not in described["paths"]


def test_runs_in_an_object_store_are_served_without_its_keys():
    with s3_server() as store:
        write_run(store.uri("runs/one"), job_folder=Path("gone"))
        browser = signed_in(store.uri("runs"))
        pages = [
            browser.get(path)
            for path in ("/", "/runs/one", "/cell/a/one", "/runs/two", "/log/one", "/export/hoc/a/one")
        ]
        assert [page.status_code for page in pages] == [200, 200, 200, 404, 400, 400]
        assert not any(SECRET in page.text or KEY in page.text for page in pages)
        assert browser.get("/api/models/a/one").json()["totals"]
