"""A campaign on a cluster that loses a node, a host, a child and its driver ends as if it had not."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pytest
import yaml

from neurofleet.cluster.ray.session import clean_up_folder
from neurofleet.cluster.store.generations import FitKey
from tests.jobs.stored_generations import (
    assert_not_evaluated_again,
    assert_same_evaluations,
    generations,
    stored_rows,
)

CELLS = [f"C{number}" for number in range(1, 4)]
SEEDS = [1, 2]
EVALUATIONS = 40
BEGUN = 8  # generations stored, of 27, when the disturbances begin
DEADLINE_S = 8.0

RECIPE = {
    "name": "small",
    "stages": [
        {
            "name": "passive",
            "targets": "subthreshold",
            "mechanisms": {"all": ["pas"]},
            "fixed": {"Ra": {"all": 120}},
            "parameters": {"cm": {"all": [0.1, 10]}, "g_pas": {"all": [1e-7, 1e-2]}},
            "features": ["voltage_base", "voltage_deflection_vb_ssse"],
        },
        {
            "name": "leak",
            "targets": "subthreshold",
            "parameters": {"e_pas": {"all": [-110, -60]}},
            "features": ["voltage_base", "voltage_after_stim", "voltage_deflection_vb_ssse"],
        },
    ],
}

# Of the recordings only the five repeats of one silent step, so that an evaluation takes little.
CELL = {"morphology": "cell.swc", "recordings": "cell.nwb", "exclude_sweeps": list(range(5, 35))}
JOB = {
    "kind": "fit",
    "name": "three-cells",
    "cells": [{"id": cell} | CELL for cell in CELLS],
    "recipe": "small.yaml",
    "evolution": {
        "learn": False,  # a cell learns from those that happen to be finished before it
        "offspring": 16,
        "seeds": SEEDS,
        "evaluations": {"passive": EVALUATIONS, "leak": EVALUATIONS},
        "hall_of_fame": 4,
    },
    "deadline_s": DEADLINE_S,
}

# The command line; with fewer cells prepared beforehand, so that this campaign has some prepared meanwhile.
DRIVER = """
import neurofleet.jobs.fit.fit_run
from neurofleet.jobs.cli import main
neurofleet.jobs.fit.fit_run.PREPARED_FIRST = 2
main()
"""

# A process of its own: a fake cluster and the session's embedded Ray do not fit into one. It removes the
# nodes whose numbers it reads.
CLUSTER = """
import json
import sys
from ray.cluster_utils import Cluster

quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
quick["health_check_failure_threshold"] = 3
small = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(3)]
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


def wait_for(what: Callable[[], Any], timeout_s: float = 120.0, every_s: float = 0.05) -> Any:
    """Return what it returns, as soon as that is something."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if found := what():
            return found
        time.sleep(every_s)
    pytest.fail("waited in vain")


def children(process: int) -> list[int]:
    """The processes that its threads have started; quicker than psutil, which looks at all there are."""
    found = []
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(pid) for pid in thread.read_text().split()]
    return found


def command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_engine(process: int) -> bool:
    """Whether it is an engine's process, or a child forked from one."""
    return "neurofleet.cluster.pool.child_processes" in command_line(process)


def records(log: Path) -> list[dict]:
    """What we have logged in a file so far; Ray adds lines of its own, and the last may be on its way."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@dataclass
class FakeCluster:
    """Three nodes of one CPU, and a head without work."""

    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen = field(init=False)
    address: str = ""
    raylets: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it has come up; Ray gives a node half a minute, which is too short on a busy machine."""
        for _ in range(3):
            assert self.process.stdout
            if line := self.process.stdout.readline():
                told = json.loads(line)
                self.address, self.raylets = told["address"], told["raylets"]
                return
            self.process.wait()
            self.start()
        pytest.fail("the cluster did not come up")

    def remove_node(self, number: int) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"

    def host(self, node: int) -> int | None:
        """The pool's host on a node."""
        found = [pid for pid in children(self.raylets[node]) if command_line(pid).startswith("ray::Host")]
        return found[0] if found else None

    def at_work(self, node: int) -> list[int]:
        """The children that evaluate on a node; what an engine's build starts (a compiler) is none of them."""
        host = self.host(node)
        engines = [pid for pid in children(host or 0) if is_engine(pid)]
        return [child for engine in engines for child in children(engine) if is_engine(child)]

    def logged(self, message: str) -> list[dict]:
        """What the hosts have logged of this."""
        files = self.folder.glob("**/logs/worker-*.err")
        return [record for file in files for record in records(file) if record["message"] == message]

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def mark() -> str:
    """A word in the environment of all processes of the test."""
    return f"mark-{secrets.token_hex(8)}"


@pytest.fixture
def environment(mark) -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    yield os.environ | auth | {"RAY_TMPDIR": str(folder), "PYTHONPATH": f"/{mark}"}
    for process in marked(mark):  # of a test that failed
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    clean_up_folder(folder)


@pytest.fixture
def cluster(environment) -> Iterator[FakeCluster]:
    cluster = FakeCluster(Path(environment["RAY_TMPDIR"]), environment)
    try:
        yield cluster
    finally:
        cluster.process.kill()
        cluster.process.wait()


