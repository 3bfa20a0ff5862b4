"""Jobs sent from the command line to a head with token authentication, as an administrator starts one."""

import json
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import load_job
from neurofleet.jobs.remote.submit import submit_command
from neurofleet.jobs.run_job import results_place
from neurofleet.learners.model_folder import read_model
from tests.jobs.local_head import Laptop, local_head
from tests.jobs.stored_generations import assert_not_evaluated_again, generations, stored_rows
from tests.jobs.test_fit import write_job
from tests.jobs.test_notify import channel  # noqa: F401

SMALL = {
    "strategy": "fast",
    "offspring": 16,
    "seeds": [1],
    "evaluations": {"passive": 32, "ih": 16, "active": 24},
    "hall_of_fame": 2,
}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of its Jobs API, and its token file."""
    token = tmp_path_factory.mktemp("head") / "token"
    with local_head(token) as address:
        yield address, token


@pytest.fixture(scope="module")
def laptop(head, demo_recordings, tmp_path_factory):
    """With a job whose recordings lie in another folder than its morphology."""
    address, token = head
    folder = tmp_path_factory.mktemp("laptop")
    for part, name in (("jobs", "cell.swc"), ("data", "cell.nwb")):
        (folder / part).mkdir()
        shutil.copy(demo_recordings / name, folder / part)
    cells = [{"id": "demo", "morphology": "cell.swc", "recordings": "../data/cell.nwb"}]
    write_job(folder / "jobs", cells=cells, evolution=SMALL)
    return Laptop(address, folder, RAY_AUTH_TOKEN_PATH=str(token))


def write_named(folder, name, **changes):
    path = write_job(folder, f"{name}.yaml", evolution=SMALL, **changes)
    path.write_text(path.read_text().replace("name: small", f"name: {name}"))
    return path


def wait_until(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_cancelled_job_submitted_again_goes_on_to_its_hall_of_fame(laptop, tmp_path):
    out = tmp_path / "it's a run"
    sent = laptop("submit", "jobs/job.yaml", "--out", out)
    assert sent.returncode == 0, sent.stderr
    assert sent.stderr == ""
    assert "2 files, 7." in sent.stdout
    assert "small-a1 is running" in sent.stdout
    again = laptop("submit", "jobs/job.yaml", "--out", out)
    assert again.returncode == 2
    assert "small-a1 of this name is running already" in again.stderr
    assert "neurofleet cancel small-a1" in again.stderr

    watching = laptop.start("logs", "small", "-f")
    assert any("small: starting" in line for line in watching.stdout)
    wait_until(lambda: generations(out))
    watching.send_signal(signal.SIGINT)
    told = watching.communicate(timeout=30)[1]
    assert watching.returncode == 130
    assert "small-a1 goes on without this terminal" in told

    cancelled = laptop("cancel", "small")
    assert cancelled.returncode == 0, cancelled.stderr
    assert "submit the same job file again" in cancelled.stdout
    status = json.loads(laptop("status", "small", "--json").stdout)
    assert (status["id"], status["state"], status["out"]) == ("small-a1", "stopped", str(out))
    assert "interrupted" in status["last_line"]
    stored = stored_rows(out)
    assert stored

    resumed = laptop("submit", "jobs/job.yaml", "--out", out, "--follow")
    assert resumed.returncode == 0, resumed.stderr
    assert "small-a2 is running" in resumed.stdout
    assert "small: resuming" in resumed.stdout
    assert len(RunStore(out).read_hall_of_fame("demo")) == 2
    assert_not_evaluated_again(stored, out)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert not list(out.glob(".neurofleet-????????????????"))

    listed = json.loads(laptop("list", "--json").stdout)
    assert [(job["id"], job["state"]) for job in listed] == [
        ("small-a2", "succeeded"),
        ("small-a1", "stopped"),
    ]
    assert "small-a2: succeeded, attempt 2" in laptop("status", "small").stdout
    assert "small-a1" in laptop("logs", "small-a1").stdout
    assert "small-a1 had stopped already" in laptop("cancel", "small-a1").stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_is_submitted_with_its_cells_and_leaves_a_model(laptop, tmp_path, channel):  # noqa: F811
    rng = np.random.default_rng(0)
    genes = [f"g{number}" for number in range(12)]
    for part in ("one", "two"):
        counts = rng.poisson(np.repeat([[1, 9], [9, 1]], 12, axis=0).repeat(6, axis=1))
        cells = pd.DataFrame(counts, index=[f"{part}{number}" for number in range(24)], columns=genes)
        cells.to_csv(laptop.folder / "data" / f"cells-{part}.csv", index_label="cell")
    labels = [f"{part}{number},{'ab'[number // 12]}\n" for part in ("one", "two") for number in range(24)]
    (laptop.folder / "data" / "labels.csv").write_text("cell,type\n" + "".join(labels))
    job = {"kind": "train", "learner": "sims", "reference": "../data/cells-*.csv", "labels": "../data/labels.csv"}
    job |= {"label": "type", "epochs": 1, "members": 1, "baselines": ["majority"], "workers": 0, "loggers": []}
    (laptop.folder / "jobs" / "train.yaml").write_text(json.dumps(job))
    sent = laptop(
        "submit", "jobs/train.yaml", "--out", tmp_path / "model", "--follow", "--json", "--notify", channel.address
    )
    assert sent.returncode == 0, sent.stderr + sent.stdout
    assert json.loads(sent.stdout)["name"] == "train"
    (told,) = channel.messages
    assert (told["name"], told["event"]) == ("train", "done")
    assert "secret" not in laptop("list", "--json").stdout + laptop("logs", "train").stdout
    assert "3 files, " in sent.stderr
    assert "train: starting" in sent.stderr
    facts = read_model(tmp_path / "model").description["facts"]
    assert facts["data"]["files"] == ["cells-one.csv", "cells-two.csv"]
    assert facts["data"]["cells_of_class"] == {"a": 24, "b": 24}


@pytest.mark.slow
def test_what_the_driver_refuses_is_refused_at_the_prompt(laptop, tmp_path):
    jobs = laptop.folder / "jobs"
    cells = [{"id": "demo", "morphology": "cell.swc", "recordings": "/lab/cell.nwb"}]
    write_named(jobs, "elsewhere", cells=cells, out=str(tmp_path / "run"))
    sent = laptop("submit", "jobs/elsewhere.yaml")
    assert sent.returncode == 2
    assert "not there on the cluster" in sent.stderr
    assert "/lab/cell.nwb" in sent.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_python_that_the_cluster_does_not_have_is_told_and_runs_nothing(laptop, tmp_path):
    python = f"/no where/python; touch {tmp_path}/ran"
    write_named(laptop.folder / "jobs", "python", cells=None, evaluator="a:b")
    sent = laptop("submit", "jobs/python.yaml", "--out", tmp_path / "run", "--python", python)
    assert sent.returncode == 1
    assert f"{python} is no program" in sent.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "told"),
    [({}, "asks for a token, and none is here"), ({"RAY_AUTH_TOKEN": "f" * 64}, "does not take the token")],
)
def test_without_the_right_token_nothing_is_submitted(laptop, head, tmp_path, environment, told):
    stranger = Laptop(head[0], laptop.folder, HOME=str(tmp_path), **environment)
    for arguments in (
        ("submit", "jobs/job.yaml", "--out", tmp_path / "run"),
        ("list",),
        ("logs", "small", "-f"),
    ):
        refused = stranger(*arguments)
        assert refused.returncode == 3
        assert told in refused.stderr
        assert "chmod 600" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_unknown_job_is_told_with_the_nearest_name(laptop):
    asked = laptop("logs", "smal")
    assert asked.returncode == 2
    assert "no job 'smal'" in asked.stderr


def test_a_name_that_reads_as_an_attempt_is_refused(tmp_path):
    with pytest.raises(UsageError, match="would read as an attempt of another job"):
        submit_command(write_named(tmp_path, "rat-a2"), "http://127.0.0.1:9", str(tmp_path))


def test_where_results_go_is_said_on_the_command_line_or_in_the_job_file(tmp_path):
    spec = load_job(write_job(tmp_path, out="fits/rat"))
    assert results_place(None, spec, tmp_path) == str(tmp_path / "fits" / "rat")
    assert results_place("here", spec, tmp_path) == "here"
    assert results_place("file:///data/a%20rat", spec, tmp_path) == "/data/a rat"
    spec = load_job(write_job(tmp_path, out="s3://bucket/rat"))
    assert results_place(None, spec, tmp_path) == "s3://bucket/rat"
    spec = load_job(write_job(tmp_path))
    with pytest.raises(UsageError, match=r"Give --out OUT, or `out: OUT` in the job file"):
        results_place(None, spec, tmp_path)


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_head_that_is_lost_and_comes_back_goes_on_with_the_same_submit(laptop, tmp_path):
    out, token = tmp_path / "run", tmp_path / "token"
    submit = ("submit", "jobs/job.yaml", "--out", out, "--follow")
    with local_head(token) as address:
        first = Laptop(address, laptop.folder, RAY_AUTH_TOKEN_PATH=str(token)).start(*submit)
        wait_until(lambda: generations(out))
    assert first.wait(timeout=60) != 0
    stored = stored_rows(out)
    with local_head(token) as address:
        resumed = Laptop(address, laptop.folder, RAY_AUTH_TOKEN_PATH=str(token))(*submit)
        assert resumed.returncode == 0, resumed.stderr
        assert "small: resuming" in resumed.stdout
    assert_not_evaluated_again(stored, out)
    assert len(RunStore(out).read_hall_of_fame("demo")) == 2
