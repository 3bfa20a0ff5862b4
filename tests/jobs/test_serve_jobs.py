"""Jobs made in the browser: the form and its text, what is refused, drafts, plans, runs. In process."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from neurofleet.errors import UsageError
from neurofleet.jobs.serve.access import Access, Proxy, Role, Users
from neurofleet.jobs.serve.app import create_app
from neurofleet.jobs.serve.job_desk import TITLE
from neurofleet.jobs.serve.job_form import begun, form_of, kinds
from neurofleet.jobs.serve.job_text import REMOVED, with_value
from neurofleet.yaml_files import read_yaml
from tests.jobs.made_root import write_root
from tests.jobs.made_run import write_run

OWN = {"Origin": "http://127.0.0.1:8700"}
ANALYSE = """\
kind: analyse
name: by-class
populations: [four]
cells: {table: cells.csv, id: cell}
groupings: {broad: {column: kind, forest: false}}
"""


def signed_in(root: Path, access: Access | None = None) -> TestClient:
    access = access or Access()
    browser = TestClient(create_app(str(root), access), base_url="http://127.0.0.1:8700", headers=OWN)
    browser.get("/", params={"token": access.link_token})
    return browser


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_root(tmp_path_factory.mktemp("jobs") / "served")
    write_run(root / "four", cells=tuple("abcd"))
    (root / "cells.csv").write_text("cell,kind\na,x\nb,x\nc,y\nd,y\n")
    (root.parent / "secret.csv").write_text("cell,kind\nsecret,x\n")
    (root / "link.csv").symlink_to(root.parent / "secret.csv")
    (root / "out").symlink_to(root.parent)
    return root


@pytest.fixture(scope="module")
def browser(root) -> TestClient:
    return signed_in(root)


def fault_of(browser: TestClient, job: str) -> str:
    return browser.post("/api/job/check", json={"job": job}).json()["fault"]


def asked(browser: TestClient, path: str, body: dict) -> dict:
    answer = browser.post(path, json=body)
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + 60
    while (found := browser.get(f"/api/job/answers/{answer.json()['id']}").json())["state"] == "waiting":
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


TEXT = """\
kind: fit   # of one cell
cells:
  # the first
  - id: a   # its id
    morphology: a.swc
    stimuli: [Long Square]
