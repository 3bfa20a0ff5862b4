"""Files of a user's that are called like modules of ours, or of others, take no module's place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.jobs.test_report import MODEL

NAMES = ("cluster", "jobs", "learners", "neurosim", "random", "numpy", "neurofleet_job")
MESSAGE = "this is the user's file"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a job whose evaluator is called ``jobs:make``, beside files that raise when imported."""
    folder = tmp_path_factory.mktemp("folder")
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"raise RuntimeError({MESSAGE!r})\n")
    (folder / "jobs.py").write_text(MODEL)
    (folder / "ball.swc").write_text("1 1 0 0 0 10 -1\n2 1 0 -10 0 10 1\n3 1 0 10 0 10 1\n")
    evolution = {"seeds": [1], "evaluations": {"fit": 16}}
    job = {"kind": "fit", "name": "ball", "evaluator": "jobs:make", "evolution": evolution}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


def command_line(folder: Path, *arguments: str, start: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run the installed command, or `start`, in a folder."""
    script = Path(sys.executable).with_name("neurofleet")
    done = subprocess.run(
        [*(start or (str(script),)), *arguments], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert MESSAGE not in done.stderr, done.stderr
    return done


@pytest.mark.slow
def test_plan_run_report_and_results(folder):
    plan = command_line(folder, "plan", "job.yaml")
    assert plan.returncode == 0, plan.stderr
    assert "16 evaluations and up to 10 models simulated again for their traces, about" in " ".join(plan.stdout.split())
    run = command_line(folder, "run", "job.yaml", "--out", "out", "--cpus", "1")
    assert run.returncode == 0, run.stderr
    results = command_line(folder, "results", "out", "--query", "select count(*) n from evaluations", "--json")
    assert json.loads(results.stdout) == [{"n": 16}], results.stderr
    report = command_line(folder, "report", "out")
    assert report.returncode == 0, report.stderr
    assert "recorded and fitted voltage" in (folder / "out" / "report.html").read_text()


@pytest.mark.parametrize("folder_first", [False, True])
def test_python_m_neurofleet(folder, folder_first, monkeypatch):
    if folder_first:  # as some shells set it; an empty part is the working folder
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *filter(None, [os.environ.get("PYTHONPATH")])]))
    done = command_line(folder, "status", "nowhere", start=(sys.executable, "-m", "neurofleet"))
    assert done.returncode == 2
    assert "expected the folder of a run" in done.stderr
