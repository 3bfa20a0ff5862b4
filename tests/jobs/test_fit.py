"""A fit: same result however often its command is killed, refusals before any work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from neurofleet.cluster.store.generations import evaluation_files
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import FEATURES, MORPHOLOGY, RATES, TRACES
from neurofleet.errors import JobError, UsageError
from neurofleet.jobs.fit.campaign import finished_cells
from neurofleet.jobs.results.cell_models import stored_of_cell
from neurofleet.jobs.run_job import run_job
from tests.jobs.stored_generations import (
    assert_not_evaluated_again,
    assert_same_evaluations,
    generations,
    stored_rows,
)

LEFT_OUT = [*range(5, 10), *range(15, 25), *range(30, 35)]  # three of seven steps stay: an evaluation takes half

EVOLUTION = {
    "strategy": "fast",
    "offspring": 8,
    "seeds": [1, 2],
    "evaluations": {"passive": 16, "ih": 16, "active": 16},
    "hall_of_fame": 2,
}


@pytest.fixture(scope="session")
def demo_input(demo_recordings, tmp_path_factory) -> Path:
    """Folder with the demo cell, its recordings, and a small job."""
    folder = tmp_path_factory.mktemp("demo-input")
    shutil.copytree(demo_recordings, folder, dirs_exist_ok=True)
    write_job(folder)
    return folder


def write_job(folder: Path, name: str = "job.yaml", **changes) -> Path:
    job = {
        "kind": "fit",
        "name": "small",
        "cells": [{"id": "demo", "morphology": "cell.swc", "recordings": "cell.nwb", "exclude_sweeps": LEFT_OUT}],
        "recipe": "demo",
        "engine": "neuron",
        "evolution": EVOLUTION,
        "deadline_s": 60,
    }
    path = folder / name
    path.write_text(yaml.safe_dump({k: v for k, v in (job | changes).items() if v is not None}))
    return path


def neurofleet(*arguments: object, start: bool = False, **environment: str):
    """Run the command line, or start it and return the process."""
    command = [sys.executable, "-c", "from neurofleet.jobs.cli import main; main()", *map(str, arguments)]
    env = os.environ | environment
    if start:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env)
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=env)


def wait_for(out: Path, files: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while len(generations(out)) < files:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="session")
def undisturbed(demo_input, ray_session, tmp_path_factory) -> Path:
    """Run folder of the small job, on two CPUs, in one go."""
    return Path(run_job(demo_input / "job.yaml", str(tmp_path_factory.mktemp("undisturbed") / "run"), cpus=2))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_stages_end_in_a_hall_of_fame(undisturbed):
    store = RunStore(undisturbed)
    hall = store.read_hall_of_fame("demo")
    assert len(hall) == 4
    assert set(hall.seeds) == {1, 2}
    assert (hall.totals[1:] >= hall.totals[:-1]).all()
    assert hall.totals[0] < 250 * len(hall.objective_names) / 4
    for stage, seeds in (("passive", [1]), ("ih", [1]), ("active", [1, 2]), ("active_final", [1, 2])):
        for seed in seeds:
            generations = store.read_generations("demo", stage, seed)
            assert generations, (stage, seed)
            assert {status for g in generations for status in g.statuses} <= {"ok", "timeout"}
    assert (undisturbed / "models" / "demo" / "fit.json").is_file()
    assert "hall of fame" in (undisturbed / "report.html").read_text()
    assert "begintemplate" in (undisturbed / "models" / "demo" / "cell.hoc").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_the_hall_of_fame_does_is_stored(undisturbed):
    """Its e-features give the scores: those with one value to the last digits, the mean of several at most."""
    store = RunStore(undisturbed)
    hall = store.read_hall_of_fame("demo")
    found = stored_of_cell(store, FEATURES, "demo").to_pandas()
    found["z"] = ((found["value"] - found["mean"]).abs() / found["std"]).clip(upper=250).fillna(250)
    alone = [name.endswith(("voltage_base", "Spikecount", "mean_frequency")) for name in hall.objective_names]
    assert any(alone)
    for rank in (1, len(hall)):
        z = found[found["rank"] == rank].set_index("objective")["z"][list(hall.objective_names)].to_numpy()
        assert (z <= hall.scores[rank - 1] + 1e-9).all()
        assert z[alone] == pytest.approx(hall.scores[rank - 1][alone], abs=1e-9)
    traces = stored_of_cell(store, TRACES, "demo").to_pandas()
    assert set(traces["rank"].dropna()) == set(range(1, len(hall) + 1))
    recorded = traces[traces["rank"].isna()]
    assert len(recorded) >= recorded["protocol"].nunique() >= 1
    assert recorded["sweep"].notna().all()
    assert stored_of_cell(store, RATES, "demo").num_rows > len(hall)
    assert {"soma", "axon", "dend", "apic"} == set(stored_of_cell(store, MORPHOLOGY, "demo")["kind"].to_pylist())


@pytest.mark.slow
def test_every_line_of_the_log_is_json(undisturbed):
    lines = [json.loads(line) for line in (undisturbed / "log.jsonl").read_text().splitlines()]
    stored = [line for line in lines if line["message"] == "generation stored"]
    assert len(stored) == len(generations(undisturbed))
    (told,) = [event for event in RunStore(undisturbed).read_events() if event["event"] == "recording read"]
    assert (told["cell"], told["file"]) == ("demo", "cell.nwb")
    assert told["left_out"] == {str(number): "left out on request" for number in LEFT_OUT}
    used, sweeps = told["used"], told["sweeps"]
    assert used == sweeps - len(LEFT_OUT) > 0
    assert any(f"cell.nwb: {used} of {sweeps} sweeps used" in line["message"] for line in lines)


@pytest.mark.slow
def test_hall_of_fame_is_that_of_the_finalists_scored_again(undisturbed):
    store = RunStore(undisturbed)
    hall = store.read_hall_of_fame("demo", 1)
    (final,) = store.read_generations("demo", "active_final", 1)
    best = sorted(final.totals)[: len(hall)]
    assert hall.totals.tolist() == best


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_on_one_cpu_and_resumed_on_two_is_the_same_to_the_byte(demo_input, undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ("run", demo_input / "job.yaml", "--out", out, "--cpus", 1)
    temporary, shared = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp")), set(os.listdir("/dev/shm"))
    for files, how in ((1, signal.SIGKILL), (5, signal.SIGINT)):
        process = neurofleet(*arguments, start=True, TMPDIR=str(temporary))
        wait_for(out, files, process)
        os.kill(process.pid, how)
        told = process.communicate(timeout=60)[1]
        if how == signal.SIGINT:
            assert process.returncode == 130, told
            assert "run the same command to resume" in told
    stored = stored_rows(out)
    capsys.readouterr()
    run_job(demo_input / "job.yaml", str(out))
    assert "resuming" in capsys.readouterr().err
    assert_not_evaluated_again(stored, out)
    deadline = time.monotonic() + 20  # what cleans up after a kill takes a moment
    while (left := [*temporary.iterdir(), *set(os.listdir("/dev/shm")) - shared]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == [], "of a run that was killed and interrupted, only its folder stays"
    temporary.rmdir()
    for file in sorted(undisturbed.glob("hall_of_fame/**/*.parquet")):
        assert (out / file.relative_to(undisturbed)).read_bytes() == file.read_bytes()
    assert_same_evaluations(out, undisturbed)
    for key, files in evaluation_files(RunStore(out).names()).items():
        assert len(files) == 1, key


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(demo_input, undisturbed):
    files = sorted(undisturbed.glob("evaluations/**/*.parquet"))
    before = {file: file.stat().st_mtime_ns for file in files}
    run_job(demo_input / "job.yaml", str(undisturbed))
    assert {file: file.stat().st_mtime_ns for file in files} == before


@pytest.mark.slow
def test_a_changed_job_is_refused_with_the_difference(demo_input, undisturbed):
    evolution = EVOLUTION | {"hall_of_fame": 5}
    job = write_job(demo_input, "changed.yaml", evolution=evolution)
    with pytest.raises(UsageError, match="evolution.hall_of_fame was 2, is 5"):
        run_job(job, str(undisturbed))


@pytest.mark.slow
def test_a_model_that_always_fails_stops_early_and_says_why(demo_input, ray_session, tmp_path):
    job = write_job(demo_input, "hopeless.yaml", max_steps=3)
    with pytest.raises(JobError) as failed:
        run_job(job, str(tmp_path / "run"), cpus=1)
    assert failed.value.exit_code == 1
    assert "more than half of the first generation failed" in str(failed.value)
    assert "max_steps = 3" in str(failed.value)
    assert len(generations(tmp_path / "run")) == 1


@pytest.mark.slow
def test_a_users_own_evaluator_runs_unchanged(ray_session, tmp_path):
    job = write_job(
        tmp_path,
        cells=None,
        recipe=None,
        evaluator="bluepyopt.ephys.examples.simplecell.simplecell:SimpleCell",
        evolution={"strategy": "paper", "offspring": 8, "generations": {"fit": 3}, "seeds": [7]},
    )
    run_job(job, str(tmp_path / "run"), cpus=1)
    store = RunStore(tmp_path / "run")
    hall = store.read_hall_of_fame("small")
    assert set(hall.parameter_names) == {"gnabar_hh", "gkbar_hh"}
    assert hall.objective_names == ("Step1.Spikecount",)
    traces = stored_of_cell(store, TRACES, "small")
    assert set(traces["rank"].to_pylist()) == set(range(1, len(hall) + 1))
    assert finished_cells(store)["small"]["core_seconds"] > store.spent_seconds("small") + 0.001, "simulated again"
