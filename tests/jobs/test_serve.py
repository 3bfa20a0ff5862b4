"""``neurofleet serve``: pages, who may see them, and what is refused. In process, without a browser."""

import json
import os
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from neurofleet.errors import UsageError
from neurofleet.jobs.serve.access import TRIES, Access, NotAllowed, Role, Users
from neurofleet.jobs.serve.app import create_app
from neurofleet.jobs.serve.bundle import RECORD, STATIC, sources_digest
from neurofleet.jobs.serve.catalogue import NoSuchRun, RunCatalogue
from neurofleet.jobs.serve.guard import COOKIE
from neurofleet.jobs.serve.root_reader import OutsideRoot
from neurofleet.jobs.serve.serve_command import serve_command
from tests.jobs.made_root import write_root
from tests.jobs.made_run import made_job, write_run

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
    assert cookie.startswith(f"{COOKIE}=")
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
        assert script.get("/", headers={"Authorization": wrong.encode()}).status_code == 401


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


def test_a_password_is_not_guessed_for_ever(tmp_path):
    users = Users(tmp_path / "users.json")
    users.add("anna", PASSWORD, Role.view)
    for _ in range(TRIES):
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