evolution: {seeds: 4}   # four
# the end
"""


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (("cells", 0, "id"), "b", "  - id: b   # its id"),
        (("cells", 0, "dendrite"), "aspiny", "    dendrite: aspiny"),
        (("cells", 0, "stimuli"), REMOVED, "    morphology: a.swc\nevolution"),
        (("cells", 1), {"id": "c", "morphology": "c.swc"}, "  - id: c\n    morphology: c.swc\n"),
        (("evolution", "seeds"), [1, 2], "evolution: {seeds: [1, 2]}   # four"),
        (("evolution", "seeds"), REMOVED, "[Long Square]\n# the end"),
        (("name",), "a: #", "name: 'a: #'\n# the end"),
        (("recipe",), "my.yaml", "recipe: my.yaml\n# the end"),
    ],
)
def test_one_value_is_changed_and_comments_stay(place, value, line):
    changed = with_value(TEXT, place, value)
    assert line in changed
    assert changed.count("#") - changed.count("'a: #'") == 5 - ("evolution" not in changed)


def test_where_a_text_cannot_be_changed_in_place_the_value_is_right_all_the_same():
    assert read_yaml(with_value("a: &x {b: 1}\nc: *x\n", ("c", "b"), 2), "x") == {"a": {"b": 1}, "c": {"b": 2}}
    assert read_yaml(with_value(TEXT, ("cells", 0), REMOVED), "x")["cells"] == []
    assert with_value("", ("kind",), "fit") == "kind: fit\n"
    assert read_yaml(with_value("? name\n", ("name",), "x"), "x") == {"name": "x"}
    with pytest.raises(UsageError, match="no place 6"):
        with_value(TEXT, ("cells", 5), "x")


@pytest.mark.parametrize("kind", list(kinds()))
def test_each_kind_has_a_form_with_help(kind):
    fields = form_of(read_yaml(begun(kind), "the job"))
    assert any(field.is_needed for field in fields) or kind == "fit"
    assert all(field.help for field in fields)
    assert not {field.label for field in fields} & {"kind", "learner", "out", "quick"}


def test_the_form_shows_the_text_and_the_text_follows_the_form(browser):
    page = browser.get("/job").text
    assert "Run a job" in page
    assert "<option selected>fit</option>" in page
    found = browser.post("/job/check", json={"job": TEXT}).json()
    assert 'value="a.swc"' in found["form"]
    assert "cell a: name either `recordings:`" in found["fault"]
    change = {"place": ["cells", 0, "dendrite"], "value": "aspny"}
    found = browser.post("/api/job/check", json={"job": TEXT, "change": change}).json()
    assert "    dendrite: aspny\n" in found["job"]
    assert "dendrite" in found["fault"]
    added = browser.post("/api/job/check", json={"job": TEXT, "change": {"place": ["cells"], "add": True}}).json()
    assert len(read_yaml(added["job"], "x")["cells"]) == 2
    wrong = browser.post("/api/job/check", json={"job": TEXT, "change": {"place": ["nothing"], "value": "1"}}).json()
    assert "no key 'nothing'" in wrong["fault"]
    assert "did you mean 'evolution'" in fault_of(browser, TEXT.replace("evolution", "evolutoin"))
    page = browser.post("/job/check", json={"job": 'kind: fit\nname: "<script>alert(1)</script>"\n'}).json()
    assert "<script>" not in page["form"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../secret.csv", "link.csv", "out/secret.csv", "~/x.csv", "file:///etc/passwd", "fits/../../x",
        "local:///etc/hostname", "LOCAL:///etc/hostname", "mock:///etc/hostname",
        "*/../../secret.csv", "a.csv, ../secret.csv",
    ],
)  # fmt: skip
def test_files_that_are_not_served_are_not_read(browser, path):
    fault = fault_of(browser, ANALYSE.replace("cells.csv", json.dumps(path)))
    assert "which alone is served" in fault
    assert "secret,x" not in fault
    assert "which alone is served" in fault_of(browser, f"kind: fit\ncells: {{from: {json.dumps(path)}}}\n")


def test_a_link_that_is_called_like_a_key_refuses_no_job(browser, root):
    (root / "populations").symlink_to(root.parent)
    assert fault_of(browser, ANALYSE) == ""
    (root / "populations").unlink()


def test_the_job_of_a_run_that_is_named_may_not_lead_out_either(browser, root):
    job = root / "fits" / "second" / "job.yaml"
    kept = job.read_text()
    provenance = job.with_name("provenance.json")
    origin = provenance.read_text()
    job.write_text(kept.replace("c.swc", "/etc/passwd") + "mechanisms: own\n")
    try:
        validate = "kind: validate\nmodels: {run: fits/second}\n"
        assert "'/etc/passwd' is not below" in fault_of(browser, validate)
        provenance.write_text("{}")
        assert "'/etc/passwd' is not below" in fault_of(browser, validate)
        provenance.write_text(origin)
        job.write_text(kept + "mechanisms: own\n")
        assert browser.post("/api/job/check", json={"job": validate}).json()["own_code"] == [
            "mechanisms of fits/second"
        ]
    finally:
        job.write_text(kept)
        provenance.write_text(origin)


def test_a_job_that_names_a_url_to_be_told_is_refused(browser):
    job = f"{ANALYSE}\nnotify: http://127.0.0.1:9/admin"
    for path in ("run", "plan"):
        refused = browser.post(f"/api/job/{path}", json={"job": job})
        assert refused.status_code == 400
        assert "jobs that are made here cannot name a URL" in refused.json()["error"]


def test_yaml_without_end_is_refused(browser):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)
    )
    assert "stand for more than" in fault_of(browser, bomb)
    assert "nested more than" in fault_of(browser, "a: " + "[" * 5000)
    assert "at most 400,000" in fault_of(browser, "a: " + "x" * 400_001)
    assert browser.post("/api/job/check", json={"job": "x" * 900_000}).status_code == 422
    assert "tag" in fault_of(browser, "a: !!python/object/apply:os.system [id]\n")


def test_a_role_that_may_not_run_jobs_is_refused_everywhere(root, tmp_path):
    users = Users(tmp_path / "users.json")
    users.add("vera", "correct horse battery", Role.view)
    users.add("paul", "correct horse battery", Role.predict)
    browser = TestClient(create_app(str(root), Access(users)), base_url="http://127.0.0.1:8700", headers=OWN)
    body = {"job": "kind: fit\nevaluator: os:system\n", "kind": "fit", "files": [], "run": "x", "id": "x"}
    for name in ("vera", "paul"):
        browser.post("/sign-in", data={"name": name, "password": "correct horse battery"})
        assert "Run a job" not in browser.get("/").text
        for path in ("/job", "/job/files", "/job/running", "/api/job/running", "/api/job/answers/x"):
            assert browser.get(path).status_code == 403
        for path in ("check", "draft", "plan", "run", "submit", "cancel", "submitted", "cancel-submitted"):
            refused = browser.post(f"/api/job/{path}", json=body)
            assert refused.status_code == 403
            assert "needs the role 'submit'" in refused.json()["error"]
    read_only = Access(read_only=True)
    assert signed_in(root, read_only).get("/job").status_code == 403


def test_own_code_is_said_and_other_servers_pages_start_nothing(browser):
    found = browser.post("/api/job/check", json={"job": "kind: fit\nevaluator: model:make\n"}).json()
    assert found["own_code"] == ["evaluator"]
    for origin in ("http://evil.example", "null"):
        answer = browser.post("/api/job/run", json={"job": ANALYSE}, headers={"Origin": origin})
        assert answer.status_code == 403


@pytest.mark.parametrize(
    ("why", "folders"),
    [
        ("a name below", ["../elsewhere", "/tmp/x", ".", "a/../..", ".hidden", "<b>", "a//b c"]),
        ("through a link", ["out/x"]),
        ("is inside the run first", ["fits/first/inside"]),
        ("is no run", ["fits", "cells.csv"]),
    ],
)
def test_results_go_to_a_folder_of_their_own(browser, why, folders):
    for out in folders:
        refused = browser.post("/api/job/run", json={"job": ANALYSE, "out": out})
        assert refused.status_code == 400
        assert why in refused.json()["error"]


def test_a_job_is_drafted_and_planned_by_who_asked(browser, root):
    found = asked(browser, "/api/job/draft", {"kind": "analyse", "files": ["four", "cells.csv"]})
    assert found["state"] == "done", found["text"]
    assert found["text"].startswith("kind: analyse\nname: analyse\n")
    assert "populations: [four]" in found["text"]
    refused = browser.post("/api/job/draft", json={"kind": "analyse", "files": ["../secret.csv"]})
    assert "which alone is read" in refused.json()["error"]
    plan = asked(browser, "/api/job/plan", {"job": ANALYSE})
    assert plan["state"] == "done", plan["text"]
    assert "by-class: 4 cells, 24 models" in plan["text"]
    assert signed_in(root).get(f"/api/job/answers/{plan['id']}").status_code == 404


def test_a_run_that_is_refused_says_why(browser):
    other = browser.post("/api/job/run", json={"job": ANALYSE, "out": "fits/second"}).json()
    assert "holds a run of `kind: fit`" in other["error"]
    job = ANALYSE.replace("forest: false", "forest: true")
    started = browser.post("/api/job/run", json={"job": job, "out": "new/one"}).json()
    assert (started["run"], started["state"]) == ("new/one", "running")
    assert "is running already" in browser.post("/api/job/run", json={"job": job, "out": "new/one"}).json()["error"]
    until = time.monotonic() + 60
    while (now := browser.get("/api/job/running").json()[0])["state"] == "running":
        assert time.monotonic() < until
        time.sleep(0.2)
    assert now["state"] == "failed"
    assert now["said"].startswith("grouping broad: A forest tells classes of at least 10 cells apart")
    assert "failed" in browser.get("/job/running").text
    assert "No run 'new/one'" in browser.post("/api/job/cancel", json={"run": "new/one"}).json()["error"]
    assert "knows no cluster" in browser.post("/api/job/submit", json={"job": ANALYSE}).json()["error"]


def test_a_run_of_an_earlier_server_is_found_and_cancelled(browser, root):
    """Of processes with such a title only those that lead their group, which is ended as a whole."""
    command = [sys.executable, "-c", "input()"]
    left, other = ([*command, f"{TITLE} {root.resolve() / name}"] for name in ("left", "other"))
    with (
        subprocess.Popen(left, stdin=subprocess.PIPE, start_new_session=True) as leader,
        subprocess.Popen(other, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL),
    ):
        found = {each["run"]: each["pid"] for each in browser.get("/api/job/running").json()}
        assert found["left"] == leader.pid
        assert "other" not in found
        assert browser.post("/api/job/cancel", json={"run": "left"}).json()["state"] == "ending"
        assert leader.wait(30) == -signal.SIGTERM


def test_files_are_listed_below_the_root_only(browser):
    page = browser.get("/job/files").text
    assert "cells.csv" in page
    assert "link.csv" not in page
    assert "Add run fits/first" in browser.get("/job/files", params={"folder": "fits"}).text
    for folder in ("..", "/etc", "out"):
        assert browser.get("/job/files", params={"folder": folder}).status_code == 400


def test_a_run_whose_paths_start_elsewhere_is_not_taken_as_a_job(browser):
    refused = browser.get("/job", params={"run": "fits/first"})
    assert refused.status_code == 400
    assert "here they start at" in refused.text
    assert "Run it again" not in browser.get("/runs/fits/first").text


def test_a_run_whose_paths_start_at_the_root_is_run_again_in_its_folder(tmp_path):
    write_run(tmp_path / "own", job_folder=tmp_path)
    browser = signed_in(tmp_path)
    assert 'href="/job?run=own"' in browser.get("/runs/own").text
    assert "Run it again" not in signed_in(tmp_path, Access(read_only=True)).get("/runs/own").text
    page = browser.get("/job", params={"run": "own"}).text
    assert 'value="a.swc"' in page
    assert 'data-part="out" value="own"' in page
    for damaged in ("[]", "{", '{"job_folder": 1}'):
        (tmp_path / "own" / "provenance.json").write_text(damaged)
        assert browser.get("/runs/own").status_code == 200
        assert browser.get("/job", params={"run": "own"}).status_code == 400
        job = {"job": "kind: validate\nmodels: {run: own}\n"}
        assert browser.post("/api/job/check", json=job).status_code == 200


def test_a_proxy_names_users_and_nobody_else_does(tmp_path):
    users = Users(tmp_path / "users.json")
    users.add("anna", "correct horse battery", Role.submit)
    (tmp_path / "runs").mkdir()
    access = Access(users, proxy=Proxy.named("X-Remote-User", ["10.1.0.0/16"], Role.view))
    app = create_app(str(tmp_path / "runs"), access)

    def roles(peer: str, **headers: str) -> int:
        client = TestClient(app, base_url="http://127.0.0.1:8700", client=(peer, 5000), follow_redirects=False)
        return client.get("/job", headers=headers).status_code

    assert roles("10.1.2.3", **{"X-Remote-User": "anna"}) == 200
    assert roles("::ffff:10.1.2.3", **{"X-Remote-User": "anna"}) == 200
    assert roles("10.1.2.3", **{"X-Remote-User": "bert"}) == 403, "who is in no file has the role of --role"
    assert roles("10.2.2.3", **{"X-Remote-User": "anna"}) == 303
    assert roles("10.2.2.3", **{"X-Remote-User": "anna", "X-Forwarded-For": "10.1.2.3"}) == 303
    assert roles("10.1.2.3", **{"X-Remote-User": "<b>"}) == 303
    client = TestClient(app, base_url="http://127.0.0.1:8700", client=("10.1.2.3", 5000))
    body = {"job": "kind: fit\n"}
    assert client.post("/api/job/check", json=body, headers={"X-Remote-User": "anna"}).status_code == 403
    twice = [("X-Remote-User", "bert"), ("X-Remote-User", "anna")]
    assert client.get("/job", headers=twice, follow_redirects=False).status_code == 303
    auth = ("anna", "correct horse battery")
    assert client.post("/api/job/check", json=body, auth=auth).status_code == 200
    evil = {"Origin": "http://evil.example"}
    assert client.post("/api/job/check", json=body, auth=auth, headers=evil).status_code == 403
    alone = Access(proxy=Proxy.named("X-Remote-User", ["127.0.0.1"], Role.view))
    assert alone.by_link(alone.link_token) is None
    for address in ((), ["proxy.example"], ["127.0.0.1", "0.0.0.0/0"], ["::/0"]):
        with pytest.raises(UsageError, match="--trusted-proxy"):
            Proxy.named("X-Remote-User", address, Role.view)