@pytest.fixture
def job(demo_recordings, tmp_path) -> Path:
    shutil.copytree(demo_recordings, tmp_path, dirs_exist_ok=True)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


def start(environment: dict[str, str], *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, "run", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def end(driver: subprocess.Popen) -> str:
    """Wait for its end, and return what it said."""
    said = driver.communicate(timeout=400)[1]
    assert driver.returncode == 0, said
    return said


def hosts_lost(out: Path) -> list[dict]:
    return [record for record in records(out / "log.jsonl") if record["message"] == "a host was lost"]


def marked(mark: str) -> dict[int, str]:
    """The processes of the test, Ray's own and ours, with their command lines."""
    found = {}
    for process in psutil.process_iter():
        try:
            said = " ".join(process.cmdline())
            if mark in said or any(mark in value for value in process.environ().values()):
                found[process.pid] = said
        except psutil.Error:
            continue
    return found


def of_a_run(processes: dict[int, str]) -> dict[int, str]:
    """Those that belong to a run, and not to the cluster."""
    ours = ("neurofleet.jobs.cli", "neurofleet.cluster.pool.child_processes", "multiprocessing", "ray::Host")
    return {pid: said for pid, said in processes.items() if any(name in said for name in ours)}


def wait_for_none_left(mark: str) -> None:
    wait_for(lambda: not of_a_run(marked(mark)), 20.0, every_s=0.5)


def stop_a_child(cluster: FakeCluster, node: int) -> psutil.Process:
    """Stop (SIGSTOP) an evaluation at work on a node."""

    def stopped() -> psutil.Process | None:
        for child in cluster.at_work(node):
            try:
                process = psutil.Process(child)
                process.suspend()
                time.sleep(0.5)  # one that had just said its result is gone by then
                if process.status() == psutil.STATUS_STOPPED and is_engine(child):
                    return process
                process.resume()
            except psutil.NoSuchProcess:
                continue
        return None

    return wait_for(stopped, every_s=0.001)


def disturb(cluster: FakeCluster, out: Path, driver: subprocess.Popen) -> None:
    """Have a campaign lose a child, a node and a host, and return when all it lost is stored."""
    child = stop_a_child(cluster, 0)
    cluster.remove_node(2)
    wait_for(lambda: len(hosts_lost(out)) == 1)
    killed = wait_for(lambda: cluster.host(1))
    wait_for(lambda: cluster.at_work(1), every_s=0.001)
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(hosts_lost(out)) == 2)
    one, other = hosts_lost(out)
    assert one["node"] != other["node"]
    wait_for(lambda: not child.is_running())
    (lost,) = wait_for(lambda: cluster.logged("evaluation ended as lost"))
    assert lost["reason"] == "its process was stopped by a signal"
    assert lost["seconds"] >= DEADLINE_S
    place = FitKey(lost["cell"], lost["stage"], lost["seed"]), lost["generation"]
    wait_for(lambda: place in generations(out))
    wait_for(lambda: cluster.host(1) not in (None, killed))
    assert driver.poll() is None


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_disturbed_campaign_ends_like_an_undisturbed_one(environment, cluster, mark, job, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "disturbed"
    end(start(environment, job, "--out", whole, "--cpus", 2))
    wait_for_none_left(mark)
    everything = generations(whole)
    assert Counter(key for key, _ in everything).most_common()[-1][1] >= 3

    cluster.wait()
    driver = start(environment, job, "--out", out, "--address", cluster.address)
    wait_for(lambda: len(generations(out)) >= BEGUN and all(cluster.host(node) for node in range(3)))
    disturb(cluster, out, driver)
    before = of_a_run(marked(mark))
    assert sum("spawn_main" in said for said in before.values()) == 1
    assert sum("ray::Host" in said for said in before.values()) == 2
    assert sum("neurofleet.cluster.pool.child_processes" in said for said in before.values()) >= 2
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    wait_for_none_left(mark)
    stored = stored_rows(out)
    assert BEGUN < len(stored) < len(everything)

    said = end(start(environment, job, "--out", out, "--address", cluster.address))
    assert "resuming" in said
    wait_for_none_left(mark)
    cluster.end()
    wait_for(lambda: not marked(mark), 20.0, every_s=0.5)

    assert_not_evaluated_again(stored, out)
    assert_equal(out, whole)


def assert_equal(out: Path, whole: Path) -> None:
    found = [*whole.glob("hall_of_fame/**/*.parquet"), *whole.glob("pooled/**/*.parquet")]
    halls = [file.relative_to(whole) for file in found]
    assert len(halls) == len(CELLS) * (len(SEEDS) + 1)
    for file in halls:
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    assert_same_evaluations(out, whole)
    rows = ds.dataset(out / "evaluations", partitioning="hive").to_table().to_pylist()
    names = ("cell", "stage", "seed", "generation", "individual")
    counts = Counter(tuple(row[name] for name in names) for row in rows)
    assert set(counts.values()) == {1}
    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) == len(CELLS) * (1 + len(SEEDS)) * EVALUATIONS
